"""The child's side of `child_process`: works on slides until the parent closes the pipe, or is gone.

It loads the encoders, attempts one slide at a time, and tells the parent of its progress. Its Python frames go to a
file when it crashes, or when the parent asks by SIGUSR1.
"""

import contextlib
import faulthandler
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from wsi_umedpt.batch.coordination.result import SlideWork, Watcher
from wsi_umedpt.batch.coordination.shutdown import Terminated, raise_on_sigterm
from wsi_umedpt.errors import EncoderError, SpreadError, WsiError, reason_of
from wsi_umedpt.io.stalls import left_behind
from wsi_umedpt.slides.slide_job import SlideJob

Load = Callable[[], SlideWork]
"""Loads encoders, in the child; must be picklable."""
SILENT_S = 1800.0
"""Seconds without Python code after which the child is taken to be stuck inside native code."""
_SAY_S = 0.2
"""Least seconds between two messages on tiles."""


def serve(pipe: Connection, load: Load, env: dict[str, str], folder: Path, log: str, parent: int) -> None:
    """Work on slides until the parent closes the pipe, or is gone."""
    os.environ.update(env)
    with contextlib.suppress(Terminated), open(log, "w") as file, raise_on_sigterm():
        faulthandler.enable(file)
        if hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1, file)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which tells us
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()
        try:
            _enter(folder)
            work = load()
        except WsiError as error:
            pipe.send(("unfit", error))
            return
        except Exception as error:  # noqa: BLE001 - the parent says it
            pipe.send(("unfit", EncoderError(reason_of(error))))
            return
        with contextlib.closing(work), contextlib.suppress(EOFError, ConnectionError):
            pipe.send(("ready",))
            for job in _jobs(pipe, work):
                outcome = work.attempt(job, _Teller(pipe))
                pipe.send(("ended", outcome, left_behind()))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do is to clear up
    if left_behind():  # a thread that hangs in native code would be waited for
        os._exit(0)


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise SpreadError(
            f"{socket.gethostname()} has no folder {folder} ({error.strerror}), where the command was started: slides "
            "and outputs must lie under the same paths on every machine"
        ) from None


def _jobs(pipe: Connection, work: SlideWork) -> Iterator[SlideJob]:
    """Slides to attempt; those that come next are made known while one is worked on."""
    asked: queue.SimpleQueue[SlideJob | None] = queue.SimpleQueue()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                word, job = pipe.recv()
                if word == "ahead":
                    with contextlib.suppress(Exception):  # what is wrong with it is said when it is attempted
                        work.ahead(job)
                else:
                    asked.put(job)
        asked.put(None)

    threading.Thread(target=listen, name="parent's words", daemon=True).start()
    while job := asked.get():
        yield job


def _watch(parent: int) -> None:
    """End with the parent, also while native code holds the interpreter."""
    server = os.getppid()
    while True:
        if os.getppid() != server or not psutil.pid_exists(parent):
            os._exit(1)
        if hasattr(signal, "alarm"):
            signal.alarm(int(SILENT_S))  # ends this process unless it is set anew
        time.sleep(1.0)


class _Teller(Watcher):
    """Tells the parent, and not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._said = pipe, 0.0

    def slide_started(self, job: SlideJob, tiles: int) -> None:
        """Tell."""
        self._tell("slide_started", tiles)

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Tell, but for what the next telling makes old."""
        if time.monotonic() - self._said > _SAY_S:
            self._said = time.monotonic()
            self._tell("tiles_done", done, total)

    def _tell(self, *words: object) -> None:
        try:
            self._pipe.send(words)
        except OSError:  # who asked for the slide is gone
            raise Terminated from None
