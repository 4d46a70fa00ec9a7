"""One attempt at one slide: its claim, its record, and what earlier attempts say about it.

`Attempts.take` begins an attempt at a slide, unless the slide is done, given up, or in another
process. An `Attempt` ends in an outcome or is handed back, and the record says which.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsi_umedpt.batch.coordination.leases import LEASE_S, Claim, Claims
from wsi_umedpt.batch.coordination.records import (
    AttemptRecord,
    begun,
    digest,
    now,
    read_record,
    without_paths,
    write_record,
)
from wsi_umedpt.batch.coordination.result import Outcome
from wsi_umedpt.errors import FULL_DISK, OptionError, UnreachableError
from wsi_umedpt.messages import counted
from wsi_umedpt.slides.slide_job import SlideJob, store_path
from wsi_umedpt.store.write_lock import Hold

VANISHED = 30
"""Factor by which attempts may vanish more often than fail: that a process was killed is seldom the slide's fault, and
one that crashes is known to `Isolated` for what it is."""
PASSING_S = 10.0
"""Seconds until a slide is tried again where the disk was full, or a server out of reach."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules for retries."""

    attempts: int = 3
    """Number of failures, over all runs and processes, after which a slide is given up."""
    retry_failed: bool = False
    """Try again what was given up."""
    lease_s: float = LEASE_S

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise OptionError(f"a slide is tried at least once (`attempts`), got {self.attempts}")


class Attempts:
    """Attempts at the slides of one output folder, by one process."""

    def __init__(self, out: Path, task: str, asked: dict[str, Any], rules: Rules) -> None:
        self.out, self.rules = out, rules
        self._task, self._asked = task, asked
        self._claims = Claims(out, lease_s=rules.lease_s)

    def take(self, job: SlideJob, already: Callable[[SlideJob], Outcome | None]) -> "Attempt | Outcome | None":
        """Begin an attempt at a slide, or say what became of it; None if another process has it.

        Parameters
        ----------
        already
            Outcome from the slide's store, if it holds all that is asked for.
        """
        store = store_path(self.out, job)
        if done := already(job):
            self._tidy(job, store, done)
            return done
        record = self._record(job)
        if self._given_up(record):
            return Outcome(job, "failed", reason=_given_up_reason(record), traceback=record.traceback or "")
        if (claim := self._claims.take(job.slide_id, store)) is None:
            return None
        attempt = Attempt(job, claim, begun(self._record(job)), self)
        try:
            if done := already(job):  # by another, just before
                attempt.hand_back()
                return done
        except BaseException:
            attempt.hand_back()
            raise
        write_record(self.out, attempt.record)
        return attempt

    def may_take(self, job: SlideJob) -> bool:
        """Return whether a slide looks as if it could be taken: it is not given up, and nobody claims it."""
        return not self._given_up(self._record(job)) and not self._claims.is_claimed(job.slide_id)

    def close(self) -> None:
        """Stop renewing claims."""
        self._claims.close()

    def end(self, claim: Claim) -> None:
        """Give a claim back."""
        self._claims.end(claim)

    def _record(self, job: SlideJob) -> AttemptRecord:
        work = digest(job, self._asked)
        record = read_record(self.out, job.slide_id)
        if record is None or record.work != work:
            return AttemptRecord(slide_id=job.slide_id, task=self._task, work=work, status="running")
        if self.rules.retry_failed and record.status == "quarantined":
            return replace(record, attempts=0, failures=0)
        return record

    def _given_up(self, record: AttemptRecord) -> bool:
        return record.failures >= self.rules.attempts or record.attempts >= VANISHED * self.rules.attempts

    def _tidy(self, job: SlideJob, store: Path, done: Outcome) -> None:
        """Clean up after an attempt that was killed once its store was whole."""
        if self._claims.is_claimed(job.slide_id):
            with contextlib.suppress(OSError):
                if claim := self._claims.take(job.slide_id, store):
                    record = self._record(job)
                    if record.status != "done":
                        write_record(self.out, _done(record, done))
                    self._claims.end(claim)


class Attempt:
    """An attempt at a slide, by this process; it ends once, whichever thread ends it first."""

    def __init__(self, job: SlideJob, claim: Claim, record: AttemptRecord, attempts: Attempts) -> None:
        self.job, self.record = job, record
        self._claim, self._attempts = claim, attempts
        self._began, self._ended = time.perf_counter(), False
        self._ending = threading.Lock()

    @property
    def hold(self) -> Hold:
        """Right to write the store."""
        return self._claim.hold

    def check(self) -> None:
        """Raise StoreBusyError if another process took the slide over."""
        self._claim.check()

    def end(self, outcome: Outcome, error: BaseException | None = None) -> Outcome | None:
        """Record the outcome of the slide and release it; None if the lease was lost."""
        with self._ending:
            if self._claim.lost or not self._claim.is_ours():
                self._let_go()
                return None
            seconds = round(time.perf_counter() - self._began, 2)
            if outcome.status != "failed":
                record = _done(replace(self.record, seconds=seconds), outcome)
            else:
                passing = will_pass(error)
                record, again_s = failed(self.record, outcome, self._attempts.rules, passing=passing)
                record = replace(record, seconds=seconds)
                outcome = replace(outcome, again_s=again_s, passing=passing)
            self._write(record)
            self._let_go()
            return outcome

    def hand_back(self) -> None:
        """Let others have the slide, as if this attempt had not been."""
        with self._ending:
            if not self._ended and not self._claim.lost and self._claim.is_ours():
                attempts = self.record.attempts - 1
                self._write(replace(self.record, status="stopped", attempts=attempts, ended=now()))
            self._let_go()

    def _write(self, record: AttemptRecord) -> None:
        write_record(self._attempts.out, record)

    def _let_go(self) -> None:
        if not self._ended:
            self._ended = True
            self._attempts.end(self._claim)


def failed(
    record: AttemptRecord, outcome: Outcome, rules: Rules, *, passing: bool = False
) -> tuple[AttemptRecord, float | None]:
    """The record of an attempt that failed, and after how many seconds there may be another."""
    failures = record.failures + (not passing)  # it is not the slide's fault
    over = failures >= rules.attempts
    record = replace(
        record, status="quarantined" if over else "failed", attempts=record.attempts - passing, failures=failures,
        ended=now(), error=without_paths(outcome.reason, outcome.job),
        traceback=without_paths(outcome.traceback, outcome.job) or None,
    )  # fmt: skip
    return record, None if over else PASSING_S if passing else 2.0 ** (failures - 1)


def will_pass(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is not of the slide: a disk that is full, or a server out of reach."""
    while error is not None:
        if isinstance(error, UnreachableError) or (isinstance(error, OSError) and error.errno in FULL_DISK):
            return True
        error = error.__cause__ or error.__context__
    return False


def _done(record: AttemptRecord, outcome: Outcome) -> AttemptRecord:
    return replace(
        record, status="done", ended=now(), tiles=outcome.tiles, unreadable=outcome.unreadable, error=None,
        traceback=None,
    )  # fmt: skip


def _given_up_reason(record: AttemptRecord) -> str:
    times = f"{counted(record.failures, 'attempt')} failed"
    if vanished := record.attempts - record.failures:
        times += f" and {vanished} vanished with their process"
    last = f", the last one: {record.error}" if record.error else ""
    return f"given up, as {times}{last} (`retry_failed` tries again)"
