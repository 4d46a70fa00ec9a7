"""Regions that somebody drew over a slide, as the tiles whose middle they hold. No Qt, no viewer.

A region is left out, or it is what counts: `LEFT_OUT` and `ALONE` are the classes by which a layer of
shapes tells them apart. Positions are level-0 px, x before y.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from napari_wsi_umedpt.layers.build import Colour, Place
from napari_wsi_umedpt.logic.annotations import Annotation, layer_annotations

LEFT_OUT, ALONE = "left out", "only this"
COLOURS: dict[str, Colour] = {LEFT_OUT: (230, 40, 40), ALONE: (0, 170, 80)}

_AREAS = ("polygon", "rectangle", "ellipse")
_FEWEST_CORNERS = 3


def drawn_areas(data: Sequence[Any], meta: Mapping[str, Any], place: Place) -> list[tuple[str, BaseGeometry]]:
    """Class and area of each shape of a layer that has an area; one that is still being drawn may have none.

    Parameters
    ----------
    data, meta
        As `napari_wsi_umedpt.logic.annotations.layer_annotations` takes them.
    """
    kinds = meta.get("shape_type", "polygon")
    kinds = [kinds] * len(data) if isinstance(kinds, str) else list(kinds)
    rows = [
        n
        for n, (corners, kind) in enumerate(zip(data, kinds, strict=True))
        if kind in _AREAS and len(corners) >= _FEWEST_CORNERS
    ]
    features = meta.get("features")
    kept = {
        **meta,
        "shape_type": [kinds[n] for n in rows],
        "features": features.iloc[rows].reset_index(drop=True) if features is not None and len(features) else None,
        "edge_color": np.zeros((len(rows), 4)),
    }
    found = layer_annotations([data[n] for n in rows], kept, place)
    return [(one.name, area) for one in found if not (area := area_of(one)).is_empty]


def area_of(one: Annotation) -> BaseGeometry:
    """The area of an annotation; lines that cross are made good, as a hand draws them."""
    if one.shape != "area":
        return shapely.Polygon()
    parts = [shapely.make_valid(shapely.Polygon(part[0], part[1:])) for part in one.parts]
    return shapely.union_all([part for part in parts if part.area > 0])


def tiles_within(areas: Sequence[BaseGeometry], xy: npt.NDArray[Any], side: float) -> npt.NDArray[np.bool_]:
    """Flags of the tiles that have their middle in one of the areas.

    Parameters
    ----------
    xy : (tile, 2) upper left corners
    side : of a tile
    """
    x, y = (np.asarray(xy, np.float64) + side / 2).T
    found = np.zeros(len(xy), bool)
    for area in areas:
        shapely.prepare(area)
        found |= shapely.contains_xy(area, x, y)
    return found


def chosen_tiles(drawn: Sequence[tuple[str, BaseGeometry]], xy: npt.NDArray[Any], side: float) -> npt.NDArray[np.bool_]:
    """Flags of the tiles that count: those in a region of class `ALONE`, if there is one, and in none of `LEFT_OUT`."""
    alone = [area for name, area in drawn if name == ALONE]
    counts = tiles_within(alone, xy, side) if alone else np.ones(len(xy), bool)
    return counts & ~tiles_within([area for name, area in drawn if name == LEFT_OUT], xy, side)
