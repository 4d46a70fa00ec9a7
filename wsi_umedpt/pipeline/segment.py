"""Segmentation: the windows of one slide through one pass of a shared model into objects, label images, embeddings.

Windows are tiles that overlap, so that every object lies well inside one of them. Where the
windows are also the tiles of a grid of the store, their embeddings enter it in the same pass.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt import __version__
from wsi_umedpt.errors import SlideError, StoreError, WsiError
from wsi_umedpt.messages import counted
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.pipeline.task import Progress, TaskResult, asked_of
from wsi_umedpt.segmentation.object_writer import Kind, ObjectMap
from wsi_umedpt.segmentation.window_layout import WindowLayout
from wsi_umedpt.settings import RunSettings, TissueParameters
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tile_loader import TileBatch, read_tiles
from wsi_umedpt.slides.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.partial import FeatureWriter
from wsi_umedpt.store.readable_store import OK, UNREADABLE
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.write_lock import Hold
from wsi_umedpt.store.zarr_io import NODE, discard
from wsi_umedpt.tasks.multihead import CALIBRATION_PX, ObjectHeads, OnePass, Outputs

CALIBRATION_TILES = 40
"""Number of tiles of a slide that the decoders' norms are fixed by."""
SAVE_S = 30.0
"""Seconds between two moments at which a run makes durable what it found."""


@dataclass(frozen=True)
class FeaturesToo:
    """Embeddings that the same pass writes."""

    name: str
    """Name of the features in the store."""
    made_by: dict[str, Any]
    """Encoder of the features, for the store; JSON."""
    dim: int
    """Length of an embedding."""


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """Segmentation and detection by heads of one shared model; see `SlideTask`."""

    model: OnePass
    """The model with the heads that run."""
    spec: TileSpec
    """Specification of the windows; see `window_spec`."""
    coarser: bool = False
    """Take a slide's own scale where that is coarser than that of `spec`, instead of refusing the slide."""
    made_by: dict[str, Any]
    """Model, weights and precision, for the store; JSON."""
    features: FeaturesToo | None = None
    """Given, the store's grid of this very spec is embedded in the same pass."""
    tissue: TissueParameters = field(default_factory=TissueParameters)
    settings: RunSettings = field(default_factory=RunSettings)
    save_s: float = SAVE_S
    """Seconds between two moments at which what was found is made durable."""
    name: ClassVar[str] = "segment"

    def specs(self, mpp: float) -> tuple[TileSpec, ...]:
        """Return the grid of the windows on a slide of `mpp` um/px."""
        return (replace(self.spec, mpp=mpp) if self.coarser and mpp > self.spec.mpp else self.spec,)

    def on(self, mpp: float) -> Self:
        """Return the task as it is on a slide of `mpp` um/px."""
        (spec,) = self.specs(mpp)
        return replace(self, spec=spec, coarser=False)

    @property
    def asked(self) -> dict[str, Any]:
        """See `SlideTask.asked`."""
        return {
            **asked_of(self),
            "version": __version__,
            "made_by": self.made_by,
            "spec": self.spec.to_dict(),
            **({"coarser": True} if self.coarser else {}),
            "features": self.features.name if self.features else None,
            "heads": [head.name for head in self.model.heads],
            "maps": [*self.model.maps],
        }

    @property
    def recorded(self) -> dict[str, Any]:
        """Settings of the segmentation that objects record, but for their head."""
        vectors = {"maps": [*self.model.maps]} if self.model.maps else {}
        return {
            **self.made_by, "spec": self.spec.to_dict(), "batch_size": self.settings.tiles_at_once,
            "calibration_tiles": CALIBRATION_TILES, **vectors,
        }  # fmt: skip

    def ahead(self, tiles: int) -> None:
        """See `SlideTask.ahead`: norms are fixed before the first window is read."""

    def already_done(self, store: SlideStore) -> TaskResult | None:
        """See `SlideTask.already_done`.

        Raises
        ------
        StoreError
            If the store holds objects of one of these names that other settings made.
        """
        slide = store.attrs["slide"]
        if self.coarser:
            return self.on(slide["mpp"]).already_done(store)
        if not all(_is_there(store, head.name, {**self.recorded, "head": head.name}) for head in self.model.heads):
            return None
        if self.features and not store.has_features(self.features.name, self.spec.grid_id):
            return None
        windows = lay_grid(tuple(slide["size"]), slide["mpp"], self.spec, within=store.tissue(), whole=False)
        counts = {head.name: len(read_objects(store, head.name)[0]) for head in self.model.heads}
        return TaskResult(len(windows), objects=counts, changed=False)

    def run(self, prepared: PreparedSlide, progress: Progress, hold: Hold | None = None) -> TaskResult:
        """See `SlideTask.run`."""
        (grid,) = prepared.grids
        task = replace(self.on(prepared.slide.mpp), settings=replace(self.settings, readers=prepared.readers))
        with SlideStore.create(prepared.path, prepared.slide, prepared.tissue, grid, hold) as store:
            return segment_slide(prepared.slide, store, task, progress)


