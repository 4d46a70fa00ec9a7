"""What lies under the field, for docks that work on tiles: the store, its slide, and the way to a tile."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Layer, Shapes
from wsi_umedpt.slide import Slide
from wsi_umedpt.tiling import TileGrid

from napari_wsi_umedpt._array import Report
from napari_wsi_umedpt._drawn import PASSING
from napari_wsi_umedpt._layers import KEY, UNITS, Place, Shown
from napari_wsi_umedpt._tilepictures import TilePictures
from napari_wsi_umedpt._viewer import camera, canvas_size, ours, same_selected

_SMALLEST_SEEN = 0.12
"""Share of the canvas's height below which a tile that is gone to is magnified ..."""
_SEEN = 0.3
"""... to this."""
_MARK, _OBJECT = "the tile", "the object"
_MARK_PX = 3.0


@dataclass(frozen=True, eq=False)
class OpenSlide:
    """The slide in its layer."""

    slide: Slide
    place: Place
    layer: Layer


def current_store(viewer: Any) -> Path | None:
    """The store whose results are looked at: that of the uppermost layer of ours that has one."""
    found = [shown.store for _, shown in ours(viewer) if shown.store is not None]
    return found[-1] if found else None


def current_slide(viewer: Any) -> OpenSlide | None:
    """The slide whose own pixels are shown, uppermost where there are several."""
    found = [OpenSlide(shown.slide, shown.place, layer) for layer, shown in ours(viewer) if shown.slide is not None]
    return found[-1] if found else None


def pictures_of(viewer: Any, place: Place, grid: TileGrid, report: Report) -> TilePictures | None:
    """Pictures of a grid's tiles; None where the slide of that place is not open."""
    found = current_slide(viewer)
    # A store of a region has another name than its slide.
    if found is None or (found.place.size, found.place.mpp) != (place.size, place.mpp):
        return None
    return TilePictures(found.slide, grid, report, found.layer.data)


def go_to_tile(viewer: Any, place: Place, grid: TileGrid, row: int) -> None:
    """Put a tile into the middle of the field, large enough to be seen, and draw a line around it."""
    side_um = grid.side * place.mpp
    low, high = place.to_world(grid.xy[row]), place.to_world(grid.xy[row] + grid.side)
    seen, height = camera(viewer), canvas_size(viewer)[0]
    if side_um * seen.zoom < _SMALLEST_SEEN * height:
        seen.zoom = _SEEN * height / side_um
    seen.center = (*seen.center[:-2], *((low + high) / 2).tolist())
    _mark(viewer, place, "rectangle", np.stack([low, high]), _MARK)


def mark_object(viewer: Any, place: Place, outline: Any) -> None:
    """Draw a line around an object, (corner, 2) level-0 px, in place of the one before; None takes it away."""
    if outline is not None:
        _mark(viewer, place, "polygon", place.to_world(outline), _OBJECT)
    elif (found := _marked(viewer, _OBJECT)) is not None:
        found.visible = False


def _marked(viewer: Any, name: str) -> Any:
    return next((layer for layer, shown in ours(viewer) if shown.kind == "mark" and shown.name == name), None)


def _mark(viewer: Any, place: Place, kind: str, corners: Any, name: str) -> None:
    width = _MARK_PX / camera(viewer).zoom
    if (layer := _marked(viewer, name)) is not None:
        # Another layer would take napari longer.
        layer.data = [corners] if kind == "polygon" else [_box(corners)]
        layer.edge_width, layer.visible = [width], True
        viewer.layers.move(viewer.layers.index(layer), len(viewer.layers))
        return
    with same_selected(viewer):
        viewer.add_layer(
            Shapes(
                [corners],
                shape_type=kind,
                name=name,
                edge_color="yellow",
                face_color="transparent",
                edge_width=width,
                opacity=1.0,
                units=UNITS,
                metadata={KEY: Shown("mark", place, name=name), PASSING: True},
            )
        )


def _box(corners: Any) -> Any:
    """Of two corners, all four."""
    (top, left), (bottom, right) = corners
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
