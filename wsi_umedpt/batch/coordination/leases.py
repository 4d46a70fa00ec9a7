"""Leases of slides: claims that hold between processes, machines and network file systems.

A claim is a file, ``OUT/.runs/<slide_id>.claim``, that names its holder by a token. It is
made whole and at once or not at all (a hard link, or O_EXCL where there are none), renewed
by a heartbeat, and over when its holder ends it or does not renew it for `LEASE_S`.

**Ended once.** Whoever ends a claim, its holder or one who takes it over, first makes the
file ``….claim.after-<token>``, which only one can make. So of all who see that a claim is
over one takes it, and a holder that wakes up late cannot end the claim of its successor.

**No clock is trusted.** A claim is over when the watcher itself, by its own clock, saw it
unchanged for a lease; what machines say about the time is never compared. On one machine
no wait is needed: who has the store's lock, which the system frees when a process dies,
knows that a claim made on this machine is a dead process's.

**Fenced.** A holder that was suspended for longer than a lease may wake up and write. Its
successor has renamed the work folder before it began, so what is written goes nowhere, and
a commit, which is a rename of that folder, fails.

**Stopped.** A process that is stopped (Ctrl-Z, SIGSTOP) keeps the store's lock for as long as
it exists. So a claim that was not renewed for a lease is taken over also where the lock is
held, if by the claim's own holder: its successor works as on a file system without locks.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import psutil

from wsi_umedpt.errors import StoreBusyError
from wsi_umedpt.store.partial import work_folder
from wsi_umedpt.store.write_lock import Hold, lock_where_possible

RUNS = ".runs"
"""Folder in the output folder for what runs tell each other."""
LEASE_S = 180.0
"""Seconds without a heartbeat after which a claim is over. Network file systems show a change after up to 60."""
_BEATS = 6
"""Heartbeats in a lease."""


def clock() -> float:
    """Seconds of a monotonic clock, which counts suspend where the system can."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def awake_clock() -> float:
    """Seconds of a monotonic clock, without suspend."""
    return time.monotonic()


def machine() -> str:
    """Names this machine since it was started: processes that see the same name share its file locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():x}-{socket.gethostname()}"


@dataclass(eq=False)
class Claim:
    """The right of this process to work on a slide, until `end`."""

    path: Path
    token: str
    store: Path
    work: Path
    """Path of the work; see `Hold`."""
    lock: filelock.BaseFileLock | None
    lease_s: float
    renewed: float = field(default_factory=lambda: clock())
    lost: bool = False

    @property
    def hold(self) -> Hold:
        """Right to write the store."""
        return Hold(self.lock, self.work, self.check)

    def check(self) -> None:
        """Refuse to go on if the claim was lost, or may have been as it could not be renewed.

        Raises
        ------
        StoreBusyError
            If so.
        """
        if self.lost or clock() - self.renewed > self.lease_s or not self.is_ours():
            self.lost = True
            raise StoreBusyError(f"another process took over {self.store}, as this one was silent for too long")

    def is_ours(self) -> bool:
        """Return whether the claim's file still names this claim; also where it cannot be read just now."""
        try:
            return _read(self.path).get("token") == self.token
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def renew(self) -> None:
        """Show that this process lives."""
        if not self.is_ours():
            self.lost = True
            return
        with contextlib.suppress(OSError):
            os.utime(self.path)
            self.renewed = clock()

    def end(self) -> None:
        """Release the slide; any process can resume its unfinished work."""
        try:
            with contextlib.suppress(OSError):
                if not self.lost and _make_new(_ticket(self.path, self.token)):
                    self._hand_over()
        finally:
            if self.lock:
                self.lock.release()

    def _hand_over(self) -> None:
        if self.is_ours():
            usual = work_folder(self.store)
            if self.work != usual and self.work.exists():
                shutil.rmtree(usual, ignore_errors=True)
                with contextlib.suppress(OSError):
                    os.rename(self.work, usual)
            self.path.unlink()
        _ticket(self.path, self.token).unlink()


