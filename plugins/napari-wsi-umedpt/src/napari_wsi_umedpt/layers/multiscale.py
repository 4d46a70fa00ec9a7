"""Pictures too large for memory, as napari's multiscale data: levels that are drawn where they are looked at.

A `ImagePyramid` halves a slide until its coarsest level is at most `COARSEST_PX`, draws it chunk
by chunk in threads, and keeps the chunks used last in a cache that is bounded in bytes. What
a chunk holds is asked of a function: a slide's pixels (`slide_pyramid`), or classes painted
from polygons, tiles or a mask (modules `_nuclei` and `_marks`).

Every level is as large as the finest divided by its scale, exactly: napari derives a level's
place from the ratio of shapes, and a shape that is rounded lies off by up to a pixel at the
far edge. So the finest level is filled up to a whole pixel of the coarsest.

Read top to bottom: `Cache`, `Level` (what napari indexes), `ImagePyramid`, `slide_pyramid`.
"""

import contextlib
import mmap
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from wsi_umedpt.errors import PixelError, SlideError
from wsi_umedpt.slides import Pixels, Slide, default_threads

Array = npt.NDArray[np.uint8]

COARSEST_PX = 512
"""No side of the coarsest level is longer: napari reads all of it for the layer's thumbnail."""
CHUNK_PX = 256
SLIDE_CACHE_BYTES = 16 << 20
"""About what one field holds: short ways back are free, and memory stays flat."""
CLASS_CACHE_BYTES = 8 << 20
_MOST_READ_PX = 1_000_000_000
"""Most px of a level that is read whole for the coarsest one; more takes minutes."""
_PIECE_PX = 1 << 20
"""Pixels of a finer level that are read at a time for a coarse one, as each thread holds them all."""
_DAMAGED = 150
"""Grey of what the file cannot show."""
_FINEST_PART_PX = 32
"""No smaller part of a chunk is tried where the file is damaged."""


class Window(NamedTuple):
    """A rectangle of one level, px of that level."""

    scale: int
    """Level-0 px per px of the level."""
    x: int
    y: int
    width: int
    height: int


Draw = Callable[[Window], Array]
"""Draws a window: uint8 (height, width), or (height, width, 3). Called from several threads."""
Report = Callable[[Exception], None]
"""Called, from any thread, with what could not be shown."""


def empty(shape: tuple[int, ...]) -> Array:
    """An array whose memory goes back to the system when it is gone.

    What malloc is given back by several threads it keeps, in pieces: hundreds of MB after minutes of panning.
    """
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(mmap.mmap(-1, max(1, count)), np.uint8, count).reshape(shape)


