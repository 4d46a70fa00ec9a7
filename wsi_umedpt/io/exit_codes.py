"""Description of a child process's end, from its exit code."""

import signal


def signal_of(code: int | None) -> str:
    """Name of the signal that ended a process, as ``SIGKILL``; empty where none did, or it has no name."""
    try:
        return signal.Signals(-code).name if code is not None and code < 0 else ""
    except ValueError:  # a real-time signal
        return ""