class Claims:
    """All claims of this process on slides of one output folder, and the thread that renews them."""

    def __init__(self, out: Path, *, lease_s: float = LEASE_S) -> None:
        self._folder = out / RUNS
        self._lease_s = lease_s
        self._held: set[Claim] = set()
        self._seen: dict[Path, tuple[str, float]] = {}
        """State of others' claims, and the time by our clock since when it has not changed."""
        self._seen_awake: dict[Path, tuple[str, float]] = {}
        """The same, of those whose lock is held."""
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._beat: threading.Thread | None = None

    def take(self, slide_id: str, store: Path) -> Claim | None:
        """Claim a slide; None if another has it.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        over = False
        try:
            lock = lock_where_possible(store)
        except StoreBusyError:
            if not self._sleeps(slide_id):
                return None
            lock, over = None, True
        claim = None
        try:
            claim = self._take(slide_id, store, lock, over=over)
        finally:
            if claim is None and lock:
                lock.release()
        if claim:
            with self._guard:
                self._held.add(claim)
                if not self._beat:
                    self._beat = threading.Thread(target=self._renew_all, name="claims", daemon=True)
                    self._beat.start()
        return claim

    def end(self, claim: Claim) -> None:
        """Give a claim back."""
        with self._guard:
            self._held.discard(claim)
        claim.end()

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()

    def is_claimed(self, slide_id: str) -> bool:
        """Return whether a claim's file is there, whoever made it."""
        return (self._folder / f"{slide_id}.claim").exists()

    def _take(
        self, slide_id: str, store: Path, lock: filelock.BaseFileLock | None, *, over: bool = False
    ) -> Claim | None:
        """Take a slide; `over` where a claim that is there is known to be."""
        path = self._folder / f"{slide_id}.claim"
        token = uuid.uuid4().hex
        usual = work_folder(store)
        if self._put(path, token, usual, [], lock):
            claim = Claim(path, token, store, usual, lock, self._lease_s)
            _adopt(store, usual, [])
            return claim
        try:
            found = _read(path)
        except FileNotFoundError:
            return None  # given back just now
        dead = lock is not None and found.get("locked") is True and found.get("machine") == machine()
        if not (dead or over or self._silent(path, f"{found['token']} {found['renewed']}")):
            return None
        # Of a process that may wake up again, not even the folder's name is shared.
        work = usual if dead else usual.with_name(f"{usual.name}-{token[:12]}")
        left = [name for name in (found.get("work"), *found.get("left", ())) if isinstance(name, str)]
        return self._take_over(path, found["token"], Claim(path, token, store, work, lock, self._lease_s), left)

    def _sleeps(self, slide_id: str) -> bool:
        """Return whether a store's lock is held by a holder that was silent for a lease: a process that is stopped."""
        path = self._folder / f"{slide_id}.claim"
        try:
            found = _read(path)
        except OSError:  # the lock is of one that adds to a whole store, and ends soon
            return False
        if found.get("machine") == machine() and not _is_there(found.get("pid")):
            return False  # likewise: the claim's holder is dead
        # Of a machine that slept the holder did too, and wakes up with us.
        return self._silent(path, f"{found['token']} {found['renewed']}", self._seen_awake, awake_clock)

    def _take_over(self, path: Path, old: str, claim: Claim, left: list[str]) -> Claim | None:
        ticket = _ticket(path, old)
        if not _make_new(ticket):
            with contextlib.suppress(FileNotFoundError):  # one who died in the middle of this is waited for likewise
                if self._silent(ticket, str(ticket.stat().st_mtime_ns)):
                    ticket.unlink()
            return None
        try:
            if _read(path)["token"] != old:
                return None
            fresh = path.with_name(f"{path.name}.{claim.token}")
            _write(fresh, self._content(claim.token, claim.work, left, claim.lock))
            os.replace(fresh, path)
        except FileNotFoundError:
            return None
        finally:
            ticket.unlink(missing_ok=True)
        self._seen.pop(path, None)
        self._seen_awake.pop(path, None)
        _adopt(claim.store, claim.work, left)
        return claim

    def _silent(
        self, path: Path, looks: str, seen: dict[Path, tuple[str, float]] | None = None,
        now: Callable[[], float] | None = None,
    ) -> bool:  # fmt: skip
        """Return whether a file was seen unchanged for a lease."""
        seen, now = self._seen if seen is None else seen, now or clock
        known, since = seen.setdefault(path, (looks, now()))
        if known != looks:
            seen[path] = (looks, now())
            return False
        return now() - since > self._lease_s

    def _content(self, token: str, work: Path, left: list[str], lock: filelock.BaseFileLock | None) -> dict[str, Any]:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID")
        return {
            "token": token, "host": socket.gethostname(), "pid": os.getpid(), "job": job, "machine": machine(),
            "locked": lock is not None, "work": work.name, "left": left,
        }  # fmt: skip

    def _put(self, path: Path, token: str, work: Path, left: list[str], lock: filelock.BaseFileLock | None) -> bool:
        """Make a claim's file with all that it holds, if there is none."""
        if path.exists():  # spares the link; the link decides
            return False
        fresh = path.with_name(f"{path.name}.{token}")
        content = self._content(token, work, left, lock)
        try:
            _write(fresh, content)
            try:
                os.link(fresh, path)
            except FileExistsError:
                return False
            except OSError:
                # NFS may say so of a link that it made; others know no links.
                if fresh.stat().st_nlink == 2:
                    return True
                if not _make_new(path):
                    return False
                _write(path, content)
            return True
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()

    def _renew_all(self) -> None:
        while not self._closed.wait(self._lease_s / _BEATS):
            with self._guard:
                held = list(self._held)
            for claim in held:
                claim.renew()


