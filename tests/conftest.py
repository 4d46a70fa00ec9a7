"""Fixtures that several rooms of the tests share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tests.support import ROOT
from tests.support.command_line import exit_code
from wsi_umedpt.errors import SlideError
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.testing import tissue_image, write_pyramid

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
sys.modules.setdefault("openvino_telemetry", None)  # tests import OpenVINO before the package does: it reports nothing
_INHERITED = [path for path in (os.environ.get("PYTHONPATH"),) if path]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *_INHERITED])  # child processes import `tests.support`
settings.register_profile("no-clock", deadline=None)  # a busy machine breaks no law
settings.load_profile("no-clock")


@pytest.fixture(scope="session")
def real_slide() -> Path:
    """CMU-1-Small-Region.svs; skips where it is neither cached nor to be downloaded."""
    try:
        return sample_slide()
    except (SlideError, subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"the sample slide is not to be had: {error}")


@pytest.fixture(scope="session")
def small_svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Aperio-like slide of 1500 x 1100 px at 0.5 um/px, an ellipse of tissue in its middle."""
    image, _ = tissue_image(1500, 1100)
    return write_pyramid(tmp_path_factory.mktemp("slides") / "small.svs", image)


@pytest.fixture
def rng() -> Iterator[np.random.Generator]:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20261122)


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """Run a command line in this process, inside an empty folder; (exit code, stdout, stderr)."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        return exit_code(*words), *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return run
