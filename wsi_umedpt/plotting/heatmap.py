"""Pictures of heatmaps: the slide, and the heat over it with a colour bar that says what its colours mean.

Beneath the heat the slide is grey, so that a colour means a score and never a stain. Cells have
sharp edges: no value is drawn that no tile has.

Read top to bottom: `draw_heatmap` (the page), `_View` (where a cell lies in it), and the legend.
"""

from dataclasses import dataclass
from typing import Any, Self

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsi_umedpt.heatmaps.raster import SCALINGS, Heatmap, Scaling, legend_ticks, scaled
from wsi_umedpt.plotting.sheets import enlarged, outlined
from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.slides.tissue import TissueMask

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK = (20, 20, 20)
_EDGE = (110, 110, 110)
_GAP = 16
_LINE = 22
_BAR = 24
_LEAST_BAR = 150
"""px, of a colour bar's height: below it its numbers would touch."""
_LARGEST = 4000
"""px, that a slide may have in a picture for the sake of small tiles."""
_OPACITY = 0.62


def draw_heatmap(
    heat: Heatmap,
    *,
    scaling: Scaling = "raw",
    tissue: TissueMask | None = None,
    mpp: float | None = None,
    title: str = "",
    side: int = 900,
) -> Image.Image:
    """Draw a heatmap beside its slide; see `wsi_umedpt.plotting.sheets.save`.

    Parameters
    ----------
    heat
        One quantity of one slide.
    scaling
        Scaling of the colours; the legend names it. ``signed`` has a diverging map, white at zero.
    tissue
        The slide's tissue, with its thumbnail where there is one. Without it the heat is drawn alone, as
        far as it reaches.
    mpp : um/px at level 0
        For the scale bar; without it there is none.
    title
        Title that names the scores and their slide.
    side : px
        The longer side of the slide in the picture; more where a cell would be smaller than 2 px, so that
        none is lost.
    """
    reach = max(tissue.mask.shape) * tissue.step if tissue else 0.0
    side = max(side, min(_LARGEST, round(2 * reach / heat.step)))
    view = _View.of_slide(tissue, side) if tissue else _View.of_heat(heat, side)
    opacity = _OPACITY if tissue else 1.0
    colours = _colours(scaling)
    levels = view.levels(heat, scaling)
    over = np.isfinite(levels)
    drawn = np.asarray(cv2.cvtColor(cv2.cvtColor(view.base, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    # The bar has the colours that the eye meets: those over tissue of a middling grey.
    behind = np.median(drawn[over], axis=0) if over.any() else np.full(3, 255.0)
    drawn[over] = _mixed(colours[np.round(levels[over] * 255).astype(np.int64)], drawn[over], opacity)
    # A tile that scores zero is as white as the glass: an edge around it tells it from no tile.
    drawn[(cv2.dilate(over.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~over] = _EDGE
    panels = [drawn]
    if tissue:
        panels = [outlined(view.base, tissue, view.zoom), outlined(drawn, tissue, view.zoom, _INK, 1)]
    legend = _Legend(_mixed(colours, behind, opacity), legend_ticks(heat.values, scaling), SCALINGS[scaling])
    return _page(panels, legend, view.to_px / mpp if mpp else None, title)


@dataclass(frozen=True)
class _View:
    """A picture of the slide, or of a part of it."""

    base: Pixels
    x: float
    y: float
    """Its top left corner, level-0 px."""
    to_px: float
    """px of the picture per level-0 px."""
    zoom: float = 1.0
    """px of the picture per cell of the tissue mask."""

    @classmethod
    def of_slide(cls, tissue: TissueMask, side: int) -> Self:
        base, zoom = enlarged(tissue, side)
        return cls(base, 0.0, 0.0, zoom / tissue.step, zoom)

    @classmethod
    def of_heat(cls, heat: Heatmap, side: int) -> Self:
        left, top, right, bottom = heat.extent
        to_px = side / max(right - left, bottom - top, heat.step)
        size = max(1, round((bottom - top) * to_px)), max(1, round((right - left) * to_px))
        return cls(np.full((*size, 3), 255, np.uint8), left, top, to_px)

    def levels(self, heat: Heatmap, scaling: Scaling) -> npt.NDArray[np.float32]:
        """The level under each px of the picture, nan where there is none; float32 (rows, cols)."""
        height, width = self.base.shape[:2]
        levels = scaled(heat.values, scaling)
        places = []
        for pixels, corner, origin, cells in (
            (height, self.y, heat.origin_xy[1], levels.shape[0]),
            (width, self.x, heat.origin_xy[0], levels.shape[1]),
        ):
            middles = corner + (np.arange(pixels) + 0.5) / self.to_px  # level-0 px
            cell = np.floor((middles - origin) / heat.step).astype(np.int64)
            places.append(np.where((cell >= 0) & (cell < cells), cell, cells))  # the one behind the last is nan
        framed = np.pad(levels, ((0, 1), (0, 1)), constant_values=np.nan)
        return np.asarray(framed[np.ix_(*places)], np.float32)


def _colours(scaling: Scaling) -> Pixels:
    """uint8 (256, 3): dark to bright, or for what is signed blue, white at zero, red."""
    # The ends of the diverging map are near black, where red and blue look alike.
    name, ends = ("RdBu_r", (0.1, 0.9)) if scaling == "signed" else ("viridis", (0.0, 1.0))
    ramp = matplotlib.colormaps[name](np.linspace(*ends, 256))
    return np.asarray(np.round(ramp[:, :3] * 255), np.uint8)


def _mixed(colours: Pixels, behind: npt.NDArray[Any], opacity: float) -> Pixels:
    return np.asarray(np.round(colours * opacity + behind * (1 - opacity)), np.uint8)


# ---- the page ----


@dataclass(frozen=True)
class _Legend:
    colours: Pixels
    """(256, 3), low to high"""
    ticks: list[tuple[float, str]]
    text: str


def _page(panels: list[Pixels], legend: _Legend, px_per_um: float | None, title: str) -> Image.Image:
    """Panels side by side under a title; the colour bar beside the last, scale bar and words below it."""
    font, large = ImageFont.load_default(size=15), ImageFont.load_default(size=19)
    height, width = panels[-1].shape[:2]
    column = _BAR + 12 + max([90, *(round(font.getlength(text)) for _, text in legend.ticks)])
    left = _GAP + (len(panels) - 1) * (width + _GAP)  # of the heat
    # A slide that is narrow leaves little room for words; they may go on below the colour bar, or to its right.
    words = [legend.text] if legend.ticks else ["no tile has a value", legend.text]
    lines = [line for text in words for line in _wrapped(text, font, max(width + column, 300))]
    right = max(left + width + _GAP + column, *(left + round(font.getlength(line)) for line in lines))
    titles = _wrapped(title, large, right - _GAP)
    top = _GAP + len(titles) * (_LINE + 6)
    bottom = top + max(height, _LEAST_BAR) + 12
    scale_line = _LINE + 8 if px_per_um else 0
    page = Image.new("RGB", (right + _GAP, bottom + scale_line + len(lines) * _LINE + _GAP // 2), "white")
    draw = ImageDraw.Draw(page)
    for n, line in enumerate(titles):
        draw.text((_GAP, _GAP // 2 + n * (_LINE + 6)), line, fill=_INK, font=large)
    for n, panel in enumerate(panels):
        x = _GAP + n * (width + _GAP)
        page.paste(Image.fromarray(panel), (x, top))
        draw.rectangle((x - 1, top - 1, x + width, top + height), outline=(200, 200, 200))
    if legend.ticks:
        _draw_bar(page, legend, (left + width + _GAP, top), min(max(height, _LEAST_BAR), 420), font)
    if px_per_um:
        draw_scale(draw, (left, bottom), width / px_per_um, px_per_um, font)
    for n, line in enumerate(lines):
        draw.text((left, bottom + scale_line + n * _LINE), line, fill=_INK, font=font)
    return page


def _draw_bar(page: Image.Image, legend: _Legend, corner: tuple[int, int], height: int, font: _Font) -> None:
    x, y = corner[0], corner[1] + 8  # room for half of the topmost number
    height -= 16
    rows = legend.colours[::-1][np.arange(height) * 256 // height]
    page.paste(Image.fromarray(np.repeat(rows[:, None], _BAR, axis=1)), (x, y))
    draw = ImageDraw.Draw(page)
    draw.rectangle((x - 1, y - 1, x + _BAR, y + height), outline=_EDGE)
    for level, text in legend.ticks:
        at = y + (1 - level) * (height - 1)
        draw.line((x + _BAR, at, x + _BAR + 5, at), fill=_EDGE)
        draw.text((x + _BAR + 9, at), text, fill=_INK, font=font, anchor="lm")


def draw_scale(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], across_um: float, px_per_um: float, font: _Font
) -> None:
    """Draw a scale bar of a round length, up to a quarter of what is `across_um`."""
    x, y = corner
    um = round_length(across_um / 4)
    end = x + round(um * px_per_um)
    draw.rectangle((x, y + 6, end, y + 11), fill=_INK)
    draw.text((end + 8, y + 9), f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} um", fill=_INK, font=font, anchor="lm")


def round_length(um: float) -> float:
    """The longest length of 1, 2 or 5 times a power of ten that is not over `um`.

    Examples
    --------
    >>> round_length(730), round_length(2300), round_length(0.11)
    (500.0, 2000.0, 0.1)
    """
    power = 10.0 ** np.floor(np.log10(um))
    return float(max(n * power for n in (1, 2, 5) if n * power <= um * (1 + 1e-9)))


def _wrapped(text: str, font: _Font, width: float) -> list[str]:
    """Lines of whole words that fit a width; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
