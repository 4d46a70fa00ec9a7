"""A process for the slides alone, so that one that hangs, crashes or swells costs itself and nothing else.

Native decoders can loop for ever, write where they must not, or ask for all memory, and no
exception tells. `Isolated` keeps a child process that has the encoders loaded and works on
one slide at a time; the parent watches it, kills it at a limit, says in the slide's record
how it ended and where it was, and starts another for the next slide.

This module imports neither torch nor a decoder: the parent stays small, and cannot crash.

Read top to bottom: `Limits`, `Isolated` (the parent's side), then the child's.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import queue
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from wsi_umedpt.cohort.claims import Claims
from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.outcome import Outcome, SlideWork, Watcher
from wsi_umedpt.cohort.records import Record, begun, now, read_record, write_record
from wsi_umedpt.cohort.stopping import Stopped, stoppable
from wsi_umedpt.cohort.turns import Rules, failed, store_path
from wsi_umedpt.errors import EncoderError, OptionError, SpreadError, StoreError, WsiError, reason_of
from wsi_umedpt.stalls import left_behind

Load = Callable[[], SlideWork]
"""Loads encoders, in the child; must be picklable."""
SILENT_S = 1800.0
"""Python code of the child that does not run for so long is taken to be stuck inside native code."""
_POLL_S = 0.1
_FRAMES = 20_000
"""Characters of Python frames that are kept, at most."""
_LOADS = 3
"""How often a child may die before it has loaded all."""
_SAY_S = 0.2
"""How often a child tells of tiles, at most."""
_USUALLY = {
    "SIGKILL": ", as the system does when memory runs out",
    "SIGALRM": f": it was stuck inside native code for {SILENT_S:.0f} s",
}
_GRACE_S = 20.0
"""What a child has to hand its slide back."""
_PRELOAD = ["wsi_umedpt.cohort.run", "wsi_umedpt.cohort.objects"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one slide may cost."""

    slide_s: float | None = None
    """Seconds for one attempt."""
    memory_gb: float | None = None
    """Resident memory of the child, in 10^9 bytes."""

    def __post_init__(self) -> None:
        for name, flag in (("slide_s", "--slide-timeout"), ("memory_gb", "--slide-memory")):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"{flag} must be positive, got {value}")


class _DiedError(Exception):
    """The child ended before it had loaded all."""


