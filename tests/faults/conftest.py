"""A laboratory of processes that can be killed, a disk that is quick, and a slide."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.laboratory import Lab
from wsi_umedpt.testing import tissue_image, write_pyramid


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One server of children."""
    lab = Lab()
    try:
        yield lab
    finally:
        with contextlib.suppress(BrokenPipeError):
            lab.close()


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a thousand fsyncs take a minute on a disk, and mean nothing to SIGKILL."""
    if not Path("/dev/shm").is_dir():  # noqa: S108
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="wsi-umedpt-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Aperio-like slide of 768 x 768 px, about 80 tiles of tissue."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "a.svs", tissue_image(768, 768)[0], tile=128)
