"""Analysing a slide, or a region of it, from within the viewer: the library calls of `embed` and `segment`. No Qt.

The whole slide makes the very store that ``wsi-umedpt embed SLIDE -o OUT -m MODEL`` and ``segment`` make, and goes
on with what they began. A region is a tissue mask that the user drew; a store holds one mask, so a region has a
store of its own, named by what was drawn, beside its outline as GeoJSON. The same region again is the same store.

Read top to bottom: `Request` (what is asked), `Watch` (how it goes, and the way to stop it), `analyse`, `models`.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.errors import OptionError, StoreError
from wsi_umedpt.slideid import default_id
from wsi_umedpt.tiling import TileGrid, TileSpec

from napari_wsi_umedpt._annotations import Annotation, Ring, write_annotations
from napari_wsi_umedpt._torch import importing_networks

_DIGITS = 8
_OF_SLIDES = ("microscopy", "fluorescence", "")
"""Modalities of heads that are offered; others are of X-rays and tomography."""


class Stopped(BaseException):
    """The user asked to stop. No `Exception`: it passes what catches errors, as KeyboardInterrupt does."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be done."""

    slide: Path
    mpp: float | None = None
    """um/px, where the user stated it."""
    out: Path
    """Folder of the store."""
    model: str
    """As `wsi-umedpt embed -m` takes it."""
    embed: bool = True
    heads: tuple[str, ...] = ()
    """What is looked for; of the model, which must then be a UMedPT one."""
    region: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Outlines, level-0 px; empty is the whole slide."""
    corner: tuple[int, int] = (0, 0)
    """Of the slide's bounds, from which the file of the region counts, for QuPath."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.embed and not self.heads:
            raise OptionError("nothing is asked for: choose to embed tiles, or what to look for")

    @property
    def slide_id(self) -> str:
        """Names the store: the slide's own id, and for a region eight digits of its outline."""
        whole = default_id(self.slide)
        return f"{whole}.region-{self.digest}" if self.region else whole

    @property
    def digest(self) -> str:
        """Of the region."""
        return hashlib.sha256(repr(self.region).encode()).hexdigest()[:_DIGITS]

    @property
    def store(self) -> Path:
        """Where the results will be."""
        return self.out / f"{self.slide_id}.zarr"


class Made(NamedTuple):
    """Something that entered the store."""

    kind: str
    """``features`` or ``objects``."""
    name: str
    """Grid and encoder, or head."""


@dataclass(eq=False)
class Watch:
    """How a run goes: written by its thread, read by the window."""

    stage: str = "Opening the slide ..."
    grid: TileGrid | None = None
    """Of the stage."""
    done: int = 0
    total: int = 0
    made: list[Made] = field(default_factory=list)
    _began: tuple[float, int] = (0.0, 0)
    """When the stage's first tile was begun, and how many were done by then."""
    _untold: bool = True
    """Whether nothing was told of the stage yet."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ask the run to stop; it does at the next layer of the network, or part of a batch."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to."""
        return self._stop.is_set()

    def check(self) -> None:
        """End the run here if it was asked to stop."""
        if self._stop.is_set():
            raise Stopped

    def enter(self, stage: str, grid: TileGrid | None = None) -> None:
        """Begin a stage; with its grid, that is counted from now on."""
        self.check()
        self.stage, self.grid, self.done, self.total = stage, grid, 0, 0 if grid is None else len(grid)
        self._began, self._untold = (time.monotonic(), 0), True

    def progress(self, done: int, total: int) -> None:
        """Tiles done; given to the library, which tells first what an earlier run did."""
        if self._untold:
            self._began, self._untold = (time.monotonic(), done), False
        self.done, self.total = max(done, self.done), total
        # All tiles of a stage are done: what is left is to write them down, and is not thrown away.
        if done < total:
            self.check()

    def looked_at(self, tiles: int) -> None:
        """So many more tiles went through the network; the library tells once their batch is done with."""
        self._untold = False
        self.done = min(self.done + tiles, self.total)
        self.check()

    @property
    def seconds_left(self) -> float | None:
        """Of the stage; None until it can be told."""
        since, first = self._began
        if self.done <= first or not self.total:
            return None
        return (time.monotonic() - since) / (self.done - first) * (self.total - self.done)

    @property
    def words(self) -> str:
        """Where it is, for people."""
        if self.stopping:
            return f"{self.stage} Stopping ..."
        if not self.total:
            return f"{self.stage.removesuffix(':')} ..." if self.stage.endswith(":") else self.stage
        left = self.seconds_left
        more = "" if left is None else f", {_time(left)} left"
        return f"{self.stage} {self.done:,} of {self.total:,}{more}"


