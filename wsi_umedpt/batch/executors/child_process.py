"""Work on slides in a child process, so that a crash, hang or memory leak affects one slide only.

Native decoders can loop for ever, write where they must not, or ask for all memory, and no
exception tells. `Isolated` keeps a child process that has the encoders loaded and works on
one slide at a time; the parent watches it, kills it at a limit, says in the slide's record
how it ended and where it was, and starts another for the next slide.

This module imports neither torch nor a decoder: the parent stays small, and cannot crash.

This is the parent's side: `Limits`, `Isolated`, and `_Child`, its handle of a child. `slide_child` is the child's.
"""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from wsi_umedpt.batch.coordination.attempts import Rules, failed
from wsi_umedpt.batch.coordination.leases import Claims
from wsi_umedpt.batch.coordination.records import AttemptRecord, begun, now, read_record, write_record
from wsi_umedpt.batch.coordination.result import Outcome, Watcher
from wsi_umedpt.batch.executors.slide_child import SILENT_S, Load, serve
from wsi_umedpt.errors import EncoderError, OptionError, StoreError, WsiError
from wsi_umedpt.io.exit_codes import signal_of
from wsi_umedpt.slides.slide_job import SlideJob, store_path

_POLL_S = 0.1
_FRAMES = 20_000
"""Characters of Python frames that are kept, at most."""
_LOADS = 3
"""Number of times that a child may die before it has loaded all."""
_USUALLY = {
    "SIGKILL": ", as the system does when memory runs out",
    "SIGALRM": f": it was stuck inside native code for {SILENT_S:.0f} s",
}
_WRITE_S = 5.0
"""Seconds that a child has to write its Python frames."""
_GRACE_S = 20.0
"""Seconds that a child has to hand its slide back."""
_PRELOAD = ["wsi_umedpt.batch.run", "wsi_umedpt.pipeline.embed", "wsi_umedpt.pipeline.segment"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the time and memory of one slide."""

    slide_s: float | None = None
    """Seconds for one attempt."""
    memory_gb: float | None = None
    """Resident memory of the child, in 10^9 bytes."""

    def __post_init__(self) -> None:
        for name in ("slide_s", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"`{name}` must be positive, got {value}")


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
        Folder that relative paths begin at; by default the one in which this process was started.
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
        """Process id of the child; None if there is none now."""
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
            return f"it took longer than {self._limits.slide_s:g} s (`slide_s`)"
        if self._limits.memory_gb is not None:
            try:
                used = psutil.Process(child.process.pid).memory_info().rss / 1e9
            except psutil.Error:
                return None
            if used > self._limits.memory_gb:
                return f"it used {used:.1f} GB of memory, more than {self._limits.memory_gb:g} GB (`memory_gb`)"
        return None

    def _killed(
        self, job: SlideJob, child: "_Child", before: AttemptRecord | None, reason: str, seconds: float
    ) -> Outcome:
        where = child.where_it_is() if child.process.is_alive() else child.frames()
        self._drop()
        outcome = Outcome(job, "failed", seconds=seconds, reason=reason, traceback=where)
        return _record_death(self._out, outcome, before, self._rules)

    def _drop(self) -> None:
        if self._child:
            self._child.kill()
            self._child = None


def _how_it_ended(code: int | None) -> str:
    if name := signal_of(code):
        return f"its process was ended by {name}{_USUALLY.get(name, '')}"
    return f"its process ended with code {code}"


def _record_death(out: Path, outcome: Outcome, before: AttemptRecord | None, rules: Rules) -> Outcome:
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
            record = begun(record or AttemptRecord(slide_id=job.slide_id, task="", work="", status="running"))
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
            target=serve, args=(theirs, load, env, folder, str(self._log), os.getpid()), name="slides", daemon=True
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
                self._wait_for_frames()
        return self.frames()

    def _wait_for_frames(self) -> None:
        """Wait until what it writes has stopped growing; a busy machine takes its time."""
        before = last = self._log.stat().st_size
        until = time.monotonic() + _WRITE_S
        while time.monotonic() < until:
            time.sleep(0.1)
            size = self._log.stat().st_size
            if before < size == last:
                return
            last = size

    def frames(self) -> str:
        """Python frames that the child wrote when it crashed, or was asked."""
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
