"""Tasks on one slide: `SlideTask`, its settings, its progress, and its result.

`pipeline.embed` and `pipeline.segment` are the tasks. Who opens the slide for them, and where its store goes, is
`pipeline.prepare`'s for one slide and `batch.run`'s for many.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from wsi_umedpt.settings import RunSettings, TissueParameters
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.write_lock import Hold

if TYPE_CHECKING:
    from wsi_umedpt.pipeline.prepare import PreparedSlide


class Progress:
    """Progress of a task while it runs; subclasses show it. An exception raised here ends the task, resumable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The task ended."""

    def started(self, tiles: int) -> None:
        """Hear that the task begins.

        Parameters
        ----------
        tiles
            Number of tiles in all.
        """

    def tiles_done(self, done: int, total: int) -> None:
        """Hear how far the task is.

        Parameters
        ----------
        done, total
            Tiles that are through, those of an earlier run included, of all.
        """

    def part_done(self, tiles: int) -> None:
        """Hear that a part of the current batch went through the network; on a CPU alone, several times a batch.

        Parameters
        ----------
        tiles
            Number of tiles of the part.
        """


@dataclass(frozen=True)
class TaskResult:
    """Result of a task: what it found or made in a slide's store."""

    tiles: int = 0
    """Tiles (or windows) of all grids."""
    fresh: int = 0
    """Tiles run now, not in an earlier run."""
    unreadable: int = 0
    """Tiles that could not be decoded."""
    tiles_by_grid: tuple[int, ...] = ()
    """Parts of `tiles`, in the order of `SlideTask.specs`."""
    objects: dict[str, int] = field(default_factory=dict)
    """Number of objects of each kind, where they were looked for."""
    changed: bool = True
    """True if the store lacked any of it."""


class SlideTask(Protocol):
    """Work on one slide: loaded networks and the settings that results depend on."""

    name: ClassVar[str]
    """Name of the task in records: ``embed`` or ``segment``."""

    @property
    def settings(self) -> RunSettings:
        """Settings for reading and running tiles."""
        ...

    @property
    def tissue(self) -> TissueParameters:
        """Parameters of tissue detection, where the user drew no mask."""
        ...

    def specs(self, mpp: float) -> Sequence[TileSpec]:
        """Return the grids that are laid on a slide of `mpp` um/px, each once."""
        ...

    @property
    def asked(self) -> dict[str, Any]:
        """All that results depend on, as JSON: attempts at other work do not count."""
        ...

    def ahead(self, tiles: int) -> int | None:
        """Size of the batches in which tiles are read as soon as a slide is prepared; None where they are not.

        Parameters
        ----------
        tiles
            Number of tiles of all grids of the slide.
        """
        ...

    def already_done(self, store: SlideStore) -> TaskResult | None:
        """Result that the store holds, if it holds all that is asked for."""
        ...

    def run(self, prepared: "PreparedSlide", progress: Progress, hold: Hold | None = None) -> TaskResult:
        """Add what the store lacks.

        Parameters
        ----------
        hold
            The right to write the store, where the caller has it already.
        """
        ...


def asked_of(task: SlideTask) -> dict[str, Any]:
    """The part of `SlideTask.asked` that all tasks share."""
    return {"tissue": asdict(task.tissue), "max_unreadable": task.settings.max_unreadable}
