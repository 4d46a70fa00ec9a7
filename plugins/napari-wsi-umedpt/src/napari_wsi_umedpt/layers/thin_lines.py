"""Lines that stay thin at every zoom: the tissue's outline and the tiles of a grid, drawn where they are looked at.

napari's Shapes have lines of so many um, which are invisible at 1x and bars at 40x. Here lines
are pixels of the level that is shown. Positions are level-0 px, x before y.
"""

import cv2
import numpy as np
import numpy.typing as npt
from wsi_umedpt.slides import TileGrid, TissueMask

from napari_wsi_umedpt.layers.multiscale import Array, Window

LINE_PX = 2
"""Width of lines, px of a level: one of a single px would fall between the screen's."""
BITS = 4
"""Number of fractional bits of the positions that OpenCV takes."""
LINE_OFFSETS = ((0, 0), (1, 1), (0, 1))
"""Three lines of a pixel make one of two whose middle is the outline, wherever that is; OpenCV's of two are three wide.
Whole pixels lie between them: of halves, rounding would make one px or two."""
_WEIGHTS = np.array([1, 4, 8, 10, 8, 4, 1]) / 36
"""Weights of a corner of the tissue's outline and its neighbours, half a cell of the mask apart."""
_PIECE = 64
"""Corners of the tissue's outline that are drawn together."""
READABLE, UNREADABLE = 1, 2
"""Numbers in which tiles are drawn."""


class TissueOutline:
    """The border of a tissue mask: 1 on it, 0 elsewhere; its stairs of whole cells are smoothed by less than a cell."""

    def __init__(self, tissue: TissueMask) -> None:
        # Twice as fine: OpenCV's border runs through the middles of the outermost pixels, a quarter of a cell inside.
        fine = np.kron(tissue.mask.astype(np.uint8), np.ones((2, 2), np.uint8))
        found, _ = cv2.findContours(np.pad(fine, 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        pieces = [piece for ring in found for piece in _pieces(_smooth(ring[:, 0, :] - 0.5) * (tissue.step / 2))]
        self._pieces = pieces
        """Open lines of few corners each, (corner, 2) level-0 px."""
        self._boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in pieces]).reshape(-1, 4)

    def draw(self, window: Window) -> Array:
        """Draw a window; see `napari_wsi_umedpt.layers.multiscale.Draw`."""
        scale, x, y, width, height = window
        out = np.zeros((height, width), np.uint8)
        edge = LINE_PX * scale  # the line of one that ends just outside reaches in
        low, high = np.array([x, y]) * scale - edge, np.array([x + width, y + height]) * scale + edge
        near = ((self._boxes[:, :2] <= high) & (self._boxes[:, 2:] >= low)).all(axis=1)
        for offset in LINE_OFFSETS:
            lines = [
                np.round((self._pieces[n] / scale - (x, y) - offset) * 2**BITS).astype(np.int32)
                for n in np.flatnonzero(near)
            ]
            cv2.polylines(out, lines, False, 1, 1, cv2.LINE_8, BITS)
        return out


def _smooth(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A closed ring, each corner the weighted mean of its neighbours."""
    if len(ring) < len(_WEIGHTS):
        return ring
    reach = len(_WEIGHTS) // 2
    shifted = [
        np.roll(ring, step, axis=0) * weight for step, weight in zip(range(-reach, reach + 1), _WEIGHTS, strict=True)
    ]
    return np.asarray(np.sum(shifted, axis=0), np.float64)


def _pieces(ring: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Cut a closed ring into lines that begin where the one before ends, so that those far away need not be drawn."""
    closed = np.concatenate([ring, ring[:1]])
    return [closed[start : start + _PIECE + 1] for start in range(0, len(ring), _PIECE)]


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
        """Draw a window; see `napari_wsi_umedpt.layers.multiscale.Draw`."""
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
