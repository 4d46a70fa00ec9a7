"""What people draw, to and from QuPath's GeoJSON: a napari Shapes layer on one side, features on the other.

Core `wsi_umedpt.interop.qupath` streams millions of objects; here are annotations, by the hundred:
their names, colours, locks, holes and several parts survive the round trip. In napari a polygon with
holes is one line that goes to each hole and back; several parts are several shapes of one ``id``.

Positions in a file are level-0 px, x before y; in a layer, um, y before x. Files of over
`MOST_SHAPES` features are shown as objects (`napari_wsi_umedpt._nuclei`): napari's shapes cost 0.1 ms each.

Read top to bottom: `Annotation`, reading, `annotations_of` (a file as layers), `shapes_layer`, writing.
"""

import gzip
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from wsi_umedpt.arrays import whole_file
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.interop.qupath import MEASUREMENTS, read_geojson
from wsi_umedpt.objects import PALETTE

from napari_wsi_umedpt._layers import KEY, UNITS, Colour, LayerTuple, Place, Shown, objects_layer
from napari_wsi_umedpt._navigation import Frame

MOST_SHAPES = 2_000
_ELLIPSE_CORNERS = 64
_LINE_PX = 2.0
"""Of edges, canvas px at the zoom at which a layer is made."""

_TEXT_PT = 11
_TEXT_COLOUR = "black"
"""Of names of classes: to be read on tissue."""

Ring = npt.NDArray[np.float64]
"""(corner, 2) level-0 px, x before y; open."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """A region that somebody drew: polygons with holes, in level-0 px."""

    parts: tuple[tuple[Ring, ...], ...]
    """Of each polygon its outer ring, then its holes."""
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


# ---- reading ----


def read_annotations(path: Path) -> list[Annotation]:
    """Read polygons and rectangles of a GeoJSON file, as QuPath writes it.

    Raises
    ------
    AnnotationError
        If it cannot be read, or a feature is no polygon.
    """
    try:
        packed = path.read_bytes()
        text = gzip.decompress(packed) if path.name.lower().endswith(".gz") else packed
        content = json.loads(text.decode("utf-8-sig"))  # some editors leave a byte order mark
        return [_annotation(feature) for feature in _features(content)]
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise AnnotationError(f"{path} cannot be read as QuPath's GeoJSON: {error}") from None


def _features(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content["features"]
    for number, feature in enumerate(content if isinstance(content, list) else [content], start=1):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise ValueError(f"number {number} is no Feature")
        yield feature


def _annotation(feature: dict[str, Any]) -> Annotation:
    geometry, properties = feature["geometry"], feature.get("properties") or {}
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a feature is a {kind}; only polygons can be shown. In QuPath, leave the others out")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    parts = tuple(tuple(_ring(ring) for ring in polygon) for polygon in polygons)
    classification = properties.get("classification") or {}
    colour = classification.get("color") or properties.get("color")
    if isinstance(colour, int):  # before QuPath 0.3: one number, alpha first
        colour = [(colour >> shift) & 255 for shift in (16, 8, 0)]
    stated = properties.get("measurements") or {}
    if isinstance(stated, list):  # before QuPath 0.4
        stated = {pair["name"]: pair["value"] for pair in stated}
    return Annotation(
        parts,
        str(classification.get("name") or ": ".join(classification.get("names") or [])),
        tuple(int(part) for part in colour[:3]) if colour else None,  # type: ignore[arg-type]
        str(properties.get("name") or ""),
        str(feature.get("id") or uuid.uuid4()),
        bool(properties.get("isLocked") or properties.get("locked")),
        str(properties.get("objectType") or properties.get("object_type") or "annotation"),
        {str(key): float(value) for key, value in stated.items() if isinstance(value, int | float)},
    )


def _ring(points: Sequence[Sequence[float]]) -> Ring:
    ring = np.asarray([point[:2] for point in points], np.float64)
    ring = ring[:-1] if len(ring) > 1 and np.array_equal(ring[0], ring[-1]) else ring
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError(f"a ring of {len(ring)} corners is no area")
    return ring


def annotations_of(path: Path, place: Place) -> list[LayerTuple]:
    """A GeoJSON file as a layer over the slide that is open.

    Raises
    ------
    AnnotationError
        If it cannot be read, or all of it lies outside the slide.
    """
    name = path.name.removesuffix(".gz").removesuffix(".geojson")
    found = read_annotations(path)
    if len(found) > MOST_SHAPES:
        return [objects_layer(read_geojson(path), place, name)]
    if found and not any(_meets(one, place) for one in found):
        width, height = place.size
        raise AnnotationError(
            f"{path.name}: all of its {len(found)} regions lie outside the slide that is open, {place.slide_id} "
            f"({width} x {height} px). Is it of another slide?"
        )
    return [shapes_layer(found, place, name)]


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
            shapes.append(place.to_world(_one_line(part)))
            rows.append(one)
    colour = [[*(c / 255 for c in one.colour or colours[one.name]), 1.0] for one in rows]
    features = {
        "class": [one.name for one in rows],
        "name": [one.title for one in rows],
        "id": [one.id for one in rows],
        "locked": [one.locked for one in rows],
        "kind": [one.kind for one in rows],
        "measurements": [json.dumps(dict(one.measurements)) for one in rows],
    }
    meta = {
        "name": name,
        "shape_type": "polygon",
        "edge_width": _LINE_PX / zoom,
        "edge_color": colour or "yellow",
        "face_color": [[*c[:3], 0.15] for c in colour] or "transparent",
        "features": features,
        "text": {"string": "{class}", "size": _TEXT_PT, "color": _TEXT_COLOUR, "anchor": "upper_left"},
        "units": UNITS,
        "metadata": {KEY: Shown("annotations", place, name=name)},
    }
    return shapes, {**meta, **({} if shapes else {"ndim": 2})}, "shapes"


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

    Raises
    ------
    AnnotationError
        If a shape is a line, which has no area.
    """
    kinds = meta.get("shape_type", "polygon")
    kinds = [kinds] * len(data) if isinstance(kinds, str) else list(kinds)
    features = meta.get("features")
    scale, shift = (np.asarray(meta.get(key, value))[-2:] for key, value in (("scale", (1, 1)), ("translate", (0, 0))))
    colours = np.asarray(meta.get("edge_color", np.zeros((len(data), 4))))
    found: dict[str, Annotation] = {}
    for number, (corners, kind) in enumerate(zip(data, kinds, strict=True)):
        if kind in ("line", "path"):
            raise AnnotationError(
                f"shape {number + 1} is a {kind}, which has no area and is no annotation of QuPath's kind here. Draw "
                "it as a polygon, or remove it."
            )
        world = np.asarray(corners)[:, -2:] * scale + shift
        ring = place.to_slide(_ellipse(world) if kind == "ellipse" else world)
        one = _drawn(_rings(ring), _row(features, number), colours[number] if len(colours) == len(data) else None)
        known = found.get(one.id)
        found[one.id] = replace(known, parts=(*known.parts, *one.parts)) if known else one
    return list(found.values())