def window_spec(spec: TileSpec, overlap_px: int = 64) -> TileSpec:
    """Windows as far apart as a grid's tiles, that overlap by at least `overlap_px`; sides are multiples of 32."""
    size = max(spec.size_px, spec.stride + overlap_px)
    size += -size % 32
    return TileSpec(**{**spec.to_dict(), "size_px": size, "stride_px": spec.stride})


def segment_slide(slide: Slide, store: SlideStore, task: SegmentTask, progress: Progress | None = None) -> TaskResult:
    """Find all objects of the kinds that the model's heads know, and commit.

    Parameters
    ----------
    slide, store
        The store made for this slide by `SlideStore.create`, and still inside its context.
    task
        The model, its windows, and how they are run.
    progress
        Told of windows as they are done.

    Returns
    -------
    TaskResult
        Result for the windows; its `objects` are all that the store then holds of these kinds.

    Raises
    ------
    SlideError
        If too many windows cannot be read.
    StoreError
        If the store holds objects of this name that other settings made.
    """
    progress, size = progress or Progress(), task.settings.tiles_at_once
    windows = lay_grid(slide.size, slide.mpp, task.spec, within=store.tissue(), whole=False)
    progress.started(len(windows))
    made_of = {"fingerprint": slide.fingerprint, "mpp": slide.mpp, "windows": len(windows)}
    maps = {}
    for head in task.model.heads:
        kind, by = _kind(head, task.model.maps), {**task.recorded, "head": head.name}
        if not _is_there(store, kind.name, by):
            folder = store.work / "objects" / kind.name
            layout = WindowLayout(windows, slide.size)
            maps[kind.name] = ObjectMap(folder, kind, layout, mpp=task.spec.mpp, made_by=by, made_of=made_of)
    rows = _Rows(store, windows, task.features, size)
    done = [m.windows_done for m in maps.values()] + ([rows.windows_done] if rows.writer else [])
    start = min(done) // size * size if done else len(windows)
    bad = {i for m in maps.values() for i in m.unreadable if i < start}
    if start < len(windows):
        task.model.calibrate(calibration_tiles(slide, store.tissue(), task.spec))
        _Pass(task, store, windows, maps, rows, bad, progress).run(slide, start)
    counts, tissue = {}, store.tissue()
    store.check()
    for name, found in maps.items():
        # Windows reach beyond a region that somebody drew: what is found there was not asked for, and would make
        # its density too high.
        within = tissue if tissue.drawn else None
        counts[name] = len(found.finish(windows.xy[found.unreadable].tolist(), within))
        _into_work(store, name)
    rows.finish()
    store.commit()
    counts |= {h.name: len(read_objects(store, h.name)[0]) for h in task.model.heads if h.name not in counts}
    return TaskResult(len(windows), len(windows) - start, len(bad), objects=counts, changed=bool(done))


