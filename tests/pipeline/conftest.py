"""A slide of painted nuclei, sound and damaged."""

import pytest

from tests.support.painted_slides import Painted, damage, paint_nuclei


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    """A slide of 880 x 700 px at 0.5 um/px, whose last windows cross its edges."""
    return paint_nuclei(tmp_path_factory.mktemp("painted"))


@pytest.fixture(scope="session")
def damaged(painted: Painted, tmp_path_factory: pytest.TempPathFactory) -> Painted:
    """The same slide with one of its own tiles overwritten by zeros."""
    return damage(painted, tmp_path_factory.mktemp("damaged"))
