"""Layers of regions on the slide that is shown: that which is drawn in, and those that are not kept."""

from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Shapes

from napari_wsi_umedpt.layers.build import Colour, Place
from napari_wsi_umedpt.layers.shapes import PASSING, classify, colour_of
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place, ours, same_selected


def last_drawn_in(viewer: Any) -> Shapes | None:
    """The uppermost layer of annotations on the slide that is shown; None where there is none."""
    found = [layer for layer in _on_slide(viewer) if not layer.metadata.get(PASSING) and layer.visible]
    return found[-1] if found else None


def passing_layer(viewer: Any, name: str) -> Shapes | None:
    """A layer of ours that is not kept, on the slide that is shown."""
    found = [layer for layer in _on_slide(viewer) if layer.metadata.get(PASSING) and layer.name == name]
    return found[-1] if found else None


def add_circle(viewer: Any, place: Place, box: npt.NDArray[np.float64], name: str, colour: Colour) -> None:
    """Add a circle to the annotations, which keep it; what is drawn next, and the tool, stay as they are.

    Parameters
    ----------
    box
        Corners of the square around it, (4, 2) um, y first.
    name
        Its class.
    colour
        Colour of that class, where the layer has none of it yet.
    """
    with same_selected(viewer):
        layer = last_drawn_in(viewer)
        if layer is None:
            (layer,) = add_layers(viewer, [shapes_layer([], place, zoom=camera(viewer).zoom)])
        red, green, blue = (part / 255 for part in colour)
        known = colour_of(layer, name)
        layer.add([box], shape_type="ellipse")
        classify(layer, [layer.nshapes - 1], name, known or (red, green, blue))


def _on_slide(viewer: Any) -> list[Shapes]:
    place = current_place(viewer)
    return [
        layer for layer, shown in ours(viewer)
        if isinstance(layer, Shapes) and shown.kind == "annotations"
        if place is not None and shown.place.same_slide(place)
    ]  # fmt: skip
