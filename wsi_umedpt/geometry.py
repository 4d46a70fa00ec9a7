"""Units, boxes and scales: level-0 px <-> px at an mpp <-> um, and the only rounding rules.

Positions are level-0 pixels, x before y; arrays are (row, col). A *scale* is how many
pixels of one raster make one pixel of a coarser one, so it is at least 1 unless detail
is invented. Pure arithmetic: nothing here opens a file.
"""

from dataclasses import dataclass
from typing import Literal

from wsi_umedpt.errors import SlideError

MPP_MIN, MPP_MAX = 0.08, 50.0
"""Microns per pixel that a slide may state for level 0. 0.08 is beyond what light resolves: finer
ones that were found were 0.274 with a slip of the decimal point. A flat file saved at 72 dpi claims
352.8 um/px and must not be believed."""
USER_MPP_MIN = 0.02
"""Smallest um/px that a user may state."""
LONGEST_MM = 250.0
"""No slide is longer: the largest glass is 8 inches, 203 mm."""
Resampling = Literal["area", "dct"]
"""Method of shrinking pixels: exact area averaging, or, where tiles are JPEG and the factor is
2, 4 or 8, in the decoder ('dct': faster, about 41 dB from area averaging)."""
Edge = Literal["drop", "pad"]
"""Tiles that cross the right or lower edge of a slide: left out, or continued in white."""
_PRINTERS_DPI = (720, 1440, 2880, 5760)  # besides whole hundreds


@dataclass(frozen=True)
class Box:
    """A rectangle in level-0 pixels. It may leave the slide; what lies outside reads white."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise SlideError(f"a box needs a positive size, got {self.width} x {self.height} at ({self.x}, {self.y})")


@dataclass(frozen=True)
class Mpp:
    """Microns per pixel at level 0, and who says so."""

    x: float
    y: float
    source: str
    """'vendor', 'tiff resolution', 'ome', 'objective power' or 'user'."""

    @property
    def value(self) -> float:
        """Mean of both axes, um/px: they agree to 1 % (see `checked_mpp`)."""
        return (self.x + self.y) / 2


def checked_mpp(mpp: Mpp | None, where: str, size: tuple[int, int] | None = None) -> Mpp:
    """Refuse a scale that no microscope has, with the remedy in the message.

    Parameters
    ----------
    mpp
        As stated or given.
    where
        The slide's name, for the message.
    size : (width, height), level-0 px
        None if it is not known yet.

    Raises
    ------
    SlideError
        If there is no mpp, it is outside [0.08, 50] um/px (from 0.02 on if the user says so), x and y differ by
        over 1 %, it makes the slide longer than any glass, or it is the resolution of a printer.
    """
    remedy = "Give the true value: `mpp` 0.25, or a column mpp in the CSV."
    if mpp is None:
        raise SlideError(f"{where} states no physical pixel size (mpp).", remedy=remedy, setting="mpp")
    given = f"{where} was given" if mpp.source == "user" else f"{where} states"
    least = USER_MPP_MIN if mpp.source == "user" else MPP_MIN
    for value in (mpp.x, mpp.y):
        if not least <= value <= MPP_MAX:
            slip = " A slip of the decimal point?" if 0.1 <= 10 * value <= 1.5 else ""
            raise SlideError(
                f"{given} {value:g} um/px (from {mpp.source}), which no slide scanner has: "
                f"expected {least:g} to {MPP_MAX:g}.{slip}",
                remedy=remedy, setting="mpp",
            )  # fmt: skip
    if abs(mpp.x - mpp.y) > 0.01 * mpp.value:
        raise SlideError(
            f"{where} has pixels that are not square: {mpp.x:g} x {mpp.y:g} um (from {mpp.source}). "
            "Tiles would be distorted. Resample the slide, unless the tag is wrong.",
            remedy=remedy, setting="mpp",
        )  # fmt: skip
    if mpp.source == "tiff resolution" and (dpi := _printers_dpi(mpp.value)):
        raise SlideError(
            f"{where} states {dpi:,} dpi ({mpp.value:.4g} um/px), the resolution of a printer or a flatbed scanner, "
            "not of a slide.",
            remedy=remedy, setting="mpp",
        )  # fmt: skip
    if size and (length := max(size[0] * mpp.x, size[1] * mpp.y) / 1000) > LONGEST_MM:
        raise SlideError(
            f"{given} {mpp.value:g} um/px (from {mpp.source}) for {size[0]} x {size[1]} px: the slide would be "
            f"{length:,.0f} mm long, and no glass is longer than {LONGEST_MM:g}.",
            remedy=remedy, setting="mpp",
        )  # fmt: skip
    return mpp


def _printers_dpi(mpp: float) -> int | None:
    """Dots per inch, if they are such as printers have; scanners of slides state um in whole or decimal numbers."""
    dpi = 25_400 / mpp
    whole = round(dpi)
    return (
        whole
        if abs(dpi - whole) < 1e-4 * dpi and (whole % 100 == 0 or whole in _PRINTERS_DPI) and whole <= 9600
        else None
    )


def level_scale(size_0: tuple[int, int], size_level: tuple[int, int]) -> float:
    """Level-0 pixels per pixel of a level.

    Scanners shrink by a whole number and truncate, so a level whose size is explained by
    a whole number has exactly that scale; 32914 -> 8228 px is 4, not 4.0002.

    Parameters
    ----------
    size_0, size_level : (width, height)
        Sizes of level 0 and of the level, px of each.

    Examples
    --------
    >>> level_scale((46000, 32914), (11500, 8228))
    4.0
    """
    ratio = (size_0[0] / size_level[0] + size_0[1] / size_level[1]) / 2
    whole = round(ratio)
    if whole >= 1 and all(abs(full - whole * part) < whole for full, part in zip(size_0, size_level, strict=True)):
        return float(whole)
    return ratio


def is_level(size_0: tuple[int, int], size_level: tuple[int, int]) -> bool:
    """Return whether an image can be the slide at a coarser scale: as wide for its height, to 1 %.

    Scanners round sizes up or down to whole pixels, which in a tiny level is more than that.

    Parameters
    ----------
    size_0, size_level : (width, height)
        Sizes of level 0 and of the level, px of each.

    Examples
    --------
    >>> is_level((46000, 32914), (11500, 8228)), is_level((46000, 32914), (1280, 431))
    (True, False)
    """
    ratios = [full / part for full, part in zip(size_0, size_level, strict=True)]
    if min(ratios) < 1:
        return False
    if abs(ratios[0] - ratios[1]) <= 0.01 * max(ratios):
        return True
    least = max(full / (part + 1) for full, part in zip(size_0, size_level, strict=True))
    most = min(full / max(part - 1, 0.5) for full, part in zip(size_0, size_level, strict=True))
    return least <= most


def snap_scale(scale: float, size_px: int) -> float:
    """Take a whole scale for one so near that no pixel of a tile moves by half a pixel.

    Resampling by 1.002 would blur the far side of a tile and leave its near side sharp.
    The error of the snapped scale is below 0.5 / size_px (0.2 % for 224 px), less than
    what scanners are calibrated to; `TileGrid.side` states what was achieved.

    Parameters
    ----------
    scale
        Finer pixels per coarser pixel.
    size_px
        Side of the result, coarser px.

    Examples
    --------
    >>> snap_scale(0.5 / 0.499, size_px=224), round(snap_scale(0.5 / 0.2527, size_px=224), 4)
    (1.0, 1.9786)
    """
    whole = round(scale)
    if whole >= 1 and abs(whole / scale - 1) * size_px < 0.5:
        return float(whole)
    return scale
