"""Analysing a slide, or a region of it, from within the viewer: the library calls of `embed` and `segment`. No Qt.

The whole slide makes the very store that ``wsi-umedpt embed SLIDE -o OUT -m MODEL`` and ``segment`` make, and goes
on with what they began. A region is a tissue mask that the user drew; a store holds one mask, so a region has a
store of its own, named by what was drawn, beside its outline as GeoJSON. The same region again is the same store.

Read top to bottom: `Request` (the order), `AnalysisProgress` (its state, and the way to stop it), `analyse`, `models`.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from wsi_umedpt.errors import OptionError, StoreError, WsiError
from wsi_umedpt.messages import counted, duration
from wsi_umedpt.settings import ComputeOptions
from wsi_umedpt.slides import ChannelChoice, SlideJob, TileGrid, default_id

from napari_wsi_umedpt.logic.annotations import Annotation, write_annotations
from napari_wsi_umedpt.logic.corrections import OF_SLIDES, own_heads
from napari_wsi_umedpt.logic.napari_shapes import Ring
from napari_wsi_umedpt.logic.torch_import import importing_networks

if TYPE_CHECKING:
    from wsi_umedpt.pipeline import PreparedSlide, Progress, SlideTask, TaskResult

_DIGITS = 8


class AnalysisStopped(BaseException):
    """The user asked to stop. No `Exception`: it passes what catches errors, as KeyboardInterrupt does."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Order of an analysis."""

    slide: Path
    mpp: float | None = None
    """um/px, where the user stated it."""
    channels: tuple[ChannelChoice, ...] = ()
    """Channels that are seen, of a slide that is not in colour."""
    out: Path
    """Folder of the store."""
    model: str
    """Name of the model, as `wsi-umedpt embed -m` takes it."""
    embed: bool = True
    heads: tuple[str, ...] = ()
    """Heads of the model, which must then be a UMedPT one."""
    region: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Outlines, level-0 px; empty is the whole slide."""
    corner: tuple[int, int] = (0, 0)
    """Corner of the slide's bounds, from which the file of the region counts, for QuPath."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.embed and not self.heads:
            raise OptionError(
                "nothing is asked for: tick what to look for, or to prepare for Tiles, Alike and Classify"
            )

    @property
    def slide_id(self) -> str:
        """Names the store: the slide's own id, and for a region eight digits of its outline."""
        whole = default_id(self.slide)
        return f"{whole}.region-{self.digest}" if self.region else whole

    @property
    def digest(self) -> str:
        """Digest of the region."""
        return hashlib.sha256(repr(self.region).encode()).hexdigest()[:_DIGITS]

    @property
    def store(self) -> Path:
        """Path of the results."""
        return self.out / f"{self.slide_id}.zarr"


class Made(NamedTuple):
    """Something that entered the store."""

    kind: str
    """``features`` or ``objects``."""
    name: str
    """Grid and encoder, or head."""


