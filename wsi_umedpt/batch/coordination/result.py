"""Outcomes of slides, and their watchers: no torch, no pixels, so that every process of a run can afford it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from wsi_umedpt.slides.slide_job import SlideJob

if TYPE_CHECKING:
    from wsi_umedpt.pipeline.task import TaskResult

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one slide in a run."""

    job: SlideJob
    status: Literal["done", "already", "failed"]
    tiles: int = 0
    fresh: int = 0
    """Tiles embedded now, not in an earlier run."""
    unreadable: int = 0
    seconds: float = 0.0
    reason: str = ""
    tiles_by_grid: tuple[int, ...] = ()
    """Parts of `tiles`, in the order of `SlideTask.specs`."""
    objects: dict[str, int] = field(default_factory=dict)
    """Number of objects of each kind, where they were looked for."""
    fingerprint: str = ""
    """Fingerprint of the slide, where it was opened or has a store; the same for one slide under two names."""
    left_out: int = 0
    """Tiles with enough tissue that were not laid as they cross the right or lower edge; where the slide was opened."""
    traceback: str = ""
    """Traceback of the failure."""
    note: str = ""
    """Note on parts of the user's mask that were left out."""
    again_s: float | None = None
    """Seconds after which a failed slide may be tried again; None if it is not to be."""
    passing: bool = False
    """True if it failed for what will pass and is not of the slide: a full disk, a server out of reach."""

    @classmethod
    def of(cls, job: SlideJob, status: Literal["done", "already"], result: "TaskResult", **more: Any) -> Self:
        """Outcome of a task's result; `more` are further fields."""
        return cls(
            job, status, result.tiles, result.fresh, result.unreadable, tiles_by_grid=result.tiles_by_grid,
            objects=result.objects, **more,
        )  # fmt: skip


class Watcher:
    """Watcher of a run; the command line draws progress bars with it."""

    def slide_started(self, job: SlideJob, tiles: int) -> None:
        """Embedding of a slide begins."""

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Some more tiles of the slide are embedded."""

    def slide_ended(self, outcome: Outcome) -> None:
        """A slide is done, or failed."""

    def slide_again(self, outcome: Outcome) -> None:
        """A slide failed and will be tried again."""

    def slide_waits(self, job: SlideJob, holder: str) -> None:
        """Another process has a slide, and the run waits for it; told once of each holder."""


class Logged(Watcher):
    """Logs what a run tells, and passes it on to another watcher."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def slide_started(self, job: SlideJob, tiles: int) -> None:
        """See `Watcher.slide_started`."""
        _log.info("slide %s: begun, %d tiles", job.slide_id, tiles)
        self._watcher.slide_started(job, tiles)

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """See `Watcher.tiles_done`."""
        self._watcher.tiles_done(job, done, total)

    def slide_ended(self, outcome: Outcome) -> None:
        """See `Watcher.slide_ended`."""
        if outcome.status == "failed":
            _log.error("slide %s: failed: %s", outcome.job.slide_id, outcome.reason)
        else:
            _log.info(
                "slide %s: %s, %d tiles (%d in this run) in %.1f s",
                outcome.job.slide_id, outcome.status, outcome.tiles, outcome.fresh, outcome.seconds,
            )  # fmt: skip
        self._watcher.slide_ended(outcome)

    def slide_again(self, outcome: Outcome) -> None:
        """See `Watcher.slide_again`."""
        _log.warning("slide %s: retry in %.0f s: %s", outcome.job.slide_id, outcome.again_s, outcome.reason)
        self._watcher.slide_again(outcome)

    def slide_waits(self, job: SlideJob, holder: str) -> None:
        """See `Watcher.slide_waits`."""
        _log.info("slide %s: waits for %s", job.slide_id, holder)
        self._watcher.slide_waits(job, holder)


class Waiting:
    """Tells a run's watcher whom it waits for, once of each.

    Parameters
    ----------
    holder
        Says who has a slide; empty if nobody is known to.
    """

    def __init__(self, watcher: Watcher, holder: Callable[[str], str]) -> None:
        self._watcher, self._holder = watcher, holder
        self._told: set[str] = set()

    def busy(self, job: SlideJob) -> None:
        """Another process has this slide."""
        holder = self._holder(job.slide_id)
        if holder and holder not in self._told:
            self._told.add(holder)
            self._watcher.slide_waits(job, holder)


class SlideWork(Protocol):
    """Work on slides, loaded and ready."""

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome | None:
        """Work on one slide; None if another process has it."""
        ...

    def ahead(self, job: SlideJob) -> None:
        """Make ready what can be for a slide that will be attempted next; returns at once."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


def in_order(jobs: Sequence[SlideJob], outcomes: dict[str, Outcome]) -> list[Outcome]:
    """One outcome per job."""
    return [outcomes[job.slide_id] for job in jobs]
