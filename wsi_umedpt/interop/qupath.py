"""QuPath's GeoJSON: `Objects` out and in, feature by feature, so that half a million nuclei need no memory.

What QuPath makes of a file is in its `QuPathTypeAdapters.java` and `PathObjectTypeAdapters.java`: positions
are level-0 px, rings are closed, measurements are finite (it cannot read the NaN that it once wrote),
and objects that do not say they are detections become annotations, which are far slower.

Read top to bottom: `write_geojson` (orjson, a block at a time), `read_geojson`, and what it makes of a
feature.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotations.annotation import Annotation, Corner, is_starred, polygons_of
from wsi_umedpt.annotations.geojson_features import (
    CLASS_MEMBER,
    ORIGIN_MEMBER,
    class_of,
    measurements_of,
    read_features,
    ring_of,
)
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.exchange import CLASSLESS, MAX_CLASSES, check_outlines, objects_of
from wsi_umedpt.interop.geojson import check_geojson, feature_id, in_blocks, printed, write_features
from wsi_umedpt.store.objects import PALETTE, Objects

ObjectType = Literal["detection", "cell", "tile", "annotation"]
Colour = tuple[int, int, int]

MEASUREMENTS = (
    "Detection probability",
    "Area um^2",
    "Perimeter um",
    "Circularity",
    "Hematoxylin OD mean",
    "Eosin OD mean",
)
"""Names in QuPath of an object's score and then of each of `wsi_umedpt.store.objects.MEASURES`."""
CLASS_PROBABILITY = "Class probability"
"""Name in QuPath of the probability of an object's class."""


def write_geojson(
    path: Path,
    objects: Objects,
    *,
    slide_id: str,
    object_type: ObjectType = "detection",
    colours: Mapping[str, Colour] | None = None,
    corner: Corner = (0, 0),
    probability: npt.NDArray[np.float32] | None = None,
) -> None:
    """Write objects as a FeatureCollection, a feature a line; the file is whole or absent.

    Parameters
    ----------
    path
        ``.geojson``, or ``.geojson.gz`` for gzip.
    objects
        Their positions are written to a hundredth of a px, measures and scores as float32s
        print; what is not finite is left out. Centroids are not written: QuPath takes those
        of the outlines.
    slide_id
        The same slide and row give the same id of the feature, in every file.
    object_type
        Type of the objects in QuPath; annotations are slow from some thousands on.
    colours
        Red, green, blue of a class, 0 to 255; others are of `PALETTE`.
    corner
        That positions in the file count from, level-0 px: `SlideStore.corner` for QuPath, which crops slides to their
        bounds. The file says it.
    probability : (object,)
        Probability of the class, where a classifier gave it: a measurement of its own.

    Raises
    ------
    InteropError
        If the suffix or the type is another, or an outline is no polygon.
    """
    check_geojson(path)
    if object_type not in get_args(ObjectType):
        raise InteropError(f"QuPath has no objects of type {object_type!r}; use {', '.join(get_args(ObjectType))}")
    check_outlines(objects)
    classifications = [
        {"name": name, "color": (colours or {}).get(name, PALETTE[number % len(PALETTE)])}
        for number, name in enumerate(objects.classes)
    ]
    write_features(
        path,
        len(objects),
        partial(_block, objects, probability, classifications, slide_id, object_type, corner),
        {CLASS_MEMBER: {ORIGIN_MEMBER: [*corner]}},
    )


def _block(
    objects: Objects,
    probability: npt.NDArray[np.float32] | None,
    classifications: list[dict[str, Any]],
    slide_id: str,
    object_type: str,
    corner: Corner,
    rows: slice,
) -> Iterator[dict[str, Any]]:
    starts = objects.starts[rows.start : rows.stop + 1]
    corners = np.round(objects.outline[starts[0] : starts[-1]].astype(np.float64) - corner, 2).tolist()
    names = MEASUREMENTS if probability is None else (*MEASUREMENTS, CLASS_PROBABILITY)
    more = [] if probability is None else [probability[rows]]
    values = np.column_stack([objects.score[rows], objects.measures[rows], *more])  # (object, measurement)
    bounds = itertools.pairwise((starts - starts[0]).tolist())
    for number, (begin, end), class_index, measured in zip(
        itertools.count(rows.start), bounds, objects.class_index[rows].tolist(), printed(values), strict=False
    ):
        yield {
            "type": "Feature",
            "id": feature_id(f"{slide_id}/{number}"),
            "geometry": {"type": "Polygon", "coordinates": [[*corners[begin:end], corners[begin]]]},
            "properties": {
                "objectType": object_type,
                "classification": classifications[class_index],
                "measurements": {name: value for name, value in zip(names, measured, strict=True) if value is not None},
            },
        }


