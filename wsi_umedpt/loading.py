"""Tiles in bulk: a slide and a grid in, batches of pixels out, in order and in bounded memory.

Where a level's own tiles decode alone, each is decoded once: a cache holds those that the
current row of the grid still needs, and every tile of the grid is sliced out of them into
a batch that is allocated once and used again. Other slides are read tile by tile. Both
run in threads; decoders release the GIL.

Read top to bottom: `TileBatch`, `read_tiles`, then the two sources of pixels.
"""

import math
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import PixelError, SlideError
from wsi_umedpt.readers.base import NativeTiles, Pixels
from wsi_umedpt.slide import WHITE, Slide, shrink
from wsi_umedpt.tiling import TileGrid

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TileBatch:
    """Some tiles of a grid, in its order. The pixels stay yours for as long as you hold them."""

    pixels: Pixels
    """uint8 (batch, size_px, size_px, 3)"""
    index: Index
    """(batch,) rows of the grid"""
    ok: npt.NDArray[np.bool_]
    """(batch,) False where the file is damaged; those pixels are white and mean nothing."""


def default_threads() -> int:
    """As many as the cores that this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def read_tiles(
    slide: Slide,
    grid: TileGrid,
    *,
    start: int = 0,
    batch_size: int = 64,
    threads: int | None = None,
    ahead: int = 2,
) -> Iterator[TileBatch]:
    """Read the tiles of a grid, in order.

    Parameters
    ----------
    slide
        Open; must stay open until the iterator is done or closed.
    grid
        Laid over this slide.
    start : row of the grid
        Where to begin, for resuming.
    batch_size : tiles
        The last batch may be smaller.
    threads
        Decoding threads; 0 decodes in the caller's own, with nothing read ahead. By
        default one per core, at most 8.
    ahead : batches
        How many wait, at most, for the caller to take them.

    Yields
    ------
    TileBatch

    Raises
    ------
    SlideError
        If the grid's spec asks for DCT scaling where tiles are not JPEG.
    """
    threads = default_threads() if threads is None else threads
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles") if threads > 1 else None
    source = _source(slide, grid)
    size = grid.spec.size_px
    buffers = _Buffers((batch_size, size, size, 3))

    def batches() -> Iterator[TileBatch]:
        for first in range(start, len(grid), batch_size):
            index = np.arange(first, min(first + batch_size, len(grid)))
            pixels = buffers.lease()[: len(index)]
            yield TileBatch(pixels, index, source.load(index, pixels, pool))

    try:
        yield from batches() if threads == 0 else _read_ahead(batches(), ahead)
    finally:
        if pool:
            pool.shutdown()


def _read_ahead(batches: Iterator[TileBatch], ahead: int) -> Iterator[TileBatch]:
    """Run an iterator in a thread of its own, which waits while `ahead` results lie unused."""
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

    reader = threading.Thread(target=run, name="read-ahead", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        reader.join()


class _Buffers:
    """Batches' memory, taken back when the last view of it is gone.

    Fresh memory costs page faults on every batch, about a tenth of the decoding time.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[Pixels] = []

    def lease(self) -> Pixels:
        buffer = self._free.pop() if self._free else np.empty(self._shape, np.uint8)
        lease = _Lease(buffer.__array_interface__)
        # numpy keeps the lease as the base of every view made of this array.
        array = np.asarray(lease)
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return array


class _Lease:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


class _Source(Protocol):
    def load(self, index: Index, out: Pixels, pool: ThreadPoolExecutor | None) -> npt.NDArray[np.bool_]:
        """Fill `out` with the tiles at `index`, which grows from call to call; returns which are good."""
        ...


def _source(slide: Slide, grid: TileGrid) -> _Source:
    spec = grid.spec
    plan = slide.plan(grid.scale, spec.size_px, upsample=spec.upsample)
    tiles = slide.native_tiles(plan.level)
    if spec.resampling == "dct" and plan.shrink >= 2 and not (tiles and tiles.scalable):
        raise SlideError(
            f"{slide.path.name}: resampling 'dct' needs tiles that are JPEG, and this slide is read by "
            f"{slide.reader}. Use resampling 'area'."
        )
    if tiles is None or plan.shrink < 1:
        return _AnySource(slide, grid)
    return _NativeSource(slide, grid, tiles)


def _map(work: Callable[[int], bool], count: int, pool: ThreadPoolExecutor | None) -> list[bool]:
    return list(pool.map(work, range(count)) if pool else map(work, range(count)))


class _AnySource:
    """Reads each tile on its own: the general way."""

    def __init__(self, slide: Slide, grid: TileGrid) -> None:
        self._slide, self._grid = slide, grid
        self._size = grid.spec.size_px, grid.spec.size_px
        self._plan = slide.plan(grid.scale, grid.spec.size_px, upsample=grid.spec.upsample)

    def load(self, index: Index, out: Pixels, pool: ThreadPoolExecutor | None) -> npt.NDArray[np.bool_]:
        def one(i: int) -> bool:
            x, y = self._grid.xy[index[i]].tolist()
            try:
                out[i] = self._slide.read_tile((x, y), self._size, self._plan)
            except PixelError:
                out[i] = WHITE
                return False
            return True

        return np.array(_map(one, len(index), pool), bool)


