"""Pixels of tiles, one after the other: what a process or thread that reads a slide does.

Where a level's own tiles decode alone, each is decoded once, when the first tile of a grid needs it, and kept until
the last one that does; memory is bounded by the native tiles of the rows of two tiles. Several grids that read the
same level share them. Other slides are read tile by tile.

Read top to bottom: `open_source`, then the sources of pixels.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import PixelError, SlideError
from wsi_umedpt.slides.area import shrink
from wsi_umedpt.slides.readers.base import ExpectingTiles, NativeTiles, Pixels
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tiling import TileGrid

Place = Callable[[int], Pixels]
"""Function that gives the array for a tile, C-contiguous (size_px, size_px, 3); asked once for each, in order."""


class TileSource(Protocol):
    """Reads tiles of grids of one slide."""

    def tiles(self, grid: Sequence[int], row: Sequence[int], place: Place) -> Iterator[bool]:
        """Read tiles in order.

        Parameters
        ----------
        grid, row
            Grid and row of each tile; ascending from top to bottom.
        place
            Function that gives the array for the n-th tile.

        Yields
        ------
        bool
            True for each tile that could be read; one that could not is `Slide.blank`.
        """
        ...


def open_source(slide: Slide, grids: Sequence[TileGrid]) -> TileSource:
    """The way in which tiles of a slide are read.

    Parameters
    ----------
    slide
        Open.
    grids
        One, or several of a group of `sharing`.

    Raises
    ------
    SlideError
        If a grid's spec asks for DCT scaling where tiles are not JPEG.
    """
    plan = slide.plan(grids[0].scale, grids[0].spec.size_px, upsample=grids[0].spec.upsample)
    tiles = slide.native_tiles(plan.level)
    for grid in grids:
        if grid.spec.resampling == "dct" and plan.shrink >= 2 and not (tiles and tiles.scalable):
            raise SlideError(
                f"{slide.path.name}: resampling 'dct' needs tiles that are JPEG, and this slide is read by "
                f"{slide.reader}. Use resampling 'area'."
            )
    if tiles is None or plan.shrink < 1:
        return _AnySource(slide, grids)
    return _NativeSource(slide, grids, tiles)


def sharing(slide: Slide, grids: Sequence[TileGrid]) -> list[list[int]]:
    """Group grids that share the decoding of a slide: those that cut the same native tiles of one level, decoded alike.

    Returns
    -------
    list of list of int
        Groups of places in `grids`, in their order; one that shares with none is alone.
    """
    groups: dict[Any, list[int]] = {}
    for n, grid in enumerate(grids):
        plan = slide.plan(grid.scale, grid.spec.size_px, upsample=grid.spec.upsample)
        tiles = slide.native_tiles(plan.level) if plan.shrink >= 1 else None
        key = (plan.level, _dct(grid, plan.shrink, tiles)) if tiles else n
        groups.setdefault(key, []).append(n)
    return [*groups.values()]


def _dct(grid: TileGrid, factor: float, tiles: NativeTiles) -> int:
    """By how much native tiles are shrunk while they are decoded."""
    if grid.spec.resampling != "dct":
        return 1
    return max(n for n in (1, 2, 4, 8) if n <= factor and _divides(n, [tiles.tile_width, tiles.tile_height]))


class _AnySource:
    """Reads each tile on its own: the general way."""

    def __init__(self, slide: Slide, grids: Sequence[TileGrid]) -> None:
        self._slide, self._grids = slide, grids
        self._plans = [slide.plan(g.scale, g.spec.size_px, upsample=g.spec.upsample) for g in grids]

    def tiles(self, grid: Sequence[int], row: Sequence[int], place: Place) -> Iterator[bool]:
        """See `TileSource.tiles`."""
        for n, (which, at) in enumerate(zip(grid, row, strict=True)):
            x, y = self._grids[which].xy[at].tolist()
            slot, ok, side = place(n), True, self._grids[which].spec.size_px
            try:
                slot[:] = self._slide.read_tile((x, y), (side, side), self._plans[which])
            except PixelError:
                slot[:], ok = self._slide.blank, False
            yield ok


class _Cut:
    """Cuts the tiles of one grid out of native tiles.

    Coordinates are px of the level after `pre` has shrunk it while decoding; what is then left to shrink (`rest`) is
    done per tile of the grid.
    """

    def __init__(self, grid: TileGrid, corners: npt.NDArray[np.int64], factor: float, pre: int) -> None:
        self.corners = corners // pre
        self.size = grid.spec.size_px
        self.rest = factor / pre
        self.reach = math.ceil(self.size * self.rest - 1e-6)
        self.region: Pixels = np.empty((self.reach, self.reach, 3), np.uint8)


class _NativeSource:
    """Decodes each native tile once and cuts it into the tiles of the grids."""

    def __init__(self, slide: Slide, grids: Sequence[TileGrid], tiles: NativeTiles) -> None:
        plans = [slide.plan(grid.scale, grid.spec.size_px) for grid in grids]
        level = slide.levels[plans[0].level]
        corners = [np.round(g.xy / plan.level_scale).astype(np.int64) for g, plan in zip(grids, plans, strict=True)]
        sides = [tiles.tile_width, tiles.tile_height]
        dct = _dct(grids[0], plans[0].shrink, tiles)
        # Where output pixels never straddle two native tiles, or the level's edge, native tiles are averaged
        # before they are cut: less to copy.
        wholes = {int(plan.shrink) if plan.shrink == int(plan.shrink) else 0 for plan in plans}
        whole = wholes.pop() if len(wholes) == 1 else 0
        extent = level.width, level.height
        inside = all((xy + g.spec.size_px * whole <= extent).all() for g, xy in zip(grids, corners, strict=True))
        edges = sides if inside else (*sides, *extent)
        pre = whole if whole and all(_divides(whole, values) for values in (edges, *corners)) else dct
        self._cuts = [_Cut(grid, xy, plan.shrink, pre) for grid, xy, plan in zip(grids, corners, plans, strict=True)]
        self._bounds = -(-level.width // pre), -(-level.height // pre)
        self._blank = slide.blank
        self._native = _Decoded(tiles, dct, pre, slide.blank)

    def tiles(self, grid: Sequence[int], row: Sequence[int], place: Place) -> Iterator[bool]:
        """See `TileSource.tiles`."""
        height, bottom_end = self._native.height, self._bounds[1]
        placed = [
            (n, which, *self._cuts[which].corners[at].tolist())
            for n, (which, at) in enumerate(zip(grid, row, strict=True))
        ]
        lines = [list(line) for _, line in itertools.groupby(placed, itemgetter(1, 3))]
        for line, following in itertools.zip_longest(lines, lines[1:]):
            cut, y = self._cuts[line[0][1]], line[0][3]
            native_rows = range(y // height, (min(y + cut.reach, bottom_end) - 1) // height + 1)
            # Those that the next line, of whichever grid, needs too are kept until then.
            own = range(native_rows.start, following[0][3] // height if following else native_rows.stop)
            self._native.forget_rows(y // height)
            if self._native.expects:
                asked = ((c, r) for _, _, x, _ in line for c in self._columns(x, cut.reach) for r in native_rows)
                self._native.expect(dict.fromkeys(asked))
            for n, _, x, _ in line:
                columns = self._columns(x, cut.reach)
                self._native.forget_columns(columns.start, own)
                slot = place(n)
                ok = self._cut(cut, x, y, columns, native_rows, slot)
                if not ok:
                    slot[:] = self._blank  # a tile over damage shows nothing of it
                yield ok
        self._native.forget_rows(bottom_end)

    def _columns(self, x: int, reach: int) -> range:
        width = self._native.width
        return range(x // width, (min(x + reach, self._bounds[0]) - 1) // width + 1)

    def _cut(self, cut: _Cut, x: int, y: int, columns: range, native_rows: range, slot: Pixels) -> bool:
        """Put a tile together of pieces of native tiles, and shrink what is left; False where one is damaged."""
        native, reach = self._native, cut.reach
        width, height = native.width, native.height
        if cut.rest == 1 and len(self._cuts) == 1 and native.is_one(x, y, reach):
            return native.decode_into(columns.start, native_rows.start, slot)
        region = slot if cut.rest == 1 else cut.region
        right, bottom = min(x + reach, self._bounds[0]), min(y + reach, self._bounds[1])
        if right < x + reach or bottom < y + reach:
            region[:] = self._blank
        for row in native_rows:
            top = row * height
            # plain comparisons: min() and max() would cost as much as the copy of a small piece
            y0, y1 = y if y > top else top, bottom if bottom < top + height else top + height
            for column in columns:
                left = column * width
                x0, x1 = x if x > left else left, right if right < left + width else left + width
                if (at := native.get(column, row)) == _DAMAGED:
                    return False
                piece = native.pixels[at, y0 - top : y1 - top, x0 - left : x1 - left]
                region[y0 - y : y1 - y, x0 - x : x1 - x] = piece
        if cut.rest != 1:
            shrink(region, (cut.size, cut.size), cut.rest, slot)
        return True


_BEYOND, _DAMAGED = 0, -1
"""Index of a native tile that the file leaves out, which is blank; and of one that cannot be decoded."""


class _Decoded:
    """Native tiles, decoded when they are first asked for, shrunk by a whole number, and kept until forgotten."""

    def __init__(self, tiles: NativeTiles, dct: int, pre: int, blank: int) -> None:
        self._tiles, self._dct, self._pre, self._blank = tiles, dct, pre, blank
        self.width, self.height = tiles.tile_width // pre, tiles.tile_height // pre
        self.expects = isinstance(tiles, ExpectingTiles)
        self._at: dict[int, dict[int, int]] = {}
        self._buffer = _bytes(tiles.tile_width * tiles.tile_height * 3) if pre > dct else None
        self._free: list[int] = []
        self.pixels: Pixels = np.empty((0, self.height, self.width, 3), np.uint8)
        """(tile, rows, columns, 3): where they lie; moves when it grows"""
        self._grow()
        self.pixels[_BEYOND] = blank

    def get(self, column: int, row: int) -> int:
        """Index in `pixels`; `_BEYOND` or `_DAMAGED`."""
        line = self._at.setdefault(row, {})
        if column not in line:
            line[column] = self._decode(column, row)
        return line[column]

    def expect(self, asked: Iterable[tuple[int, int]]) -> None:
        """Tell whoever gives native tiles which of them come next: those that are not here."""
        if isinstance(self._tiles, ExpectingTiles):
            self._tiles.expect([(column, row) for column, row in asked if column not in self._at.get(row, ())])

    def is_one(self, x: int, y: int, reach: int) -> bool:
        """Return whether a tile of the grid is one native tile as it is, not decoded yet."""
        return (
            self._pre == 1 and reach == self.width == self.height and x % reach == 0 and y % reach == 0
            and x // reach not in self._at.get(y // reach, ())
        )  # fmt: skip

    def decode_into(self, column: int, row: int, out: Pixels) -> bool:
        """Decode one straight into its place; False where it is damaged."""
        try:
            if self._tiles.decode(column, row, shrink=1, buffer=out.reshape(-1)) is None:
                out[:] = self._blank
        except PixelError:
            return False
        return True

    def forget_rows(self, before: int) -> None:
        """Free those of the rows above."""
        for row in [row for row in self._at if row < before]:
            self._free.extend(at for at in self._at.pop(row).values() if at > 0)

    def forget_columns(self, before: int, rows: range) -> None:
        """Free those of some rows that lie left of a column."""
        for row in rows:
            line = self._at.get(row, {})
            for column in [column for column in line if column < before]:
                if (at := line.pop(column)) > 0:
                    self._free.append(at)

    def _decode(self, column: int, row: int) -> int:
        if not self._free:
            self._grow()
        at = self._free.pop()
        place = self.pixels[at]
        buffer = place.reshape(-1) if self._buffer is None else self._buffer
        try:
            found = self._tiles.decode(column, row, shrink=self._dct, buffer=buffer)
        except PixelError:
            self._free.append(at)
            return _DAMAGED
        if found is None:
            self._free.append(at)
            return _BEYOND
        if self._buffer is not None:
            shrink(found, (self.width, self.height), self._pre // self._dct, place)
        return at

    def _grow(self) -> None:
        have, shape = len(self.pixels), self.pixels.shape[1:]
        count = max(32, 2 * have)
        grown = _bytes(count * math.prod(shape)).reshape(count, *shape)
        grown[:have] = self.pixels
        self.pixels = grown
        self._free.extend(range(count - 1, max(have, _BEYOND + 1) - 1, -1))


def _bytes(count: int) -> Pixels:
    spare = np.empty(count + 64, np.uint8)
    # libjpeg-turbo writes rows that begin at multiples of 32 bytes past the processor's
    # cache, from where they are about to be read.
    start = (16 - spare.ctypes.data) % 64
    return spare[start : start + count]


def _divides(n: int, values: Any) -> bool:
    return bool(np.all(np.asarray(values) % n == 0))
