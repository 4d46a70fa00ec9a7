"""State of a layer of shapes at one moment: to be compared, put back, and written. No Qt, no viewer.

napari leaves a drawing in parts: a shape that is given up keeps its row of features and colours, so that all
that are drawn later have the class and colour of another; `tidied` mends that. Assigning features forgets which
class is next; selecting a shape makes its colour that of the next. `draw_next` says both for good.

Read top to bottom: `Drawing`, `tidied`, classes.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Shapes
from napari.layers.shapes._shapes_mouse_bindings import move_active_vertex_under_cursor

Rgb = tuple[float, float, float]
"""0 to 1."""

FACE_ALPHA = 0.15
CLASS, ID = "class", "id"
"""Columns of the features."""
CORRECTED = "Corrected"
"""Class of the fields in which every outline is right; `wsi-umedpt correct` knows it by this name."""
PASSING = "wsi_umedpt_passing"
"""Flag in the metadata of layers that are not worth keeping."""
NOT_YET = ("adding", "changing", "removing")
"""Actions that napari reports before shapes are changed; once they are, it reports again."""
_ONE = "wsi_umedpt_one"
"""Flag in a layer's metadata: the tool is put away once a shape is drawn."""
_NEXT = "wsi_umedpt_next"
"""Key in a layer's metadata: class and colour of what is drawn next."""
_HAIR = 1e-6
"""Part of a position by which nothing is moved: napari holds seven figures."""
_MUCH = 1.4
"""Times which a width is another one."""
_CORNERS = {"add_polygon": 3, "add_polygon_lasso": 3, "add_path": 2, "add_polyline": 2}
"""Modes in which corner after corner is drawn, and how many make a shape."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """All shapes of a layer."""

    shapes: tuple[npt.NDArray[np.float64], ...]
    """(corner, 2) of each, in the layer's own px, y first."""
    kinds: tuple[str, ...]
    edges: npt.NDArray[np.float32]
    """(shape, 4) RGBA."""
    faces: npt.NDArray[np.float32]
    features: Any
    """Their table, one row a shape."""

    @classmethod
    def of(cls, layer: Shapes) -> "Drawing":
        """State that a layer has now."""
        count = layer.nshapes
        return cls(
            tuple(np.array(shape, np.float64) for shape in layer.data),
            tuple(layer.shape_type),
            np.array(layer.edge_color[:count], np.float32),
            np.array(layer.face_color[:count], np.float32),
            layer.features.iloc[:count].copy(),
        )

    def __len__(self) -> int:
        return len(self.shapes)

    def same(self, other: "Drawing") -> bool:
        """Return whether nothing differs; a click on a shape moves it by a rounding error."""
        return (
            self.kinds == other.kinds
            and _near(self.shapes, other.shapes)
            and np.array_equal(self.edges, other.edges)
            and np.array_equal(self.faces, other.faces)
            and bool(self.features.equals(other.features))
        )

    def put(self, layer: Shapes) -> None:
        """Put it back into a layer, in place of what that holds."""
        layer.selected_data = set()
        if not self.shapes:
            layer.remove(list(range(layer.nshapes)))
            return
        layer.data = list(zip(self.shapes, self.kinds, strict=True))
        set_features(layer, self.features.copy())
        layer.edge_color, layer.face_color = self.edges.copy(), self.faces.copy()
        layer.edge_width = layer.current_edge_width

    def meta(self, layer: Shapes) -> dict[str, Any]:
        """Metadata that `napari_wsi_umedpt.logic.annotations.layer_annotations` needs beside the shapes."""
        return {
            "shape_type": list(self.kinds), "features": self.features, "edge_color": self.edges,
            "scale": np.array(layer.scale), "translate": np.array(layer.translate),
        }  # fmt: skip


def layer_meta(layer: Shapes) -> dict[str, Any]:
    """Metadata of a layer that `napari_wsi_umedpt.logic.annotations.layer_annotations` needs."""
    names = ("shape_type", "features", "scale", "translate", "edge_color")
    return {name: getattr(layer, name) for name in names}


def _near(one: Sequence[npt.NDArray[np.float64]], two: Sequence[npt.NDArray[np.float64]]) -> bool:
    if [len(shape) for shape in one] != [len(shape) for shape in two]:
        return False
    # All at once: shape by shape it takes 40 us each.
    return not one or bool(np.allclose(np.concatenate(one), np.concatenate(two), rtol=_HAIR, atol=_HAIR))


def is_being_drawn(layer: Shapes) -> bool:
    """Return whether a shape is begun, or moved, and the hand has not ended it."""
    return bool(layer._is_creating or layer._is_moving)


def end_shape(layer: Shapes) -> None:
    """End the shape that is being drawn, as Escape does."""
    if layer._is_creating:
        layer._finish_drawing()


def corner_where_pressed(layer: Shapes, event: Any) -> None:
    """Put the corner that follows the mouse where the mouse is pressed; to be called before napari's own callback.

    napari moves it when the mouse moves. A busy window is not told of every move: the first corner would be there
    twice, and the last one not at all.
    """
    if layer._is_creating and layer.mode in ("add_polygon", "add_polyline"):
        move_active_vertex_under_cursor(layer, layer.world_to_data(event.position))


