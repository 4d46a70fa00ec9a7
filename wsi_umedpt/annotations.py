"""What people drew on a slide: named regions from GeoJSON, labelled points from CSV.

Coordinates are level-0 pixels, as QuPath exports them.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import shapely
import shapely.geometry

from wsi_umedpt.errors import AnnotationError

POINT_COLUMNS = ("slide_id", "x", "y", "label")


class Region(NamedTuple):
    """An area and what it was called."""

    label: str
    area: shapely.geometry.base.BaseGeometry
    """Level-0 px."""


class Point(NamedTuple):
    """A labelled place on a slide."""

    slide_id: str
    x: float
    y: float
    """Level-0 px."""
    label: str
    patient: str
    """Empty where the table has no column ``patient``."""


def read_regions(path: Path) -> list[Region]:
    """Read named polygons from GeoJSON: a FeatureCollection, a list of features, or one feature.

    The name is QuPath's ``properties.classification.name``, else ``properties.name``.

    Raises
    ------
    AnnotationError
        If the file is no GeoJSON, or a polygon has no name or no area.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(_regions(content))
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, shapely.errors.ShapelyError,
    ) as error:  # fmt: skip
        raise AnnotationError(f"{path} cannot be read as named regions: {error}") from None


def _regions(content: Any) -> Iterator[Region]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content["features"]
    for number, feature in enumerate(content if isinstance(content, list) else [content], start=1):
        properties = feature.get("properties") or {}
        name = (properties.get("classification") or {}).get("name") or properties.get("name")
        area = shapely.make_valid(shapely.geometry.shape(feature["geometry"]))
        if area.area == 0:
            raise AnnotationError(f"feature {number} is a {area.geom_type} without area; regions are polygons")
        if not name:
            raise AnnotationError(f"feature {number} has no name; give it a class in QuPath before exporting")
        yield Region(str(name), area)


def read_points(path: Path) -> list[Point]:
    """Read labelled points from a CSV with the columns of `POINT_COLUMNS`, and ``patient`` if it has it.

    Raises
    ------
    AnnotationError
        If columns are missing or a row cannot be read.
    """
    points = []
    for number, row in enumerate(_rows(path, POINT_COLUMNS), start=2):
        try:
            x, y = float(row["x"]), float(row["y"])
        except (ValueError, TypeError):
            raise AnnotationError(f"{path} row {number}: x and y are {row['x']!r}, {row['y']!r}, not numbers") from None
        if not row["label"]:
            raise AnnotationError(f"{path} row {number}: the label is empty")
        points.append(Point(row["slide_id"], x, y, row["label"], row.get("patient") or ""))
    return points


def read_patients(path: Path) -> dict[str, str]:
    """Read which patient each slide is of: a CSV with the columns slide_id and patient.

    Raises
    ------
    AnnotationError
        If columns are missing, or a slide is given to two patients.
    """
    patients: dict[str, str] = {}
    for number, row in enumerate(_rows(path, ("slide_id", "patient")), start=2):
        if not row["patient"]:
            raise AnnotationError(f"{path} row {number}: the patient of {row['slide_id']} is empty")
        if patients.setdefault(row["slide_id"], row["patient"]) != row["patient"]:
            raise AnnotationError(f"{path} row {number}: {row['slide_id']} is of two patients")
    return patients


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path} cannot be read as CSV: {error}") from None
    absent = [c for c in columns if not rows or c not in rows[0]]
    if absent:
        raise AnnotationError(f"{path} needs the columns {', '.join(columns)}; missing: {', '.join(absent)}")
    return rows
