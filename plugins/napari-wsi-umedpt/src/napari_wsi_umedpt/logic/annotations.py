"""Drawings to and from files: a napari Shapes layer on one side, QuPath's GeoJSON on the other.

Read are also XML of ASAP, ImageScope and HALO (`wsi_umedpt.annotations`). Names, colours, locks, holes,
several parts, lines and points survive the round trip. In napari a polygon with holes is one line that goes to
each hole and back, a point is a small circle; several parts are several shapes of one ``id``.

Positions in a file are level-0 px, x before y, in QuPath's from the corner of the slide's bounds; in a layer, um,
y before x. Files of over `MOST_SHAPES` polygons are shown as objects (`napari_wsi_umedpt.layers.objects`): napari's
shapes cost 0.1 ms each.

Read top to bottom: `Annotation`, reading, `annotations_of` (a file as layers), `shapes_layer`, writing.
"""

import gzip
import itertools
import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from wsi_umedpt.annotations import ANNOTATION_SUFFIXES as SUFFIXES
from wsi_umedpt.annotations import CLASS_MEMBER as MEMBER
from wsi_umedpt.annotations import DRAWING_TOOLS as TOOLS
from wsi_umedpt.annotations import DRAWN_AS_MEMBER as DRAWN_AS
from wsi_umedpt.annotations import ORIGIN_MEMBER as ORIGIN
from wsi_umedpt.annotations import Annotation as Read
from wsi_umedpt.annotations import Corner, Origin, read_annotation_file, skipped_words
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.interop import MEASUREMENTS, objects_of_annotations
from wsi_umedpt.messages import noun
from wsi_umedpt.store import PALETTE, whole_file

from napari_wsi_umedpt.layers.build import KEY, UNITS, Colour, LayerTuple, Place, Shown, objects_layer
from napari_wsi_umedpt.layers.shapes import CORRECTED
from napari_wsi_umedpt.logic.napari_shapes import Ring, box_of_ellipse, ellipse_ring, one_line, rings_of
from napari_wsi_umedpt.logic.navigation import Viewport

MOST_SHAPES = 2_000
MOST_CORNERS = 100_000
"""Most corners of all shapes of a layer that can be edited."""
_POINT_UM = 10.0
"""Width of the circle that stands for a point."""
_BOX_CORNERS, _LINE_ENDS = 4, 2
LINE_PX = 3.0
"""Width of edges, canvas px."""

_OF_NEW = {
    "class": "", "name": "", "id": "", "locked": False, "kind": "annotation", "measurements": "{}", "shape": "area",
}  # fmt: skip
"""Features of a shape that is drawn."""
_TEXT = {"string": "{class}", "size": 11, "color": "black", "anchor": "upper_left"}
"""Names of classes: to be read on tissue."""
FOUND_KINDS = ("detection", "cell", "tile")
"""QuPath's types of objects that a program found."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """Drawing in level-0 px: polygons with holes, lines or points."""

    parts: tuple[tuple[Ring, ...], ...]
    """Rings of each polygon, the outer one first, then its holes; corners of a line; of a point itself."""
    name: str = ""
    """Its class; empty where there is none."""
    colour: Colour | None = None
    title: str = ""
    """Its own name, if it has one."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    locked: bool = False
    kind: str = "annotation"
    """QuPath's objectType."""
    measurements: Mapping[str, float] = field(default_factory=dict)
    shape: Literal["area", "line", "point"] = "area"
    drawn_as: str = ""
    """Tool of `wsi_umedpt.annotations.DRAWING_TOOLS`, or empty."""


# ---- reading ----


def read_annotations(path: Path, corner: Corner = (0, 0), origin: Origin | None = None) -> list[Annotation]:
    """Read what was drawn with QuPath, ASAP, ImageScope or HALO.

    Parameters
    ----------
    corner, origin
        As `wsi_umedpt.annotations.reading.read_annotation_file` takes them.

    Raises
    ------
    AnnotationError
        If it cannot be read.
    """
    return [_shown(one) for one in read_annotation_file(path, corner, origin).annotations]