class _NativeSource:
    """Decodes each native tile once and slices the grid's tiles out of them.

    Coordinates below are px of the level after `pre` has shrunk it while decoding; what is
    then left to shrink (`rest`) is done per tile of the grid.
    """

    def __init__(self, slide: Slide, grid: TileGrid, tiles: NativeTiles) -> None:
        plan = slide.plan(grid.scale, grid.spec.size_px)
        level = slide.levels[plan.level]
        corners = np.round(grid.xy / plan.level_scale).astype(np.int64)
        self._tiles = tiles
        self._dct = 1
        if grid.spec.resampling == "dct":
            self._dct = max(n for n in (1, 2, 4, 8) if n <= plan.shrink)
        pre = self._dct
        # Where output pixels never straddle two native tiles, those are averaged before
        # they are kept: less to keep, less to copy.
        whole = int(plan.shrink) if plan.shrink == int(plan.shrink) else 0
        if whole and _divides(whole, corners) and _divides(whole, [tiles.tile_width, tiles.tile_height]):
            pre = whole
        self._pre = pre
        self._rest = plan.shrink / pre
        self._size = grid.spec.size_px
        self._reach = math.ceil(self._size * self._rest - 1e-6)
        self._tile_width, self._tile_height = -(-tiles.tile_width // pre), -(-tiles.tile_height // pre)
        self._bounds = -(-level.width // pre), -(-level.height // pre)
        self._corners = corners // pre
        self._cache: dict[tuple[int, int], Pixels | PixelError | None] = {}
        self._free: list[Pixels] = []

    def load(self, index: Index, out: Pixels, pool: ThreadPoolExecutor | None) -> npt.NDArray[np.bool_]:
        corners = self._corners[index].tolist()
        self._forget(corners[0][1])
        wanted = dict.fromkeys(cell for x, y in corners for cell in self._cells(x, y))
        missing = [cell for cell in wanted if cell not in self._cache]

        def decode(i: int) -> bool:
            self._cache[missing[i]] = self._decode(*missing[i])
            return True

        def cut(i: int) -> bool:
            x, y = corners[i]
            return self._cut(x, y, out[i])

        _map(decode, len(missing), pool)
        return np.array(_map(cut, len(corners), pool), bool)

    def _cells(self, x: int, y: int) -> list[tuple[int, int]]:
        """(col, row) of the native tiles under a tile of the grid."""
        width, height = self._bounds
        cols = range(x // self._tile_width, (min(x + self._reach, width) - 1) // self._tile_width + 1)
        rows = range(y // self._tile_height, (min(y + self._reach, height) - 1) // self._tile_height + 1)
        return [(col, row) for row in rows for col in cols]

    def _decode(self, col: int, row: int) -> Pixels | PixelError | None:
        buffer = self._take(self._tiles.tile_width * self._tiles.tile_height * 3)
        try:
            pixels = self._tiles.decode(col, row, shrink=self._dct, buffer=buffer)
        except PixelError as error:
            self._free.append(buffer)
            return error
        if pixels is None:
            self._free.append(buffer)
            return None
        left = self._pre // self._dct
        if left > 1:
            pixels = shrink(pixels, (self._tile_width, self._tile_height), left)
            self._free.append(buffer)
        return pixels

    def _cut(self, x: int, y: int, out: Pixels) -> bool:
        """Copy one tile of the grid together, then shrink what is left to shrink."""
        reach, tw, th = self._reach, self._tile_width, self._tile_height
        region = out if self._rest == 1 else np.empty((reach, reach, 3), np.uint8)
        width, height = self._bounds
        if x + reach > width or y + reach > height:
            region[:] = WHITE
        for col, row in self._cells(x, y):
            pixels = self._cache[col, row]
            if isinstance(pixels, PixelError):
                out[:] = WHITE
                return False
            left, top = max(x, col * tw), max(y, row * th)
            right = min(x + reach, (col + 1) * tw, width)
            bottom = min(y + reach, (row + 1) * th, height)
            piece = region[top - y : bottom - y, left - x : right - x]
            if pixels is None:
                piece[:] = WHITE
            else:
                piece[:] = pixels[top - row * th : bottom - row * th, left - col * tw : right - col * tw]
        if self._rest != 1:
            shrink(region, (self._size, self._size), self._rest, out)
        return True

    def _take(self, count: int) -> Pixels:
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(count, np.uint8)

    def _forget(self, y: int) -> None:
        """Drop native tiles that end above `y`: later tiles of the grid lie below it."""
        done = [cell for cell in self._cache if (cell[1] + 1) * self._tile_height <= y]
        for cell in done:
            pixels = self._cache.pop(cell)
            if isinstance(pixels, np.ndarray) and self._pre == self._dct:
                self._free.append(_owner(pixels))


def _owner(pixels: Pixels) -> Pixels:
    """The buffer that a decoded tile is a view of."""
    base = pixels
    while isinstance(base.base, np.ndarray):
        base = base.base
    return base


def _divides(n: int, values: Any) -> bool:
    return bool(np.all(np.asarray(values) % n == 0))
