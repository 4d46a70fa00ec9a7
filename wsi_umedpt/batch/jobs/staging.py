"""Slides that lie elsewhere, or on a slow disk: copied to a local folder before they are opened, and removed after.

Each process has a folder of its own below the one that all share, and a lock that the system
frees when it ends; whoever comes next removes the folders of those that are gone. What all of
them hold together is bounded: room is reserved, by name and size, before a byte is copied.

Read top to bottom: `StageRule` (what the user asks for), `Stage` (copies, one ahead), `_Room`
(the bound).
"""

import contextlib
import itertools
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from wsi_umedpt.batch.coordination.shutdown import Terminated
from wsi_umedpt.batch.jobs.slide_files import check_series, files_of
from wsi_umedpt.errors import OptionError, SlideError
from wsi_umedpt.io.remote import StopAskingError, asking_until
from wsi_umedpt.slides.slide_job import SlideJob

_ROOM_S = 0.1
"""Seconds between two checks for room."""
_OURS = re.compile(r"stage-[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class StageRule:
    """Rule for staging: which slides, to which folder, and how much at a time."""

    folder: Path | None = None
    """Given, all slides are staged there; else those that lie elsewhere, below the system's temporary folder."""
    most_gb: float | None = None
    """Most 10^9 bytes that may lie there at a time, of all processes together."""

    def __post_init__(self) -> None:
        if self.most_gb is not None and not self.most_gb > 0:
            raise OptionError(f"`most_gb` must be positive, got {self.most_gb}")

    def applies(self, job: SlideJob) -> bool:
        """Return whether a slide is opened from a copy."""
        return job.url is not None or self.folder is not None


@dataclass(frozen=True)
class _Copy:
    """A slide that lies in the staging folder."""

    folder: Path
    path: Path
    """Path to open."""


@dataclass(eq=False)
class _Ahead:
    """A slide that is being copied before anyone asks for it."""

    job: SlideJob
    stop: threading.Event = field(default_factory=threading.Event)
    future: "Future[_Copy | None]" = field(default_factory=Future)
    steps: int = 0
    """Number of times that copying advanced."""

    def advance(self) -> None:
        """Copying advanced."""
        self.steps += 1


class Stage:
    """Copies of slides, for one process: of those that are worked on, and of one more."""

    def __init__(self, rule: StageRule) -> None:
        self._rule = rule
        self._made: _Room | None = None
        self._making, self._copying, self._guard = threading.Lock(), threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._hint: tuple[SlideJob, Callable[[], bool]] | None = None
        self._held = 0
        self._next: _Ahead | None = None
        self._thread: ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def at_hand(self, job: SlideJob, advanced: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Path to open a slide from, for as long as the context lasts.

        `advanced` is called while it is copied, and while there is no room for it.

        Raises
        ------
        RemoteError
            If it cannot be had.
        SlideError
            If it is larger than all that may lie in the folder.
        OSError
            If the folder's disk is full, or cannot be written.
        Terminated
            If `stop` was called.
        """
        if not self._rule.applies(job):
            yield job.path
            return
        copy = self._take(job, advanced)
        try:
            self._held += 1
            self._begin_ahead()
            yield copy.path
        finally:
            self._held -= 1
            self._room.free(copy.folder)

    def ahead(self, job: SlideJob, wanted: Callable[[], bool]) -> None:
        """Copy the slide that will be asked for next, once one is at hand; if `wanted` says so then."""
        if self._rule.applies(job):
            self._hint = job, wanted
            if self._held:
                self._begin_ahead()

    def stopped(self) -> bool:
        """True once `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End what is being copied; nothing more will be."""
        self._stop.set()

    def close(self) -> None:
        """Remove all that is left."""
        self.stop()
        self._drop()
        if self._thread:
            self._thread.shutdown()
        if self._made:
            self._made.close()

    @property
    def _room(self) -> "_Room":
        with self._making:
            self._made = self._made or _Room(self._rule)
            return self._made

    def _begin_ahead(self) -> None:
        with self._guard:
            hint, self._hint = self._hint, None
            if hint is None or self._stop.is_set() or (self._next and self._next.job == hint[0]):
                return
        self._drop()
        with self._guard:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="stage")
            self._next = _Ahead(hint[0])
            self._next.future = self._thread.submit(self._fetch_ahead, self._next, hint[1])

    def _take(self, job: SlideJob, advanced: Callable[[], None]) -> _Copy:
        with self._guard:
            known = self._next if self._next and self._next.job == job else None
            self._next = None if known else self._next
            if self._hint and self._hint[0] == job:
                self._hint = None
        if known:
            seen = -1
            while not known.future.done():
                if known.steps != seen:
                    seen = known.steps
                    advanced()
                time.sleep(_ROOM_S / 4)
            if copy := known.future.result():
                return copy
        elif self._next and not self._next.future.done():
            self._drop()  # something else is asked for first
        try:
            return self._copy(job, self.stopped, self._drop, advanced)
        except StopAskingError:
            raise Terminated from None

    def _fetch_ahead(self, ahead: _Ahead, wanted: Callable[[], bool]) -> _Copy | None:
        def stopped() -> bool:
            return ahead.stop.is_set() or self.stopped()

        try:
            with asking_until(stopped):
                if stopped() or not wanted():
                    return None
                return self._copy(ahead.job, stopped, lambda: None, ahead.advance)
        except Exception:  # noqa: BLE001 - who asks for the slide tries again, and says what is wrong
            return None

    def _drop(self) -> None:
        """Make room of what was copied ahead."""
        with self._guard:
            dropped, self._next = self._next, None
        if dropped:
            dropped.stop.set()
            if not dropped.future.cancel() and (copy := dropped.future.result()):
                self._room.free(copy.folder)

    def _copy(
        self, job: SlideJob, stopped: Callable[[], bool], make_room: Callable[[], None], advanced: Callable[[], None]
    ) -> _Copy:
        def look() -> None:
            if stopped():
                raise StopAskingError
            advanced()

        files, room = files_of(job), self._room
        room.check(files.size)
        while (folder := room.reserve(files.size)) is None:
            make_room()
            look()
            time.sleep(_ROOM_S)
        try:
            with self._copying:
                files.copy(folder / "fresh", look)
                os.rename(folder / "fresh", folder / "slide")
            opened = folder / "slide" / files.opened
            if job.url is not None:
                check_series(opened)
        except BaseException:
            room.free(folder)
            raise
        return _Copy(folder, opened)


class _Room:
    """Space that all processes that stage into a folder use there, and may use."""

    def __init__(self, rule: StageRule) -> None:
        self._most = None if rule.most_gb is None else int(rule.most_gb * 1e9)
        self._root = rule.folder or _default_folder()
        self._root.mkdir(parents=True, exist_ok=True)
        self._all = filelock.FileLock(self._root / ".lock", thread_local=False)
        self._mine = self._root / f"stage-{uuid.uuid4().hex}"
        self._lock = filelock.FileLock(self._lock_of(self._mine), thread_local=False)
        self._count = itertools.count(1)
        with self._all:
            self._sweep()
            self._lock.acquire(timeout=0)
            self._mine.mkdir()

    def check(self, size: int) -> None:
        """Refuse a slide that there can never be room for.

        Raises
        ------
        SlideError
            If it is one.
        """
        if self._most is not None and size > self._most:
            raise SlideError(
                f"the slide takes {size / 1e9:.3g} GB, and {self._most / 1e9:g} GB may lie in the staging folder "
                "(`most_gb`). Allow more, or open it where it lies."
            )

    def reserve(self, size: int) -> Path | None:
        """A folder for so many bytes; None if there is no room for them now."""
        with self._all:
            if self._most is not None and self._held() + size > self._most:
                self._sweep()
                if self._held() + size > self._most:
                    return None
            folder = self._mine / f"{next(self._count)}-{size}"
            folder.mkdir()
            return folder

    def free(self, folder: Path) -> None:
        """Remove what was reserved."""
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all that this process holds."""
        with self._all:
            shutil.rmtree(self._mine, ignore_errors=True)
            self._lock.release()
            self._lock_of(self._mine).unlink(missing_ok=True)

    def _held(self) -> int:
        sizes = (path.name.partition("-")[2] for path in self._root.glob("stage-*/*-*"))
        return sum(int(size) for size in sizes if size.isdecimal())

    def _sweep(self) -> None:
        """Remove the folders of processes that are gone: their locks are free."""
        for path in self._root.iterdir():
            name = path.name.removesuffix(".lock")
            if _OURS.fullmatch(name):
                lock = filelock.FileLock(self._lock_of(self._root / name), thread_local=False)
                with contextlib.suppress(filelock.Timeout):
                    lock.acquire(timeout=0)
                    shutil.rmtree(self._root / name, ignore_errors=True)
                    lock.release()
                    self._lock_of(self._root / name).unlink(missing_ok=True)

    @staticmethod
    def _lock_of(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.lock")


def _default_folder() -> Path:
    """A folder of this user's below the system's temporary one (TMPDIR), which clusters make local to a machine.

    Raises
    ------
    SlideError
        If somebody else made one of its name.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"wsi-umedpt-stage-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise SlideError(f"{folder}, where slides would be staged, is not yours; name another with `stage`")
    return folder
