"""Lines that stay thin at every zoom: the tissue's outline and the tiles of a grid, drawn where they are looked at.

napari's Shapes have lines of so many um, which are invisible at 1x and bars at 40x. Here lines
are pixels of the level that is shown. Positions are level-0 px, x before y.
"""

import cv2
import numpy as np
import numpy.typing as npt
from wsi_umedpt.tiling import TileGrid
from wsi_umedpt.tissue import TissueMask

from napari_wsi_umedpt._array import Array, Window

LINE_PX = 2
"""Width of lines, px of a level: one of a single px would fall between the screen's."""
READABLE, UNREADABLE = 1, 2
"""Numbers in which tiles are drawn."""


class TissueOutline:
    """The border of a tissue mask: 1 on it, 0 elsewhere."""

    def __init__(self, tissue: TissueMask) -> None:
        self._mask, self._step = tissue.mask.astype(np.uint8), tissue.step

    def draw(self, window: Window) -> Array:
        """Draw a window; see `napari_wsi_umedpt._array.Draw`."""
        scale, x, y, width, height = window
        # Looked at a line's width further, so that chunks agree at their borders.
        rows = self._cells(y, height, scale, self._mask.shape[0])
        cols = self._cells(x, width, scale, self._mask.shape[1])
        mask = np.pad(self._mask, 1)[rows[:, None], cols]
        core = cv2.erode(mask, np.ones((2 * LINE_PX + 1, 2 * LINE_PX + 1), np.uint8))
        edge = (mask & ~core)[LINE_PX:-LINE_PX, LINE_PX:-LINE_PX]
        return np.ascontiguousarray(edge)

    def _cells(self, first: int, count: int, scale: int, cells: int) -> npt.NDArray[np.int64]:
        """Cell under the middle of each pixel, in the mask with a border of 1."""
        middle = (np.arange(first - LINE_PX, first + count + LINE_PX) + 0.5) * scale
        return np.asarray(np.clip(middle // self._step + 1, 0, cells + 1), np.int64)


class TileLines:
    """The tiles of a grid: `READABLE` or `UNREADABLE` on their border, 0 elsewhere. Unreadable ones are filled."""

    def __init__(self, grid: TileGrid, unreadable: npt.NDArray[np.bool_]) -> None:
        self.grid, self.unreadable = grid, unreadable
        self._rows, self._starts = np.unique(grid.xy[:, 1], return_index=True)

    def within(self, left: float, top: float, right: float, bottom: float) -> npt.NDArray[np.int64]:
        """Tiles that meet a rectangle, rows of the grid."""
        # Tiles are in reading order, so a band of them is a slice.
        low, high = np.searchsorted(self._rows, [top - self.grid.side, bottom])
        bounds = np.append(self._starts, len(self.grid))
        tiles = np.arange(bounds[low], bounds[high])
        x = self.grid.xy[tiles, 0]
        return np.asarray(tiles[(x <= right) & (x + self.grid.side >= left)], np.int64)

    def at(self, x: float, y: float) -> list[int]:
        """Tiles that hold a place, rows of the grid; several where tiles overlap."""
        tiles = self.within(x, y, x, y)
        offset = np.array([x, y]) - self.grid.xy[tiles]
        inside = ((offset >= 0) & (offset < self.grid.side)).all(axis=1)
        return [int(tile) for tile in tiles[inside]]

    def draw(self, window: Window) -> Array:
        """Draw a window; see `napari_wsi_umedpt._array.Draw`."""
        scale, x, y, width, height = window
        out = np.zeros((height, width), np.uint8)
        tiles = self.within(x * scale, y * scale, (x + width) * scale, (y + height) * scale)
        low = np.round(self.grid.xy[tiles] / scale).astype(int) - (x, y)
        high = np.round((self.grid.xy[tiles] + self.grid.side) / scale).astype(int) - (x, y)  # not inside any more
        bad = self.unreadable[tiles]
        for (x0, y0), (x1, y1), unreadable in zip(low.tolist(), high.tolist(), bad.tolist(), strict=True):
            x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
            lines = LINE_PX if min(x1 - x0, y1 - y0) > 2 * LINE_PX + 1 else 0
            value = UNREADABLE if unreadable else READABLE
            inner = out[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
            if unreadable or not lines:
                inner[:] = value
                continue
            for line in range(lines):
                cv2.rectangle(out, (x0 + line, y0 + line), (x1 - 1 - line, y1 - 1 - line), value, 1)
        return out
