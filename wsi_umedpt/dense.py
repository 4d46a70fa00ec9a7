"""Bridge 2: the windows of a slide through one pass of a shared model into objects, label images, and embeddings.

Windows are tiles that overlap, so that every object lies well inside one of them. Where the
windows are also the tiles of a grid of the store, their embeddings enter it in the same pass.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.arrays import NODE, discard
from wsi_umedpt.encode import MAX_UNREADABLE, Progress, check_run
from wsi_umedpt.errors import SlideError, StoreError, WsiError
from wsi_umedpt.found import read_objects
from wsi_umedpt.growing import FeatureWriter
from wsi_umedpt.loading import TileBatch, read_tiles
from wsi_umedpt.objectmap import Frame, Kind, ObjectMap
from wsi_umedpt.slide import Slide
from wsi_umedpt.store import OK, UNREADABLE, SlideStore
from wsi_umedpt.tasks.onepass import CALIBRATION_PX, ObjectHeads, OnePass, Outputs
from wsi_umedpt.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.tissue import TissueMask

CALIBRATION_TILES = 40
"""How many tiles of a slide norms are fixed by."""
SAVE_SECONDS = 30.0
"""How often a run makes durable what it found."""


@dataclass(frozen=True)
class Segmented:
    """What one pass over a slide came to."""

    windows: int
    unreadable: int
    fresh: int
    """Windows run now, not in an earlier run."""
    added: bool
    """Whether the store lacked any of it."""
    objects: dict[str, int]
    """Number of objects, by kind."""


@dataclass(frozen=True)
class FeaturesToo:
    """Embeddings that the same pass is to write."""

    name: str
    """Of the features in the store."""
    made_by: dict[str, Any]
    dim: int


def window_spec(spec: TileSpec, overlap_px: int = 64) -> TileSpec:
    """Windows as far apart as a grid's tiles, that overlap by at least `overlap_px`; sides are multiples of 32."""
    size = max(spec.size_px, spec.stride + overlap_px)
    size += -size % 32
    return TileSpec(**{**spec.to_dict(), "size_px": size, "stride_px": spec.stride})


