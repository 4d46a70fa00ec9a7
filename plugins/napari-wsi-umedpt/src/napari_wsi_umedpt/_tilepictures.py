"""Pictures of single tiles, read from the slide and kept while they are looked at. No Qt; in any thread."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from wsi_umedpt.errors import PixelError
from wsi_umedpt.slide import Slide
from wsi_umedpt.tiling import TileGrid

from napari_wsi_umedpt._array import Report

PICTURE_PX = 96
_KEPT = 512
_DAMAGED = 150
"""Grey of a tile that cannot be read, as in the slide's own layer."""

Picture = npt.NDArray[np.uint8]


class TilePictures:
    """Tiles of one grid of one slide, `PICTURE_PX` wide.

    Parameters
    ----------
    slide
        Open.
    report
        Is told of tiles that cannot be read.
    held
        What must live for the slide to stay open: the data of its layer.
    """

    def __init__(self, slide: Slide, grid: TileGrid, report: Report, held: object = None) -> None:
        self._slide, self._grid, self._report, self._held = slide, grid, report, held
        self._kept: OrderedDict[int, Picture] = OrderedDict()

    def read(self, rows: Sequence[int]) -> list[Picture]:
        """Pictures of tiles, rows of the grid; one that cannot be read is grey, and told of."""
        return [self._one(int(row)) for row in rows]

    def _one(self, row: int) -> Picture:
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        x, y = self._grid.xy[row].tolist()
        try:
            plan = self._slide.plan(self._grid.side / PICTURE_PX, PICTURE_PX, upsample=True)
            found = self._slide.read_tile((x, y), (PICTURE_PX, PICTURE_PX), plan)
        except PixelError as error:
            self._report(error)
            found = np.full((PICTURE_PX, PICTURE_PX, 3), _DAMAGED, np.uint8)
        self._kept[row] = found
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found
