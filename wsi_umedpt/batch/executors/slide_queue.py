"""Queue of the slides of a run: failed slides, and slides that other processes work on, are retried later.

`run_queue` works through it with one worker in a child process; `executors.dask` with many.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from wsi_umedpt.batch.coordination.leases import holder_of
from wsi_umedpt.batch.coordination.result import Logged, Outcome, Waiting, Watcher, in_order
from wsi_umedpt.batch.executors.child_process import Isolated
from wsi_umedpt.slides.slide_job import SlideJob

BUSY_S = 2.0
"""Seconds until a slide that another process has is asked for again."""
PASSING_PATIENCE_S = 600.0
"""Seconds after which a full disk, or a server that cannot be reached, is no longer waited for."""


class SlideQueue:
    """Queue of the slides that wait, and the outcomes of those that ended.

    `out`, the folder of stores, tells who has those that others work on.
    """

    def __init__(
        self, jobs: Sequence[SlideJob], watcher: Watcher, out: Path | None = None, *, busy_s: float = BUSY_S
    ) -> None:
        self._jobs, self._watcher, self._busy_s = jobs, watcher, busy_s
        self._waiting_for = Waiting(watcher, partial(holder_of, out) if out else lambda _: "")
        self._number = itertools.count()
        self._waiting = [(0.0, next(self._number), job) for job in jobs]
        self._outcomes: dict[str, Outcome] = {}
        self._passing_since: float | None = None

    def sort(self, size: Callable[[SlideJob], float]) -> None:
        """Let the largest be the first: begun last, it would be waited for by all."""
        self._waiting = [(0.0, n, job) for n, job in enumerate(sorted(self._jobs, key=size, reverse=True))]

    @property
    def open(self) -> int:
        """Number of slides without an outcome."""
        return len(self._jobs) - len(self._outcomes)

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcome of each job, once none is open."""
        return in_order(self._jobs, self._outcomes)

    def next(self) -> SlideJob | None:
        """Take the next slide whose time has come."""
        if self._waiting and self._waiting[0][0] <= time.monotonic():
            return heapq.heappop(self._waiting)[2]
        return None

    def after(self) -> SlideJob | None:
        """The slide that will most likely be next; it is not taken."""
        return self._waiting[0][2] if self._waiting else None

    def wait_s(self) -> float:
        """Seconds until there is a next, at most one."""
        return min(1.0, max(0.0, self._waiting[0][0] - time.monotonic())) if self._waiting else 1.0

    def settle(self, job: SlideJob, outcome: Outcome | None) -> None:
        """Say what became of a slide that was taken; None if another process has it."""
        if outcome is None:
            self._waiting_for.busy(job)
            self.put_back(job, self._busy_s)
        elif outcome.again_s is not None and not self._in_vain(outcome):
            self._watcher.slide_again(outcome)
            self.put_back(job, outcome.again_s)
        else:
            self._outcomes[job.slide_id] = outcome
            self._watcher.slide_ended(outcome)

    def put_back(self, job: SlideJob, after_s: float = 0.0) -> None:
        """Let a slide wait once more."""
        heapq.heappush(self._waiting, (time.monotonic() + after_s, next(self._number), job))

    def _in_vain(self, outcome: Outcome) -> bool:
        """Return whether the disk has been full, or a server out of reach, for so long that waiting makes no sense."""
        if not outcome.passing:
            self._passing_since = None
            return False
        self._passing_since = self._passing_since or time.monotonic()
        return time.monotonic() - self._passing_since > PASSING_PATIENCE_S


def run_queue(jobs: Sequence[SlideJob], isolated: Isolated, watcher: Watcher) -> list[Outcome]:
    """Work on every slide in one child process.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`.
    """
    watcher = Logged(watcher)
    queue = SlideQueue(jobs, watcher, isolated.out)
    try:
        while queue.open:
            if job := queue.next():
                if after := queue.after():
                    isolated.ahead(after)
                queue.settle(job, isolated.attempt(job, watcher))
            else:
                time.sleep(queue.wait_s())
    finally:
        isolated.close()
    return queue.outcomes
