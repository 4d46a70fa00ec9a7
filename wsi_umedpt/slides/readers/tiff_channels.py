"""A TIFF whose channels lie in pages of their own and are no colours: grey pages in, planes out.

Tiles are decoded one by one; a channel in strips is held in memory whole, from when it is first asked for.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import level_scale
from wsi_umedpt.slides.readers.base import ContentRefused, Level, Plane, SlideInfo, checked_size
from wsi_umedpt.slides.readers.colour import check_grey
from wsi_umedpt.slides.readers.image import check_pixels, missing_strips, read_strips
from wsi_umedpt.slides.readers.stored_tiles import StoredTiles
from wsi_umedpt.slides.readers.tiff import why_not


class TiffChannels:
    """Levels that are grey TIFF pages, one a channel."""

    name = "tiff"

    def __init__(
        self, path: Path, tif: tifffile.TiffFile, levels: Sequence[Sequence[tifffile.TiffPage]], info: SlideInfo
    ) -> None:
        self.info, self._tif, self._path = info, tif, path
        for pages in levels:
            _check(pages)
        sizes = [checked_size(pages[0].imagewidth, pages[0].imagelength) for pages in levels]
        self.levels = tuple(Level(*size, level_scale(sizes[0], size)) for size in sizes)
        self._pages = levels
        self._held: dict[int, Plane] = {}
        self._reading = threading.Lock()
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            self._tiles = [
                [StoredTiles(self._file, path.name, [page]) for page in pages] if pages[0].is_tiled else []
                for pages in levels
            ]
        except BaseException:
            os.close(self._file)
            raise

    def read_channel(self, level: int, channel: int, x: int, y: int, width: int, height: int) -> Plane:
        """Read a rectangle of one channel; see `ChannelReader.read_channel`."""
        if self._tiles[level]:
            return self._assemble(self._tiles[level][channel], level, (x, y, width, height))
        return self._whole(channel)[y : y + height, x : x + width]

    def tile_size(self, level: int) -> tuple[int, int] | None:
        """(width, height) of the tiles of a level, px; None where it lies in strips."""
        tiles = self._tiles[level]
        return (tiles[0].tile_width, tiles[0].tile_height) if tiles else None

    def close(self) -> None:
        """Free the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._tif.close()
            self._held.clear()

    def _assemble(self, tiles: StoredTiles, level: int, box: tuple[int, int, int, int]) -> Plane:
        x, y, width, height = box
        tw, th = tiles.tile_width, tiles.tile_height
        out: Plane = np.zeros((height, width), self._pages[level][0].dtype)
        for row in range(y // th, (y + height - 1) // th + 1):
            for col in range(x // tw, (x + width - 1) // tw + 1):
                index = row * tiles.columns + col
                if tiles.is_left_out(index):
                    continue
                try:
                    tile = tiles.samples(index)[..., 0]
                except Exception as error:  # noqa: BLE001 - each codec has errors of its own
                    raise PixelError(f"{tiles.name}: tile ({col}, {row}): {error}") from None
                left, top = max(x, col * tw), max(y, row * th)
                piece = tile[top - row * th : y + height - row * th, left - col * tw : x + width - col * tw]
                out[top - y : top - y + piece.shape[0], left - x : left - x + piece.shape[1]] = piece
        return out

    def _whole(self, channel: int) -> Plane:
        with self._reading:
            if channel not in self._held:
                page = self._pages[0][channel]
                stored: npt.NDArray[Any] = np.empty((page.imagelength, page.imagewidth, 1), page.dtype)
                try:
                    read_strips(page, stored)
                except Exception as error:  # noqa: BLE001 - each codec has errors of its own
                    raise PixelError(f"{self._path.name}: channel {channel}: {error}") from None
                self._held[channel] = stored[..., 0]
            return self._held[channel]


def _check(pages: Sequence[tifffile.TiffPage]) -> None:
    """Refuse channels that are no whole planes of grey values."""
    for page in pages:
        check_grey(page)
    page = pages[0]
    if any(
        (one.imagewidth, one.imagelength, one.dtype) != (page.imagewidth, page.imagelength, page.dtype) for one in pages
    ):
        raise ContentRefused("its channels differ in their size or in how they are stored")
    if page.is_tiled:
        if reason := why_not(pages):
            raise ContentRefused(reason)
        return
    check_pixels(page.imagewidth, page.imagelength, 3 * np.dtype(page.dtype).itemsize)
    if missing := sum(map(missing_strips, pages)):
        raise ContentRefused(f"{missing} of its strips are missing: what wrote it was interrupted. Export it again")
