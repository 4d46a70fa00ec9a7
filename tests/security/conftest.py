"""What shows that a program ran."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What a `Bomb` makes; it must not be there in the end."""
    path = tmp_path / "the-bomb-went-off"
    yield path
    assert not path.exists(), "a program ran"
