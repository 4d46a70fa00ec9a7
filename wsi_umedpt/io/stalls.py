"""Reading that may never come back: done in a thread that can be left behind.

A damaged or hostile file can hold a decoder for ever, and a thread cannot be ended from
outside. So a `Task` reads in a thread of its own, which shows by a `Pulse` that it advances.
One that is silent for too long, or that a run which is told to stop cannot wait for, is left
behind: a loop in Python is broken off, native code goes on until the process ends.

Native code that holds Python's interpreter cannot be seen from within; `cohort.isolate` ends
the process that it runs in.
"""

import contextlib
import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

from wsi_umedpt.errors import OptionError, StalledError

Result = TypeVar("Result")

STALL_S = 600.0
"""Seconds without progress after which reading is taken to hang."""
GRACE_S = 3.0
"""Seconds that a thread has to end by itself before it is left behind."""
_POLL_S = 0.2
_left: list[threading.Thread] = []


class LeftBehind(BaseException):
    """Raised in a thread that nobody waits for any more, so that it ends where it can."""


class Pulse:
    """Called by work as it advances; ends work that nobody waits for any more."""

    def __init__(self) -> None:
        self._at, self._over = time.monotonic(), False

    def __call__(self) -> None:
        """Show that work advances.

        Raises
        ------
        LeftBehind
            If nobody waits for it.
        """
        if self._over:
            raise LeftBehind
        self._at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of progress."""
        return time.monotonic() - self._at

    def end(self) -> None:
        """Let the next call end the work."""
        self._over = True


class Task(Generic[Result]):
    """Work in a thread of its own.

    Parameters
    ----------
    work
        Given a `Pulse`, which it calls as it advances.
    stall_s
        After how many seconds without progress it is left behind.
    discard
        Frees a result that nobody takes.
    """

    def __init__(
        self, work: Callable[[Pulse], Result], *, stall_s: float = STALL_S, name: str = "reading",
        discard: Callable[[Result], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.pulse, self._stall_s, self._discard = Pulse(), stall_s, discard
        self._work, self._done, self._guard = work, threading.Event(), threading.Lock()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._wanted = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result(self) -> Result:
        """Wait for what the work comes to; what it raises is raised here.

        Raises
        ------
        StalledError
            If it makes no progress; its thread is then left behind.
        """
        while not self._done.wait(_POLL_S):
            if self.pulse.silent_s > self._stall_s:
                error = stalled(self._thread, self._stall_s)
                self.leave()
                raise error
        if self._error is not None:
            raise self._error
        self._wanted = False  # the caller's by now
        return self._result  # type: ignore[return-value] # set where there is no error

    def leave(self, grace_s: float = 0.0) -> bool:
        """Wait for it no longer than `grace_s`, and free what it came to; False if its thread goes on."""
        self.pulse.end()
        self._done.wait(grace_s)
        with self._guard:
            wanted, self._wanted = self._wanted, False
            done = self._done.is_set()
        if not done:
            leave_behind(self._thread)
        elif wanted and self._error is None:
            self._discard(self._result)  # type: ignore[arg-type] # set where there is no error
        return done

    def _run(self) -> None:
        result, error = None, None
        try:
            result = self._work(self.pulse)
        except BaseException as raised:  # noqa: BLE001 - raised again where it is waited for
            error = raised
        with self._guard:
            self._result, self._error = result, error
            self._done.set()
            wanted = self._wanted
        if not wanted and error is None:
            self._discard(result)  # type: ignore[arg-type] # set where there is no error


def watched(work: Callable[[Pulse], Result], *, stall_s: float = STALL_S) -> Result:
    """Do some work that reads a foreign file, and give it up if it makes no progress.

    Raises
    ------
    StalledError
        If so.
    """
    task = Task(work, stall_s=stall_s)
    try:
        return task.result()
    except BaseException:  # Ctrl-C, or SIGTERM: who waits is told to stop
        task.leave()
        raise


def no_progress(seconds: float) -> StalledError:
    """Message on a slide whose reading makes no progress."""
    return StalledError(
        f"reading it made no progress for {seconds:g} s (`stall_s`): the file is damaged or made to hang, or its "
        "disk does not answer"
    )


def stalled(thread: threading.Thread, seconds: float) -> StalledError:
    """The same of a thread, with the place where it is."""
    error = no_progress(seconds)
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is not None:
        error.add_note("It was at:\n" + "".join(traceback.format_stack(frame)))
    return error


def leave_behind(thread: threading.Thread) -> None:
    """Wait no longer for a thread; a loop in Python is broken off, native code goes on."""
    _left.append(thread)
    if thread.ident is not None:
        with contextlib.suppress(Exception):  # other interpreters than CPython
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(LeftBehind))


def left_behind() -> bool:
    """Return whether threads that were left behind still run: a process that ends would wait for them, and must not."""
    _left[:] = [thread for thread in _left if thread.is_alive()]
    return bool(_left)


def check_stall(seconds: float) -> None:
    """Refuse a limit that cannot be.

    Raises
    ------
    OptionError
        If it is not positive.
    """
    if not seconds > 0:
        raise OptionError(f"the time without progress (`stall_s`) must be over 0 seconds, got {seconds:g}")