@dataclass(eq=False)
class AnalysisProgress:
    """Progress of an analysis: written by its thread, read by the window, which may ask it to stop."""

    stage: str = "Opening the slide ..."
    grid: TileGrid | None = None
    """Grid of the stage."""
    done: int = 0
    total: int = 0
    made: list[Made] = field(default_factory=list)
    _began: tuple[float, int] = (0.0, 0)
    """Time at which the stage's first tile was begun, and the number of tiles done by then."""
    _untold: bool = True
    """True until the stage reports something."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ask the run to stop; it does at the next layer of the network, or part of a batch."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """True once it was asked to stop."""
        return self._stop.is_set()

    def check(self) -> None:
        """End the run here if it was asked to stop."""
        if self._stop.is_set():
            raise AnalysisStopped

    def enter(self, stage: str, grid: TileGrid | None = None) -> None:
        """Begin a stage; with its grid, that is counted from now on."""
        self.check()
        self.stage, self.grid, self.done, self.total = stage, grid, 0, 0 if grid is None else len(grid)
        self._began, self._untold = (time.monotonic(), 0), True

    def tiles_done(self, done: int, total: int) -> None:
        """Tiles done; given to the library, which states first what an earlier run did."""
        if self._untold:
            self._began, self._untold = (time.monotonic(), done), False
        self.done, self.total = max(done, self.done), total
        # All tiles of a stage are done: what is left is to write them down, and is not thrown away.
        if done < total:
            self.check()

    def looked_at(self, tiles: int) -> None:
        """Count more tiles that went through the network; the library counts them once their batch is done."""
        self._untold = False
        self.done = min(self.done + tiles, self.total)
        self.check()

    @property
    def seconds_left(self) -> float | None:
        """Seconds left of the stage; None until they can be estimated."""
        since, first = self._began
        if self.done <= first or not self.total:
            return None
        return (time.monotonic() - since) / (self.done - first) * (self.total - self.done)

    @property
    def words(self) -> str:
        """Description of the progress."""
        if self.stopping:
            return f"{self.stage} Stopping ..."
        if not self.total:
            return f"{self.stage.removesuffix(':')} ..." if self.stage.endswith(":") else self.stage
        left = self.seconds_left
        more = "" if left is None else f", {duration(left)} left"
        return f"{self.stage} {self.done:,} of {self.total:,}{more}"


@dataclass(frozen=True)
class Analysed:
    """Result of a run."""

    store: Path
    stopped: bool
    kept: str = ""
    """Description of what a stopped run did not lose."""
    tiles: int = 0
    unreadable: int = 0
    objects: dict[str, int] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Description of the result."""
        if self.stopped:
            return f"Stopped. {self.kept}"
        found = [f"{counted(count, 'object')} ({name})" for name, count in self.objects.items()]
        embedded = [f"features of {counted(self.tiles, 'tile')}"] if self.tiles else []
        bad = f" {counted(self.unreadable, 'tile')} could not be read." if self.unreadable else ""
        return f"Done: {', '.join([*found, *embedded])}.{bad} Results in {self.store}"


def analyse(request: Request, progress: AnalysisProgress) -> Analysed:
    """Do what is asked, or go on with it; in a thread.

    Returns
    -------
    Analysed
        Also where it was stopped; the same request resumes from what was durable then.

    Raises
    ------
    WsiError, OSError
        If it cannot be done; nothing that is whole is lost.
    """
    with importing_networks():
        import wsi_umedpt.models.encoder
        import wsi_umedpt.pipeline.plan  # noqa: F401
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {request.out} cannot be made: {error.strerror or error}") from None
    job = SlideJob(request.slide, request.slide_id, request.mpp, _region_file(request), channels=request.channels)
    try:
        with _stoppable(progress):
            return _analyse(request, job, progress)
    except AnalysisStopped:
        return Analysed(request.store, True, kept_of(request, progress))


