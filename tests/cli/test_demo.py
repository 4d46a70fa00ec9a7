"""The demo ends with commands that can be pasted."""

import re
import shlex
import shutil
import sys
from pathlib import Path


def test_the_demos_hints_can_be_run_as_they_stand(say, real_slide, monkeypatch):
    """Also where the command is not on the PATH, as after `make demo`."""
    for path in ("", str(Path(sys.executable).parent)):
        monkeypatch.setenv("PATH", path)
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
