"""Who is next: slides waiting for their turn, those that failed or that others have again later.

`run_line` works through it with one worker in a child process; `cohort.spread` with many.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from wsi_umedpt.cohort.claims import holder_of
from wsi_umedpt.cohort.isolate import Isolated
from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.outcome import Outcome, Waiting, Watcher, in_order

BUSY_S = 2.0
"""How long to wait before asking again for a slide that another process has."""
PASSING_PATIENCE_S = 600.0
"""A disk that stays full, or a server that stays out of reach, for so long ends what it stops."""


class Line:
    """Slides that wait, and the outcomes of those that are through.

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
        """How many slides have no outcome yet."""
        return len(self._jobs) - len(self._outcomes)

    @property
    def outcomes(self) -> list[Outcome]:
        """One per job, once none is open."""
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
        """Whether the disk has been full, or a server out of reach, for so long that waiting makes no sense."""
        if not outcome.passing:
            self._passing_since = None
            return False
        self._passing_since = self._passing_since or time.monotonic()
        return time.monotonic() - self._passing_since > PASSING_PATIENCE_S


def run_line(jobs: Sequence[SlideJob], isolated: Isolated, watcher: Watcher) -> list[Outcome]:
    """Work on every slide in one child process.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`.
    """
    line = Line(jobs, watcher, isolated.out)
    try:
        while line.open:
            if job := line.next():
                if after := line.after():
                    isolated.ahead(after)
                line.settle(job, isolated.attempt(job, watcher))
            else:
                time.sleep(line.wait_s())
    finally:
        isolated.close()
    return line.outcomes
