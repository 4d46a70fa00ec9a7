"""Embedding: the tiles of one slide through encoders into its store.

Which rows are missing is asked of the store, so that resuming is no mode of its own. Several
encoders share one decoding of the slide, also where their tiles differ in size or scale but are cut from one level.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from wsi_umedpt import __version__
from wsi_umedpt.errors import SlideError, WsiError
from wsi_umedpt.messages import counted
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.models.engines import Wait
from wsi_umedpt.pipeline.batch_size import WORTH_TRYING, fastest_batch
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.pipeline.task import Progress, TaskResult, asked_of
from wsi_umedpt.settings import RunSettings, TissueParameters, is_batch_size
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tile_loader import TileBatch, read_grids
from wsi_umedpt.slides.tiling import TileGrid, TileSpec
from wsi_umedpt.store.partial import FeatureWriter
from wsi_umedpt.store.readable_store import OK, UNREADABLE
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.write_lock import Hold


@dataclass(frozen=True, kw_only=True)
class EmbedTask:
    """Embedding with one or several encoders; see `SlideTask`."""

    encoders: Sequence[Encoder]
    tile_specs: Sequence[TileSpec]
    """The tiles of each encoder."""
    tissue: TissueParameters = field(default_factory=TissueParameters)
    settings: RunSettings = field(default_factory=RunSettings)
    name: ClassVar[str] = "embed"

    @property
    def asked(self) -> dict[str, Any]:
        """See `SlideTask.asked`."""
        return {
            "encoders": [encoder.name for encoder in self.encoders],
            "specs": [spec.to_dict() for spec in self.tile_specs],
            **asked_of(self),
            "version": __version__,
        }

    def specs(self, mpp: float) -> list[TileSpec]:
        """Return the grids of the encoders, each once, whatever the slide's `mpp`."""
        return list(self.by_spec())

    def by_spec(self) -> dict[TileSpec, list[Encoder]]:
        """Group encoders that share tiles."""
        groups: dict[TileSpec, list[Encoder]] = {}
        for encoder, spec in zip(self.encoders, self.tile_specs, strict=True):
            groups.setdefault(spec, []).append(encoder)
        return groups

    def ahead(self, tiles: int) -> int | None:
        """See `SlideTask.ahead`: None, too, while the size of batches is still to be found."""
        if self.settings.batch_size or tiles < WORTH_TRYING:
            return self.settings.tiles_at_once
        return self.__dict__.get("_fastest_batch")

    @cached_property
    def _fastest_batch(self) -> int:
        return fastest_batch([(one, spec.size_px) for one, spec in zip(self.encoders, self.tile_specs, strict=True)])

    def _batch_size(self, store: SlideStore, tiles: int) -> int:
        """Tiles in a batch of one slide; see `RunSettings.batch_size`."""
        each = zip(self.encoders, self.tile_specs, strict=True)
        missing = [(encoder, spec) for encoder, spec in each if not store.has_features(encoder.name, spec.grid_id)]
        if self.settings.batch_size or not missing:
            return self.settings.tiles_at_once
        for encoder, spec in missing:
            begun = store.begun_with(encoder.name, spec.grid_id)
            size = begun.pop("batch_size", None)
            if is_batch_size(size) and begun == json.loads(json.dumps(encoder.made_by)):
                return int(size)
        return self.ahead(tiles) or self._fastest_batch

    def already_done(self, store: SlideStore) -> TaskResult | None:
        """See `SlideTask.already_done`."""
        tiles, unreadable = [], 0
        for spec, encoders in self.by_spec().items():
            if not all(store.has_features(encoder.name, spec.grid_id) for encoder in encoders):
                return None
            status = store.status(spec.grid_id)
            tiles.append(len(status))
            unreadable += int((status != OK).sum())
        return TaskResult(sum(tiles), 0, unreadable, tuple(tiles), changed=False)

    def run(self, prepared: PreparedSlide, progress: Progress, hold: Hold | None = None) -> TaskResult:
        """See `SlideTask.run`."""
        total = sum(map(len, prepared.grids))
        progress.started(total)
        settings, encoders = replace(self.settings, readers=prepared.readers), list(self.by_spec().values())
        parts: list[TaskResult] = []
        for group in prepared.sharing:
            grids = [prepared.grids[n] for n in group]
            with SlideStore.create(prepared.path, prepared.slide, prepared.tissue, grids[0], hold) as store:
                for grid in grids[1:]:
                    store.add_grid(grid)
                settings = replace(settings, batch_size=self._batch_size(store, total))
                parts.append(
                    encode_grids(
                        prepared.slide,
                        store,
                        {prepared.grids[n].spec.grid_id: encoders[n] for n in group},
                        settings=settings,
                        progress=_Shifted(progress, sum(part.tiles for part in parts), total),
                        batches=prepared.batches if group is prepared.sharing[0] else None,
                    )
                )
        fresh, unreadable = sum(part.fresh for part in parts), sum(part.unreadable for part in parts)
        return TaskResult(total, fresh, unreadable, tuple(map(len, prepared.grids)))


