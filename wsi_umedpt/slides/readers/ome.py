"""OME-TIFF: which pages are the slide, and its physical scale, as its OME-XML says.

The XML is found by what the file holds, not by its name. What it does not say, or says of
other files, is refused: another reader would take the first plane for the whole.
"""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import defusedxml.ElementTree

from wsi_umedpt.geometry import Mpp
from wsi_umedpt.slides.readers.base import ContentRefused
from wsi_umedpt.slides.readers.colour import are_colours
from wsi_umedpt.slides.readers.tiff_directories import Directories, Directory
from wsi_umedpt.slides.readers.tiff_pages import SlidePages, levels_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_UM = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_MOST_TEXT = 64 << 20


def is_ome(found: Directories) -> bool:
    """Return whether a TIFF is an OME-TIFF, whatever its name."""
    tag = found.pages[0].tags.get(270)
    if tag is None or tag.count > _MOST_TEXT:
        return False
    text = found.pages[0].text(270, _MOST_TEXT)
    return bool(re.search(r"<(\w+:)?OME[\s>]", text[:4096])) and text.rstrip().endswith("OME>")


def ome_pages(found: Directories) -> SlidePages:
    """Choose the slide among the images of an OME-TIFF: the largest.

    Raises
    ------
    ContentRefused
        If it is a stack, is one of several that are as large, lies in other files, or the XML contradicts the pages.
    """
    try:
        root = defusedxml.ElementTree.fromstring(found.pages[0].text(270, _MOST_TEXT))
        return _choose(found, root)
    except ContentRefused:
        raise
    except Exception as error:  # noqa: BLE001 - XML can be wrong in any way
        raise ContentRefused(f"its OME-XML cannot be used: {type(error).__name__}: {error}") from None


def _choose(found: Directories, root: "Element") -> SlidePages:
    images = list(_all(root, "Pixels"))
    if not images:
        raise ContentRefused("its OME-XML describes no image here (it may lie in another file)")
    largest = max(images, key=_area)
    if sum(_area(one) == _area(largest) for one in images) > 1:
        raise ContentRefused(
            "holds several images of the same size; which is the slide is not said. Export that one to its own file"
        )
    count = {axis: int(largest.get(f"Size{axis}", 1)) for axis in "XYZCT"}
    if count["Z"] != 1 or count["T"] != 1:
        raise ContentRefused(
            f"is a stack of {count['Z']} focal planes (Z) and {count['T']} times. Which of them is the slide is not "
            "said: export one plane to a file of its own"
        )
    # What a page holds is plain, while writers differ in how many channels they call an RGB page.
    each = _page(found, _planes(found, root, largest, 1)[0]).number(277, 1)
    planes = 1 if each > 1 else count["C"]
    if planes > len(found.pages):
        raise ContentRefused(f"its OME-XML says that it has {planes} channels, and it has {len(found.pages)} pages")
    if each > 1 and count["C"] not in (1, each):
        raise ContentRefused(
            f"has {count['C']} channels, in pages of {each}; a slide in colour has red, green and blue"
        )
    pages = tuple(_page(found, number) for number in _planes(found, root, largest, planes))
    channels = _channels(list(_all(largest, "Channel")), planes, pages[0])
    if channels and each > 1:
        raise ContentRefused(
            f"its channels {', '.join(channels)} lie in one page as if they were colours; export each to a page"
        )
    for page in pages:
        if page.size != (count["X"], count["Y"]):
            raise ContentRefused(
                f"its OME-XML says {count['X']} x {count['Y']} px, and its page {page.width} x {page.height}: "
                "it is damaged, or was cropped without its metadata"
            )
    below = list(zip(*(page.subs for page in pages), strict=False))
    if not below and planes == 1:
        below = [(one,) for one in found.pages if one.is_reduced and one is not pages[0]]
    return SlidePages(levels_of(pages, below), "ome-tiff", _mpp(largest), channels)


def _all(element: "Element", name: str) -> Iterator["Element"]:
    return (one for one in element.iter() if one.tag.rpartition("}")[2] == name)


def _area(pixels: "Element") -> int:
    return int(pixels.get("SizeX", 0)) * int(pixels.get("SizeY", 0))


def _channels(listed: list["Element"], planes: int, page: Directory) -> tuple[str, ...]:
    """Names of channels that are no colours; empty where they are red, green and blue, or grey."""
    names = [one.get("Name") or "" for one in listed]
    in_page = page.number(277, 1) > 1
    if not any(one.get("Fluor") for one in listed):
        if planes == 1 and not (in_page and len(listed) == 3):
            return ()
        if planes in (1, 3) and are_colours(names, 8 if in_page else page.number(258, 1)):
            return ()
    stated = dict(enumerate(str(one.get("Name") or one.get("Fluor") or n) for n, one in enumerate(listed)))
    return tuple(stated.get(n, str(n)) for n in range(max(planes, len(listed))))


def _planes(found: Directories, root: "Element", pixels: "Element", planes: int) -> list[int]:
    """Numbers of the pages of an image's first planes (OME model: TiffData)."""
    listed = list(_all(pixels, "TiffData"))
    if not listed:
        return list(range(planes))
    numbers: dict[int, int] = {}
    for one in listed:
        for where in _all(one, "UUID"):
            _check_here(found, root, where)
        first, page = int(one.get("FirstC", 0)), int(one.get("IFD", 0))
        count = int(one.get("PlaneCount", planes if one.get("IFD") is None else 1))
        for n in range(min(count, planes)):
            numbers.setdefault(first + n, page + n)
    if not set(range(planes)) <= set(numbers):
        raise ContentRefused("its OME-XML does not say where each of its planes lies")
    return [numbers[n] for n in range(planes)]


def _check_here(found: Directories, root: "Element", where: "Element") -> None:
    if root.get("UUID") and (where.text or "").strip() == root.get("UUID"):
        return
    name = where.get("FileName")
    if name and name != found.path.name and root.get("UUID"):
        raise ContentRefused("is a part of an image of several files; merge them into one OME-TIFF")


def _page(found: Directories, number: int) -> Directory:
    if not 0 <= number < len(found.pages):
        raise ContentRefused(f"its OME-XML names page {number}, and it has {len(found.pages)}")
    return found.pages[number]


def _mpp(pixels: "Element") -> Mpp | None:
    """PhysicalSizeX and PhysicalSizeY, um/px; None if they state none."""
    sizes = [
        float(pixels.get(f"PhysicalSize{axis}", 0)) * _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0)
        for axis in "XY"
    ]
    return Mpp(sizes[0], sizes[1], "ome") if all(sizes) and all(map(math.isfinite, sizes)) else None
