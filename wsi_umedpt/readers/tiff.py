"""Tiled TIFF and BigTIFF read directly: JPEG tiles by libjpeg-turbo, others by tifffile.

Offsets are parsed once; a tile is then one `pread` and one decode, from any thread.
OpenSlide composes every region anew, which costs more than three times the decoding.

Read top to bottom: `TiffTiles` (the compressed tiles of one level), `TiffReader` (the
levels of one image, be they pages or SubIFDs), `open_tiff` (which pages those are).
"""

import os
from pathlib import Path

import defusedxml.ElementTree
import numpy as np
import simplejpeg
import tifffile

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import Mpp, level_scale
from wsi_umedpt.readers.base import Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size

_JPEG = 7
_MAX_TILE_SIDE = 8192
# An Adobe marker tells libjpeg what the three components are: 0 is RGB, 1 is YCbCr. TIFF
# says so in its Photometric tag, which the JPEG stream inside does not repeat.
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_ADOBE_YCC = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
_UM = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


class TiffTiles:
    """The compressed tiles of one TIFF page."""

    def __init__(self, file: int, name: str, page: tifffile.TiffPage) -> None:
        self._file, self._name, self._page = file, name, page
        self.tile_width, self.tile_height = page.tilewidth, page.tilelength
        self.columns = -(-page.imagewidth // page.tilewidth)
        self.rows = -(-page.imagelength // page.tilelength)
        self._offsets = np.asarray(page.dataoffsets, np.int64)
        self._counts = np.asarray(page.databytecounts, np.int64)
        if not len(self._offsets) == len(self._counts) == self.columns * self.rows:
            raise Refused(f"a level of {self.columns} x {self.rows} tiles lists {len(self._offsets)} of them")
        self._most_bytes = 64 + 8 * self.tile_width * self.tile_height  # over twice the raw pixels
        self.scalable = page.compression == _JPEG
        tables = page.jpegtables or b"\xff\xd8\xff\xd9"
        adobe = _ADOBE_YCC if page.photometric == tifffile.PHOTOMETRIC.YCBCR else _ADOBE_RGB
        self._jpeg_start = tables[:-2] + adobe  # without its end-of-image marker

    @property
    def end(self) -> int:
        """Where the last byte of the tiles lies in the file."""
        return int((self._offsets + self._counts).max(initial=0))

    @property
    def sparse(self) -> bool:
        """Whether the file leaves tiles out."""
        return bool((self._counts == 0).any())

    def decode(self, col: int, row: int, *, shrink: int, buffer: Pixels) -> Pixels | None:
        """Decode one tile into `buffer`; see `NativeTiles.decode`."""
        index = row * self.columns + col
        count = int(self._counts[index])
        if count == 0:
            return None
        try:
            data = os.pread(self._file, min(count, self._most_bytes), int(self._offsets[index]))
            if len(data) != count:
                raise ValueError(f"the file ends inside it ({len(data)} of {count} bytes)")
            if self.scalable:
                return self._decode_jpeg(data, shrink, buffer)
            return self._decode_other(data, index, buffer)
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            raise PixelError(f"{self._name}: tile ({col}, {row}): {error}") from None

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

    def _decode_other(self, data: bytes, index: int, buffer: Pixels) -> Pixels:
        segment = self._page.decode(data, index, jpegtables=self._page.jpegtables)[0]
        if segment is None:
            raise ValueError("decodes to nothing")
        # tifffile crops the tiles of the last row and column; ours are always whole.
        shape = (self.tile_height, self.tile_width, 3)
        pixels = buffer[: shape[0] * shape[1] * 3].reshape(shape)
        found = segment[0, ..., :3]
        if found.shape[0] < shape[0] or found.shape[1] < shape[1]:
            pixels[:] = 255
        pixels[: found.shape[0], : found.shape[1]] = found
        return pixels


class TiffReader:
    """Levels that are tiled TIFF pages."""

    name = "tiff"

    def __init__(self, path: Path, tif: tifffile.TiffFile, pages: list[tifffile.TiffPage], info: SlideInfo) -> None:
        self.info = info
        self._tif = tif
        for page in pages:
            if reason := _why_not(page):
                raise Refused(reason)
        size = checked_size(pages[0].imagewidth, pages[0].imagelength)
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            self._tiles = tuple(TiffTiles(self._file, path.name, page) for page in pages)
            sizes = [checked_size(page.imagewidth, page.imagelength) for page in pages]
            self.levels = tuple(Level(*s, level_scale(size, s)) for s in sizes)
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


def open_tiff(path: Path) -> TiffReader:
    """Open a tiled RGB TIFF, its pyramid in SubIFDs (OME) or in reduced pages.

    Raises
    ------
    Refused
        If the file is not a tiled 8-bit RGB TIFF.
    """
    tif = open_tifffile(path)
    try:
        series = max(tif.series, key=lambda s: _area(_keyframe(s)))
        pages = [_keyframe(level) for level in series.levels]
        # tifffile makes no pyramid of plain reduced pages; they are series of their own.
        if len(pages) == 1:
            pages += _reduced_pages(tif, pages[0])
        if tif.is_ome:
            info = SlideInfo(vendor="ome-tiff", mpp=_ome_mpp(tif.ome_metadata or ""))
        else:
            info = SlideInfo(vendor="tiff", mpp=resolution_mpp(pages[0]))
        reader = TiffReader(path, tif, pages, info)
        end = max(reader.native_tiles(level).end for level in range(len(pages)))
        if end > path.stat().st_size:
            reader.close()
            raise Refused(f"it has {path.stat().st_size:,} bytes, but its tiles reach to {end:,}: truncated")
        return reader
    except Refused:
        tif.close()
        raise
    except Exception as error:  # noqa: BLE001 - a damaged TIFF can fail anywhere in tifffile
        tif.close()
        raise Refused(f"{type(error).__name__}: {error}") from None


def check_directories(path: Path) -> None:
    """Refuse a TIFF whose tags claim what cannot be, before OpenSlide believes them.

    OpenSlide allocates what TileWidth, TileLength and TileByteCounts ask for, and GLib ends
    the whole process where there is not as much memory.

    Raises
    ------
    Refused
        If a tile is absurdly large or longer than the file, or a level lists too few tiles.
    """
    with path.open("rb") as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return
    size = path.stat().st_size
    try:
        with open_tifffile(path) as tif:
            for page in (p.aspage() for p in tif.pages):
                if page.is_tiled and (reason := _impossible(page, size)):
                    raise Refused(reason)
    except Refused:
        raise
    except Exception:  # noqa: BLE001 - a vendor's TIFF that tifffile cannot parse may still be OpenSlide's
        return


def _impossible(page: tifffile.TiffPage, file_size: int) -> str | None:
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    if max(page.tilewidth, page.tilelength) > _MAX_TILE_SIDE or tiles > len(page.dataoffsets):
        return (
            f"its tags claim {page.imagewidth} x {page.imagelength} px in tiles of "
            f"{page.tilewidth} x {page.tilelength} px, of which it lists {len(page.dataoffsets)}"
        )
    if max(page.databytecounts, default=0) > file_size:
        return "its tags claim a tile that is longer than the file"
    return None


def open_tifffile(path: Path) -> tifffile.TiffFile:
    """Open a TIFF with tifffile, or raise `Refused`."""
    try:
        return tifffile.TiffFile(path)
    except Exception as error:  # noqa: BLE001 - as above
        raise Refused(str(error) or type(error).__name__) from None


def resolution_mpp(page: tifffile.TiffPage) -> Mpp | None:
    """um/px from TIFF's XResolution, YResolution and ResolutionUnit; None if they state none."""
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit or 1))
    x, y = page.resolution
    if um_per_unit is None or x <= 1 or y <= 1:
        return None
    return Mpp(um_per_unit / x, um_per_unit / y, "tiff resolution")


