"""Pictures of single tiles, read from the slide and kept while they are looked at. No Qt; in any thread."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from wsi_umedpt.errors import PixelError
from wsi_umedpt.slides import Slide

from napari_wsi_umedpt.layers.multiscale import Report

PICTURE_PX = 96
_KEPT = 512
_DAMAGED = 150
"""Grey of a tile that cannot be read, as in the slide's own layer."""

Picture = npt.NDArray[np.uint8]


class Squares(Protocol):
    """Places of a slide that are seen as small pictures; tiles of a grid are such."""

    @property
    def xy(self) -> npt.NDArray[Any]:
        """(row, 2) upper left corners, level-0 px, x before y."""

    @property
    def side(self) -> float:
        """Side of each, level-0 px."""


class TilePictures:
    """Tiles of one grid, or other squares of one slide, `PICTURE_PX` wide.

    Parameters
    ----------
    slide
        Open.
    report
        Is told of tiles that cannot be read.
    held
        Object that must live for the slide to stay open: the data of its layer.
    """

    def __init__(self, slide: Slide, grid: Squares, report: Report, held: object = None) -> None:
        self._slide, self._grid, self._report, self._held = slide, grid, report, held
        self._kept: LRUCache[int, Picture] = LRUCache(_KEPT)

    def read(self, rows: Sequence[int]) -> list[Picture]:
        """Pictures of squares, by row; one that cannot be read is grey, and reported."""
        return [self._one(int(row)) for row in rows]

    def _one(self, row: int) -> Picture:
        if row in self._kept:
            return self._kept[row]
        x, y = (round(value) for value in self._grid.xy[row].tolist())
        try:
            plan = self._slide.plan(self._grid.side / PICTURE_PX, PICTURE_PX, upsample=True)
            found = self._slide.read_tile((x, y), (PICTURE_PX, PICTURE_PX), plan)
        except PixelError as error:
            self._report(error)
            found = np.full((PICTURE_PX, PICTURE_PX, 3), _DAMAGED, np.uint8)
        self._kept[row] = found
        return found
