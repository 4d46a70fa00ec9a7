"""Shapes that correct what a head found: a field, and in it the outlines. No Qt, no viewer.

A layer of corrections is one with a shape of the class `CORRECTED`, its field. There, what is drawn takes the place of
outlines that it covers, and the field itself cannot be selected, so that no hand moves it.

Read top to bottom: `is_of_corrections`, `fields_of_layer`, `take_places`, `leave_field`, `joined`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from napari.layers import Shapes
from shapely.geometry.base import BaseGeometry

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.shapes import CLASS, CORRECTED, Drawing

_COVERED = 0.5
"""Share of the smaller outline from which two are of one object."""
_AREAS = ("polygon", "rectangle", "ellipse")
_RING = 3


def is_of_corrections(layer: Shapes) -> bool:
    """Return whether a layer has a field of corrections."""
    return CLASS in layer.features and CORRECTED in {*layer.features[CLASS].iloc[: layer.nshapes]}


def fields_of_layer(layer: Shapes, place: Place) -> list[BaseGeometry]:
    """Fields of corrections in a layer, level-0 px."""
    names, data = list(layer.features[CLASS]), layer.data
    return [_area(place.to_slide(data[row])) for row in range(layer.nshapes) if names[row] == CORRECTED]


def take_places(layer: Shapes, known: int) -> None:
    """Let outlines that were drawn just now take the places of those that they cover, in a layer of corrections.

    Parameters
    ----------
    known
        Number of shapes that were there before.
    """
    if layer.nshapes <= known or not is_of_corrections(layer):
        return
    names, data, kinds = list(layer.features[CLASS]), layer.data, layer.shape_type
    fresh = [row for row in range(known, layer.nshapes) if names[row] != CORRECTED and kinds[row] in _AREAS]
    bounds = {row: _bounds(data[row]) for row in range(layer.nshapes)}
    gone: set[int] = set()
    for new in fresh:
        mine = _area(data[new])
        for old in range(known):
            if names[old] == CORRECTED or kinds[old] not in _AREAS or not _meet(bounds[new], bounds[old]):
                continue
            other = _area(data[old])
            least = min(mine.area, other.area)
            if least > 0 and mine.intersection(other).area > _COVERED * least:
                gone.add(old)
    if gone:
        layer.remove(sorted(gone))


def leave_field(layer: Shapes) -> Callable[..., None]:
    """Make the call that takes the field of corrections out of what is selected, once that changes."""

    def leave(*_: Any) -> None:
        if layer.selected_data and is_of_corrections(layer):
            names = list(layer.features[CLASS])
            fields = {row for row in layer.selected_data if row < len(names) and names[row] == CORRECTED}
            if fields:
                layer.selected_data = {*layer.selected_data} - fields

    return leave


def joined(one: Drawing, other: Drawing) -> Drawing:
    """Two drawings as one: fields lie below all outlines, where a click meets them last."""
    names = [*one.features[CLASS], *other.features[CLASS]]
    order = sorted(range(len(names)), key=lambda row: names[row] != CORRECTED)
    shapes, kinds = (*one.shapes, *other.shapes), (*one.kinds, *other.kinds)
    table = {column: [*one.features[column], *other.features[column]] for column in one.features}
    return Drawing(
        tuple(shapes[row] for row in order),
        tuple(kinds[row] for row in order),
        np.concatenate([one.edges, other.edges])[order],
        np.concatenate([one.faces, other.faces])[order],
        type(one.features)({column: [values[row] for row in order] for column, values in table.items()}),
    )


def _bounds(corners: Any) -> tuple[Any, Any]:
    return np.min(corners, axis=0), np.max(corners, axis=0)


def _meet(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return bool((one[0] <= other[1]).all() and (one[1] >= other[0]).all())


def _area(corners: Any) -> Any:
    if len(corners) < _RING:
        return shapely.Polygon()
    return shapely.make_valid(shapely.Polygon(corners))
