"""A reader process and the socket to it: the parent's handle of a `reader_child`."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_umedpt.errors import SlideError, UnreachableError, reason_of
from wsi_umedpt.io.exit_codes import signal_of

if TYPE_CHECKING:
    from wsi_umedpt.slides.reader_processes import Reading

GRACE_S = 5.0
"""Seconds that a reader has to end by itself."""


class ReaderProcess:
    """A reader process and the socket to it."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.works_on: int | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "wsi_umedpt.slides.reader_child", str(theirs.fileno())]
            env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=env)
        self.socket = ours
        self.pipe = Connection(os.dup(ours.fileno()))
        self.readings: list[Reading] = []
        self.reason = ""

    def begin(self, reading: "Reading") -> None:
        """Hand it a slide."""
        self.readings.append(reading)
        with contextlib.suppress(OSError):  # it is gone: its end is seen by who listens
            self.pipe.send_bytes(json.dumps(reading.header).encode())
            for grid in reading.order.grids:
                self.pipe.send_bytes(np.ascontiguousarray(grid.xy, np.int32).tobytes())
            self.pipe.send_bytes(reading.tiles_of(self.place))
            socket.send_fds(self.socket, [b"x"], [reading.memory_fd])

    def send(self, message: dict[str, Any]) -> None:
        """Tell it."""
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(json.dumps(message).encode())

    def end(self, reason: str, grace_s: float = 0.0) -> None:
        """End it, and free what it holds here."""
        self.reason = self.reason or reason
        self.pipe.close()
        self.socket.close()
        if grace_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        elif self.reason:
            self.process.kill()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def error(self) -> SlideError:
        """Error that a reader's end makes of the slide that it read."""
        if self.reason:
            return SlideError(f"the process that read it was ended: {self.reason}")
        code = self.process.returncode
        how = f"signal {name}" if (name := signal_of(code)) else f"exit code {code}"
        return SlideError(f"the process that read it crashed ({how}): the file is damaged or made to do harm")


def told(error: Exception) -> dict[str, Any]:
    """Message of a reader to its parent: the reason for which it could not read a slide."""
    return {"error": reason_of(error), "passing": isinstance(error, UnreachableError)}


def heard(message: dict[str, Any]) -> Exception:
    """Error of a reader's message: `UnreachableError` if trying again may help, else `SlideError`."""
    return UnreachableError(message["error"]) if message["passing"] else SlideError(message["error"])
