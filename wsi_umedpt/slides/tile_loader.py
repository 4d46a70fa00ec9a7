"""Tiles in bulk: a slide and a grid in, batches of pixels out, in order and in bounded memory.

One reader is a thread that reads ahead; several are processes (`reader_processes`), as what threads do under Python's
lock would hold back more than about ten of them. The pixels are the same.

Read top to bottom: `read_tiles`, `read_grids`, then reading in this process.
"""

import atexit
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from wsi_umedpt.io.stalls import GRACE_S, leave_behind, stalled
from wsi_umedpt.slides.read_order import ReadOrder
from wsi_umedpt.slides.reader_processes import Readers
from wsi_umedpt.slides.readers import is_of_this_process
from wsi_umedpt.slides.readers.base import Pixels, usable_cores
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tile_batch import Batches, TileBatch, lease
from wsi_umedpt.slides.tile_source import TileSource, open_source
from wsi_umedpt.slides.tiling import TileGrid

__all__ = ["TileBatch", "close_readers", "default_readers", "read_grids", "read_tiles"]

MOST_READERS = 16
"""Readers that are started where nobody says how many: each takes 100 MB or more."""
_started: dict[tuple[int, int], Readers] = {}
_starting = threading.Lock()


def default_readers() -> int:
    """Number of processes that read tiles: one for each core but that of the network, at most 16."""
    return min(MOST_READERS, max(1, usable_cores() - 1))


def read_tiles(
    slide: Slide,
    grid: TileGrid,
    *,
    start: int = 0,
    batch_size: int = 64,
    readers: int | None = None,
    ahead: int = 2,
) -> Batches:
    """Read the tiles of a grid, in order.

    Parameters
    ----------
    slide
        Open; must stay open until all is read, or the batches are closed (`contextlib.closing`).
    grid
        Laid over this slide.
    start : row of the grid
        First row to read, for resuming.
    batch_size : tiles
        The last batch may be smaller.
    readers
        Number of readers: 0 reads in the caller's thread, with nothing read ahead; 1 in a thread; several in processes
        of their own, which open the slide themselves, begin at once, and stay for the next slide (`close_readers`). By
        default one for each core but one, at most 16. A slide that only this process can open (`register_reader`) is
        read by a thread.
    ahead : batches
        Most batches that wait for the caller to take them; several readers need those of two lines of the grid more.

    Returns
    -------
    Batches
        A `TileBatch` after the other; close it where not all are read.

    Raises
    ------
    SlideError
        If the grid's spec asks for DCT scaling where tiles are not JPEG; or a process that reads the slide ends.
    StalledError
        If no batch comes for `Slide.stall_s`; never with `readers` 0. What hangs is left behind, or killed where it is
        a process.
    """
    return read_grids(slide, [grid], starts=[start], batch_size=batch_size, readers=readers, ahead=ahead)


def read_grids(
    slide: Slide,
    grids: Sequence[TileGrid],
    *,
    starts: Sequence[int] | None = None,
    batch_size: int = 64,
    readers: int | None = None,
    ahead: int = 2,
) -> Batches:
    """Read the tiles of several grids that share the decoding of the slide.

    Parameters
    ----------
    slide, batch_size, readers, ahead
        See `read_tiles`.
    grids
        Grids of a group of `wsi_umedpt.slides.tile_source.sharing`.
    starts : rows of the grids
        First row of each; by default its first.

    Returns
    -------
    Batches
        Those that `read_tiles` gives of each grid, and in its order; `TileBatch.grid` says whose they are. Among grids
        they come in the order in which they are full, from top to bottom of the slide.

    Raises
    ------
    SlideError, StalledError
        See `read_tiles`.
    """
    readers = default_readers() if readers is None else readers
    order = ReadOrder(grids, [0] * len(grids) if starts is None else starts, batch_size)
    source = open_source(slide, grids)  # what is wrong with a grid is said here
    if readers > 1 and len(order) and not is_of_this_process(slide.path):
        return _processes(readers).read(slide, order, ahead=ahead)
    batches = _batches(source, order)
    return batches if readers == 0 else _read_ahead(batches, ahead, slide.stall_s, slide.leave_open)


def close_readers() -> None:
    """End the processes that read tiles; the next slide starts new ones."""
    with _starting:
        ours = [_started.pop(key) for key in list(_started) if key[0] == os.getpid()]
    for readers in ours:
        readers.close()


def _processes(count: int) -> Readers:
    with _starting:
        if not _started:
            atexit.register(close_readers)
        key = os.getpid(), count  # a fork of this process has its own
        if key not in _started:
            _started[key] = Readers(count)
        return _started[key]


def _batches(source: TileSource, order: ReadOrder) -> Generator[TileBatch]:
    """Read in this thread."""
    sides = [grid.spec.size_px for grid in order.grids]
    buffers = [_Buffers((order.batch_size, side, side, 3)) for side in sides]
    begun: dict[int, TileBatch] = {}
    batch, at, ends = order.batch.tolist(), order.place.tolist(), order.ends.tolist()

    def place(n: int) -> Pixels:
        if batch[n] not in begun:
            grid, index = order.rows_of(batch[n])
            begun[batch[n]] = TileBatch(buffers[grid].lease()[: len(index)], index, np.ones(len(index), bool), grid)
        pixels: Pixels = begun[batch[n]].pixels[at[n]]
        return pixels

    for n, ok in enumerate(source.tiles(order.grid.tolist(), order.row.tolist(), place)):
        begun[batch[n]].ok[at[n]] = ok
        if n + 1 == ends[batch[n]]:
            yield begun.pop(batch[n])  # of which nothing is kept here: its memory is free before the next is needed


def _read_ahead(
    batches: Iterator[TileBatch], ahead: int, stall_s: float, leave: Callable[[], Callable[[], None]]
) -> Generator[TileBatch]:
    """Run an iterator in a thread of its own, which waits while `ahead` results lie unused.

    Parameters
    ----------
    stall_s
        After how many seconds without a result it is given up.
    leave
        Called if the thread cannot be waited for; gives what it calls if it ends after all.
    """
    ended: list[Callable[[], None]] = []
    waiting: queue.Queue[TileBatch | BaseException | None] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: TileBatch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def run() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            put(error)
        finally:
            for free in ended:
                free()

    reader = threading.Thread(target=run, name="read-ahead", daemon=True)
    reader.start()
    grace_s = GRACE_S
    try:
        while (item := waiting.get(timeout=stall_s)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    except queue.Empty:
        grace_s = 0.0
        raise stalled(reader, stall_s) from None
    finally:
        stop.set()
        reader.join(grace_s)
        if reader.is_alive():
            ended.append(leave())
            leave_behind(reader)


class _Buffers:
    """Batches' memory, taken back when the last view of it is gone.

    Fresh memory costs page faults on every batch, about a tenth of the decoding time.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[Pixels] = []

    def lease(self) -> Pixels:
        buffer = self._free.pop() if self._free else np.empty(self._shape, np.uint8)
        return lease(buffer, lambda: self._free.append(buffer))