def segment_slide(
    slide: Slide,
    store: SlideStore,
    model: OnePass,
    spec: TileSpec,
    made_by: dict[str, Any],
    *,
    features: FeaturesToo | None = None,
    batch_size: int = 64,
    threads: int | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Segmented:
    """Find all objects of the kinds that the model's heads know, and commit.

    Parameters
    ----------
    slide, store
        The store made for this slide by `SlideStore.create`, and still inside its context.
    spec
        Of the windows; see `window_spec`.
    made_by
        What the results will say of the model: its name, weights, precision; JSON.
    features
        Given, the store's grid of this very spec is embedded in the same pass.
    save_seconds
        How often what was found is made durable.

    Raises
    ------
    SlideError
        If too many windows cannot be read.
    StoreError
        If the store holds objects of this name that other settings made.
    """
    check_run(batch_size, threads, max_unreadable)
    windows = lay_grid(slide.size, slide.mpp, spec, within=store.tissue(), whole=False)
    frame = Frame(windows, slide.size)
    made_of = {"fingerprint": slide.fingerprint, "mpp": slide.mpp, "windows": len(windows)}
    made_by = _settings(made_by, spec, batch_size)
    maps = {}
    for head in model.heads:
        kind, by = _kind(head), {**made_by, "head": head.name}
        if not _is_there(store, kind.name, by):
            folder = store.work / "objects" / kind.name
            maps[kind.name] = ObjectMap(folder, kind, frame, mpp=spec.mpp, made_by=by, made_of=made_of)
    rows = _Rows(store, windows, features, batch_size)
    done = [m.windows_done for m in maps.values()] + ([rows.windows_done] if rows.writer else [])
    start = min(done) // batch_size * batch_size if done else len(windows)
    bad = {i for m in maps.values() for i in m.unreadable if i < start}
    if start < len(windows):
        model.calibrate(calibration_tiles(slide, store.tissue(), spec))
        _run(
            slide, windows, start, model, maps, rows, bad, batch_size, threads, max_unreadable, progress, save_seconds,
            store.check,
        )  # fmt: skip
    counts = {}
    store.check()
    for name, found in maps.items():
        counts[name] = len(found.finish(windows.xy[found.unreadable].tolist()))
        _into_work(store, name)
    rows.finish()
    store.commit()
    counts |= {h.name: len(read_objects(store, h.name)[0]) for h in model.heads if h.name not in counts}
    return Segmented(len(windows), len(bad), len(windows) - start, bool(done), counts)


def whole_objects(
    store: SlideStore, model: OnePass, spec: TileSpec, made_by: dict[str, Any], *, features: FeaturesToo | None,
    batch_size: int,
) -> dict[str, int] | None:  # fmt: skip
    """How many objects of each kind a store holds, if `segment_slide` would find it whole; else None.

    Raises
    ------
    StoreError
        As `segment_slide`.
    """
    made_by = _settings(made_by, spec, batch_size)
    if not all(_is_there(store, head.name, {**made_by, "head": head.name}) for head in model.heads):
        return None
    if features and not store.has_features(features.name, spec.grid_id):
        return None
    return {head.name: len(read_objects(store, head.name)[0]) for head in model.heads}


def _settings(made_by: dict[str, Any], spec: TileSpec, batch_size: int) -> dict[str, Any]:
    """What objects say of how they were found, but for their head."""
    return {**made_by, "spec": spec.to_dict(), "batch_size": batch_size, "calibration_tiles": CALIBRATION_TILES}


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
    found = [batch.pixels[batch.ok].copy() for batch in read_tiles(slide, chosen, threads=1)]
    tiles = np.concatenate(found)
    if not len(tiles):
        raise SlideError(f"{slide.path.name}: none of {len(rows)} tiles that were tried can be read")
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


def _run(
    slide: Slide, windows: TileGrid, start: int, model: OnePass, maps: dict[str, ObjectMap], rows: _Rows,
    bad: set[int], batch_size: int, threads: int | None, max_unreadable: float, progress: Progress | None,
    save_seconds: float, check: Callable[[], None],
) -> None:  # fmt: skip
    """All windows from `start` on; those that cannot be read are added to `bad`."""
    saved = time.monotonic()

    def settle(batch: TileBatch, wait: Callable[[], Outputs] | None) -> None:
        nonlocal saved
        bad.update(batch.index[~batch.ok].tolist())
        if len(bad) > max_unreadable * len(windows):
            raise SlideError(
                f"{len(bad)} of {len(windows)} windows cannot be read (allowed: {max_unreadable * len(windows):.0f}), "
                f"the first at level-0 px {windows.xy[min(bad)].tolist()}. The file is damaged; copy it again, or "
                "allow more with --max-unreadable."
            )
        outputs = wait() if wait else None
        rows.add(batch, outputs.vectors if outputs else None)
        for name, found in maps.items():
            _add(found, name, batch, outputs)
        if time.monotonic() - saved > save_seconds:
            check()
            for found in maps.values():
                found.save()
            saved = time.monotonic()
        if progress:
            progress(int(batch.index[-1]) + 1, len(windows))

    pending: tuple[TileBatch, Callable[[], Outputs] | None] | None = None
    tiles = read_tiles(slide, windows, start=start, batch_size=batch_size, threads=threads)
    try:
        with contextlib.closing(tiles):
            if progress and start:
                progress(start, len(windows))
            for batch in tiles:
                good = batch.pixels if batch.ok.all() else batch.pixels[batch.ok]
                started = batch, model.submit(good) if len(good) else None  # None: nothing of it can be read
                # One batch is in flight while the one before it is stitched.
                if pending:
                    settle(*pending)
                pending = started
            if pending:
                settle(*pending)
    except BaseException as stop:
        if not isinstance(stop, Exception):  # told to stop: nothing is wrong with what was stitched
            _keep(maps, rows, check)
        raise


def _keep(maps: dict[str, ObjectMap], rows: _Rows, check: Callable[[], None]) -> None:
    """Make durable what was found; where that fails, only time is lost."""
    with contextlib.suppress(WsiError, OSError):
        check()
        for found in maps.values():
            found.save()
        if rows.writer is not None:
            rows.writer.keep()


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
        )


def _kind(head: ObjectHeads) -> Kind:
    return Kind(name=head.name, classes=head.classes, border=head.border, pixels=head.pixels is not None)


def _is_there(store: SlideStore, name: str, made_by: dict[str, Any]) -> bool:
    """Whether the store holds these objects; refused where other settings made them."""
    node = f"detections/{name}"
    if node not in store.nodes or not (store.path / node / NODE).exists():  # where they were lost they are made anew
        return False
    known = read_objects(store, name)[1]
    if {k: known.get(k) for k in made_by} == made_by:
        return True
    other = sorted(k for k in made_by if known.get(k) != made_by[k])
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