def _shown(one: Read) -> Annotation:
    parts: tuple[tuple[Ring, ...], ...]
    if one.shape == "area":
        rings = [
            [shapely.get_coordinates(r)[:-1] for r in shapely.get_rings(p)] for p in shapely.get_parts(one.geometry)
        ]
        parts = tuple(tuple(polygon) for polygon in rings)
    else:
        parts = tuple((shapely.get_coordinates(part),) for part in shapely.get_parts(one.geometry))
    return Annotation(
        parts, one.name, one.colour, one.title, one.id, one.locked, one.kind, one.measurements, one.shape, one.drawn_as
    )


def annotations_of(
    path: Path, place: Place, *, origin: Origin | None = None, tell: Callable[[str], object] = lambda _: None
) -> list[LayerTuple]:
    """A file of annotations as a layer over the slide that is open.

    Parameters
    ----------
    origin
        The corner that its positions count from, if not from where its format does.
    tell
        Is told what was left out.

    Raises
    ------
    AnnotationError
        If it cannot be read, holds nothing, or all of it lies outside the slide.
    """
    suffix = max((end for end in SUFFIXES if path.name.lower().endswith(end)), key=len, default="")
    name = path.name[: len(path.name) - len(suffix)]
    read = read_annotation_file(path, place.corner, origin)
    found, skipped = [_shown(one) for one in read.annotations], read.skipped
    if found and not any(_meets(one, place) for one in found):
        width, height = place.size
        raise AnnotationError(
            f"{path.name}: {noun(len(found), 'its region lies', f'all of its {len(found)} regions lie')} outside the "
            f"slide that is open, {place.slide_id} ({width} x {height} px). Is it of another slide?"
        )
    corners = sum(len(ring) for one in found for part in one.parts for ring in part)
    if len(found) > MOST_SHAPES or corners > MOST_CORNERS:
        objects = objects_of_annotations(read.annotations, skipped)
        layers = [objects_layer(objects, Shown("objects", place, name=name))]
    else:
        layers = [shapes_layer(found, place, name)]
    if words := _left_out(path, skipped, bool(found)):
        tell(words)
    return layers


def _left_out(path: Path, skipped: Counter[str], any_left: bool) -> str:
    words = skipped_words(skipped)
    if words and not any_left:
        return f"{path.name} holds nothing that can be shown: {words}."
    return f"{path.name}: {words}." if words else ""


def _meets(one: Annotation, place: Place) -> bool:
    corners = np.concatenate([part[0] for part in one.parts])
    return bool((corners.max(axis=0) > 0).all() and (corners.min(axis=0) < place.size).all())


# ---- layers ----


def shapes_layer(found: Sequence[Annotation], place: Place, name: str = "annotations", zoom: float = 1.0) -> LayerTuple:
    """Annotations as a Shapes layer, to be edited; also an empty one to draw in.

    Parameters
    ----------
    zoom : canvas px per um
        At which edges are some px wide.
    """
    colours = class_colours(found)
    shapes, kinds, rows = [], [], []
    for one in found:
        for part in one.parts:
            corners, kind = _drawn_again(one, part, place)
            shapes.append(place.to_world(corners))
            kinds.append(kind)
            rows.append(one)
    colour = [[*(c / 255 for c in one.colour or colours[one.name]), 1.0] for one in rows]
    features = {
        "class": [one.name for one in rows],
        "name": [one.title for one in rows],
        "id": [one.id for one in rows],
        "locked": [one.locked for one in rows],
        "kind": [one.kind for one in rows],
        "measurements": [json.dumps(dict(one.measurements)) for one in rows],
        "shape": [one.shape for one in rows],
    }
    meta = {
        "name": name,
        "shape_type": kinds or "polygon",
        "edge_width": LINE_PX / zoom,
        "edge_color": colour or "yellow",
        "face_color": [[*c[:3], 0.15] for c in colour] or "transparent",
        "features": features,
        # Else what is drawn next takes those of the last shape: its id, and with it its place among the parts.
        **({"feature_defaults": _OF_NEW} if rows else {}),
        # The names of hundreds of nuclei would hide them; their colours say the class.
        **(
            {}
            if rows and all(one.kind in FOUND_KINDS or one.name == CORRECTED for one in rows)
            else {"text": {**_TEXT}}
        ),
        "units": UNITS,
        "metadata": {KEY: Shown("annotations", place, name=name)},
    }
    return shapes, {**meta, **({} if shapes else {"ndim": 2})}, "shapes"


