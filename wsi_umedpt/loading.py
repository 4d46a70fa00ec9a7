"""Tiles in bulk: a slide and a grid in, batches of pixels out, in order and in bounded memory.

Where a level's own tiles decode alone, they are decoded row by row, each once, and cut
while still in the processor's cache into all tiles of the grid that they touch. Batches
are handed out when their last piece is there; their memory is allocated once and used
again. Other slides are read tile by tile. Both run in threads; decoders release the GIL.

Read top to bottom: `TileBatch`, `read_tiles`, then the two sources of pixels.
"""

import itertools
import math
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import PixelError, SlideError
from wsi_umedpt.readers.base import NativeTiles, Pixels, default_threads
from wsi_umedpt.slide import WHITE, Slide, shrink
from wsi_umedpt.stalls import GRACE_S, leave_behind, stalled
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


def read_tiles(
    slide: Slide,
    grid: TileGrid,
    *,
    start: int = 0,
    batch_size: int = 64,
    threads: int | None = None,
    ahead: int = 2,
) -> Generator[TileBatch]:
    """Read the tiles of a grid, in order.

    Parameters
    ----------
    slide
        Open; must stay open until the generator is done or closed (`contextlib.closing`).
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
    StalledError
        If no batch comes for `Slide.stall_s`; never with `threads` 0. What hangs is left behind, and the slide stays
        open.
    """
    threads = default_threads() if threads is None else threads
    pool = _Pool(threads) if threads > 1 else None
    left = False

    def leave() -> Callable[[], None]:
        nonlocal left
        left = True
        close = slide.leave_open()

        def ended() -> None:
            if pool:
                pool.shutdown()
            close()

        return ended

    try:
        batches = _source(slide, grid).batches(_Batches(grid, start, batch_size), pool)
        yield from batches if threads == 0 else _read_ahead(batches, ahead, slide.stall_s, leave)
    finally:
        if pool:
            pool.shutdown(wait=not left, cancel_futures=left)


def _read_ahead(
    batches: Iterator[TileBatch], ahead: int, stall_s: float, leave: Callable[[], Callable[[], None]]
) -> Iterator[TileBatch]:
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
        lease = _Lease(buffer.__array_interface__)
        # numpy keeps the lease as the base of every view made of this array.
        array = np.asarray(lease)
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return array


class _Lease:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


class _Batches:
    """Leases the batches of a grid, from row `start` on."""

    def __init__(self, grid: TileGrid, start: int, size: int) -> None:
        self.start, self.count, self._size = start, len(grid), size
        self._buffers = _Buffers((size, grid.spec.size_px, grid.spec.size_px, 3))

    def lease_all(self) -> Iterator[TileBatch]:
        """Empty batches, in order; all tiles of them marked good."""
        for first in range(self.start, self.count, self._size):
            index = np.arange(first, min(first + self._size, self.count))
            yield TileBatch(self._buffers.lease()[: len(index)], index, np.ones(len(index), bool))


class _Pool(ThreadPoolExecutor):
    """Threads that are handed runs of items: one by one, handing over costs as much as cutting a tile."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="tiles")
        self.size = threads

    def each(self, work: Callable[[Any], None], items: list[Any]) -> None:
        # Several runs a thread, so that none waits long for the last.
        length = -(-len(items) // (3 * self.size)) or 1
        runs = [items[i : i + length] for i in range(0, len(items), length)]
        for _ in self.map(_each, itertools.repeat(work), runs):
            pass


class _Source(Protocol):
    def batches(self, empty: _Batches, pool: _Pool | None) -> Iterator[TileBatch]:
        """Lease batches, fill them in order, hand them out."""
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


def _each(work: Callable[[Any], None], items: Iterable[Any], pool: _Pool | None = None) -> None:
    if pool:
        pool.each(work, list(items))
    else:
        for item in items:
            work(item)


class _AnySource:
    """Reads each tile on its own: the general way."""

    def __init__(self, slide: Slide, grid: TileGrid) -> None:
        self._slide, self._grid = slide, grid
        self._size = grid.spec.size_px, grid.spec.size_px
        self._plan = slide.plan(grid.scale, grid.spec.size_px, upsample=grid.spec.upsample)

    def batches(self, empty: _Batches, pool: _Pool | None) -> Iterator[TileBatch]:
        for batch in empty.lease_all():

            def read(i: int, batch: TileBatch = batch) -> None:
                x, y = self._grid.xy[batch.index[i]].tolist()
                try:
                    batch.pixels[i] = self._slide.read_tile((x, y), self._size, self._plan)
                except PixelError:
                    batch.pixels[i] = WHITE
                    batch.ok[i] = False

            _each(read, range(len(batch.index)), pool)
            yield batch


class _Target(NamedTuple):
    """A tile of the grid that is being put together."""

    batch: TileBatch
    place: int
    x: int
    y: int
    region: Pixels
    """What pieces are copied into: the tile's place in its batch, or more if it is then shrunk."""


