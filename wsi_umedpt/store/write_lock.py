"""The right to write a store: held through the operating system, so that it cannot outlive its process."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from wsi_umedpt.errors import StoreBusyError

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Hold:
    """The right to write a store, and where."""

    lock: filelock.BaseFileLock | None
    """None where the file system knows no locks."""
    work: Path
    """The store's work folder; whoever loses the right finds it gone."""
    check: Callable[[], None] = lambda: None
    """Raises StoreBusyError if the right was lost since."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[filelock.BaseFileLock]:
    """Hold the right to write a store; freed by the system if the process dies."""
    lock = filelock.FileLock(_lock_file(path))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreBusyError(f"another process is writing {path}") from None
    try:
        yield lock
    finally:
        lock.release()


def lock_where_possible(path: Path) -> filelock.BaseFileLock | None:
    """Take the lock of a store, to be released by any thread; None on a file system that knows none.

    Raises
    ------
    StoreBusyError
        If another process holds it.
    """
    lock = filelock.FileLock(_lock_file(path), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except NotImplementedError:  # how older versions of filelock say it
        return None
    except filelock.Timeout:
        if not _is_soft(lock):
            raise StoreBusyError(f"another process is writing {path}") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    if _is_soft(lock):
        lock.release()
        return None
    return lock


def _is_soft(lock: object) -> bool:
    """Return whether a lock became a mere file, as newer versions of filelock let it: one that outlives its process."""
    return isinstance(lock, filelock.SoftFileLock)


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