def _unnamed(one: Annotation) -> bool:
    return one.kind in FOUND_KINDS or one.name == CORRECTED


def _drawn_again(one: Annotation, part: tuple[Ring, ...], place: Place) -> tuple[Ring, str]:
    """Corners of a part as napari wants them, level-0 px, and its type of shape."""
    corners = part[0]
    if one.shape == "point":
        radius = _POINT_UM / 2 / place.mpp
        square = np.array([[-radius, -radius], [radius, -radius], [radius, radius], [-radius, radius]])
        return corners[0] + square, "ellipse"
    if one.shape == "line":
        return corners, "line" if one.drawn_as == "line" and len(corners) == _LINE_ENDS else "path"
    if one.drawn_as == "ellipse" and len(part) == 1 and (box := box_of_ellipse(corners)) is not None:
        return box, "ellipse"
    if one.drawn_as == "rectangle" and len(part) == 1 and len(corners) == _BOX_CORNERS:
        return corners, "rectangle"
    return one_line(part), "polygon"


def class_colours(found: Sequence[Annotation]) -> dict[str, Colour]:
    """A colour for each class: its own, or one of the palette; yellow for what has no class."""
    colours: dict[str, Colour] = {one.name: one.colour for one in found if one.name and one.colour}
    for name in dict.fromkeys(one.name for one in found if one.name):
        colours.setdefault(name, PALETTE[len(colours) % len(PALETTE)])
    return {**colours, "": (255, 255, 0)}


def objects_in(what: Shown, viewport: Viewport, colours: Sequence[Colour]) -> list[Annotation]:
    """Objects in view as annotations, to be edited.

    Raises
    ------
    AnnotationError
        If there are more than `MOST_SHAPES`, or none.
    """
    if what.objects is None:
        raise AnnotationError(f"{what.name} holds no objects that could be edited")
    rows = what.objects.within(viewport.x, viewport.y, viewport.x + viewport.width, viewport.y + viewport.height)
    if not 0 < len(rows) <= MOST_SHAPES:
        remedy = "Move to where some are." if not len(rows) else "Zoom in."
        raise AnnotationError(f"{len(rows):,} objects are in view; up to {MOST_SHAPES:,} can be edited. {remedy}")
    shown = what.objects.objects.taken(rows)
    found = []
    for k, (begin, end) in enumerate(itertools.pairwise(shown.starts.tolist())):
        number = int(shown.class_index[k])
        values = [float(shown.score[k]), *shown.measures[k].tolist()]
        measured = {name: value for name, value in zip(MEASUREMENTS, values, strict=True) if np.isfinite(value)}
        ring = shown.outline[begin:end].astype(np.float64)
        found.append(
            Annotation(((ring,),), shown.classes[number], colours[number], kind="detection", measurements=measured)
        )
    return found


# ---- writing ----


def layer_annotations(data: Sequence[Any], meta: Mapping[str, Any], place: Place) -> list[Annotation]:
    """The shapes of a layer as annotations; shapes of one id are parts of one.

    Parameters
    ----------
    data
        (corner, 2) of each shape, y first, in the layer's own px.
    meta
        Its ``shape_type``, ``features``, ``scale``, ``translate``, ``edge_color``.
    """
    kinds = meta.get("shape_type", "polygon")
    kinds = [kinds] * len(data) if isinstance(kinds, str) else list(kinds)
    features = meta.get("features")
    scale, shift = (np.asarray(meta.get(key, value))[-2:] for key, value in (("scale", (1, 1)), ("translate", (0, 0))))
    colours = np.asarray(meta.get("edge_color", np.zeros((len(data), 4))))
    found: dict[str, Annotation] = {}
    for number, (corners, kind) in enumerate(zip(data, kinds, strict=True)):
        world = np.asarray(corners)[:, -2:] * scale + shift
        row, colour = _row(features, number), colours[number] if len(colours) == len(data) else None
        rings: tuple[Ring, ...]
        shape: Literal["area", "line", "point"] = "line" if kind in ("line", "path") else "area"
        if kind == "ellipse" and row.get("shape") == "point":
            rings, shape = (place.to_slide(world.mean(axis=0, keepdims=True)),), "point"
        elif shape == "line":
            rings = (place.to_slide(world),)
        else:
            rings = rings_of(place.to_slide(ellipse_ring(world) if kind == "ellipse" else world))
            if not rings:  # of two corners: nothing that is drawn is left out of a file
                rings, shape, kind = (place.to_slide(world),), "line", "path"
        one = replace(_drawn(rings, row, colour, shape), drawn_as=kind if kind in TOOLS and shape != "point" else "")
        known = found.get(one.id)
        found[one.id] = replace(known, parts=(*known.parts, *one.parts), drawn_as="") if known else one
    return list(found.values())


