"""The right to write a store: held through the operating system, so that it cannot outlive its process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from wsi_umedpt.errors import StoreBusyError


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[filelock.BaseFileLock]:
    """Hold the right to write a store; freed by the system if the process dies."""
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise StoreBusyError(f"another process is writing {path}") from None
    try:
        yield lock
    finally:
        lock.release()
