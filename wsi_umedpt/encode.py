"""Bridge 1: the tiles of a slide through encoders into its store.

Which rows are missing is asked of the store, so that going on after a stop is no mode of
its own. Several encoders share one decoding of the slide.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wsi_umedpt.errors import EncoderError, OptionError, SlideError, WsiError
from wsi_umedpt.growing import FeatureWriter
from wsi_umedpt.loading import TileBatch, read_tiles
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.models.engines import Wait
from wsi_umedpt.slide import Slide
from wsi_umedpt.store import CHUNK_ROWS, OK, UNREADABLE, SlideStore
from wsi_umedpt.tiling import TileGrid, TileSpec

MAX_UNREADABLE = 0.05
"""Share of a slide's tiles that may be damaged before the slide fails."""

Progress = Callable[[int, int], None]
"""Called with tiles done and tiles in all."""


@dataclass(frozen=True)
class Embedded:
    """What embedding a slide came to."""

    tiles: int
    unreadable: int
    fresh: int
    """Tiles embedded now, not in an earlier run."""


def check_fit(encoder: Encoder, spec: TileSpec) -> None:
    """Refuse tiles that are not what the encoder was made for.

    Raises
    ------
    EncoderError
        If the tile's size differs at all, or its mpp by over 5 % from one that the card states.
    """
    card = encoder.card
    other_mpp = card.mpp is not None and abs(spec.mpp / card.mpp - 1) > 0.05
    if other_mpp or spec.size_px != card.size_px:
        made_for = f"{card.size_px} px" + (f" at {card.mpp:g} um/px" if card.mpp is not None else "")
        raise EncoderError(
            f"{card.name} is for tiles of {made_for}, asked for {spec.size_px} px at {spec.mpp:g} um/px. "
            f"Leave {'--tile-mpp and ' if card.mpp is not None else ''}--size out, or insist with --force."
        )


def check_run(batch_size: int, threads: int | None, max_unreadable: float) -> None:
    """Refuse settings that `encode_slide` cannot work with.

    Raises
    ------
    OptionError
        If the batch does not divide a chunk, or another value is out of range.
    """
    if batch_size < 1 or CHUNK_ROWS % batch_size:
        raise OptionError(
            f"the batch size (--batch-size) must divide {CHUNK_ROWS} (1, 2, 4, ... {CHUNK_ROWS}), got {batch_size}"
        )
    if threads is not None and threads < 0:
        raise OptionError(f"decoding threads (--threads) must be 0 (none of their own) or more, got {threads}")
    if not 0 <= max_unreadable <= 1:
        raise OptionError(
            f"the share of tiles that may be damaged (--max-unreadable) is from 0 to 1, got {max_unreadable:g}"
        )


def encode_slide(
    slide: Slide,
    store: SlideStore,
    encoders: Encoder | Sequence[Encoder],
    *,
    grid_id: str | None = None,
    batch_size: int = 64,
    threads: int | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    progress: Progress | None = None,
    batches: Iterator[TileBatch] | None = None,
) -> Embedded:
    """Embed all tiles of a grid that the store lacks, and commit.

    Parameters
    ----------
    slide, store
        The store made for this slide by `SlideStore.create`, and still inside its context.
    encoders
        One or several; each tile is decoded once for all of them.
    batch_size : tiles
        A divisor of 1024, so that batches never straddle a chunk and a resumed run
        computes the very batches that an uninterrupted one does.
    threads
        See `read_tiles`.
    max_unreadable
        Share of tiles, 0 to 1, that may be damaged before the slide fails.
    batches
        Tiles already being read, from row 0; used only if no row is done yet.

    Raises
    ------
    SlideError
        If too many tiles cannot be read.
    OptionError
        See `check_run`.
    """
    check_run(batch_size, threads, max_unreadable)
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    grid = store.grid(grid_id)
    grid_id = grid.spec.grid_id
    writers = _writers(store, grid_id, encoders, batch_size)
    start = min((w.next_row for _, w in writers), default=len(grid))
    if writers and start < len(grid):
        with contextlib.ExitStack() as ours:
            if start or batches is None:
                tiles = read_tiles(slide, grid, start=start, batch_size=batch_size, threads=threads)
                batches = ours.enter_context(contextlib.closing(tiles))
            _run(batches, writers, grid, max_unreadable, progress)
    if writers:
        status = np.full(len(grid), OK, np.uint8)
        for _, writer in writers:  # they differ only if the file fails while it is read
            status[writer.unreadable] = UNREADABLE
        store.set_status(grid_id, status)
        for _, writer in writers:
            writer.finish()
    store.commit()
    unreadable = int((store.status(grid_id) != OK).sum())
    return Embedded(len(grid), unreadable, len(grid) - start)


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


def _run(
    batches: Iterator[TileBatch],
    writers: list[tuple[Encoder, FeatureWriter]],
    grid: TileGrid,
    max_unreadable: float,
    progress: Progress | None,
) -> None:
    allowed = max_unreadable * len(grid)
    pending: tuple[TileBatch, list[tuple[FeatureWriter, Encoder, Wait]]] | None = None

    def write(batch: TileBatch, started: list[tuple[FeatureWriter, Encoder, Wait]]) -> None:
        for writer, encoder, wait in started:
            rows = np.zeros((len(batch.index), encoder.dim), np.float32)
            rows[batch.ok] = wait()
            writer.append(rows, batch.ok)

    def settle(batch: TileBatch, started: list[tuple[FeatureWriter, Encoder, Wait]]) -> None:
        write(batch, started)
        bad = max(len(writer.unreadable) for _, writer in writers)
        if bad > allowed:
            first = min(i for _, writer in writers for i in writer.unreadable)
            raise SlideError(
                f"{bad} of {len(grid)} tiles cannot be read (allowed: {allowed:.0f}), the first at level-0 px "
                f"{grid.xy[first].tolist()}. The file is damaged; copy it again, or allow more with --max-unreadable."
            )
        if progress:
            progress(int(batch.index[-1]) + 1, len(grid))

    try:
        if progress and (start := min(writer.next_row for _, writer in writers)):
            progress(start, len(grid))
        for batch in batches:
            good = batch.pixels if batch.ok.all() else batch.pixels[batch.ok]
            started = [
                (writer, encoder, encoder.submit(good))
                for encoder, writer in writers
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
            _keep(writers, partial(write, *pending) if pending else lambda: None)
        raise


def _keep(writers: list[tuple[Encoder, FeatureWriter]], finish: Callable[[], None]) -> None:
    """Make durable what was embedded; where that fails, only time is lost."""
    with contextlib.suppress(WsiError, OSError):
        finish()
        for _, writer in writers:
            writer.keep()
