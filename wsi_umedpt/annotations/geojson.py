"""Annotations of GeoJSON, as QuPath writes it: all kinds of geometry, children among them.

Positions count from the corner of the slide's bounds, unless the file says another: QuPath crops slides to
them, and what we write says it. What has no place or no area is left out and counted.
"""

import math
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotations.annotation import (
    FARTHEST_PX,
    MOST_ANNOTATIONS,
    MOST_VERTICES,
    Annotation,
    Geometry,
    Origin,
    area_of,
)
from wsi_umedpt.annotations.filling import has_area
from wsi_umedpt.annotations.geojson_features import (
    FRAMES,
    GEOMETRIES,
    WRONG,
    as_dict,
    class_of,
    drawn_as,
    kind_of,
    measurements_of,
    read_features,
    wrong,
)
from wsi_umedpt.errors import AnnotationError

COUNTS_FROM: Origin = "bounds"

_DEEPEST = 20
"""Collections of geometries in one another."""


class _LeftOut(Exception):
    """Reason why a feature is left out."""


def read_geojson_annotations(path: Path) -> tuple[list[Annotation], Counter[str], tuple[float, float] | None]:
    """Read annotations as they stand in the file.

    Returns
    -------
    annotations
        Their positions count from where the file counts.
    skipped
        Counts the features that are left out.
    origin
        The corner that positions count from, level-0 px, where the file says it.

    Raises
    ------
    AnnotationError
        If it cannot be read, or holds more than `MOST_ANNOTATIONS` or `MOST_VERTICES`.
    """
    found: list[Annotation] = []
    skipped: Counter[str] = Counter()
    names: set[str] = set()
    corners = 0
    with read_features(path, AnnotationError) as collection:
        for number, feature, _ in collection.features():
            try:
                one = _annotation(feature, names)
            except _LeftOut as reason:
                skipped[str(reason)] += 1
                continue
            except WRONG as error:
                raise wrong(number, error) from None
            found.append(one)
            corners += shapely.get_num_coordinates(one.geometry)
            if len(found) > MOST_ANNOTATIONS or corners > MOST_VERTICES:
                raise ValueError(
                    f"it holds more than {MOST_ANNOTATIONS:,} annotations or {MOST_VERTICES:,} corners: merge or "
                    "simplify them, or leave detections out when exporting"
                )
        return found, skipped, collection.origin


def _annotation(feature: dict[str, Any], names: set[str]) -> Annotation:
    if feature.get("type") not in ("Feature", None) or "geometry" not in feature:
        raise ValueError(f"it is no Feature but a {feature.get('type')!r:.40}")
    kind = kind_of(feature) or "annotation"
    if kind in FRAMES:
        raise _LeftOut("cores of a tissue array" if kind == "tmaCore" else "whole images")
    if not feature["geometry"]:
        raise _LeftOut("without geometry")
    properties = feature.get("properties") or {}
    geometry = _geometry(as_dict(feature["geometry"], "its geometry"))
    # Before QuPath 0.3 an id was the name of a type, the same for all.
    name = str(feature.get("id") or "")
    if not name or name in names or name.startswith("Path"):
        name = str(uuid.uuid4())
    names.add(name)
    return Annotation(
        geometry,
        class_of(feature),
        str(properties.get("name") or ""),
        _colour(properties),
        name,
        bool(properties.get("isLocked") or properties.get("locked")),
        kind,
        {
            str(key): float(value)
            for key, value in measurements_of(feature).items()
            if isinstance(value, int | float) and math.isfinite(value)
        },
        drawn_as(feature),
    )


def _colour(properties: dict[str, Any]) -> tuple[int, int, int] | None:
    classification = properties.get("classification") or {}
    stated = classification if isinstance(classification, dict) else {}
    colour = stated.get("color") or stated.get("colorRGB") or properties.get("color") or properties.get("colorRGB")
    if isinstance(colour, int):  # before QuPath 0.3: one number, alpha first
        return (colour >> 16) & 255, (colour >> 8) & 255, colour & 255
    if not isinstance(colour, list) or len(colour) < 3:
        return None
    red, green, blue = (min(max(int(part), 0), 255) for part in colour[:3])
    return red, green, blue


# ---- geometries ----


def _geometry(stated: dict[str, Any]) -> Geometry:
    """A geometry: areas where there are any, else lines, else points."""
    polygons: list[list[npt.NDArray[np.float64]]] = []
    lines: list[npt.NDArray[np.float64]] = []
    points: list[npt.NDArray[np.float64]] = []
    flat = False

    def add(geometry: dict[str, Any], depth: int = 0) -> None:
        nonlocal flat
        kind = geometry.get("type")
        if kind not in GEOMETRIES or depth > _DEEPEST:
            raise ValueError(f"its geometry is a {kind!r:.40}, not one of {', '.join(GEOMETRIES)}")
        if kind == "GeometryCollection":
            for part in geometry["geometries"]:
                add(as_dict(part, "a part of its geometry"), depth + 1)
            return
        coordinates = geometry["coordinates"]
        parts = coordinates if kind.startswith("Multi") else [coordinates]
        if kind.endswith("Point"):
            points.extend(_positions([part]) for part in parts if part)
        elif kind.endswith("LineString"):
            lines.extend(_positions(part) for part in parts if part)
        else:
            for part in parts:
                rings = [_positions(ring) for ring in part if ring]
                if rings and _is_ring(rings[0]):
                    polygons.append([rings[0], *(ring for ring in rings[1:] if _is_ring(ring))])
                flat = flat or bool(rings)

    add(stated)
    if polygons:
        area = area_of(polygons)
        if not has_area(area):
            raise _LeftOut("without area")
        return area
    if lines := [line for line in lines if len(line) > 1]:
        made = [shapely.linestrings(line) for line in lines]
        return made[0] if len(made) == 1 else shapely.multilinestrings(made)
    if points:
        places = np.concatenate(points)
        return shapely.points(places[0]) if len(places) == 1 else shapely.multipoints(shapely.points(places))
    raise _LeftOut("without area" if flat else "without geometry")


def _is_ring(ring: npt.NDArray[np.float64]) -> bool:
    return len(np.unique(ring[:4], axis=0)) > 2 or len(np.unique(ring, axis=0)) > 2


def _positions(stated: list[Any]) -> npt.NDArray[np.float64]:
    try:
        found = np.asarray(stated, np.float64)
    except ValueError:  # some with heights
        found = np.asarray([position[:2] for position in stated], np.float64)
    if found.ndim != 2 or found.shape[1] < 2:
        raise ValueError("its coordinates are no list of positions")
    # Said so that nan fails too.
    if not (np.abs(found[:, :2]) < FARTHEST_PX).all():
        raise ValueError(f"a corner of it lies {FARTHEST_PX} px away or nowhere")
    return found[:, :2]