def calibration_tiles(slide: Slide, tissue: TissueMask, spec: TileSpec) -> npt.NDArray[np.uint8]:
    """Tiles that stand for a slide, uint8 (tile, h, w, 3): up to `CALIBRATION_TILES` with much tissue, evenly spread.

    Raises
    ------
    SlideError
        If none of them can be read.
    """
    small = TileSpec(**{**spec.to_dict(), "size_px": CALIBRATION_PX, "stride_px": CALIBRATION_PX, "min_tissue": 0})
    grid = lay_grid(slide.size, slide.mpp, small, within=tissue, whole=False)
    fit = np.flatnonzero(grid.tissue >= grid.tissue.max() / 2)
    rows = fit[np.unique(np.linspace(0, len(fit) - 1, CALIBRATION_TILES).round().astype(int))]
    chosen = replace(grid, xy=grid.xy[rows], tissue=grid.tissue[rows])
    found = [batch.pixels[batch.ok].copy() for batch in read_tiles(slide, chosen, readers=1)]
    tiles = np.concatenate(found)
    if not len(tiles):
        raise SlideError(f"{slide.path.name}: none of the {counted(len(rows), 'tile')} that were tried can be read")
    return tiles


class _Rows:
    """Embeddings of those windows that are tiles of the store's grid."""

    def __init__(self, store: SlideStore, windows: TileGrid, features: FeaturesToo | None, batch_size: int) -> None:
        self._store, self._grid_id = store, windows.spec.grid_id
        self.writer: FeatureWriter | None = None
        self.windows_done = len(windows)
        if features is None or store.has_features(features.name, self._grid_id):
            return
        tiles = {(x, y): row for row, (x, y) in enumerate(store.grid(self._grid_id).xy.tolist())}
        self._row = np.array([tiles.get((x, y), -1) for x, y in windows.xy.tolist()], np.int64)
        self._dim = features.dim
        made_by = {**features.made_by, "batch_size": batch_size}
        self.writer = store.writer(features.name, self._grid_id, features.dim, made_by)
        self._next = self.writer.next_row
        waiting = np.flatnonzero(self._row >= self._next)
        self.windows_done = int(waiting[0]) if len(waiting) else len(windows)

    def add(self, batch: TileBatch, vectors: npt.NDArray[np.float32] | None) -> None:
        if self.writer is None:
            return
        rows = self._row[batch.index]
        fresh = rows >= self._next
        if fresh.any():
            values = np.zeros((len(batch.index), self._dim), np.float32)
            if vectors is not None:
                values[batch.ok] = vectors
            self.writer.append(values[fresh], batch.ok[fresh])
            self._next = int(rows[fresh][-1]) + 1

    def finish(self) -> None:
        if self.writer is None:
            return
        status = np.full(len(self._store.grid(self._grid_id)), OK, np.uint8)
        status[self.writer.unreadable] = UNREADABLE
        self._store.set_status(self._grid_id, status)
        self.writer.finish()


