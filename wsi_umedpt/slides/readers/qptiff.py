"""QPTIFF of PerkinElmer and Akoya: the pages that are the slide, and its channels, as each page's XML says.

Pages come by resolution, of each one page a channel, or one in colour; a thumbnail, an overview and the label (which
is of the patient) lie among them, and are never read.
"""

from collections import defaultdict

import defusedxml.ElementTree

from wsi_umedpt.slides.readers.base import ContentRefused
from wsi_umedpt.slides.readers.tiff_directories import Directories, Directory
from wsi_umedpt.slides.readers.tiff_pages import SlidePages, levels_of

_ROOT = "<PerkinElmer-QPI-ImageDescription"
_MOST_TEXT = 4 << 20  # of a page; it holds the scanner's whole protocol


def is_qptiff(found: Directories) -> bool:
    """Return whether a TIFF is a QPTIFF, whatever its name."""
    return _ROOT in found.pages[0].text(270, 512)


def qptiff_pages(found: Directories) -> SlidePages:
    """Choose the slide among the pages of a QPTIFF.

    Raises
    ------
    ContentRefused
        If its XML cannot be read, or a level lacks channels.
    """
    levels: defaultdict[tuple[int, int], list[Directory]] = defaultdict(list)
    names: list[str] = []
    for number, page in enumerate(found.pages):
        kind, name = _described(page, number)
        if kind not in ("FullResolution", "ReducedResolution"):
            continue
        levels[page.size].append(page)
        if kind == "FullResolution":
            names.append(name)
    first, *others = (tuple(levels[size]) for size in sorted(levels, reverse=True)) if names else ((),)
    if not names or len(first) != len(names):
        raise ContentRefused(f"its XML names {len(names)} pages of full resolution, of which {len(first)} are as large")
    if any(len(pages) != len(first) for pages in others):
        raise ContentRefused(f"one of its levels has not all of the {len(first)} channels: it was never finished")
    in_colour = len(first) == 1 and first[0].number(277, 1) > 1
    return SlidePages(levels_of(first, others), "qptiff", None, () if in_colour else tuple(names))


def _described(page: Directory, number: int) -> tuple[str, str]:
    """Kind of a page, and the name of its channel: its marker, else its dye, else its number."""
    try:
        root = defusedxml.ElementTree.fromstring(page.text(270, _MOST_TEXT))
    except Exception as error:  # noqa: BLE001 - XML can be wrong in any way
        raise ContentRefused(f"the XML of its page {number} cannot be used: {type(error).__name__}: {error}") from None
    kind, marker, dye = ((root.findtext(tag) or "").strip() for tag in ("ImageType", "Biomarker", "Name"))
    return kind, marker or dye or str(number)