@dataclass(frozen=True)
class Analysed:
    """How a run ended."""

    store: Path
    stopped: bool
    kept: str = ""
    """Of a run that was stopped: what is not lost, in words."""
    tiles: int = 0
    unreadable: int = 0
    objects: dict[str, int] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What came of it, for people."""
        if self.stopped:
            return f"Stopped. {self.kept}"
        found = [f"{count:,} {name}" for name, count in self.objects.items()]
        embedded = [f"{self.tiles:,} tiles embedded"] if self.tiles else []
        bad = f" {self.unreadable:,} tiles could not be read." if self.unreadable else ""
        return f"Done: {', '.join([*embedded, *found])}.{bad} {self.store}"


def analyse(request: Request, watch: Watch) -> Analysed:
    """Do what is asked, or go on with it; in a thread.

    Returns
    -------
    Analysed
        Also where it was stopped; what was durable then is gone on with by the same request.

    Raises
    ------
    WsiError, OSError
        If it cannot be done; nothing that is whole is lost.
    """
    with importing_networks():
        import wsi_umedpt.cohort.heads
        import wsi_umedpt.models.encoder  # noqa: F401
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {request.out} cannot be made: {error.strerror or error}") from None
    job = SlideJob(request.slide, request.slide_id, request.mpp, _region_file(request))
    try:
        with _stoppable(watch):
            return _analyse(request, job, watch)
    except Stopped:
        return Analysed(request.store, True, kept_of(request, watch))


@contextmanager
def _stoppable(watch: Watch) -> Iterator[None]:
    """Let a run stop within a batch: before each layer of a network that this thread runs."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread = threading.get_ident()

    def look(*_: Any) -> None:
        if threading.get_ident() == thread:
            watch.check()

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _analyse(request: Request, job: SlideJob, watch: Watch) -> Analysed:
    from wsi_umedpt.encode import Embedded

    embedded = Embedded(0, 0, 0)
    if request.embed:
        embedded = _embed(request, job, watch)
    found = _look_for(request, job, watch) if request.heads else {}
    return Analysed(request.store, False, "", embedded.tiles, embedded.unreadable, found)


def _embed(request: Request, job: SlideJob, watch: Watch) -> Any:
    watch.enter(f"Loading {request.model} ...")
    from wsi_umedpt.cohort.run import EmbedPlan, Prepared
    from wsi_umedpt.encode import encode_slide
    from wsi_umedpt.models.encoder import load_encoder
    from wsi_umedpt.store import SlideStore

    encoder = load_encoder(request.model, device=request.device)
    card = encoder.card
    spec = TileSpec(size_px=card.size_px, mpp=TileSpec.mpp if card.mpp is None else card.mpp)
    plan = EmbedPlan(out=request.out, encoders=[encoder], specs=[spec])
    watch.enter("Finding tissue ...")
    with closing(Prepared(job, plan, read=False)) as prepared:
        (grid,) = prepared.grids
        _check_tiles(grid, request)
        watch.enter("Embedding tiles:", grid)
        runs: Any = encoder
        if encoder.device == "cpu":
            runs = _EncoderInParts(encoder, watch.looked_at)
        with SlideStore.create(prepared.path, prepared.slide, prepared.tissue, grid) as store:
            done = encode_slide(
                prepared.slide, store, [runs], grid_id=spec.grid_id, batch_size=plan.batch_size,
                progress=watch.progress,
            )  # fmt: skip
    watch.made.append(Made("features", encoder.name))
    return done


def _look_for(request: Request, job: SlideJob, watch: Watch) -> dict[str, int]:
    watch.enter(f"Loading heads of {request.model} ...")
    from wsi_umedpt.cohort.heads import plan_objects
    from wsi_umedpt.cohort.run import EmbedPlan, Prepared
    from wsi_umedpt.dense import segment_slide
    from wsi_umedpt.store import SlideStore
    from wsi_umedpt.tiling import lay_grid

    objects = plan_objects(request.model, request.heads, device=request.device)
    plan = EmbedPlan(out=request.out, encoders=[], specs=[])
    watch.enter("Finding tissue ...")
    with closing(Prepared(job, plan, read=False)) as prepared:
        slide, tissue = prepared.slide, prepared.tissue
        grid = lay_grid(slide.size, slide.mpp, objects.spec, within=tissue)
        windows = lay_grid(slide.size, slide.mpp, objects.spec, within=tissue, whole=False)
        _check_tiles(windows, request)
        model: Any = objects.model
        if objects.made_by["device"] == "cpu":
            model = _InParts(objects.model, watch.looked_at)
        watch.enter(f"Looking for {', '.join(request.heads)}:", windows)
        with SlideStore.create(prepared.path, slide, tissue, grid) as store:
            done = segment_slide(
                slide, store, model, objects.spec, objects.made_by, batch_size=plan.batch_size,
                progress=watch.progress,
            )  # fmt: skip
    watch.made += [Made("objects", name) for name in done.objects]
    return done.objects


