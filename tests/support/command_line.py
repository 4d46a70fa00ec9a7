"""Commands, in this process or in one of their own."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_umedpt.cli import main


def exit_code(*words: str | Path) -> int:
    """Run a command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wsi-umedpt", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def run_here(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """A command in this process, which has imported all that it needs: a tenth of the time of `run_alone`."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code(*words)
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess([*map(str, words)], code, *said)


def run_alone(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own, as a user runs it; its imports take seconds."""
    command = [sys.executable, "-m", "wsi_umedpt", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
