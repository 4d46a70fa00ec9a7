"""A slide with the regions that were drawn on it, numbered as in tables of them."""

from collections.abc import Sequence

import cv2
import numpy as np
import shapely
from PIL import Image

from wsi_umedpt.annotations.annotation import Annotation, polygons_of
from wsi_umedpt.plotting.legend import LegendGroup, with_legend
from wsi_umedpt.plotting.sheets import enlarged, outlined
from wsi_umedpt.store.objects import PALETTE
from wsi_umedpt.store.slide_store import SlideStore

_NO_CLASS = "no class"
_YELLOW = (230, 200, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SUB = 4
"""Bits of the fractions in which OpenCV is told positions."""


def region_picture(store: SlideStore, drawn: Sequence[Annotation] = (), side: int = 900) -> Image.Image:
    """Draw a slide's thumbnail with its tissue, and areas of annotations in the colours of their classes.

    Parameters
    ----------
    store
        The slide's results.
    drawn
        Annotations, level-0 px; areas are numbered from 1, lines and points are left out.
    side
        Px of the longer side of the slide.

    Returns
    -------
    PIL.Image.Image
        With a legend and a scale bar.
    """
    tissue, of = store.tissue(), store.attrs["slide"]
    base, zoom = enlarged(tissue, side)
    to_px = zoom / tissue.step
    picture = outlined(base, tissue, zoom, thickness=1)
    areas = [one for one in drawn if one.shape == "area"]
    colours = _colours(areas)
    for number, one in enumerate(areas, 1):
        colour = one.colour or colours[one.name]
        for rings in polygons_of(one.geometry):
            outline = [np.round(ring * to_px * 2**_SUB).astype(np.int32) for ring in rings]
            cv2.polylines(picture, outline, True, colour, 2, cv2.LINE_AA, _SUB)
        corners = shapely.get_coordinates(one.geometry)
        x, y = np.rint(corners[corners[:, 1].argmin()] * to_px).astype(int).tolist()
        for ink, width in (((255, 255, 255), 5), ((20, 20, 20), 2)):
            cv2.putText(picture, str(number), (max(x, 2), max(y - 6, 18)), _FONT, 0.7, ink, width, cv2.LINE_AA)
    entries = [(colour, name or _NO_CLASS) for name, colour in colours.items()]
    groups = [LegendGroup("Regions", entries)] if entries else []
    groups.append(LegendGroup("Tissue", [((0, 160, 60), f"{tissue.area_mm2(of['mpp']):.2f} mm2")]))
    return with_legend(picture, groups, px_per_um=to_px / of["mpp"])


def _colours(areas: Sequence[Annotation]) -> dict[str, tuple[int, int, int]]:
    """A colour for each class: that of its first region, or one of the palette."""
    colours: dict[str, tuple[int, int, int]] = {}
    for one in areas:
        if one.name not in colours:
            colours[one.name] = one.colour or (PALETTE[len(colours) % len(PALETTE)] if one.name else _YELLOW)
    return colours
