"""What people draw, to and from files: a napari Shapes layer on one side, QuPath's GeoJSON on the other.

Read are also XML of ASAP, ImageScope and HALO (`wsi_umedpt.annotationfiles`). Names, colours, locks, holes,
several parts, lines and points survive the round trip. In napari a polygon with holes is one line that goes to
each hole and back, a point is a small circle; several parts are several shapes of one ``id``.

Positions in a file are level-0 px, x before y, in QuPath's from the corner of the slide's bounds; in a layer, um,
y before x. Files of over `MOST_SHAPES` polygons are shown as objects (`napari_wsi_umedpt._nuclei`): napari's
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
import numpy.typing as npt
import shapely
from wsi_umedpt.annotationfiles.annotation import Annotation as Read
from wsi_umedpt.annotationfiles.annotation import Corner, Origin, skipped_words
from wsi_umedpt.annotationfiles.features import MEMBER, ORIGIN
from wsi_umedpt.annotationfiles.reading import SUFFIXES, read_annotation_file
from wsi_umedpt.arrays import whole_file
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.interop.qupath import MEASUREMENTS, objects_of_annotations
from wsi_umedpt.objects import PALETTE

from napari_wsi_umedpt._layers import KEY, UNITS, Colour, LayerTuple, Place, Shown, objects_layer
from napari_wsi_umedpt._navigation import Frame

MOST_SHAPES = 2_000
MOST_CORNERS = 100_000
"""Of all shapes of a layer that can be edited."""
_POINT_UM = 10.0
"""Width of the circle that stands for a point."""
_ELLIPSE_CORNERS = 64
_LINE_PX = 2.0
"""Of edges, canvas px at the zoom at which a layer is made."""

_OF_NEW = {
    "class": "", "name": "", "id": "", "locked": False, "kind": "annotation", "measurements": "{}", "shape": "area",
}  # fmt: skip
"""Features of a shape that is drawn."""
_TEXT_PT = 11
_TEXT_COLOUR = "black"
"""Of names of classes: to be read on tissue."""

Ring = npt.NDArray[np.float64]
"""(corner, 2) level-0 px, x before y; open."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """What somebody drew, in level-0 px: polygons with holes, lines or points."""

    parts: tuple[tuple[Ring, ...], ...]
    """Of each polygon its outer ring, then its holes; of a line its corners, of a point itself."""
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


# ---- reading ----


def read_annotations(path: Path, corner: Corner = (0, 0), origin: Origin | None = None) -> list[Annotation]:
    """Read what was drawn with QuPath, ASAP, ImageScope or HALO.

    Parameters
    ----------
    corner, origin
        As `wsi_umedpt.annotationfiles.reading.read_annotation_file` takes them.

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
    return Annotation(parts, one.name, one.colour, one.title, one.id, one.locked, one.kind, one.measurements, one.shape)


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
            f"{path.name}: all of its {len(found)} regions lie outside the slide that is open, {place.slide_id} "
            f"({width} x {height} px). Is it of another slide?"
        )
    corners = sum(len(ring) for one in found for part in one.parts for ring in part)
    if len(found) > MOST_SHAPES or corners > MOST_CORNERS:
        objects = objects_of_annotations(read.annotations, skipped)
        layers = [objects_layer(objects, place, name)]
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
    shapes, rows = [], []
    for one in found:
        for part in one.parts:
            shapes.append(_drawn_as(one, part, place))
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
    kinds = {"area": "polygon", "line": "path", "point": "ellipse"}
    meta = {
        "name": name,
        "shape_type": [kinds[one.shape] for one in rows] or "polygon",
        "edge_width": _LINE_PX / zoom,
        "edge_color": colour or "yellow",
        "face_color": [[*c[:3], 0.15] for c in colour] or "transparent",
        "features": features,
        # Else what is drawn next takes those of the last shape: its id, and with it its place among the parts.
        **({"feature_defaults": _OF_NEW} if rows else {}),
        "text": {"string": "{class}", "size": _TEXT_PT, "color": _TEXT_COLOUR, "anchor": "upper_left"},
        "units": UNITS,
        "metadata": {KEY: Shown("annotations", place, name=name)},
    }
    return shapes, {**meta, **({} if shapes else {"ndim": 2})}, "shapes"


def _drawn_as(one: Annotation, part: tuple[Ring, ...], place: Place) -> npt.NDArray[np.float64]:
    """Corners of a part, um, y first; of a point those of the box around its circle."""
    if one.shape == "point":
        radius = _POINT_UM / 2 / place.mpp
        box = np.array([[-radius, -radius], [radius, -radius], [radius, radius], [-radius, radius]])
        return place.to_world(part[0][0] + box)
    return place.to_world(_one_line(part) if one.shape == "area" else part[0])


def class_colours(found: Sequence[Annotation]) -> dict[str, Colour]:
    """A colour for each class: its own, or one of the palette; yellow for what has no class."""
    colours: dict[str, Colour] = {one.name: one.colour for one in found if one.name and one.colour}
    for name in dict.fromkeys(one.name for one in found if one.name):
        colours.setdefault(name, PALETTE[len(colours) % len(PALETTE)])
    return {**colours, "": (255, 255, 0)}


def _one_line(part: Sequence[Ring]) -> Ring:
    """A polygon with holes as napari draws it: every ring closed, and back to the first corner after each hole."""
    if len(part) == 1:
        return part[0]
    first = part[0][:1]
    lines = [part[0], first]
    for hole in part[1:]:
        lines += [hole, hole[:1], first]
    return np.concatenate(lines)


def _rings(line: Ring) -> tuple[Ring, ...]:
    """Undo `_one_line`."""
    rings: list[Ring] = []
    start = 0
    while start < len(line):
        again = np.flatnonzero((line[start + 1 :] == line[start]).all(axis=1))
        end = start + 1 + int(again[0]) if len(again) else len(line)
        if end - start >= 3:
            rings.append(line[start:end])
        # After a hole the line is back at the first corner of all.
        start = end + 1 if not rings or len(rings) == 1 else end + 2
    return tuple(rings)


def objects_in(what: Shown, frame: Frame, colours: Sequence[Colour]) -> list[Annotation]:
    """Objects in view as annotations, to be edited.

    Raises
    ------
    AnnotationError
        If there are more than `MOST_SHAPES`, or none.
    """
    if what.objects is None:
        raise AnnotationError(f"{what.name} holds no objects that could be edited")
    rows = what.objects.within(frame.x, frame.y, frame.x + frame.width, frame.y + frame.height)
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
            rings = _rings(place.to_slide(_ellipse(world) if kind == "ellipse" else world))
        one = _drawn(rings, row, colour, shape)
        known = found.get(one.id)
        found[one.id] = replace(known, parts=(*known.parts, *one.parts)) if known else one
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


def _ellipse(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A polygon of an ellipse, which napari gives by the corners of its box; it may be turned."""
    middle, right, down = corners.mean(axis=0), (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    return np.asarray(middle + np.cos(angle) * right + np.sin(angle) * down, np.float64)


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