@contextmanager
def _stoppable(progress: AnalysisProgress) -> Iterator[None]:
    """Let a run stop within a batch: before each layer of a network that this thread runs."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread = threading.get_ident()

    def look(*_: Any) -> None:
        if threading.get_ident() == thread:
            progress.check()

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _analyse(request: Request, job: SlideJob, progress: AnalysisProgress) -> Analysed:
    embedded = _embed(request, job, progress) if request.embed else None
    found = _look_for(request, job, progress) if request.heads else {}
    tiles, unreadable = (embedded.tiles, embedded.unreadable) if embedded else (0, 0)
    return Analysed(request.store, False, "", tiles, unreadable, found)


def _embed(request: Request, job: SlideJob, progress: AnalysisProgress) -> "TaskResult":
    progress.enter(f"Loading {request.model} ...")
    from wsi_umedpt.pipeline import plan_embedding

    task = plan_embedding([request.model], compute=ComputeOptions(device=request.device))
    with _prepared(request, job, task, progress) as prepared:
        (grid,) = prepared.grids
        _check_tiles(grid, request)
        progress.enter("Computing features of tiles:", grid)
        done = task.run(prepared, _told(progress))
    progress.made.append(Made("features", task.encoders[0].name))
    return done


def _look_for(request: Request, job: SlideJob, progress: AnalysisProgress) -> dict[str, int]:
    progress.enter(f"Loading {request.model} ...")
    from wsi_umedpt.pipeline import plan_segmentation
    from wsi_umedpt.slides import lay_grid

    task = plan_segmentation(request.model, request.heads, compute=ComputeOptions(device=request.device))
    with _prepared(request, job, task, progress) as prepared:
        slide = prepared.slide
        windows = lay_grid(slide.size, slide.mpp, task.on(slide.mpp).spec, within=prepared.tissue, whole=False)
        _check_tiles(windows, request)
        progress.enter(f"Looking for {', '.join(request.heads)}:", windows)
        done = task.run(prepared, _told(progress))
    progress.made += [Made("objects", name) for name in done.objects]
    return done.objects


def _prepared(request: Request, job: SlideJob, task: "SlideTask", progress: AnalysisProgress) -> "PreparedSlide":
    from wsi_umedpt.pipeline import PreparedSlide

    progress.enter("Finding tissue ...")
    return PreparedSlide.open(job, request.store, task)


def _told(progress: AnalysisProgress) -> "Progress":
    """Progress of the library, for the window; also of parts of a batch, which takes half a minute on a CPU."""
    from wsi_umedpt.pipeline import Progress

    class Told(Progress):
        def tiles_done(self, done: int, total: int) -> None:
            progress.tiles_done(done, total)

        def part_done(self, tiles: int) -> None:
            progress.looked_at(tiles)

    return Told()


def _check_tiles(grid: TileGrid, request: Request) -> None:
    if not len(grid):
        where, remedy = ("the region", " Draw a larger one.") if request.region else ("this slide", "")
        raise OptionError(
            f"no tile of {grid.spec.size_px} px at {grid.spec.mpp:g} um/px has enough tissue in {where}; a tile counts "
            f"where {grid.spec.min_tissue:.0%} of it is tissue.{remedy}"
        )


def kept_of(request: Request, progress: AnalysisProgress) -> str:
    """Describe what a stopped run did not lose; read from what is on the disk."""
    from wsi_umedpt.store import growing_features, rows_kept, work_folder

    again = "Go on, or the same run again, continues there."
    if progress.stage.startswith("Computing features"):
        rows = max(map(rows_kept, growing_features(work_folder(request.store))), default=0)
        return f"{rows:,} of {counted(progress.total, 'tile')} are kept. {again}"
    if progress.total:
        return f"What was found so far is kept. {again}"
    return "Nothing of this step was begun."


def _region_file(request: Request) -> Path | None:
    """Write the region beside its store, as a mask that `embed --mask` takes too; the same bytes each time."""
    if not request.region:
        return None
    path = request.out / f"{request.slide_id}.geojson"
    rings: Sequence[Ring] = [np.array(ring, np.float64) for ring in request.region]
    write_annotations(
        path,
        [Annotation(((ring,),), "Region", id=f"{request.digest}-{n}") for n, ring in enumerate(rings)],
        request.corner,
    )
    return path


def region_of(rings: Sequence[Any]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Outlines as `Request` holds them, to a tenth of a px."""
    return tuple(tuple((round(float(x), 1), round(float(y), 1)) for x, y in ring) for ring in rings)


# ---- what can be asked for ----


@dataclass(frozen=True)
class ModelChoice:
    """A model, and what it can look for."""

    name: str
    about: str
    heads: Mapping[str, str] = field(default_factory=dict)
    """Names, and what is found."""


def models() -> list[ModelChoice]:
    """Models that come with the package, and those of the user's; takes seconds at first, as networks are imported."""
    with importing_networks():
        import wsi_umedpt.tasks.multihead  # noqa: F401
        from wsi_umedpt.models import all_cards, release_card, shipped

    found = [ModelChoice(name, release_card(path).about, heads_of(path)) for name, path in shipped().items()]
    found += [ModelChoice(card.name, card.about) for card in all_cards().values() if card.comes_with_us]
    for path in own_heads():
        with contextlib.suppress(WsiError):  # what is damaged is said once somebody opens it by name
            heads = {name: words for name, words in heads_of(path).items() if name == path.stem}
            found.append(ModelChoice(f"umedpt:{path}", release_card(path).about, heads))
    return found


def own_model(path: Path) -> ModelChoice:
    """A UMedPT model of the user's.

    Raises
    ------
    CheckpointError, EncoderError
        If it is none.
    """
    with importing_networks():
        import wsi_umedpt.tasks.multihead  # noqa: F401
        from wsi_umedpt.models import load_release, release_card

    load_release(path)  # what is wrong with its weights is said now, and not when it is to run
    return ModelChoice(f"umedpt:{path}", release_card(path).about, heads_of(path))


def heads_of(path: Path) -> dict[str, str]:
    """Heads of a release that show objects over a slide, and what they find."""
    from wsi_umedpt.models import release_heads
    from wsi_umedpt.pipeline import object_heads

    heads = release_heads(path)
    modality = {head.name: head.modality for head in heads}
    return {name: words for name, words in object_heads(heads).items() if modality[name] in OF_SLIDES}