def _row(features: Any, number: int) -> dict[str, Any]:
    if features is None:
        return {}
    return {str(key): features[key].iloc[number] for key in features}


def _drawn(
    rings: tuple[Ring, ...], row: Mapping[str, Any], colour: Any, shape: Literal["area", "line", "point"]
) -> Annotation:
    def text(key: str) -> str:
        value = row.get(key)
        return value if isinstance(value, str) else ""  # shapes drawn anew have nan here

    rgb = None if colour is None else tuple(round(float(part) * 255) for part in colour[:3])
    return Annotation(
        (rings,),
        text("class"),
        rgb,  # type: ignore[arg-type]
        text("name"),
        text("id") or str(uuid.uuid4()),
        bool(row.get("locked") is True or row.get("locked") == np.True_),
        text("kind") or "annotation",
        json.loads(text("measurements") or "{}"),
        shape,
    )


def write_annotations(path: Path, found: Sequence[Annotation], corner: Corner = (0, 0)) -> None:
    """Write annotations as QuPath reads them, a FeatureCollection; the file is whole or absent.

    Parameters
    ----------
    corner
        That positions count from, level-0 px: that of the slide's bounds, where QuPath's image begins. The file says
        it.

    Raises
    ------
    AnnotationError
        If the file's name does not end in .geojson.
    """
    if not path.name.lower().endswith((".geojson", ".geojson.gz")):
        raise AnnotationError(f"{path.name} must end in .geojson or .geojson.gz")
    text = json.dumps(collection_of(found, corner), allow_nan=False).encode()
    with whole_file(path) as file:
        file.write(gzip.compress(text, mtime=0) if path.suffix.lower() == ".gz" else text)


def collection_of(found: Sequence[Annotation], corner: Corner) -> dict[str, Any]:
    """Annotations as a GeoJSON FeatureCollection; see `write_annotations`."""
    features = [_feature(one, corner) for one in found]
    return {"type": "FeatureCollection", MEMBER: {ORIGIN: [*corner]}, "features": features}


def _feature(one: Annotation, corner: Corner) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": one.kind, "isLocked": one.locked}
    if one.title:
        properties["name"] = one.title
    if one.name:
        properties["classification"] = {"name": one.name, **({"color": [*one.colour]} if one.colour else {})}
    elif one.colour:
        properties["color"] = [*one.colour]
    if one.measurements:
        properties["measurements"] = dict(one.measurements)
    if one.drawn_as:
        properties[MEMBER] = {DRAWN_AS: one.drawn_as}
    return {"type": "Feature", "id": one.id, "geometry": _geometry(one, corner), "properties": properties}


def _geometry(one: Annotation, corner: Corner) -> dict[str, Any]:
    parts = [[np.round(ring - corner, 3).tolist() for ring in part] for part in one.parts]
    kind = {"area": "Polygon", "line": "LineString", "point": "Point"}[one.shape]
    made = {
        "Polygon": [[[*ring, ring[0]] for ring in part] for part in parts],
        "LineString": [part[0] for part in parts],
        "Point": [part[0][0] for part in parts],
    }[kind]
    # QuPath reads a MultiPolygon of one part; other tools do not.
    return {"type": f"Multi{kind}", "coordinates": made} if len(made) > 1 else {"type": kind, "coordinates": made[0]}
