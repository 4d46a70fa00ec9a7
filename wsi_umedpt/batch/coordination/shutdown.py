"""SIGTERM, as Slurm and Docker send it before they kill: the run hands back what it is at, and says so."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
"""Exit code of a process that was told to stop, by convention."""
_AGAIN_S = 0.05
"""Seconds after which a signal that fell into a finaliser is given once more."""


class Terminated(KeyboardInterrupt):
    """The process was told to stop. It ends a run as Ctrl-C does: what is durable stays, claims are given back."""


@contextlib.contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM, once: what is then done must not be interrupted again.

    Python drops what is raised while it runs a finaliser or a callback of a weak reference; there the signal is
    given again a moment later.
    """

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    def dropped(what: Any) -> None:
        if what.exc_type is not Terminated:
            hook(what)
            return
        signal.signal(signal.SIGTERM, stop)
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()

    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
