"""Access to a napari viewer, in one place: camera, scale bar, layers of ours.

Names that napari 0.9 moved are looked for where they are, so that no deprecated one is used.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Layer

from napari_wsi_umedpt.layers.build import LayerTuple, Place, Shown, shown_by
from napari_wsi_umedpt.layers.halo import give_halo
from napari_wsi_umedpt.logic.navigation import Viewport, magnification_of, viewport_of

_TOOLS = ("polygon", "brush_stroke")
"""Overlays of napari's labels, which take it 0.1 s a layer to make."""


def camera(viewer: Any) -> Any:
    """The camera: `zoom` is canvas px per um, `center` ends in (y, x) um."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def scale_bar(viewer: Any) -> Any:
    """The scale bar, whose unit comes from the layers."""
    return viewer.canvas.overlays.scale_bar if hasattr(viewer, "canvas") else viewer.scale_bar


def text_overlay(viewer: Any) -> Any:
    """Words on the canvas."""
    return viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay


def turn_of(viewer: Any) -> npt.NDArray[np.float64]:
    """Matrix (3, 3) from um on the slide to where they are shown, y first: a linked slide may be turned."""
    for layer, _ in ours(viewer):
        return np.array(layer.affine.affine_matrix[-3:, -3:], np.float64)
    return np.eye(3)


def turn_layer(layer: Layer, turn: npt.NDArray[np.float64]) -> None:
    """Show a layer turned and shifted; its data stay as they are."""
    matrix = np.eye(layer.ndim + 1)
    matrix[-3:, -3:] = turn
    layer.affine = matrix


def on_slide(viewer: Any, world: Any) -> npt.NDArray[np.float64]:
    """(..., 2) um on the slide, y first, of places of the canvas's world."""
    back = np.linalg.inv(turn_of(viewer))
    return np.asarray(np.asarray(world, np.float64) @ back[:2, :2].T + back[:2, 2])


def look_at(viewer: Any, um: Any) -> None:
    """Put a place of the slide, (y, x) um, into the middle of the canvas."""
    turn, seen = turn_of(viewer), camera(viewer)
    seen.center = (*seen.center[:-2], *(turn[:2, :2] @ np.asarray(um, np.float64) + turn[:2, 2]).tolist())


def field_of(viewer: Any, place: Place) -> Viewport:
    """The part of a slide that the canvas shows, level-0 px; where the slide is turned, the box around it."""
    seen, turn = camera(viewer), turn_of(viewer)
    middle = on_slide(viewer, seen.center[-2:])
    height, width = np.abs(turn[:2, :2].T) @ np.array(canvas_size(viewer), np.float64)
    return viewport_of((float(middle[0]), float(middle[1])), seen.zoom, (height, width), place)


def canvas_size(viewer: Any) -> tuple[int, int]:
    """(height, width) of the canvas, in the px that the camera's zoom means."""
    size = viewer.canvas.size if hasattr(viewer, "canvas") and hasattr(viewer.canvas, "size") else viewer._canvas_size
    height, width = size
    return int(height), int(width)


def seen_pixels(viewer: Any) -> npt.NDArray[np.uint8]:
    """The canvas as it is seen, with a scale bar: (height, width, 3)."""
    scale_bar(viewer).visible = True
    return np.ascontiguousarray(viewer.screenshot(canvas_only=True, flash=False)[..., :3])


def field_title(viewer: Any) -> str:
    """Name of the slide, and the magnification."""
    return f"{slide_name(viewer)}  {magnification_of(camera(viewer).zoom):.3g}x"


def add_layers(viewer: Any, layers: Iterable[LayerTuple]) -> list[Layer]:
    """Add layers in order, lowest first; in the window's own thread."""
    return [add_layer(viewer, Layer.create(*layer)) for layer in layers]


def add_layer(viewer: Any, layer: Layer) -> Layer:
    """Add one, with a scale bar, and without tools to draw with where its pixels are only looked at."""
    scale_bar(viewer).visible = True
    for tool in () if layer.editable else _TOOLS:
        if (overlay := getattr(layer, "_overlays", {}).get(tool)) is not None:
            overlay.visible = False
    if (shown := shown_by(layer)) is not None and shown.kind == "heatmap" and hasattr(layer, "colorbar"):
        layer.colorbar.visible, layer.colorbar.position = True, "bottom_left"
    added = viewer.add_layer(layer)
    if shown is not None and shown.kind == "annotations":
        give_halo(viewer, layer)
    elif drawn := [viewer.layers.index(other) for other, of in ours(viewer) if of.kind == "annotations"]:
        viewer.layers.move(viewer.layers.index(added), min(drawn))  # or nuclei would hide what was drawn
    return added


@contextmanager
def same_selected(viewer: Any) -> Iterator[None]:
    """Add layers that nobody asked for just now: what the user draws in stays selected."""
    active = viewer.layers.selection.active
    yield
    if active is not None and active in viewer.layers:
        viewer.layers.selection.active = active


def ours(viewer: Any) -> Iterator[tuple[Layer, Shown]]:
    """Layers of this plugin and what they show, lowest first."""
    for layer in viewer.layers:
        if (shown := shown_by(layer)) is not None:
            yield layer, shown


def current_place(viewer: Any) -> Place | None:
    """The slide that is looked at; where nothing but drawn regions is left, theirs; None if there is none."""
    found = list(ours(viewer))
    of_slide = [shown.place for _, shown in found if shown.kind != "annotations"]
    places = of_slide or [shown.place for _, shown in found]
    return places[-1] if places else None


def slide_name(viewer: Any) -> str:
    """Name of the slide that is looked at, as people named its file; empty if there is none."""
    found = [shown for _, shown in ours(viewer)]
    slides = [shown.slide.path.name for shown in found if shown.slide is not None]
    return (slides or [shown.store.name for shown in found if shown.store is not None] or [""])[-1]
