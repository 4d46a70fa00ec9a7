"""The order in which tiles are read: those of one grid, or of several that share one decoding of the slide.

Lines of all grids are merged from top to bottom, so that a native tile is decoded once, whichever grids it lies in.
Batches stay those of each grid alone; they come in the order in which they are full.

Read top to bottom: `ReadOrder`, then `shares` (which of several readers reads what).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.slides.tile_batch import Index
from wsi_umedpt.slides.tiling import TileGrid

_LINES = 8
"""Lines of the grid over which a reader keeps its stretch."""

Positions = npt.NDArray[np.int64]


class ReadOrder:
    """Tiles of grids in the order in which they are read, and the batches that they make.

    Parameters
    ----------
    grids
        Grids of one slide.
    starts : rows of the grids
        First row of each.
    batch_size : tiles
        Size of each grid's batches; the last one may be smaller.

    Attributes
    ----------
    grid, row : (tile,)
        Grid and row of the tile at each position.
    batch : (tile,)
        Number of its batch. They are numbered in the order in which they begin.
    ends : (batch,)
        Position after the last tile of each batch.
    full : (batch,)
        Numbers of batches in the order in which they are full.
    """

    def __init__(self, grids: Sequence[TileGrid], starts: Sequence[int], batch_size: int) -> None:
        self.grids, self.starts, self.batch_size = tuple(grids), tuple(starts), batch_size
        rows = [np.arange(start, len(grid)) for grid, start in zip(grids, starts, strict=True)]
        # A grid's own order is kept, whatever it is.
        tops = [np.maximum.accumulate(grid.xy[row, 1]) for grid, row in zip(grids, rows, strict=True)]
        which = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        order = np.lexsort((which, np.concatenate(tops)))
        self.grid: Index = which[order]
        self.row: Index = np.concatenate(rows)[order]
        self._batches_before = np.cumsum([0, *(-(-len(row) // batch_size) for row in rows)])
        named = (self.row - np.take(starts, self.grid)) // batch_size + self._batches_before[self.grid]
        names, first, self.batch = np.unique(named, return_index=True, return_inverse=True)
        begun = np.argsort(first)
        number = np.empty_like(begun)
        number[begun] = np.arange(len(begun))
        self.batch = number[self.batch]
        self._names = names[begun]
        self.ends: Positions = np.zeros(len(begun), np.int64)
        np.maximum.at(self.ends, self.batch, np.arange(1, len(order) + 1))
        self.full: Index = np.argsort(self.ends)

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def place(self) -> Index:
        """(tile,) which tile of its batch each is."""
        found: Index = (self.row - np.take(self.starts, self.grid)) % self.batch_size
        return found

    @property
    def longest_lines(self) -> list[int]:
        """Number of tiles of the longest line of each grid."""
        return [
            int(np.unique(grid.xy[start:, 1], return_counts=True)[1].max(initial=1))
            for grid, start in zip(self.grids, self.starts, strict=True)
        ]

    def rows_of(self, batch: int) -> tuple[int, Index]:
        """The grid of a batch, and its rows there."""
        name = int(self._names[batch])
        grid = int(np.searchsorted(self._batches_before, name, side="right")) - 1
        first = self.starts[grid] + (name - int(self._batches_before[grid])) * self.batch_size
        return grid, np.arange(first, min(first + self.batch_size, len(self.grids[grid])))


def shares(order: ReadOrder, parts: int) -> list[Positions]:
    """Positions that each of several readers reads, ascending.

    A band of `_LINES` lines, of the grid that has fewest, is cut from left to right into stretches of as many tiles:
    little is decoded twice.
    """
    found: list[list[Positions]] = [[] for _ in range(parts)]
    xy = np.empty((len(order), 2), np.int64)
    lines: list[Any] = []
    for n, grid in enumerate(order.grids):
        mine = order.grid == n
        xy[mine] = grid.xy[order.row[mine]]
        lines.append(np.unique(xy[mine, 1]))
    tops = min((y for y in lines if len(y)), key=len, default=np.zeros(0, np.int64))[::_LINES][1:]
    band_of = np.searchsorted(tops, np.maximum.accumulate(xy[:, 1]), side="right")
    for band in np.split(np.arange(len(order)), np.flatnonzero(np.diff(band_of)) + 1):
        x = xy[band, 0]
        cuts = np.quantile(x, np.arange(1, parts) / parts, method="lower") if len(x) else []
        part = np.searchsorted(cuts, x, side="left")
        for n in range(parts):
            found[n].append(band[part == n])
    return [np.concatenate(part) for part in found]
