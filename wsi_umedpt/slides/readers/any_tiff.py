"""Any TIFF: whose it is decides who reads it, and what one refuses for its content no other is asked for.

1. `readers.directories` refuses loops, missing tiles and files that are cut short.
2. An OME-TIFF or a QPTIFF, whatever its name, is read by its XML: OpenSlide sees only the first plane.
3. A TIFF of a vendor is OpenSlide's; Aperio's JPEG tiles are read directly (`readers.direct`).
4. A plain TIFF is the page that is the slide: through OpenSlide where it chooses the same
   levels, else by our own conversion; in strips it is a flat image.
"""

from dataclasses import replace
from pathlib import Path

import openslide
import tifffile

from wsi_umedpt.slides.readers.base import AnyReader, Channel, ContentRefused, Refused, SlideInfo
from wsi_umedpt.slides.readers.colour import conversion, says_all
from wsi_umedpt.slides.readers.direct import faster, matching
from wsi_umedpt.slides.readers.image import FlatPages
from wsi_umedpt.slides.readers.ome import is_ome, ome_pages
from wsi_umedpt.slides.readers.openslide import OpenSlideReader
from wsi_umedpt.slides.readers.qptiff import is_qptiff, qptiff_pages
from wsi_umedpt.slides.readers.tiff import TiffReader, open_tifffile, page_of, resolution_mpp
from wsi_umedpt.slides.readers.tiff_channels import TiffChannels
from wsi_umedpt.slides.readers.tiff_directories import check_directories, is_tiff, read_directories
from wsi_umedpt.slides.readers.tiff_pages import SlidePages, plain_pages, sizes

_PLAIN = "generic-tiff"


def open_tiff(path: Path) -> AnyReader:
    """Open a TIFF of any kind.

    Raises
    ------
    Refused
        If it is no TIFF.
    ContentRefused
        If it is one, and cannot be read as a slide.
    """
    if not is_tiff(path):
        raise Refused("not a TIFF file")
    found = read_directories(path)
    check_directories(found)
    if is_ome(found):
        return _open_pages(path, ome_pages(found), through_openslide=False)
    if is_qptiff(found):
        return _open_pages(path, qptiff_pages(found), through_openslide=False)
    vendor = _vendor(path)
    if vendor not in (None, _PLAIN):
        try:
            reference = OpenSlideReader(path)
        except Refused as reason:
            raise ContentRefused(
                f"OpenSlide takes it for a slide of {vendor}, but does not open it: {reason}"
            ) from None
        tiled = [one for one in found.all() if one.is_tiled]
        return faster(path, matching(tiled, reference), reference)
    pages = plain_pages(found)
    return _open_pages(path, pages, through_openslide=vendor == _PLAIN and pages.first is found.pages[0])


def _vendor(path: Path) -> str | None:
    try:
        return openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError):
        return None


def _open_pages(path: Path, slide: SlidePages, *, through_openslide: bool) -> AnyReader:
    tif = open_tifffile(path, walked=True)
    reader: AnyReader | None = None
    try:
        levels = [[page_of(tif, one) for one in pages] for pages in slide.levels]
        first = levels[0][0]
        mpp = slide.mpp if slide.mpp or slide.vendor == "ome-tiff" else resolution_mpp(first)
        info = SlideInfo(vendor=slide.vendor, mpp=mpp)
        if slide.channels:
            channels = tuple(Channel(name, _dtype(page)) for name, page in zip(slide.channels, levels[0], strict=True))
            reader = TiffChannels(path, tif, levels, replace(info, channels=channels))
            return reader
        if not first.is_tiled:
            return FlatPages(levels[0], info)
        for pages in levels:
            conversion(pages[0], len(pages))  # refuses what none may convert
        if through_openslide and says_all(first) and (reference := _reference(path, sizes(slide.levels))):
            return faster(path, slide.levels, reference)
        reader = TiffReader(path, tif, levels, info)
        return reader
    except ContentRefused:
        raise
    except Refused as reason:
        raise ContentRefused(str(reason)) from None
    except Exception as error:  # noqa: BLE001 - a damaged tag can fail anywhere in tifffile
        raise ContentRefused(f"{type(error).__name__}: {error}") from None
    finally:
        if reader is None:
            tif.close()


def _dtype(page: tifffile.TiffPage) -> str:
    return "uint16" if page.bitspersample == 16 else "uint8"


def _reference(path: Path, expected: list[tuple[int, int]]) -> OpenSlideReader | None:
    """OpenSlide's reader, if it takes the same pages for the slide."""
    try:
        reader = OpenSlideReader(path)
    except Refused:
        return None
    if [(level.width, level.height) for level in reader.levels] == expected:
        return reader
    reader.close()
    return None
