"""The fast path for slides that OpenSlide opens: its metadata, but tiles read directly.

The two are compared when a slide is opened, on tiles of every level. A difference is no
error: the slide is then read through OpenSlide, and a warning says so and why.
"""

import warnings
from pathlib import Path

import numpy as np
import tifffile

from wsi_umedpt.errors import PixelError
from wsi_umedpt.readers.base import Refused
from wsi_umedpt.readers.openslide import OpenSlideReader
from wsi_umedpt.readers.tiff import TiffReader, open_tifffile

_VENDORS = ("aperio", "generic-tiff")
"""Vendors whose tiles lie edge to edge. Others overlap them or leave gaps."""


class SlowPathWarning(UserWarning):
    """A slide that should take the fast path does not; it is read through OpenSlide."""


def open_direct(path: Path) -> TiffReader:
    """Open a slide for direct reading, or raise `Refused` so that OpenSlide reads it."""
    reference = OpenSlideReader(path)
    try:
        if reference.info.vendor not in _VENDORS:
            raise Refused(f"no direct reading of {reference.info.vendor} slides")
        tif = open_tifffile(path)
        try:
            reader = TiffReader(path, tif, _matching_pages(tif, reference), reference.info)
        except Refused:
            tif.close()
            raise
        except Exception as error:  # noqa: BLE001 - a damaged tag can fail anywhere in tifffile
            tif.close()
            raise Refused(f"{type(error).__name__}: {error}") from None
        try:
            reason = _difference(reader, reference)
        except BaseException:
            reader.close()
            raise
        if reason:
            reader.close()
            warnings.warn(f"{path.name} is read through OpenSlide, 4x slower: {reason}", SlowPathWarning, stacklevel=2)
            raise Refused(reason)
        return reader
    finally:
        reference.close()


def _matching_pages(tif: tifffile.TiffFile, reference: OpenSlideReader) -> list[tifffile.TiffPage]:
    tiled: dict[tuple[int, int], tifffile.TiffPage] = {}
    try:
        for page in (p.aspage() for p in tif.pages):
            if page.is_tiled:
                tiled.setdefault((page.imagewidth, page.imagelength), page)
    except Exception as error:  # noqa: BLE001 - a damaged directory can fail anywhere in tifffile
        raise Refused(f"{type(error).__name__}: {error}") from None
    pages = [tiled.get((level.width, level.height)) for level in reference.levels]
    if None in pages:
        raise Refused("not every level is a tiled page")
    found = [page for page in pages if page is not None]
    if any(page.compression != tifffile.COMPRESSION.JPEG for page in found):
        raise Refused("its tiles are not JPEG")
    return found


def _difference(reader: TiffReader, reference: OpenSlideReader) -> str | None:
    """Why direct reading may not stand in for OpenSlide here; None if it may."""
    sparse = any(reader.native_tiles(number).sparse for number in range(len(reader.levels)))
    if sparse and reader.info.vendor == "aperio" and len(reader.levels) > 1:
        return "it leaves tiles out, around which OpenSlide paints coarser levels from finer ones"
    for number, level in enumerate(reader.levels):
        tiles = reader.native_tiles(number)
        for col, row in _samples(tiles.columns, tiles.rows):
            x, y = col * tiles.tile_width, row * tiles.tile_height
            width = min(tiles.tile_width, level.width - x)
            height = min(tiles.tile_height, level.height - y)
            if not reference.is_exact_at(number, x, y):
                continue
            try:
                expected = reference.read_level(number, x, y, width, height)
                found = reader.read_level(number, x, y, width, height)
            except PixelError:
                continue  # a damaged tile is found, and recorded, when it is read for use
            if not np.array_equal(found, expected):
                worst = int(np.abs(found.astype(int) - expected).max())
                return f"level {number}, tile ({col}, {row}) differs by up to {worst} grey values"
    return None


def _samples(columns: int, rows: int) -> list[tuple[int, int]]:
    # The corners meet cropped tiles; the middle is the likeliest to hold tissue.
    cells = {(0, 0), (columns - 1, rows - 1), (columns // 2, rows // 2), (columns // 3, rows // 3)}
    return sorted(cells)
