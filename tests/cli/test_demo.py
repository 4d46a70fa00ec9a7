"""The demo ends with commands that can be pasted."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from wsi_umedpt.cli.demo import as_typed
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides import sample_data
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import write_pyramid


@pytest.fixture
def part(real_slide, tmp_path, monkeypatch) -> None:
    """A third of each side of the demo's slide instead of all of it."""
    path = tmp_path / "part" / real_slide.name
    path.parent.mkdir()
    with open_slide(real_slide) as slide:
        write_pyramid(path, slide.read(Box(500, 700, 784, 784)), mpp=slide.mpp)
    monkeypatch.setattr(sample_data, "sample_slide", lambda: path)


def test_the_demos_hints_can_be_run_as_they_stand(say, part, monkeypatch):
    """Also where the command is not on the PATH, as after `make demo`."""
    monkeypatch.setenv("PATH", "")
    code, out, _ = say("demo")
    assert code == 0
    hints = re.findall(r"^  (\S*wsi-umedpt .*)$", out, re.MULTILINE)
    assert len(hints) == 5
    for hint in hints:
        program, *words = shlex.split(hint)
        assert shutil.which(program)
        if words[0] == "info":
            assert say(*words)[0] == 0
    for name in ("picture.png", "nuclei.png", "CMU-1-Small-Region.geojson.gz"):
        assert (Path("demo-out") / name).exists()


def test_on_the_path_the_command_is_named_alone(monkeypatch):
    """As most people have it."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert as_typed() == "wsi-umedpt"
