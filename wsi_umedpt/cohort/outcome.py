"""What becomes of a slide, and who is told: no torch, no pixels, so that every process of a run can afford it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from wsi_umedpt.cohort.manifest import SlideJob


@dataclass(frozen=True)
class Outcome:
    """What became of one slide."""

    job: SlideJob
    status: Literal["done", "already", "failed"]
    tiles: int = 0
    fresh: int = 0
    """Tiles embedded now, not in an earlier run."""
    unreadable: int = 0
    seconds: float = 0.0
    reason: str = ""
    tiles_by_grid: tuple[int, ...] = ()
    """Parts of `tiles`, in the order of `EmbedPlan.by_spec`."""
    objects: dict[str, int] = field(default_factory=dict)
    """Number of objects of each kind, where they were looked for."""
    fingerprint: str = ""
    """Of the slide, where it was opened or has a store; the same for one slide under two names."""
    left_out: int = 0
    """Tiles with enough tissue that were not laid as they cross the right or lower edge; where the slide was opened."""
    traceback: str = ""
    """Where it failed."""
    note: str = ""
    """What was left out of the mask that the user drew, for people."""
    again_s: float | None = None
    """Of a failed one: after how many seconds it may be tried again; None if it is not to be."""
    passing: bool = False
    """Whether it failed for what will pass and is not of the slide: a full disk, a server out of reach."""


class Watcher:
    """What a run tells as it goes; the command line draws progress bars from it."""

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
    """What is done to each slide, loaded and ready."""

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
