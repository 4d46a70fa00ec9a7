"""Navigation: magnification, the viewport, places as people type them. Arithmetic alone.

A camera's zoom is canvas px per um. At 40x an objective shows about 0.25 um a pixel, at 10x 1 um:
magnification is ten times the zoom. (A canvas px is what the system counts in; on a screen with
scaling it is several of the screen's.)
"""

import re
from dataclasses import dataclass

import numpy as np
from wsi_umedpt.errors import OptionError

from napari_wsi_umedpt.layers.build import Place

MAGNIFICATIONS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0)
_PER_ZOOM = 10.0
_HAIR = 0.99
"""At a zoom of exactly 20x napari reads a 40x slide's finest level, four times the pixels: its choice asks for
more pixels than the screen has, and these are as many. A hundredth less makes them more, on the right level."""
_OVER = 1.05
"""Canvas px per px of the slide from which magnification is called empty."""
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def zoom_of(magnification: float) -> float:
    """Canvas px per um."""
    return magnification / _PER_ZOOM * _HAIR


def magnification_of(zoom: float) -> float:
    """Magnification, as 20 for 20x; those of `MAGNIFICATIONS` are met exactly.

    Examples
    --------
    >>> magnification_of(zoom_of(20.0)), round(magnification_of(0.3), 2)
    (20.0, 3.03)
    """
    return float(round(zoom / _HAIR * _PER_ZOOM, 6))


def empty_magnification(zoom: float, place: Place) -> str:
    """A warning where a px of the slide is larger than one of the canvas: nothing more is seen; empty where not.

    Examples
    --------
    >>> place = Place("a", (1000, 1000), 0.5)
    >>> empty_magnification(zoom_of(20.0), place)
    ''
    >>> empty_magnification(zoom_of(40.0), place)
    '40x is empty magnification: the slide holds no more detail than at 20x'
    """
    if zoom * place.mpp <= _OVER:
        return ""
    finest = _PER_ZOOM / place.mpp
    return f"{magnification_of(zoom):.3g}x is empty magnification: the slide holds no more detail than at {finest:.2g}x"


@dataclass(frozen=True)
class Viewport:
    """The part of a slide that a canvas shows; level-0 px, may leave the slide."""

    x: float
    y: float
    width: float
    height: float


def viewport_of(center: tuple[float, float], zoom: float, canvas: tuple[float, float], place: Place) -> Viewport:
    """Viewport of a camera.

    Parameters
    ----------
    center : (y, x) of the camera, um
    zoom : canvas px per um
    canvas : (height, width), canvas px
    """
    x, y = place.to_slide(np.array(center)).tolist()
    height, width = (side / zoom / place.mpp for side in canvas)
    return Viewport(x - width / 2, y - height / 2, width, height)


def parse_place(text: str, place: Place) -> tuple[float, float]:
    """A place as typed: ``12000, 8500`` in level-0 px, or ``3000 2125 um``; level-0 px.

    Raises
    ------
    OptionError
        If it is no place, or lies outside the slide.

    Examples
    --------
    >>> parse_place("100, 50.5 um", Place("a", (1000, 1000), 0.5))
    (200.0, 101.0)
    """
    # 12,000 8,500 is read as written in English: a comma between three digits parts thousands.
    plain = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text) if re.search(r"\d[,.\d]*[\s;]+\D*\d", text) else text
    numbers = [float(found) for found in _NUMBER.findall(plain)]
    if len(numbers) != 2:
        raise OptionError(f"a place is two numbers, as in 12000, 8500 (px) or 3000, 2125 um; got {text!r}")
    um = bool(re.search(r"[uµμ]m", text))
    x, y = (number / place.mpp if um else number for number in numbers)
    width, height = place.size
    if not (0 <= x <= width and 0 <= y <= height):
        raise OptionError(f"{x:,.0f}, {y:,.0f} px is outside the slide, which is {width:,} x {height:,} px")
    return x, y