class Isolated:
    """Work on slides in a child process, one at a time; made anew whenever it ends.

    Parameters
    ----------
    load
        Called in each child, before its first slide.
    env
        Environment variables of the child, as `CUDA_VISIBLE_DEVICES`.
    folder
        What relative paths begin at; by default where this process was started.
    """

    def __init__(
        self, load: Load, out: Path, limits: Limits, rules: Rules, env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        self._load, self._out, self._limits, self._rules = load, out, limits, rules
        self._env, self._folder = dict(env or {}), folder or Path.cwd()
        self._child: _Child | None = None
        self._next: SlideJob | None = None
        self._working = False
        self._pipe = threading.Lock()

    @property
    def out(self) -> Path:
        """Folder of the stores."""
        return self._out

    @property
    def pid(self) -> int | None:
        """Of the child; None if there is none now."""
        return self._child.process.pid if self._child else None

    def start(self) -> None:
        """Have a child that is ready.

        Raises
        ------
        WsiError
            What `load` says.
        EncoderError
            If no child can be started, or it dies while it loads.
        """
        if self._child and not self._child.process.is_alive():
            self._drop()
        for left in reversed(range(_LOADS)):
            if self._child:
                return
            try:
                # Children are forked from a server, which has the environment of long ago.
                self._child = _Child(self._load, {**os.environ, **self._env}, self._folder)
                self._child.ready()
            except _DiedError as died:
                self._drop()
                if not left:
                    raise EncoderError(f"the process for slides could not load what it needs: {died}") from None
            except WsiError:
                self._drop()
                raise
            except OSError as error:  # no process, no pipe, or no folder for its notes
                self._drop()
                if not left:
                    raise EncoderError(
                        f"no process for slides can be started ({error}); is there room in {tempfile.gettempdir()} "
                        "(TMPDIR), and is its name short? May there be more processes?"
                    ) from None
            except BaseException:
                self._drop()
                raise

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome | None:
        """Work on one slide; None if another process has it.

        Whatever the child does, this returns: an outcome says how the child ended.
        """
        self.start()
        assert self._child  # noqa: S101 - what `start` is for
        began, child = time.monotonic(), self._child
        before = read_record(self._out, job.slide_id)
        try:
            self._begin(child, job)
            while True:
                if child.pipe.poll(_POLL_S):
                    word, *values = child.pipe.recv()
                    if word == "ended":
                        outcome: Outcome | None
                        outcome, spent = values
                        if spent:  # by the next slide there is another
                            self._drop()
                        return outcome
                    getattr(watcher, word)(job, *values)
                elif reason := self._over_limit(child, time.monotonic() - began):
                    return self._killed(job, child, before, reason, time.monotonic() - began)
        except (EOFError, ConnectionError):
            child.process.join(_GRACE_S)
            code = child.process.exitcode
            return self._killed(job, child, before, _how_it_ended(code), time.monotonic() - began)
        except BaseException:  # Ctrl-C, or who uses us stops
            self.close()
            raise
        finally:
            self._working = False

    def ahead(self, job: SlideJob) -> None:
        """Say which slide will most likely be next, so that it can be made ready while another is worked on."""
        with self._pipe:
            self._next = job
            if self._working:
                self._tell_next()

    def close(self) -> None:
        """End the child; it hands its slide back first."""
        if self._child:
            with contextlib.suppress(OSError):
                self._child.pipe.close()
            if self._child.process.is_alive():
                self._child.process.terminate()
                self._child.process.join(_GRACE_S)
            self._drop()

    def _begin(self, child: "_Child", job: SlideJob) -> None:
        with self._pipe:
            child.pipe.send(("attempt", job))
            self._working = True
            if self._next != job:
                self._tell_next()

    def _tell_next(self) -> None:
        job, self._next = self._next, None
        if job and self._child:
            with contextlib.suppress(OSError):  # it is gone: who waits for it says so
                self._child.pipe.send(("ahead", job))

    def _over_limit(self, child: "_Child", seconds: float) -> str | None:
        if self._limits.slide_s is not None and seconds > self._limits.slide_s:
            return f"it took longer than {self._limits.slide_s:g} s (--slide-timeout)"
        if self._limits.memory_gb is not None:
            try:
                used = psutil.Process(child.process.pid).memory_info().rss / 1e9
            except psutil.Error:
                return None
            if used > self._limits.memory_gb:
                return f"it used {used:.1f} GB of memory, more than {self._limits.memory_gb:g} GB (--slide-memory)"
        return None

    def _killed(self, job: SlideJob, child: "_Child", before: Record | None, reason: str, seconds: float) -> Outcome:
        where = child.where_it_is() if child.process.is_alive() else child.frames()
        self._drop()
        outcome = Outcome(job, "failed", seconds=seconds, reason=reason, traceback=where)
        return _record_death(self._out, outcome, before, self._rules)

    def _drop(self) -> None:
        if self._child:
            self._child.kill()
            self._child = None


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"its process was ended by {name}{_USUALLY.get(name, '')}"
    return f"its process ended with code {code}"


def _record_death(out: Path, outcome: Outcome, before: Record | None, rules: Rules) -> Outcome:
    """Say in a slide's record how its process ended, unless another has the slide by now."""
    job = outcome.job
    record = read_record(out, job.slide_id)
    if record != before and record and record.status != "running":  # it came to an end just before it was killed
        return replace(outcome, again_s=0.0)
    claims = Claims(out, lease_s=rules.lease_s)
    try:
        claim = claims.take(job.slide_id, store_path(out, job))
    except (OSError, StoreError):
        claim = None
    try:
        if record is None or record == before:  # it died before it could say that it had begun
            record = begun(record or Record(slide_id=job.slide_id, task="", work="", status="running"))
        record, again_s = failed(record, outcome, rules)
        if claim:
            write_record(out, replace(record, seconds=round(outcome.seconds, 2), ended=now()))
    finally:
        if claim:
            claims.end(claim)
        claims.close()
    return replace(outcome, again_s=again_s)


class _Child:
    """A child process, the pipe to it, and the file where it says where it was."""

    def __init__(self, load: Load, env: dict[str, str], folder: Path) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="wsi-umedpt-")
        self._log = Path(self._folder.name) / "frames"
        self.process = context.Process(
            target=_serve, args=(theirs, load, env, folder, str(self._log), os.getpid()), name="slides", daemon=True
        )
        try:
            self.process.start()
        except EOFError:
            raise _DiedError("its package cannot be imported") from None
        theirs.close()

    def ready(self) -> None:
        """Wait until all is loaded."""
        try:
            word, *values = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(_GRACE_S)
            raise _DiedError(f"{_how_it_ended(self.process.exitcode)}\n{self.frames()}".strip()) from None
        if word == "unfit":
            raise values[0]

    def where_it_is(self) -> str:
        """Its Python frames now, also while it is inside native code."""
        if hasattr(signal, "SIGUSR1") and self.process.pid:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, signal.SIGUSR1)
                time.sleep(0.3)
        return self.frames()

    def frames(self) -> str:
        """What it wrote of its Python frames when it crashed, or was asked."""
        try:
            text = self._log.read_text(errors="replace")
            return "".join(line for line in text.splitlines(True) if "xtension modules:" not in line)[-_FRAMES:]
        except OSError:
            return ""

    def kill(self) -> None:
        """End it, whatever it does, and forget it."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.kill()
        self.process.join(_GRACE_S)
        self._folder.cleanup()


def _context() -> Any:
    """Children are forked from a server that has imported the package once, where there are such servers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


# ---- the child ----


def _serve(pipe: Connection, load: Load, env: dict[str, str], folder: Path, log: str, parent: int) -> None:
    """Work on slides until the parent closes the pipe, or is gone."""
    os.environ.update(env)
    with contextlib.suppress(Stopped), open(log, "w") as file, stoppable():
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
            raise Stopped from None
