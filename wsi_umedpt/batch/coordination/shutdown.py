"""SIGTERM, as Slurm and Docker send it before they kill: the run hands back what it is at, and says so."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
"""Exit code of a process that was told to stop, by convention."""


class Terminated(KeyboardInterrupt):
    """The process was told to stop. It ends a run as Ctrl-C does: what is durable stays, claims are given back."""


@contextlib.contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM, once: what is then done must not be interrupted again."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
