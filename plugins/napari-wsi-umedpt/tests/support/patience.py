"""Waiting for a window on a machine that has other things to do: limits are generous, and pauses count idle time alone.

A test that waits for something ends when that comes; its limit says that it never will, and not how fast it should be.
A pause lets the window do what an event asks for: time in which the window, or another program, computes is none.
"""

import time
from functools import partial
from typing import Any

MOST_MS = 180_000
"""After which what did not come does not come."""
_TURN_MS, _LATE_MS = 10, 30
"""A turn that takes so long was not idle."""
_MOST_TIMES = 20
"""Of a pause, where the window is never idle."""


def be_patient(qtbot: Any, monkeypatch: Any) -> None:
    """Let pytest-qt's robot wait as said above, where a test names no limit of its own."""
    turn = partial(qtbot.wait, _TURN_MS)

    def pause(ms: int) -> None:
        """Let the window live until it was idle for so long, all together."""
        idle, end = 0, time.monotonic() + _MOST_TIMES * ms / 1000
        while idle < ms and time.monotonic() < end:
            began = time.monotonic()
            turn()
            if time.monotonic() - began < _LATE_MS / 1000:
                idle += _TURN_MS

    monkeypatch.setattr(qtbot, "wait", pause)
    monkeypatch.setattr(qtbot, "waitUntil", partial(qtbot.waitUntil, timeout=MOST_MS))