class _Shifted(Progress):
    """Progress of some grids, within that of all."""

    def __init__(self, progress: Progress, before: int, total: int) -> None:
        self._progress, self._before, self._total = progress, before, total
        self.part_done = progress.part_done  # type: ignore[method-assign]

    def tiles_done(self, done: int, _: int) -> None:
        self._progress.tiles_done(self._before + done, self._total)


def encode_slide(
    slide: Slide,
    store: SlideStore,
    encoders: Encoder | Sequence[Encoder],
    *,
    grid_id: str | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
    batches: Iterator[TileBatch] | None = None,
) -> TaskResult:
    """Embed all tiles of a grid that the store lacks, and commit.

    Parameters
    ----------
    slide, store
        The store made for this slide by `SlideStore.create`, and still inside its context.
    encoders
        One or several; each tile is decoded once for all of them.
    grid_id
        Id of the grid; may be left out where the store has one.
    settings
        Settings for reading and running tiles; results depend on the batch size within rounding.
    progress
        Told of tiles as they are done.
    batches
        Tiles already being read, from row 0; used only if no row is done yet.

    Raises
    ------
    SlideError
        If too many tiles cannot be read.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    grid_id = store.grid(grid_id).spec.grid_id
    return encode_grids(slide, store, {grid_id: encoders}, settings=settings, progress=progress, batches=batches)


def encode_grids(
    slide: Slide,
    store: SlideStore,
    encoders: Mapping[str, Sequence[Encoder]],
    *,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
    batches: Iterator[TileBatch] | None = None,
) -> TaskResult:
    """Embed all tiles of several grids that the store lacks in one decoding of the slide, and commit.

    Parameters
    ----------
    slide, store, settings, progress
        See `encode_slide`.
    encoders
        Encoders of each grid, by its name. The grids are of a group of `wsi_umedpt.slides.tile_source.sharing`.
    batches
        Tiles of all these grids already being read, from their first rows; used only if no row is done yet.

    Raises
    ------
    SlideError
        If too many tiles of a grid cannot be read.
    """
    settings, progress = settings or RunSettings(), progress or Progress()
    size = settings.tiles_at_once
    grids = [
        _Growing(store.grid(grid_id), _writers(store, grid_id, some, size)) for grid_id, some in encoders.items()
    ]  # fmt: skip
    total, fresh = sum(len(one.grid) for one in grids), sum(len(one.grid) - one.start for one in grids)
    if left := [one for one in grids if one.start < len(one.grid)]:
        with contextlib.ExitStack() as ours:
            if batches is None or left != grids or any(one.start for one in grids):
                tiles = read_grids(
                    slide,
                    [one.grid for one in left],
                    starts=[one.start for one in left],
                    batch_size=size,
                    readers=settings.readers,
                )
                batches = ours.enter_context(contextlib.closing(tiles))
            whole = total - sum(len(one.grid) for one in left)
            _run(batches, left, settings.max_unreadable, _Shifted(progress, whole, total))
    for one in grids:
        one.finish(store)
    store.commit()
    unreadable = sum(int((store.status(grid_id) != OK).sum()) for grid_id in encoders)
    return TaskResult(total, fresh, unreadable, changed=any(one.writers for one in grids))


@dataclass(frozen=True, eq=False)
class _Growing:
    """The features of a grid that the store lacks, while they are made."""

    grid: TileGrid
    writers: list[tuple[Encoder, FeatureWriter]]

    @property
    def start(self) -> int:
        """The first row that any of them lacks."""
        return min((writer.next_row for _, writer in self.writers), default=len(self.grid))

    def finish(self, store: SlideStore) -> None:
        """Seal them; all rows are there."""
        if not self.writers:
            return
        status = np.full(len(self.grid), OK, np.uint8)
        for _, writer in self.writers:  # they differ only if the file fails while it is read
            status[writer.unreadable] = UNREADABLE
        store.set_status(self.grid.spec.grid_id, status)
        for _, writer in self.writers:
            writer.finish()

    def check(self, max_unreadable: float) -> None:
        """Refuse to go on where too many tiles cannot be read."""
        allowed = max_unreadable * len(self.grid)
        bad = max(len(writer.unreadable) for _, writer in self.writers)
        if bad > allowed:
            first = min(i for _, writer in self.writers for i in writer.unreadable)
            raise SlideError(
                f"{bad:,} of {counted(len(self.grid), 'tile')} cannot be read (allowed: {allowed:.0f}), the first at "
                f"level-0 px {self.grid.xy[first].tolist()}. The file is damaged.",
                remedy="Copy it again, or allow more with `max_unreadable`.",
                setting="max_unreadable",
            )


def _writers(
    store: SlideStore, grid_id: str, encoders: Sequence[Encoder], batch_size: int
) -> list[tuple[Encoder, FeatureWriter]]:
    found = [
        (encoder, store.writer(encoder.name, grid_id, encoder.dim, {**encoder.made_by, "batch_size": batch_size}))
        for encoder in encoders
        if not store.has_features(encoder.name, grid_id)
    ]
    for _, writer in found:
        writer.whole_batches(batch_size)
    return found


def _run(batches: Iterator[TileBatch], grids: list[_Growing], max_unreadable: float, progress: Progress) -> None:
    pending: tuple[TileBatch, list[tuple[FeatureWriter, Encoder, Wait]]] | None = None
    done, total = [one.start for one in grids], sum(len(one.grid) for one in grids)

    def write(batch: TileBatch, started: list[tuple[FeatureWriter, Encoder, Wait]]) -> None:
        for writer, encoder, wait in started:
            rows = np.zeros((len(batch.index), encoder.dim), np.float32)
            rows[batch.ok] = wait()
            writer.append(rows, batch.ok)

    def settle(batch: TileBatch, started: list[tuple[FeatureWriter, Encoder, Wait]]) -> None:
        write(batch, started)
        grids[batch.grid].check(max_unreadable)
        done[batch.grid] = int(batch.index[-1]) + 1
        progress.tiles_done(sum(done), total)

    try:
        if sum(done):
            progress.tiles_done(sum(done), total)
        for batch in batches:
            good = batch.pixels if batch.ok.all() else batch.pixels[batch.ok]
            started = [
                (writer, encoder, encoder.submit(good, progress.part_done))
                for encoder, writer in grids[batch.grid].writers
                if batch.index[0] >= writer.next_row
            ]
            # One batch is in flight while the one before it is written.
            before, pending = pending, None
            if before:
                settle(*before)
            pending = batch, started
        if pending:
            last, pending = pending, None
            settle(*last)
    except BaseException as stop:
        if not isinstance(stop, Exception):  # told to stop: nothing is wrong with what is there
            writers = [writer for one in grids for _, writer in one.writers]
            _keep(writers, partial(write, *pending) if pending else lambda: None)
        raise


def _keep(writers: list[FeatureWriter], finish: Callable[[], None]) -> None:
    """Make durable what was embedded; where that fails, only time is lost."""
    with contextlib.suppress(WsiError, OSError):
        finish()
        for writer in writers:
            writer.keep()