def _row(features: Any, number: int) -> dict[str, Any]:
    if features is None:
        return {}
    return {str(key): features[key].iloc[number] for key in features}


def _drawn(rings: tuple[Ring, ...], row: Mapping[str, Any], colour: Any) -> Annotation:
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
    )


def _ellipse(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A polygon of an ellipse, which napari gives by the corners of its box; it may be turned."""
    middle, right, down = corners.mean(axis=0), (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    return np.asarray(middle + np.cos(angle) * right + np.sin(angle) * down, np.float64)


def write_annotations(path: Path, found: Sequence[Annotation]) -> None:
    """Write annotations as QuPath reads them, a FeatureCollection in level-0 px; the file is whole or absent.

    Raises
    ------
    AnnotationError
        If the file's name does not end in .geojson.
    """
    if not path.name.lower().endswith((".geojson", ".geojson.gz")):
        raise AnnotationError(f"{path.name} must end in .geojson or .geojson.gz")
    content = {"type": "FeatureCollection", "features": [_feature(one) for one in found]}
    text = json.dumps(content, allow_nan=False).encode()
    with whole_file(path) as file:
        file.write(gzip.compress(text, mtime=0) if path.suffix.lower() == ".gz" else text)


def _feature(one: Annotation) -> dict[str, Any]:
    polygons = [[[*np.round(ring, 3).tolist(), np.round(ring[0], 3).tolist()] for ring in part] for part in one.parts]
    # QuPath reads a MultiPolygon of one part; other tools do not.
    several = len(polygons) > 1
    properties: dict[str, Any] = {"objectType": one.kind, "isLocked": one.locked}
    if one.title:
        properties["name"] = one.title
    if one.name:
        properties["classification"] = {"name": one.name, **({"color": [*one.colour]} if one.colour else {})}
    elif one.colour:
        properties["color"] = [*one.colour]
    if one.measurements:
        properties["measurements"] = dict(one.measurements)
    return {
        "type": "Feature",
        "id": one.id,
        "geometry": {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": polygons if several else polygons[0],
        },
        "properties": properties,
    }