def _keyframe(series: tifffile.TiffPageSeries) -> tifffile.TiffPage:
    if series.pages[0] is None:
        raise Refused("a series of pages is empty")
    return series.pages[0].aspage()


def _area(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _reduced_pages(tif: tifffile.TiffFile, first: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    pages, smaller_than = [], first.imagewidth
    for page in (p.aspage() for p in tif.pages[1:]):
        aspect = (first.imagewidth / page.imagewidth) / (first.imagelength / page.imagelength)
        if page.is_reduced and page.is_tiled and page.imagewidth < smaller_than and 0.95 < aspect < 1.05:
            pages.append(page)
            smaller_than = page.imagewidth
    return pages


def _why_not(page: tifffile.TiffPage) -> str | None:
    if not page.is_tiled:
        return "its pixels are in strips, not tiles"
    if page.dtype != np.uint8 or page.samplesperpixel not in (3, 4):
        return f"needs 8-bit RGB, found {page.samplesperpixel} sample(s) of {page.dtype}"
    if page.planarconfig != tifffile.PLANARCONFIG.CONTIG or page.imagedepth != 1:
        return "its colours lie in separate planes"
    if page.compression == _JPEG and page.samplesperpixel != 3:
        return "JPEG tiles with a fourth channel"
    if max(page.tilewidth, page.tilelength) > _MAX_TILE_SIDE:
        return f"tiles of {page.tilewidth} x {page.tilelength} px"
    return None


def _ome_mpp(xml: str) -> Mpp | None:
    """PhysicalSizeX and PhysicalSizeY of the largest image of an OME-XML header."""
    pixels = [e for e in defusedxml.ElementTree.fromstring(xml).iter() if e.tag.rpartition("}")[2] == "Pixels"]
    if not pixels:
        return None
    largest = max(pixels, key=lambda e: int(e.get("SizeX", 0)) * int(e.get("SizeY", 0)))
    sizes = [
        float(largest.get(f"PhysicalSize{axis}", 0)) * _UM.get(largest.get(f"PhysicalSize{axis}Unit", "µm"), 0)
        for axis in "XY"
    ]
    return Mpp(sizes[0], sizes[1], "ome") if all(sizes) else None
