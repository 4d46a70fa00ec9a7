"""Pictures with what their colours mean beside them, and a scale bar below: for reports, and for views of a window."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsi_umedpt.plotting.heatmap import draw_scale

_INK, _EDGE = (20, 20, 20), (110, 110, 110)
_GAP, _LINE, _SWATCH, _SCALE = 16, 22, 14, 26
_LEAST_WIDE = 120


class LegendGroup(NamedTuple):
    """Colours of one layer of a picture."""

    title: str
    entries: Sequence[tuple[tuple[int, int, int], str]]
    """Red, green, blue (0 to 255) and what it means."""


def with_legend(
    picture: npt.NDArray[np.uint8], groups: Sequence[LegendGroup], *, title: str = "", px_per_um: float | None = None
) -> Image.Image:
    """Lay a legend beside a picture.

    Parameters
    ----------
    picture : uint8 (height, width, 3)
        RGB.
    groups
        Meaning of colours, from top to bottom.
    title
        Line above the picture.
    px_per_um
        Scale of the picture, for a scale bar below it; None draws none.

    Returns
    -------
    PIL.Image.Image
        The picture as it is, on white.
    """
    font, bold = ImageFont.load_default(size=15), ImageFont.load_default(size=17)
    height, width = picture.shape[:2]
    words = [font.getlength(text) for group in groups for _, text in group.entries]
    titles = [bold.getlength(group.title) for group in groups]
    beside = round(max([_LEAST_WIDE, *titles, *(_SWATCH + 8 + one for one in words)])) + _GAP if groups else 0
    lines = sum(1 + len(group.entries) for group in groups) * _LINE + max(0, len(groups) - 1) * _GAP // 2
    top = _GAP + (_LINE if title else 0)
    page_height = top + max(height + (_SCALE if px_per_um else 0), lines) + _GAP
    page_width = max(width + beside + 2 * _GAP, round(bold.getlength(title)) + 2 * _GAP)
    page = Image.new("RGB", (page_width, page_height), "white")
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_GAP, _GAP // 2), title, fill=_INK, font=bold)
    page.paste(Image.fromarray(np.ascontiguousarray(picture)), (_GAP, top))
    draw.rectangle((_GAP - 1, top - 1, _GAP + width, top + height), outline=(200, 200, 200))
    x, y = _GAP + width + _GAP, top
    for group in groups:
        draw.text((x, y), group.title, fill=_INK, font=bold)
        y += _LINE
        for colour, text in group.entries:
            draw.rectangle((x, y + 3, x + _SWATCH, y + 3 + _SWATCH), fill=tuple(colour), outline=_EDGE)
            draw.text((x + _SWATCH + 8, y + 1), text, fill=_INK, font=font)
            y += _LINE
        y += _GAP // 2
    if px_per_um:
        draw_scale(draw, (_GAP, top + height + 4), width / px_per_um, px_per_um, font)
    return page