class Cache:
    """The chunks used last, up to a number of bytes; safe to use from several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._chunks: LRUCache[Window, Array] = LRUCache(most_bytes, getsizeof=attrgetter("nbytes"))
        self._lock = threading.Lock()

    def get(self, key: Window) -> Array | None:
        """A chunk, which counts as used now; None if it is not there."""
        with self._lock:
            return self._chunks.get(key)

    def put(self, key: Window, chunk: Array) -> None:
        """Keep a copy of a chunk, if it is not too large; those not used for longest make room."""
        kept = empty(chunk.shape)
        kept[:] = chunk
        with self._lock, contextlib.suppress(ValueError):
            self._chunks[key] = kept

    def clear(self) -> None:
        """Forget all chunks."""
        with self._lock:
            self._chunks.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return int(self._chunks.currsize)


class Level:
    """One level of a pyramid: has a shape and is indexed like an array, and draws what it is asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, pyramid: "ImagePyramid", scale: int, shape: tuple[int, ...], chunk_px: int) -> None:
        self._pyramid, self.scale, self.shape = pyramid, scale, shape
        # napari grows what it asks for to the borders of chunks, so that short ways need no new read.
        self.chunks = (chunk_px, chunk_px, *shape[2:])
        self.ndim = len(shape)
        self.size = int(np.prod(shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Array:
        keys = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        (top, rows), (left, cols) = (_span(key, n) for key, n in zip(keys[:2], self.shape[:2], strict=True))
        picks = tuple(0 if not isinstance(k, slice) else slice(None, None, k.step) for k in keys[:2])
        return self._read(left, top, cols, rows)[(*picks, *keys[2:])]

    def _read(self, x: int, y: int, width: int, height: int) -> Array:
        out = empty((height, width, *self.shape[2:]))
        for window, chunk in self._pyramid.chunks([*self._windows(x, y, width, height)]):
            left, top = max(x, window.x), max(y, window.y)
            right, bottom = min(x + width, window.x + window.width), min(y + height, window.y + window.height)
            piece = chunk[top - window.y : bottom - window.y, left - window.x : right - window.x]
            out[top - y : bottom - y, left - x : right - x] = piece
        return out

    def _windows(self, x: int, y: int, width: int, height: int) -> Iterator[Window]:
        side = self.chunks[0]
        for row in range(y // side, -(-(y + height) // side)):
            for col in range(x // side, -(-(x + width) // side)):
                left, top = col * side, row * side
                size = min(side, self.shape[1] - left), min(side, self.shape[0] - top)
                yield Window(self.scale, left, top, *size)


def _span(key: int | slice, length: int) -> tuple[int, int]:
    """First place and count of what an index takes of an axis, before its step."""
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        if step < 1:
            raise IndexError(f"a level is read forwards, the step was {step}")
        return start, max(0, stop - start)
    place = int(key) + (length if key < 0 else 0)
    if not 0 <= place < length:
        raise IndexError(f"{key} is outside an axis of {length} px")
    return place, 1


class ImagePyramid(Sequence[Level]):
    """Levels of 1, 2, 4, ... level-0 px a pixel, finest first.

    Parameters
    ----------
    size : (width, height), level-0 px
    draw
        Draws a window of a level; asked in whole chunks.
    colours
        True if pixels are RGB; otherwise they are one number.
    cache_bytes
        Bound of the cache.
    chunk_px
        Side of a chunk, px of its level.
    """

    def __init__(
        self, size: tuple[int, int], draw: Draw, *, colours: bool, cache_bytes: int, chunk_px: int = CHUNK_PX
    ) -> None:
        scales = display_scales(size)
        coarsest = scales[-1]
        width, height = (-(-side // coarsest) * coarsest for side in size)
        self._draw, self.cache = draw, Cache(cache_bytes)
        self._pool = ThreadPoolExecutor(default_threads(), thread_name_prefix="chunks")
        weakref.finalize(self, self._pool.shutdown, wait=False)
        tail = (3,) if colours else ()
        self._levels = [Level(self, s, (height // s, width // s, *tail), chunk_px) for s in scales]

    def __len__(self) -> int:
        return len(self._levels)

    @overload
    def __getitem__(self, index: int) -> Level: ...
    @overload
    def __getitem__(self, index: slice) -> list[Level]: ...
    def __getitem__(self, index: int | slice) -> Level | list[Level]:
        return self._levels[index]

    def chunks(self, windows: list[Window]) -> Iterator[tuple[Window, Array]]:
        """Chunks, from the cache or drawn now, in threads."""
        missing = []
        for window in windows:
            if (known := self.cache.get(window)) is None:
                missing.append(window)
            else:
                yield window, known
        drawn = map(self._draw, missing) if len(missing) < 2 else self._pool.map(self._draw, missing)
        for window, chunk in zip(missing, drawn, strict=True):
            self.cache.put(window, chunk)
            yield window, chunk


def display_scales(size: tuple[int, int]) -> list[int]:
    """Level-0 px per px of each level: powers of two, until no side is over `COARSEST_PX`.

    There are two at least: napari takes one level alone for no pyramid.

    Examples
    --------
    >>> display_scales((2000, 700)), display_scales((300, 200))
    ([1, 2, 4], [1, 2])
    """
    scales = [1, 2]
    while max(size) > COARSEST_PX * scales[-1]:
        scales.append(scales[-1] * 2)
    return scales


def slide_pyramid(slide: Slide, report: Report, *, colours: bool = True) -> ImagePyramid:
    """A slide for display, in its own levels where they fit, else averaged from the next finer one.

    Parameters
    ----------
    slide
        Open; closed once nothing holds the pyramid any more.
    report
        Is told where the file cannot be read; that place is grey.
    colours
        Draw RGB; otherwise one number, of a slide of which one channel is seen.

    Raises
    ------
    SlideError
        If the slide is large and has no coarse levels.
    """
    coarse = slide.levels[-1]
    if coarse.width * coarse.height > _MOST_READ_PX:
        raise SlideError(
            f"{slide.path.name} has no overview: its coarsest level is {coarse.width} x {coarse.height} px, which "
            "takes minutes to read. Make a copy that has one: "
            "vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
        )
    tiles = slide.native_tiles(0)
    side = tiles.tile_width if tiles is not None and tiles.tile_width == tiles.tile_height else CHUNK_PX
    # Whole native tiles, so that none is decoded twice; small ones by the dozen, as each chunk has its price.
    chunk_px = side * max(1, round(CHUNK_PX / side)) if side <= 1024 else CHUNK_PX
    plans = {scale: slide.plan(float(scale), chunk_px) for scale in display_scales(slide.size)}

    def draw(window: Window) -> Array:
        pixels = draw_rgb(window)
        return pixels if colours else np.ascontiguousarray(pixels[..., 0])

    def draw_rgb(window: Window) -> Pixels:
        plan, size = plans[window.scale], (window.width, window.height)
        if max(size) <= _FINEST_PART_PX or size[0] * size[1] * plan.shrink**2 <= _PIECE_PX:
            try:
                return slide.read_tile((window.x * window.scale, window.y * window.scale), size, plan)
            except PixelError as error:
                if max(size) <= _FINEST_PART_PX:
                    report(error)
                    return np.full((window.height, window.width, 3), _DAMAGED, np.uint8)
        out = np.empty((window.height, window.width, 3), np.uint8)
        for part in _halves(window):
            top, left = part.y - window.y, part.x - window.x
            out[top : top + part.height, left : left + part.width] = draw_rgb(part)
        return out

    pyramid = ImagePyramid(slide.size, draw, colours=colours, cache_bytes=SLIDE_CACHE_BYTES, chunk_px=chunk_px)
    weakref.finalize(pyramid, slide.close)
    return pyramid


def _halves(window: Window) -> tuple[Window, Window]:
    scale, x, y, width, height = window
    if width >= height:
        half = width // 2
        return Window(scale, x, y, half, height), Window(scale, x + half, y, width - half, height)
    half = height // 2
    return Window(scale, x, y, width, half), Window(scale, x, y + half, width, height - half)
