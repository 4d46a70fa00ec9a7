"""One slide made ready for a task: opened, its tissue found, its grids laid, its first tiles being read."""

import itertools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from wsi_umedpt.pipeline.task import SlideTask
from wsi_umedpt.settings import TissueParameters
from wsi_umedpt.slides.channels import are_met
from wsi_umedpt.slides.mask_file import drawn_by, mask_from_file
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.slides.tile_loader import TileBatch, read_grids
from wsi_umedpt.slides.tile_source import sharing
from wsi_umedpt.slides.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask, find_tissue, method_for, read_thumbnail
from wsi_umedpt.store.partial import work_folder
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.tissue_io import stored_tissue

_log = logging.getLogger(__name__)


class PreparedSlide:
    """A slide that is open, with tissue found, grids laid, and its first tiles being read; a context manager.

    Parameters
    ----------
    slide
        Open; it is not closed here, but see `open`.
    path
        Path of its store, which need not exist.
    tissue
        Mask of its tissue.
    specs
        Grids that are laid.
    readers
        Readers of tiles; see `RunSettings.readers`.

    Attributes
    ----------
    grids
        One for each of the specs.
    sharing
        Groups of places in `grids`: those that share one decoding of the slide.
    batches
        Tiles of the first group of grids being read from row 0, or None.
    """

    def __init__(
        self, slide: Slide, path: Path, tissue: TissueMask, specs: Sequence[TileSpec], readers: int | None = None
    ) -> None:
        self.slide, self.path, self.tissue, self.readers = slide, path, tissue, readers
        self.grids: list[TileGrid] = [lay_grid(slide.size, slide.mpp, spec, within=tissue) for spec in specs]
        self.sharing = sharing(slide, self.grids)
        self.batches: Iterator[TileBatch] | None = None
        self._opened = ExitStack()

    @classmethod
    def open(
        cls, job: SlideJob, store: Path, task: SlideTask, *, file: Path | None = None, watched: bool = False,
        pulse: Callable[[], None] = lambda: None,
    ) -> Self:  # fmt: skip
        """Open a slide and find its tissue, as a task asks for it.

        Parameters
        ----------
        job
            The slide.
        store
            Path of its store.
        task
            Task to prepare for: it says how tissue is found and which grids are laid.
        file
            File to open, where that is a copy of the slide.
        watched
            Watch reading for progress: tiles are then never read in the calling thread.
        pulse
            Called whenever that advances.
        """
        settings = task.settings
        with ExitStack() as opened:
            slide = opened.enter_context(open_slide(file or job.path, mpp=job.mpp, channels=job.channels))
            slide.stall_s = settings.stall_s
            pulse()
            tissue = _tissue(slide, store, job, task.tissue, pulse)
            pulse()
            readers = settings.readers
            readers = max(1, readers) if watched and readers is not None else readers
            made = cls(slide, store, tissue, task.specs(slide.mpp), readers)
            made._opened = opened.pop_all()
            _log.debug(
                "slide %s: %d x %d px at %g um/px, read by %s; tissue %.1f %%; %s tiles", job.slide_id, *slide.size,
                slide.mpp, slide.reader, 100 * tissue.fraction, " + ".join(str(len(grid)) for grid in made.grids),
            )  # fmt: skip
            return made

    def read_ahead(self, task: SlideTask) -> None:
        """Begin to read tiles of the first group of grids, unless the store, or a part of it, is there already."""
        batch_size = task.ahead(sum(map(len, self.grids)))
        if batch_size is None or self.path.exists() or work_folder(self.path).exists():
            return
        grids = [self.grids[n] for n in self.sharing[0]]
        tiles = read_grids(self.slide, grids, batch_size=batch_size, readers=self.readers)
        self._opened.callback(tiles.close)
        # A thread begins when it is first asked; processes have begun, and may be busy with the slide before.
        first = itertools.islice(tiles, 1) if isinstance(tiles, Generator) else ()
        self.batches = itertools.chain(list(first), tiles)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, and free the slide if it was opened here."""
        self._opened.close()


def _tissue(
    slide: Slide, store: Path, job: SlideJob, parameters: TissueParameters, pulse: Callable[[], None]
) -> TissueMask:
    if known := stored_tissue(store, slide, *mask_asked_for(job, parameters)):
        return known
    if job.mask:
        drawn = mask_from_file(
            job.mask, slide.size, slide.mpp, parameters.cell_um, bounds=slide.bounds, origin=job.mask_origin
        )
        return replace(drawn, thumbnail=read_thumbnail(slide, drawn.step, pulse)[0])
    return find_tissue(slide, parameters, pulse)


def mask_asked_for(job: SlideJob, parameters: TissueParameters) -> tuple[str, dict[str, float | bool | str]]:
    """Method and parameters of the tissue mask that a slide's store is to have."""
    if job.mask:
        return drawn_by(job.mask, parameters.cell_um, job.mask_origin)
    return method_for(bool(job.channels)), asdict(parameters)


def fits(store: SlideStore, job: SlideJob, parameters: TissueParameters) -> bool:
    """Return whether a store has the tissue mask, the scale and the channels that are asked for."""
    if store.tissue_made() != mask_asked_for(job, parameters):
        return False  # SlideStore.create compares the masks themselves, and refuses another one
    if not are_met(job.channels, store.channels):
        return False
    slide = store.attrs["slide"]
    # A store at the user's scale is not what a run asks for that leaves the scale to the slide.
    other_mpp = slide["mpp_source"] == "user" if job.mpp is None else slide["mpp"] != job.mpp
    return not other_mpp  # SlideStore.create says what is wrong
