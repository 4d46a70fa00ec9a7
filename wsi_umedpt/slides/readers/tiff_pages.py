"""Choice of a TIFF's directories that are the slide: its levels, each one page or one page a colour.

A vendor's TIFF is OpenSlide's to understand and an OME-TIFF says it in its XML (`readers.ome`);
this module knows plain ones: the largest page is the slide, its SubIFDs and the reduced pages
that are as wide for their height are its levels. Thumbnails, labels and macro pictures are not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsi_umedpt.geometry import Mpp, is_level
from wsi_umedpt.slides.readers.base import ContentRefused
from wsi_umedpt.slides.readers.tiff_directories import Directories, Directory

_UM = {"micron": 1.0, "um": 1.0, "µm": 1.0, "\\u00B5m": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25_400.0}


@dataclass(frozen=True)
class SlidePages:
    """Directories of a TIFF that are the slide."""

    levels: tuple[tuple[Directory, ...], ...]
    """Finest first; of each the page, or the pages of red, green and blue, or of its channels."""
    vendor: str
    mpp: Mpp | None
    """None where nothing but the resolution tags may state it."""
    channels: tuple[str, ...] = ()
    """Names of the pages of a level, where they are no colours."""

    @property
    def first(self) -> Directory:
        """The first page of the finest level."""
        return self.levels[0][0]


def plain_pages(found: Directories) -> SlidePages:
    """Choose the slide among the pages of a plain TIFF.

    Raises
    ------
    ContentRefused
        If several pages could be it, as those of a stack.
    """
    images = [one for one in found.pages if not one.is_mask and min(one.size) > 0]
    if not images:
        raise ContentRefused("none of its pages is an image")
    whole = [one for one in images if not one.is_reduced] or images
    first = max(whole, key=_area)
    if len(same := [one for one in whole if one.size == first.size]) > 1:
        raise ContentRefused(
            f"holds {len(same)} images of {first.width} x {first.height} px: focal planes (a Z stack), times or "
            "channels. Which of them is the slide is not said: export that one to a file of its own"
        )
    if rivals := [one for one in whole if one is not first and 2 * _area(one) > _area(first)]:
        raise ContentRefused(
            f"holds images of {first.width} x {first.height} and of {rivals[0].width} x {rivals[0].height} px. "
            "Which of them is the slide is not said: export that one to a file of its own"
        )
    _refuse_imagej_stack(first)
    reduced = [one for one in images if one is not first and one.is_reduced]
    levels = levels_of((first,), [(one,) for one in (*first.subs, *reduced)])
    return SlidePages(levels, "tiff", _imagej_mpp(first))


def levels_of(
    first: tuple[Directory, ...], others: Iterable[tuple[Directory, ...]]
) -> tuple[tuple[Directory, ...], ...]:
    """The finest level and those others that are the same slide at a coarser scale, finest first."""
    if not first[0].is_tiled:
        return (first,)
    chosen = [first]
    for pages in sorted(others, key=lambda pages: -_area(pages[0])):
        size = pages[0].size
        coarser = min(size) > 0 and size[0] < chosen[-1][0].width and size[1] <= chosen[-1][0].height
        if coarser and is_level(first[0].size, size) and all(one.is_tiled for one in pages):
            chosen.append(pages)
    return tuple(chosen)


def _area(one: Directory) -> int:
    return one.width * one.height


def _imagej(one: Directory) -> dict[str, str]:
    """Facts that ImageJ writes into an image's description; empty if ImageJ did not write it."""
    text = one.text(270)
    if not text.startswith("ImageJ="):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _refuse_imagej_stack(one: Directory) -> None:
    # ImageJ lays a stack's further planes after the first, without a directory.
    if (count := _imagej(one).get("images", "1").strip()) != "1":
        raise ContentRefused(
            f"is a stack of {count} images by ImageJ (focal planes, times or channels). Save the one that is the slide"
        )


def _imagej_mpp(one: Directory) -> Mpp | None:
    um = _UM.get(_imagej(one).get("unit", ""))
    x, y = (float(v[0]) if len(v := one.numbers(code)) else 0.0 for code in (282, 283))
    return Mpp(um / x, um / y, "tiff resolution") if um and x > 0 and y > 0 else None


def sizes(levels: Sequence[Sequence[Directory]]) -> list[tuple[int, int]]:
    """(width, height) of each level, px."""
    return [pages[0].size for pages in levels]