def holder_of(out: Path, slide_id: str) -> str:
    """Holder of a slide, in words for one who waits: its process and machine, and how to go on if that was stopped.

    Empty if nobody claims it.
    """
    try:
        found = _read(out / RUNS / f"{slide_id}.claim")
    except OSError:
        return ""
    pid, host = found.get("pid"), found.get("host")
    if not isinstance(pid, int) or not isinstance(host, str):
        return "a process that left no name"
    job = f", job {found['job']}" if found.get("job") else ""
    who = f"process {pid} on {host}{job}"
    if found.get("machine") == machine() and _is_stopped(pid):
        who += (
            f", which is stopped (Ctrl-Z, SIGSTOP): kill -CONT {pid} lets it go on, kill -KILL {pid} ends it; "
            f"{LEASE_S:.0f} s after its last sign of life the slide is taken over"
        )
    return who


def _is_there(pid: object) -> bool:
    return isinstance(pid, int) and bool(psutil.pid_exists(pid))


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP))
    except psutil.Error:
        return False


def _ticket(path: Path, token: str) -> Path:
    return path.with_name(f"{path.name}.after-{token}")


def _make_new(path: Path) -> bool:
    """Make an empty file; False if it is there."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, Any]:
    """Read a claim; one that is being written, or was when its process died, is known by its inode."""
    with path.open("rb") as file:  # opening makes a network file system look anew
        text, state = file.read(), os.fstat(file.fileno())
    try:
        content = json.loads(text)
        token = content["token"]
    except (ValueError, LookupError, TypeError):
        content, token = {}, f"inode-{state.st_ino}"
    if not re.fullmatch(r"[\w-]{1,64}", str(token)):
        token = f"inode-{state.st_ino}"
    return {**content, "token": token, "renewed": state.st_mtime_ns}


def _adopt(store: Path, work: Path, left: list[str]) -> None:
    """Make the folder that earlier holders worked in ours, by a name that they do not know."""
    usual = work_folder(store)
    known = re.compile(re.escape(usual.name) + r"(-[0-9a-f]{12})?")
    names = dict.fromkeys(name for name in [*left, usual.name] if known.fullmatch(name))
    found = [folder for name in names if (folder := store.with_name(name)).exists()]
    for garbage in found[1:]:  # what one who lost its claim wrote after it woke up
        shutil.rmtree(garbage, ignore_errors=True)
    if found and found[0] != work:
        os.rename(found[0], work)