def _check_tiles(grid: TileGrid, request: Request) -> None:
    if not len(grid):
        where, remedy = ("the region", " Draw a larger one.") if request.region else ("this slide", "")
        raise OptionError(
            f"no tile of {grid.spec.size_px} px at {grid.spec.mpp:g} um/px has enough tissue in {where}; a tile counts "
            f"where {grid.spec.min_tissue:.0%} of it is tissue.{remedy}"
        )


class _InParts:
    """A model that tells of each part of a batch, and can stop there: on a CPU a batch takes half a minute.

    `OnePass` runs a batch on the CPU in parts of `PART` anyway, so that results are the same bit for bit.
    """

    PART = 8

    def __init__(self, model: Any, looked_at: Callable[[int], None]) -> None:
        self.heads, self.calibrate = model.heads, model.calibrate
        self._model, self._looked_at = model, looked_at

    def submit(self, pixels: Any) -> Callable[[], Any]:
        """See `wsi_umedpt.tasks.onepass.OnePass.submit`."""
        from wsi_umedpt.tasks.onepass import Outputs

        parts = []
        for start in range(0, len(pixels), self.PART):
            parts.append(self._model.submit(pixels[start : start + self.PART])())
            self._looked_at(len(pixels[start : start + self.PART]))
        joined = Outputs(
            np.concatenate([part.vectors for part in parts]),
            {k: np.concatenate([part.chances[k] for part in parts]) for k in parts[0].chances},
            {k: [tile for part in parts for tile in part.boxes[k]] for k in parts[0].boxes},
        )
        return lambda: joined


class _EncoderInParts:
    """An encoder that tells of each part of a batch; `TorchEngine` runs batches in such parts anyway."""

    PART = 8

    def __init__(self, encoder: Any, looked_at: Callable[[int], None]) -> None:
        self.name, self.dim, self.made_by = encoder.name, encoder.dim, encoder.made_by
        self._encoder, self._looked_at = encoder, looked_at

    def submit(self, pixels: Any) -> Callable[[], Any]:
        """See `wsi_umedpt.models.encoder.Encoder.submit`."""
        parts = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(pixels), self.PART):
            parts.append(self._encoder.encode(pixels[start : start + self.PART]))
            self._looked_at(len(parts[-1]))
        joined = np.concatenate(parts)
        return lambda: joined


def kept_of(request: Request, watch: Watch) -> str:
    """What is not lost of a run that was stopped, in words; read from what is on the disk."""
    from wsi_umedpt.growing import growing_features, rows_kept, work_folder

    again = "Go on, or the same run again, continues there."
    if watch.stage.startswith("Embedding"):
        rows = max(map(rows_kept, growing_features(work_folder(request.store))), default=0)
        return f"{rows:,} of {watch.total:,} tiles are kept. {again}"
    if watch.total:
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
    """What comes with the package; takes seconds the first time, as networks are imported."""
    with importing_networks():
        import wsi_umedpt.tasks.onepass  # noqa: F401
        from wsi_umedpt.models.cards import ENCODERS
        from wsi_umedpt.models.release import release_card, shipped

    found = [ModelChoice(name, release_card(path).about, heads_of(path)) for name, path in shipped().items()]
    return [*found, *(ModelChoice(card.name, card.about) for card in ENCODERS.values())]


def own_model(path: Path) -> ModelChoice:
    """A UMedPT model of the user's.

    Raises
    ------
    CheckpointError, EncoderError
        If it is none.
    """
    with importing_networks():
        import wsi_umedpt.tasks.onepass  # noqa: F401
        from wsi_umedpt.models.release import load_release, release_card

    load_release(path)  # what is wrong with its weights is said now, and not when it is to run
    return ModelChoice(f"umedpt:{path}", release_card(path).about, heads_of(path))


def heads_of(path: Path) -> dict[str, str]:
    """Heads of a release that show objects over a slide, and what they find."""
    from wsi_umedpt.models.release import release_heads
    from wsi_umedpt.tasks.onepass import object_heads

    heads = release_heads(path)
    modality = {head.name: head.modality for head in heads}
    return {name: words for name, words in object_heads(heads).items() if modality[name] in _OF_SLIDES}


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