@dataclass(eq=False)
class _Pass:
    """The windows of a slide through the model; a batch is in flight while the one before it is stitched."""

    task: SegmentTask
    store: SlideStore
    windows: TileGrid
    maps: dict[str, ObjectMap]
    rows: _Rows
    bad: set[int]
    """Windows that cannot be read."""
    progress: Progress
    saved: float = field(default_factory=time.monotonic)

    def run(self, slide: Slide, start: int) -> None:
        """All windows from `start` on."""
        settings, windows = self.task.settings, self.windows
        tiles = read_tiles(
            slide, windows, start=start, batch_size=settings.tiles_at_once, readers=settings.readers
        )  # fmt: skip
        pending: tuple[TileBatch, Callable[[], Outputs] | None] | None = None
        try:
            with contextlib.closing(tiles):
                if start:
                    self.progress.tiles_done(start, len(windows))
                for batch in tiles:
                    good = batch.pixels if batch.ok.all() else batch.pixels[batch.ok]
                    # None: nothing of it can be read
                    wait = self.task.model.submit(good, self.progress.part_done) if len(good) else None
                    if pending:
                        self._settle(*pending)
                    pending = batch, wait
                if pending:
                    self._settle(*pending)
        except BaseException as stop:
            if not isinstance(stop, Exception):  # told to stop: nothing is wrong with what was stitched
                self._keep()
            raise

    def _settle(self, batch: TileBatch, wait: Callable[[], Outputs] | None) -> None:
        bad, total = self.bad, len(self.windows)
        bad.update(batch.index[~batch.ok].tolist())
        if len(bad) > (allowed := self.task.settings.max_unreadable * total):
            raise SlideError(
                f"{len(bad):,} of {counted(total, 'window')} cannot be read (allowed: {allowed:.0f}), the first at "
                f"level-0 px {self.windows.xy[min(bad)].tolist()}. The file is damaged.",
                remedy="Copy it again, or allow more with `max_unreadable`.",
                setting="max_unreadable",
            )
        outputs = wait() if wait else None
        self.rows.add(batch, outputs.vectors if outputs else None)
        for name, found in self.maps.items():
            _add(found, name, batch, outputs)
        if time.monotonic() - self.saved > self.task.save_s:
            self.store.check()
            for found in self.maps.values():
                found.save()
            self.saved = time.monotonic()
        self.progress.tiles_done(int(batch.index[-1]) + 1, total)

    def _keep(self) -> None:
        """Make durable what was found; where that fails, only time is lost."""
        with contextlib.suppress(WsiError, OSError):
            self.store.check()
            for found in self.maps.values():
                found.save()
            if self.rows.writer is not None:
                self.rows.writer.keep()


def _add(found: ObjectMap, name: str, batch: TileBatch, outputs: Outputs | None) -> None:
    chances, boxes = (outputs.chances.get(name), outputs.boxes.get(name)) if outputs else (None, None)
    place = np.cumsum(batch.ok) - 1  # among those that the model was given
    for at, index in enumerate(batch.index.tolist()):
        if not batch.ok[at]:
            found.leave_out(index)
            continue
        found.add(
            index,
            batch.pixels[at],
            None if chances is None else chances[place[at]],
            None if boxes is None else boxes[place[at]],
            tuple(maps[place[at]] for maps in outputs.maps) if outputs else (),
        )


def _kind(head: ObjectHeads, maps: Mapping[int, int]) -> Kind:
    return Kind(
        name=head.name, classes=head.classes, border=head.border, vouched=head.vouched,
        pixels=head.pixels is not None, maps=maps,
    )  # fmt: skip


def _is_there(store: SlideStore, name: str, made_by: dict[str, Any]) -> bool:
    """Return whether the store holds these objects; refuse those that other settings made."""
    node = f"detections/{name}"
    if node not in store.nodes or not (store.path / node / NODE).exists():  # where they were lost they are made anew
        return False
    known = read_objects(store, name)[1]
    if {k: known.get(k) for k in made_by} == made_by:
        return True
    other = sorted(k for k in made_by if known.get(k) != made_by[k])
    if other == ["maps"] and "maps" not in known:
        raise StoreError(
            f"{store.path} holds objects {name!r} without vectors, which cannot be added to them. Use another output "
            "folder, or remove the store; or leave vectors out again (`object_vectors`)."
        )
    raise StoreError(
        f"{store.path} holds objects {name!r} made with another {', '.join(other)}. "
        "Use the same as before, another output folder, or remove the store."
    )


def _into_work(store: SlideStore, name: str) -> None:
    """Move what an `ObjectMap` sealed to where `commit` takes it from."""
    grown: Path = store.work / "objects" / name
    for part in ("labels", "detections"):
        if (grown / part).exists():
            target = store.mirrored(part) / name
            discard(target)
            os.rename(grown / part, target)
    discard(grown)