class _NativeSource:
    """Decodes each native tile once and cuts it into the tiles of the grid.

    Coordinates below are px of the level after `pre` has shrunk it while decoding; what is
    then left to shrink (`rest`) is done per tile of the grid.
    """

    def __init__(self, slide: Slide, grid: TileGrid, tiles: NativeTiles) -> None:
        plan = slide.plan(grid.scale, grid.spec.size_px)
        level = slide.levels[plan.level]
        corners = np.round(grid.xy / plan.level_scale).astype(np.int64)
        sides = [tiles.tile_width, tiles.tile_height]
        self._tiles = tiles
        self._dct = 1
        if grid.spec.resampling == "dct":
            self._dct = max(n for n in (1, 2, 4, 8) if n <= plan.shrink and _divides(n, sides))
        # Where output pixels never straddle two native tiles, those are averaged before
        # they are cut: less to copy.
        whole = int(plan.shrink) if plan.shrink == int(plan.shrink) else 0
        self._pre = whole if whole and _divides(whole, corners) and _divides(whole, sides) else self._dct
        self._rest = plan.shrink / self._pre
        self._size = grid.spec.size_px
        self._reach = math.ceil(self._size * self._rest - 1e-6)
        self._width, self._height = (side // self._pre for side in sides) if self._pre > 1 else sides
        self._bounds = -(-level.width // self._pre), -(-level.height // self._pre)
        self._corners = corners // self._pre
        # A grid tile that is one native tile is decoded straight into its batch.
        self._straight = (
            self._pre == self._rest == 1
            and self._reach == self._width == self._height
            and _divides(self._reach, self._corners)
        )
        self._free: list[Pixels] = []

    def batches(self, empty: _Batches, pool: _Pool | None) -> Iterator[TileBatch]:
        if empty.start >= empty.count:
            return
        tops = self._corners[:, 1]  # grows along the grid: y is slow
        leased, waiting = empty.lease_all(), deque[TileBatch]()
        targets: dict[int, _Target] = {}
        begun = leased_to = done = empty.start
        row = int(tops[begun]) // self._height
        while done < empty.count:
            bottom = min((row + 1) * self._height, self._bounds[1])
            begun = int(np.searchsorted(tops, bottom))  # tiles before this one reach into the row, or above
            while leased_to < begun:
                waiting.append(next(leased))
                targets.update(self._targets(waiting[-1]))
                leased_to = int(waiting[-1].index[-1]) + 1
            self._decode_row(row, [targets[i] for i in range(done, begun)], pool)
            # Tiles that end above the next row are whole; rounding may let the last ones leave the level.
            ended = (
                begun if bottom == self._bounds[1] else int(np.searchsorted(tops + self._reach, bottom, side="right"))
            )
            whole = [targets.pop(i) for i in range(done, max(done, ended))]
            done = max(done, ended)
            _each(self._finish, (t for t in whole if self._rest != 1 or not t.batch.ok[t.place]), pool)
            while waiting and waiting[0].index[-1] < done:
                yield waiting.popleft()
            row += 1

    def _decode_row(self, row: int, targets: list[_Target], pool: _Pool | None) -> None:
        """Decode those native tiles of a row that tiles of the grid touch."""
        columns: dict[int, list[_Target]] = {}
        for target in targets:
            for col in self._columns(target.x):
                columns.setdefault(col, []).append(target)
        _each(lambda col: self._decode(col, row, columns[col]), columns, pool)

    def _columns(self, x: int) -> range:
        return range(x // self._width, (min(x + self._reach, self._bounds[0]) - 1) // self._width + 1)

    def _targets(self, batch: TileBatch) -> Iterator[tuple[int, _Target]]:
        width, height = self._bounds
        corners = self._corners[batch.index[0] : batch.index[-1] + 1].tolist()
        for place, (index, (x, y)) in enumerate(zip(batch.index.tolist(), corners, strict=True)):
            direct = self._rest == 1
            region = batch.pixels[place] if direct else np.empty((self._reach, self._reach, 3), np.uint8)
            if x + self._reach > width or y + self._reach > height:
                region[:] = WHITE
            yield index, _Target(batch, place, x, y, region)

    def _decode(self, col: int, row: int, targets: list[_Target]) -> None:
        """Decode a native tile and copy it into all tiles of the grid that it touches."""
        if self._straight:
            buffer = targets[0].region.reshape(-1)
        else:
            buffer = self._free.pop() if self._free else self._new_buffer()
        try:
            pixels = self._tiles.decode(col, row, shrink=self._dct, buffer=buffer)
        except PixelError:
            for target in targets:
                target.batch.ok[target.place] = False
        else:
            if pixels is None or not self._straight:
                self._cut(pixels, col * self._width, row * self._height, targets)
        if not self._straight:
            self._free.append(buffer)

    def _cut(self, pixels: Pixels | None, left: int, top: int, targets: list[_Target]) -> None:
        if pixels is not None and self._pre > self._dct:
            pixels = shrink(pixels, (self._width, self._height), self._pre // self._dct)
        right, bottom = min(left + self._width, self._bounds[0]), min(top + self._height, self._bounds[1])
        reach = self._reach
        for _, _, x, y, region in targets:
            # plain comparisons: min() and max() would cost as much as the copy of a small piece
            x0, y0 = x if x > left else left, y if y > top else top
            x1, y1 = x + reach if x + reach < right else right, y + reach if y + reach < bottom else bottom
            region[y0 - y : y1 - y, x0 - x : x1 - x] = (
                WHITE if pixels is None else pixels[y0 - top : y1 - top, x0 - left : x1 - left]
            )

    def _finish(self, target: _Target) -> None:
        """Shrink what is left to shrink; a tile over damage shows nothing of it."""
        slot = target.batch.pixels[target.place]
        if not target.batch.ok[target.place]:
            slot[:] = WHITE
        elif self._rest != 1:
            shrink(target.region, (self._size, self._size), self._rest, slot)

    def _new_buffer(self) -> Pixels:
        count = self._tiles.tile_width * self._tiles.tile_height * 3
        spare = np.empty(count + 64, np.uint8)
        # libjpeg-turbo writes rows that begin at multiples of 32 bytes past the processor's
        # cache, from where they are about to be read.
        start = (16 - spare.ctypes.data) % 64
        return spare[start : start + count]


def _divides(n: int, values: Any) -> bool:
    return bool(np.all(np.asarray(values) % n == 0))