# ---- reading ----


def read_geojson(path: Path, corner: Corner = (0, 0), *, skipped: Counter[str] | None = None) -> Objects:
    """Read objects that `write_geojson` or QuPath wrote: a FeatureCollection, a list of features, or one feature.

    Outlines are outer rings, of a MultiPolygon the largest; a cell's is that of the cell, not of
    its nucleus. Classes are in the order of their appearance, "object" where there is none.
    Measurements other than `MEASUREMENTS` are ignored, and nan where they are absent. Centroids
    are those of the outlines. Child objects count; frames around them (the root, cores of tissue
    arrays, annotations with children) do not.

    Parameters
    ----------
    corner
        That positions count from, level-0 px, if the file does not say it: that of the slide's bounds where QuPath
        wrote it.
    skipped
        Counts what is left out: features without geometry, lines, points, objects of starred classes of QuPath
        (Ignore*). Without it nothing is, and what is no polygon is refused.

    Raises
    ------
    InteropError
        If it cannot be read, is no GeoJSON, or a feature is no polygon.
    """
    classes: dict[str, int] = {}
    parts = []

    def made(feature: dict[str, Any]) -> _Found | None:
        reason = None if skipped is None else _why_not(feature)
        if skipped is None or reason is None:
            return _found(feature)
        skipped[reason] += 1
        return None

    with read_features(path) as collection:
        found = (one for one in collection.objects(made) if one is not None)
        for block in in_blocks(found):
            parts.append(_objects(block, classes))
        by = np.asarray(collection.origin or corner, np.float32)
    objects = Objects.joined(parts, tuple(classes))
    if not by.any():
        return objects
    return replace(objects, centroid=objects.centroid + by, outline=objects.outline + by)


def _why_not(feature: dict[str, Any]) -> str | None:
    """Reason why a feature is left out where that may be."""
    geometry = feature.get("geometry") or {}
    kind = str(geometry.get("type", ""))
    if not geometry or not geometry.get("coordinates", True):
        return "without geometry"
    if kind.endswith(("Point", "LineString")):
        return "points" if kind.endswith("Point") else "lines"
    return "of starred classes" if is_starred(class_of(feature)) else None


def objects_of_annotations(found: Sequence[Annotation], skipped: Counter[str]) -> Objects:
    """Convert areas of annotations to objects, for viewing; lines and points are counted as left out."""
    classes: dict[str, int] = {}
    block = []
    for one in found:
        if one.shape != "area":
            skipped[f"{one.shape}s"] += 1
            continue
        parts = list(polygons_of(one.geometry))
        (outer, *_) = parts[0] if len(parts) == 1 else max(parts, key=lambda rings: shapely.Polygon(rings[0]).area)
        known = {_plain(name): value for name, value in one.measurements.items()}
        block.append(_Found(one.name or CLASSLESS, [known.get(name, np.nan) for name in MEASUREMENTS], outer[:-1]))
    try:
        return Objects.joined([_objects(block, classes)] if block else [], tuple(classes))
    except ValueError as error:
        raise InteropError(str(error)) from None


class _Found(NamedTuple):
    """An object as a feature describes it."""

    name: str
    values: list[float]
    """Values as in `MEASUREMENTS`."""
    ring: npt.NDArray[np.float64]
    """(corner, 2)"""


def _objects(block: list[_Found], classes: dict[str, int]) -> Objects:
    class_index = np.array([classes.setdefault(one.name, len(classes)) for one in block])
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"it has more than {MAX_CLASSES} classes")
    owners = np.repeat(np.arange(len(block)), [len(one.ring) for one in block])
    rings = shapely.linearrings(np.concatenate([one.ring for one in block]), indices=owners)
    values = np.array([one.values for one in block])  # (object, measurement)
    values[~(np.abs(values) <= np.finfo(np.float32).max)] = np.nan
    return objects_of(shapely.polygons(rings), class_index, values[:, 0], values[:, 1:])


def _found(feature: dict[str, Any]) -> _Found:
    return _Found(class_of(feature) or CLASSLESS, _values_of(feature), ring_of(feature))


def _values_of(feature: dict[str, Any]) -> list[float]:
    known = {_plain(name): value for name, value in measurements_of(feature).items()}
    return [np.nan if (value := known.get(name)) is None else float(value) for name in MEASUREMENTS]


def _plain(name: str) -> str:
    """A measurement's name with a u for both of Unicode's micro signs."""
    return name if name.isascii() else name.replace("\u00b5", "u").replace("\u03bc", "u")
