"""The fast path for slides that OpenSlide opens: its metadata, but tiles read directly.

The two are compared when a slide is opened, on tiles of every level. A difference is no
error: the slide is then read through OpenSlide, and a warning says so and why.
"""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import tifffile

from wsi_umedpt.errors import PixelError
from wsi_umedpt.slides.readers.base import Reader, Refused
from wsi_umedpt.slides.readers.colour import JPEG
from wsi_umedpt.slides.readers.openslide import OpenSlideReader
from wsi_umedpt.slides.readers.segments import APERIO_YCBCR
from wsi_umedpt.slides.readers.tiff import TiffReader, open_tifffile, page_of
from wsi_umedpt.slides.readers.tiff_directories import Directory

_VENDORS = ("aperio", "generic-tiff")
"""Vendors whose tiles lie edge to edge. Others overlap them or leave gaps."""
_DIRECT = (JPEG, tifffile.COMPRESSION.APERIO_JP2000_RGB, APERIO_YCBCR)
"""Compressions of tiles that are decoded here: JPEG, and Aperio's JPEG 2000 (33005 and 33003)."""


_compared: ContextVar[bool] = ContextVar("compared", default=False)
"""True where another process has compared the slide that is opened, and reads it directly."""


class SlowPathWarning(UserWarning):
    """A slide that should take the fast path does not; it is read through OpenSlide."""


@contextlib.contextmanager
def compared_before() -> Iterator[None]:
    """Open a slide that another process, which reads it directly, has compared: it need not be done again."""
    token = _compared.set(True)
    try:
        yield
    finally:
        _compared.reset(token)


def faster(path: Path, levels: Sequence[Sequence[Directory]] | None, reference: OpenSlideReader) -> Reader:
    """A reader that decodes the slide's tiles directly, or the reference if that is not possible.

    Parameters
    ----------
    levels
        The pages of the reference's levels; None if they are not known.
    reference
        Open; closed if it is not what is returned.
    """
    if reference.info.vendor not in _VENDORS or levels is None:
        return reference
    try:
        tif = open_tifffile(path, walked=True)
        try:
            pages = [[page_of(tif, one) for one in level] for level in levels]
            if any(page.compression not in _DIRECT or page.samplesperpixel != 3 for level in pages for page in level):
                raise Refused("its tiles are neither JPEG nor JPEG 2000")
            reader = TiffReader(path, tif, pages, reference.info)
        except BaseException:
            tif.close()
            raise
    except Refused:
        return reference
    except Exception:  # noqa: BLE001 - a damaged tag can fail anywhere in tifffile; OpenSlide reads what it opened
        return reference
    try:
        reason = None if _compared.get() else _difference(reader, reference)
    except BaseException:
        reader.close()
        reference.close()
        raise
    if reason:
        reader.close()
        warnings.warn(f"{path.name} is read through OpenSlide, 4x slower: {reason}", SlowPathWarning, stacklevel=2)
        return reference
    reference.close()
    return reader


def matching(pages: Iterable[Directory], reference: OpenSlideReader) -> list[list[Directory]] | None:
    """The first tiled page of each level's size; None if one has none."""
    tiled: dict[tuple[int, int], Directory] = {}
    for page in pages:
        tiled.setdefault(page.size, page)
    found = [tiled.get((level.width, level.height)) for level in reference.levels]
    return None if None in found else [[page] for page in found if page is not None]


def _difference(reader: TiffReader, reference: OpenSlideReader) -> str | None:
    """Reason why direct reading may not stand in for OpenSlide here; None if it may."""
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
