"""Style of the plots of figures, and their conversion to an SVG that stands in a page.

The SVG has no font, script or address from elsewhere, and equal pictures give equal bytes. Text stays
text, which can be searched, read aloud and enlarged. Colours are Okabe and Ito's, told apart by
the colour-blind. Names are the user's: they are never taken for a formula, and long ones are cut.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from wsi_umedpt.io.printable import printable

BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, INK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, INK)
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
"""Styles of lines that stand beside each other; none is told by its colour alone."""
LINES = len(COLOURS)
"""Classes that have lines of their own; of more only the mean is drawn."""
_LETTERS = 28
"""Longest name in a plot, in letters."""
_SCALE = 1.5
"""CSS pixels of a point: text of the page and of its pictures is about as large."""
_LOOK: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "wsi-umedpt", "text.parse_math": False, "font.family": "DejaVu Sans",
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#777777",
    "axes.labelcolor": INK, "text.color": INK, "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.6,
    "axes.axisbelow": True, "xtick.color": "#555555", "ytick.color": "#555555", "legend.frameon": False,
    "legend.fontsize": 8, "lines.linewidth": 1.6, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A picture before it is written."""

    canvas: Canvas
    title: str
    caption: str
    """Caption that says what to look for; plain text."""
    alt: str
    """Description of the plot for readers who cannot see it."""


def axes_of(width: float = 4.4, height: float = 4.0) -> tuple[Canvas, Axes]:
    """A picture of one pair of axes, of a size in inches."""
    canvas = Canvas(figsize=(width, height))
    return canvas, canvas.add_subplot()


@contextmanager
def look() -> Iterator[None]:
    """Set the style of all plots of a page; what is set ends with the block."""
    with mpl.rc_context(_LOOK), warnings.catch_warnings():
        # Letters that our font lacks stay text, and the reader's own fonts have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def clean(name: str, letters: int = _LETTERS) -> str:
    """A name for a picture: on one line, at most so many letters, and none that matplotlib would leave out."""
    text = " ".join(printable(name).split())
    text = text if len(text) <= letters else text[: letters - 1] + "…"
    return f" {text}" if text.startswith("_") or not text else text


def to_svg(canvas: Canvas, alt: str, prefix: str) -> str:
    """Write a picture as an element of a page.

    Parameters
    ----------
    canvas
        Drawn under `look`.
    alt
        Description for readers who cannot see it.
    prefix
        Begins every id, so that two pictures of a page share none.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas.savefig(file, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.04)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<[^>]*>", lambda tag: _local(tag[0], prefix), text)
    width, height = (float(re.search(rf'{side}="([\d.]+)pt"', text)[1]) for side in ("width", "height"))  # type: ignore[index]
    # matplotlib says how lines meet in a style sheet, which in a page would hold for all of it.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    words = escape(printable(alt))
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width * _SCALE:.0f}" role="img" aria-label="{words}">'
    return head + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()


def _local(tag: str, prefix: str) -> str:
    """A tag without name spaces, which a page does not need, and with ids of its own."""
    tag = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", tag).replace("xlink:href", "href")
    return re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
