"""Tiles of a TIFF or BigTIFF read directly: JPEG by libjpeg-turbo, others by tifffile's codecs.

Offsets are parsed once; a tile is then one `pread` and one decode, from any thread.
OpenSlide composes every region anew, which costs more than three times the decoding.

Read top to bottom: `TiffTiles` (the compressed tiles of one level), `TiffReader` (the
levels of one image, each a page or a page a colour), `assemble`. Where tiles lie is `readers.stored_tiles`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import Mpp, level_scale
from wsi_umedpt.messages import counted
from wsi_umedpt.slides.readers.base import ContentRefused, Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size
from wsi_umedpt.slides.readers.colour import JPEG, check_depth, conversion, says_all
from wsi_umedpt.slides.readers.stored_tiles import StoredTiles
from wsi_umedpt.slides.readers.tiff_directories import MAX_TILE_SIDE, Directory, is_tiff, read_directories

_PROBES = 4
"""Tiles across and down that are looked at where tags do not say all that must be known."""
# An Adobe marker tells libjpeg what the three components are: 0 is RGB, 1 is YCbCr. TIFF
# says so in its Photometric tag, which the JPEG stream inside does not repeat.
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_ADOBE_YCC = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"


class TiffTiles(StoredTiles):
    """The compressed tiles of one level as RGB."""

    def __init__(self, file: int, name: str, pages: Sequence[tifffile.TiffPage]) -> None:
        super().__init__(file, name, pages)
        page = pages[0]
        self._convert = conversion(page, len(pages))
        self.scalable = page.compression == JPEG and self._convert is None and len(self._planes) == 1
        tables = page.jpegtables or b"\xff\xd8\xff\xd9"
        adobe = _ADOBE_YCC if page.photometric == tifffile.PHOTOMETRIC.YCBCR else _ADOBE_RGB
        self._jpeg_start = tables[:-2] + adobe  # without its end-of-image marker
        if not says_all(page):
            self._probe()

    def decode(self, col: int, row: int, *, shrink: int, buffer: Pixels) -> Pixels | None:
        """Decode one tile into `buffer`; see `NativeTiles.decode`."""
        index = row * self.columns + col
        if self.is_left_out(index):
            return None
        try:
            if self.scalable:
                return self._decode_jpeg(self.stored(index), shrink, buffer)
            return self._decode_other(index, buffer)
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            raise PixelError(f"{self.name}: tile ({col}, {row}): {error}") from None

    def _decode_jpeg(self, data: bytes, shrink: int, buffer: Pixels) -> Pixels:
        stream = self._jpeg_start + data[2:]
        if shrink == 1:
            rows, cols = self.tile_height, self.tile_width
            pixels: Pixels = simplejpeg.decode_jpeg(stream, buffer=buffer)
        else:
            rows, cols = -(-self.tile_height // shrink), -(-self.tile_width // shrink)
            size = {"min_height": rows, "min_width": cols, "min_factor": shrink}
            pixels = simplejpeg.decode_jpeg(stream, **size, buffer=buffer)
        if pixels.shape != (rows, cols, 3):
            raise ValueError(f"decodes to {pixels.shape}, expected {(rows, cols, 3)}")
        return pixels

    def _decode_other(self, index: int, buffer: Pixels) -> Pixels:
        segment = self.samples(index)
        found = self._convert(segment) if self._convert else segment[..., :3]
        # tifffile crops the tiles of the last row and column; ours are always whole.
        shape = (self.tile_height, self.tile_width, 3)
        pixels = buffer[: shape[0] * shape[1] * 3].reshape(shape)
        if found.shape[0] < shape[0] or found.shape[1] < shape[1]:
            pixels[:] = 255
        pixels[: found.shape[0], : found.shape[1]] = found
        return pixels

    def _probe(self) -> None:
        """Look at some tiles for what tags do not say.

        Raises
        ------
        ContentRefused
            If pixels of 16 bits use fewer, or a channel that the file does not name is not even.
        """
        most = 0
        for row in sorted({self.rows * n // _PROBES for n in range(_PROBES)}):
            for col in sorted({self.columns * n // _PROBES for n in range(_PROBES)}):
                try:
                    samples = self.samples(row * self.columns + col)
                    if self._convert:
                        self._convert(samples)
                except ContentRefused:
                    raise
                except Exception:  # noqa: BLE001, S112 - a damaged tile is found, and recorded, when it is read for use
                    continue
                most = max(most, int(samples.max(initial=0)))
        if self._planes[0][0].bitspersample == 16:
            check_depth(most)


class TiffReader:
    """Levels that are tiled TIFF pages."""

    name = "tiff"

    def __init__(
        self, path: Path, tif: tifffile.TiffFile, levels: Sequence[Sequence[tifffile.TiffPage]], info: SlideInfo
    ) -> None:
        self.info = info
        self._tif = tif
        for pages in levels:
            if reason := why_not(pages):
                raise Refused(reason)
        sizes = [checked_size(pages[0].imagewidth, pages[0].imagelength) for pages in levels]
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            self._tiles = tuple(TiffTiles(self._file, path.name, pages) for pages in levels)
            self.levels = tuple(Level(*s, level_scale(sizes[0], s)) for s in sizes)
        except BaseException:
            os.close(self._file)
            raise

    def native_tiles(self, level: int) -> TiffTiles:
        """The level's own tiles."""
        return self._tiles[level]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        return assemble(self._tiles[level], x, y, width, height)

    def close(self) -> None:
        """Free the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._tif.close()


def assemble(tiles: NativeTiles, x: int, y: int, width: int, height: int) -> Pixels:
    """A rectangle out of native tiles, px of their level; tiles left out are white."""
    out = np.empty((height, width, 3), np.uint8)
    tw, th = tiles.tile_width, tiles.tile_height
    buffer = np.empty(tw * th * 3, np.uint8)
    for row in range(y // th, (y + height - 1) // th + 1):
        for col in range(x // tw, (x + width - 1) // tw + 1):
            left, top = max(x, col * tw), max(y, row * th)
            right, bottom = min(x + width, (col + 1) * tw), min(y + height, (row + 1) * th)
            pixels = tiles.decode(col, row, shrink=1, buffer=buffer)
            piece = out[top - y : bottom - y, left - x : right - x]
            if pixels is None:
                piece[:] = 255
            else:
                piece[:] = pixels[top - row * th : bottom - row * th, left - col * tw : right - col * tw]
    return out


def open_tifffile(path: Path, *, walked: bool = False) -> tifffile.TiffFile:
    """Open a TIFF with tifffile once its directories are known to end (`walked`), or raise `Refused`."""
    if not walked:
        if not is_tiff(path):
            raise Refused("not a TIFF file")
        read_directories(path)
    try:
        return tifffile.TiffFile(path)
    except Exception as error:  # noqa: BLE001 - a damaged tag can fail anywhere in tifffile
        raise Refused(str(error) or type(error).__name__) from None


def page_of(tif: tifffile.TiffFile, one: Directory) -> tifffile.TiffPage:
    """A directory as tifffile's page, which knows how to decode it.

    Raises
    ------
    ContentRefused
        If tifffile cannot make sense of its tags.
    """
    try:
        tif.filehandle.seek(one.offset)
        return tifffile.TiffPage(tif, 0)
    except Exception as error:  # noqa: BLE001 - a damaged tag can fail anywhere in tifffile
        raise ContentRefused(f"its tags make no sense: {type(error).__name__}: {error}") from None


def resolution_mpp(page: tifffile.TiffPage) -> Mpp | None:
    """Scale (um/px) from TIFF's XResolution, YResolution and ResolutionUnit; None if they state none."""
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit or 1))
    x, y = page.resolution
    if um_per_unit is None or x <= 1 or y <= 1:
        return None
    return Mpp(um_per_unit / x, um_per_unit / y, "tiff resolution")


def why_not(pages: Sequence[tifffile.TiffPage]) -> str | None:
    """Reason why the pages of a level, one or one a colour, are not read here; None if they are."""
    page = pages[0]
    if not all(one.is_tiled for one in pages):
        return "its pixels are in strips, not tiles"
    if page.imagedepth != 1 or page.tiledepth != 1:
        return "its tiles are deep, not flat"
    if page.dtype is None or page.samplesperpixel > 5:
        return f"has {counted(page.samplesperpixel, 'sample')} a pixel of {page.bitspersample} bits"
    if max(page.tilewidth, page.tilelength) > MAX_TILE_SIDE:
        return f"tiles of {page.tilewidth} x {page.tilelength} px"
    same = ("imagewidth", "imagelength", "tilewidth", "tilelength", "dtype", "samplesperpixel", "photometric")
    if any(getattr(one, name) != getattr(page, name) for one in pages for name in same):
        return "the planes of its colours differ in how they are stored"
    return None