def draw_one(layer: Shapes, mode: str) -> None:
    """Let one shape be drawn; then the mouse moves the slide again."""
    layer.mode = mode
    layer.metadata[_ONE] = True


def take_other_tool(layer: Shapes) -> None:
    """Somebody chose a tool: it stays until another one is chosen."""
    layer.metadata.pop(_ONE, None)


def put_tool_away(layer: Shapes) -> None:
    """A shape was drawn: if it was to be one, the mouse moves the slide again."""
    if layer.metadata.pop(_ONE, False):
        layer.mode = "pan_zoom"


def interrupted(layer: Shapes, mode: str) -> None:
    """End a shape that another tool was taken up over: without the corner that followed the mouse, or not at all.

    Parameters
    ----------
    mode
        In which it was drawn.
    """
    least = _CORNERS.get(mode)
    if least is None or not layer.nshapes:
        return
    corners = np.array(layer.data[-1])[:-1]
    layer.remove([layer.nshapes - 1])
    if len(corners) >= least:
        (layer.add_polygons if "polygon" in mode else layer.add_paths)(corners)


def widen(layer: Shapes, width: float) -> None:
    """Make edges of all shapes, and of the next one, so wide, in the layer's px; if they differ by much."""
    if 1 / _MUCH < layer.current_edge_width / width < _MUCH:
        return
    with layer.block_update_properties():
        layer.current_edge_width = width
    layer.edge_width = width
    layer.refresh()


def tidied(layer: Shapes, known: int) -> None:
    """Take away what napari leaves of shapes that were given up, and give new ones their class's colour.

    Parameters
    ----------
    known
        Shapes that were there before.
    """
    count, view = layer.nshapes, layer._data_view
    for name in ("_edge_color", "_face_color"):
        if len(colours := getattr(view, name)) > count:
            # Not by the layer's own property, which makes all white where there are too many.
            setattr(view, name, np.array(colours[:count]))
    if len(layer.features) > count:
        set_features(layer, layer.features.iloc[:count].reset_index(drop=True))
    if count > known:
        _name_apart(layer, known)
        if (chosen := _next(layer)) is not None:
            name, colour = chosen
            classes = list(layer.features.get(CLASS, []))
            _colour(layer, [row for row in range(known, count) if classes and classes[row] == name], colour)
    show_next(layer)


def _name_apart(layer: Shapes, known: int) -> None:
    """Give new shapes names of their own: those of one name are parts of one, and a copy is none.

    What was drawn before a class was chosen has none: napari calls it "nan".
    """
    features = layer.features.copy()
    names = list(features[ID]) if ID in features else [None] * len(features)
    taken = {*names[:known]}
    for row in range(known, len(names)):
        if not isinstance(names[row], str) or not names[row] or names[row] in taken:
            names[row] = str(uuid.uuid4())
    features[ID] = names
    if CLASS in features:
        features[CLASS] = [name if isinstance(name, str) else "" for name in features[CLASS]]
    set_features(layer, features)


# ---- classes ----


def draw_next(layer: Shapes, name: str, colour: Rgb) -> None:
    """Make what is drawn next of a class, whatever is selected, until another one is chosen."""
    layer.metadata[_NEXT] = (name, colour)
    show_next(layer)


def show_next(layer: Shapes) -> None:
    """Say the next shape's class and colour anew: napari forgets them when others are selected or changed."""
    if (chosen := _next(layer)) is None:
        return
    name, colour = chosen
    if CLASS in layer.feature_defaults:
        layer.feature_defaults[CLASS] = name
    with layer.block_update_properties():  # or those that are selected would change too
        layer.current_edge_color, layer.current_face_color = [*colour, 1.0], [*colour, FACE_ALPHA]


def classify(layer: Shapes, rows: Iterable[int], name: str, colour: Rgb) -> None:
    """Give shapes a class."""
    some = sorted(rows)
    features = layer.features.iloc[: layer.nshapes].copy()
    names = list(features[CLASS]) if CLASS in features else [""] * layer.nshapes
    for row in some:
        names[row] = name
    features[CLASS] = names
    set_features(layer, features)
    _colour(layer, some, colour)


def colour_of(layer: Shapes, name: str) -> Rgb | None:
    """Colour of a class's shapes in a layer; None where it has none."""
    for row, known in enumerate(layer.features.get(CLASS, [])):
        if known == name and row < layer.nshapes:
            red, green, blue = (float(part) for part in layer.edge_color[row][:3])
            return red, green, blue
    return None


def _next(layer: Shapes) -> tuple[str, Rgb] | None:
    found: tuple[str, Rgb] | None = layer.metadata.get(_NEXT)
    return found


def _colour(layer: Shapes, rows: list[int], colour: Rgb) -> None:
    if not rows:
        return
    edges, faces = np.array(layer.edge_color), np.array(layer.face_color)
    edges[rows], faces[rows] = [*colour, 1.0], [*colour, FACE_ALPHA]
    layer.edge_color, layer.face_color = edges, faces


def set_features(layer: Shapes, features: Any) -> None:
    """Assign features; the defaults of the next shape stay, which napari forgets."""
    defaults = layer.feature_defaults.copy()
    layer.features = features
    if list(defaults.columns) == list(layer.features.columns):
        layer.feature_defaults = defaults
