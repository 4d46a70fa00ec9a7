"""Field of view, for docks that work on tiles: the store, its slide, and the way to a tile."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from napari.layers import Layer, Shapes
from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides import ChannelChoice, Slide

from napari_wsi_umedpt.layers.build import KEY, UNITS, Place, Shown
from napari_wsi_umedpt.layers.multiscale import Report
from napari_wsi_umedpt.layers.shapes import PASSING
from napari_wsi_umedpt.logic.navigation import zoom_of
from napari_wsi_umedpt.logic.tile_pictures import Squares, TilePictures
from napari_wsi_umedpt.window.viewer import camera, canvas_size, field_of, look_at, ours, same_selected

_SMALLEST_SEEN = 0.12
"""Share of the canvas's height below which a tile that is gone to is magnified ..."""
_SEEN = 0.3
"""... to this, but no further than ..."""
_LARGEST = zoom_of(40.0)
"""... this: a cell beyond it is out of sight of its neighbours, and most slides hold no more detail."""
_MARK, _OBJECT, ASKED, CHOSEN = "the tile", "the object", "the tile asked about", "tiles chosen on the map"
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


def seen_part(viewer: Any, place: Place) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is seen of a slide, level-0 px.

    Raises
    ------
    OptionError
        If nothing of it is in view.
    """
    viewport = field_of(viewer, place)
    left, top = max(viewport.x, 0), max(viewport.y, 0)
    right, bottom = min(viewport.x + viewport.width, place.size[0]), min(viewport.y + viewport.height, place.size[1])
    if left >= right or top >= bottom:
        raise OptionError("nothing of the slide is in view")
    return left, top, right, bottom


def seen_channels(viewer: Any) -> tuple[ChannelChoice, ...]:
    """Channels of the slide that are seen, lowest layer first; empty where it is in colour.

    Raises
    ------
    OptionError
        If they are neither one nor three.
    """
    slides = [shown.slide for layer, shown in ours(viewer) if shown.slide is not None and layer.visible]
    found = tuple(one for slide in slides for one in slide.channels)
    if len(found) not in (0, 1, 3):
        raise OptionError(
            f"this slide is seen in {len(found)} channels: {', '.join(one.name for one in found)}. Show one layer, "
            "or the three that are to be red, green and blue, lowest first, and hide the others"
        )
    return found


def pictures_of(viewer: Any, place: Place, squares: Squares, report: Report) -> TilePictures | None:
    """Pictures of tiles, or of other squares; None where the slide of that place is not open."""
    found = current_slide(viewer)
    # A store of a region has another name than its slide.
    if found is None or (found.place.size, found.place.mpp) != (place.size, place.mpp):
        return None
    return TilePictures(found.slide, squares, report, found.layer.data)


class Square(NamedTuple):
    """One place, as `go_to_square` takes it; it is row 0."""

    x: float
    y: float
    """Upper left corner, level-0 px."""
    side: float

    @property
    def xy(self) -> npt.NDArray[np.float64]:
        """(1, 2) array of it."""
        return np.array([[self.x, self.y]])


def go_to_square(viewer: Any, place: Place, squares: Squares, row: int) -> None:
    """Put a tile, or another square, into the middle of the field, large enough to be seen, with a line around it."""
    side_um = squares.side * place.mpp
    low, high = place.to_world(squares.xy[row]), place.to_world(squares.xy[row] + squares.side)
    seen, height = camera(viewer), canvas_size(viewer)[0]
    if side_um * seen.zoom < _SMALLEST_SEEN * height:
        seen.zoom = max(seen.zoom, min(_SEEN * height / side_um, _LARGEST))
    look_at(viewer, (low + high) / 2)
    _mark(viewer, place, "rectangle", np.stack([low, high]), _MARK)


def mark_asked(viewer: Any, place: Place, square: Square | None) -> None:
    """Draw a line around the tile that is asked about, in place of the one before; None takes it away."""
    if square is None:
        if (found := _marked(viewer, ASKED)) is not None:
            found.visible = False
        return
    corners = place.to_world(np.stack([square.xy[0], square.xy[0] + square.side]))
    _mark(viewer, place, "rectangle", corners, ASKED, "cyan")


def mark_chosen(viewer: Any, place: Place, rings: Sequence[npt.NDArray[np.float64]]) -> None:
    """Draw lines around tiles that were chosen, (corner, 2) level-0 px, closed, in place of those before."""
    if (found := _marked(viewer, CHOSEN)) is not None:
        viewer.layers.remove(found)
    if not rings:
        return
    shown = Shown("mark", place, name=CHOSEN)
    with same_selected(viewer):
        layer = Shapes(
            [place.to_world(ring) for ring in rings], shape_type="path", name=CHOSEN, edge_color="magenta",
            edge_width=_MARK_PX / camera(viewer).zoom, opacity=1.0, units=UNITS, metadata={KEY: shown, PASSING: True},
        )  # fmt: skip
        viewer.add_layer(layer)


def mark_object(viewer: Any, place: Place, outline: Any) -> None:
    """Draw a line around an object, (corner, 2) level-0 px, in place of the one before; None takes it away."""
    if outline is not None:
        _mark(viewer, place, "polygon", place.to_world(outline), _OBJECT)
    elif (found := _marked(viewer, _OBJECT)) is not None:
        found.visible = False


def _marked(viewer: Any, name: str) -> Any:
    return next((layer for layer, shown in ours(viewer) if shown.kind == "mark" and shown.name == name), None)


def _mark(viewer: Any, place: Place, kind: str, corners: Any, name: str, colour: str = "yellow") -> None:
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
                edge_color=colour,
                face_color="transparent",
                edge_width=width,
                opacity=1.0,
                units=UNITS,
                metadata={KEY: Shown("mark", place, name=name), PASSING: True},
            )
        )


def _box(corners: Any) -> Any:
    """Four corners of a box, from two."""
    (top, left), (bottom, right) = corners
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
