"""A virtual screen for each process that runs tests: two in one screen would share its mouse."""

import os
import shutil
import subprocess

SCREEN = "1920x1080x24"
_PROGRAM = "Xvfb"


class VirtualScreen:
    """An X server of one screen, which windows are shown on while it is open; it takes a free number itself."""

    def __init__(self) -> None:
        read, write = os.pipe()
        options = ["-displayfd", str(write), "-screen", "0", SCREEN, "+extension", "GLX", "-nolisten", "tcp"]
        self._server = subprocess.Popen([_PROGRAM, *options], pass_fds=(write,), stderr=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read) as told:
            number = told.readline().strip()
        if not number:
            raise RuntimeError(f"{_PROGRAM} did not start (exit code {self._server.wait()})")
        os.environ["DISPLAY"] = f":{number}"

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        self._server.wait()


def can_be_had() -> bool:
    """Whether the program is installed."""
    return shutil.which(_PROGRAM) is not None
