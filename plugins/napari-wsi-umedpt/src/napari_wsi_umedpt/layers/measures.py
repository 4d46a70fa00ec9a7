"""Rulers, hotspots and marked points as layers of shapes: over the slide as drawings are, but not kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Shapes
from wsi_umedpt.segmentation import Hotspot

from napari_wsi_umedpt.layers.build import LayerTuple, Place
from napari_wsi_umedpt.layers.shapes import CLASS, PASSING, set_features
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.logic.measuring import length_um, length_words

RULER, HOTSPOT, PAIRS = "ruler", "hotspot", "points on both slides"
"""Names of the layers."""
_COLOURS = {RULER: "black", HOTSPOT: "magenta", PAIRS: "blue"}
HOTSPOT_COLOUR = (255, 0, 255)
"""Colour of a hotspot that is kept."""
_MARK_PX = 12.0
"""Radius of the circle around a point, canvas px."""


def ruler_layer(place: Place, zoom: float) -> LayerTuple:
    """An empty layer to draw lines in; `tell_lengths` writes their lengths beside them."""
    return _passing(RULER, place, zoom)


def hotspot_layer(place: Place, found: Hotspot, zoom: float) -> LayerTuple:
    """A circle, with what it holds beside it."""
    _, meta, kind = _passing(HOTSPOT, place, zoom)
    middle, radius = np.array([found.x, found.y]), found.radius_px
    box = middle + radius * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    meta = {name: value for name, value in meta.items() if name != "ndim"}
    features = {CLASS: [hotspot_words(found)]}
    return [place.to_world(box)], {**meta, "shape_type": ["ellipse"], "features": features}, kind


def pairs_layer(place: Place, points: Sequence[tuple[float, float]], zoom: float) -> LayerTuple:
    """Numbered circles around points, (y, x) um."""
    _, meta, kind = _passing(PAIRS, place, zoom)
    box = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * _MARK_PX / zoom
    meta = {name: value for name, value in meta.items() if name != "ndim"}
    features = {CLASS: [str(number) for number in range(1, len(points) + 1)]}
    return [np.array(one) + box for one in points], {**meta, "shape_type": "ellipse", "features": features}, kind


def hotspot_words(found: Hotspot) -> str:
    """Content of a hotspot in words."""
    return f"{found.label}: {found.count:,} in {found.area_mm2:g} mm2 ({found.per_mm2:,.0f} per mm2)"


def tell_lengths(layer: Shapes) -> list[str]:
    """Write the length of each ruler beside it; also of one that is being drawn."""
    scale = float(layer.scale[-1])
    words = [length_words(length_um(corners) * scale) for corners in layer.data]
    features = layer.features
    if len(features) == len(words) and list(features[CLASS]) != words:
        changed = features.copy()
        changed[CLASS] = words
        with layer.events.features.blocker():  # it is no edit
            set_features(layer, changed)
    return words


def _passing(name: str, place: Place, zoom: float) -> LayerTuple:
    data, meta, kind = shapes_layer([], place, name, zoom)
    colours: dict[str, Any] = {"edge_color": _COLOURS[name], "face_color": "transparent"}
    return data, {**meta, **colours, "metadata": {**meta["metadata"], PASSING: True}}, kind
