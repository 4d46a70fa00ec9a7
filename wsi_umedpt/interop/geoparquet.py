"""GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0/): `Objects` out and in, some rows at a time.

A row is an object: its outline as WKB in level-0 px, its class, score and centroid, and the
columns of `wsi_umedpt.store.objects.MEASURES`. Smaller and far faster than GeoJSON, and exact; what other
tools than QuPath should be given.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.exchange import CLASSLESS, MAX_CLASSES, check_outlines, objects_of
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.zarr_io import whole_file

ROW_GROUP = 50_000
"""Objects that are in memory as polygons at once."""

_NUMBERS = ("score", "centroid_x", "centroid_y", *MEASURES)


def write_geoparquet(
    path: Path, objects: Objects, *, slide_id: str, mpp: float, made_by: Mapping[str, Any],
    probability: npt.NDArray[np.float32] | None = None,
) -> None:  # fmt: skip
    """Write objects, a row each; the file is whole or absent.

    Parameters
    ----------
    path
        Usually ``.parquet``.
    objects
        A measure that is nan is written as null.
    slide_id, mpp : um/px at level 0
        Slide of the objects and its scale, as metadata of the file.
    made_by
        Origin of the objects; anything that JSON can hold.
    probability : (object,)
        Probability of the class, where a classifier gave it: a column of its own.

    Raises
    ------
    InteropError
        If an outline is no polygon.
    """
    check_outlines(objects)
    more = [] if probability is None else [("probability", pa.float32())]
    schema = pa.schema(
        [("geometry", pa.binary()), ("class", pa.string()), *((name, pa.float32()) for name in _NUMBERS), *more],
        metadata={
            "geo": json.dumps(_geo(objects)),
            "slide_id": slide_id,
            "mpp": repr(float(mpp)),
            "made_by": json.dumps(made_by, sort_keys=True, allow_nan=False),
            "classes": json.dumps(objects.classes),
        },
    )
    with (
        whole_file(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["class"]) as writer,
    ):
        for first in range(0, len(objects), ROW_GROUP):
            part = slice(first, min(first + ROW_GROUP, len(objects)))
            columns = _columns(objects.taken(np.arange(part.start, part.stop)))
            if probability is not None:
                columns.append(pa.array(probability[part], pa.float32()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _geo(objects: Objects) -> dict[str, Any]:
    # Without a crs, readers would take px for degrees; null says that it is not known to geodesy.
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None}
    if len(objects):
        low, high = objects.outline.min(axis=0), objects.outline.max(axis=0)
        column["bbox"] = [*low.tolist(), *high.tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _columns(objects: Objects) -> list[pa.Array]:
    names = np.array(objects.classes, object)
    numbers = np.column_stack([objects.score, objects.centroid, objects.measures])  # (object, number)
    return [
        pa.array(shapely.to_wkb(objects.polygons()), pa.binary()),
        pa.array(names[objects.class_index], pa.string()),
        *(pa.array(np.ascontiguousarray(column), pa.float32(), from_pandas=True) for column in numbers.T),
    ]


def read_geoparquet(path: Path) -> Objects:
    """Read what `write_geoparquet` wrote, or polygons of another tool.

    There, outlines are outer rings, of a MultiPolygon the largest; the class is "object", numbers
    are nan and centroids those of the outlines where the file has no such column.

    Raises
    ------
    InteropError
        If it is no GeoParquet with WKB polygons.
    """
    try:
        with pq.ParquetFile(path) as file:
            stated = file.schema_arrow.metadata or {}
            geometry = _geometry_column(stated)
            classes = {str(name): number for number, name in enumerate(json.loads(stated.get(b"classes", "[]")))}
            held = [name for name in (geometry, "class", *_NUMBERS) if name in file.schema_arrow.names]
            tables = (file.read_row_group(group, columns=held) for group in range(file.num_row_groups))
            parts = [_objects(table, geometry, classes) for table in tables]
    except KeyError as error:
        raise InteropError(f"{path} cannot be read as GeoParquet: it has no {error}") from None
    except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException, shapely.errors.ShapelyError) as error:
        raise InteropError(f"{path} cannot be read as GeoParquet: {error}") from None
    return Objects.joined(parts, tuple(classes))


def _geometry_column(stated: Mapping[bytes, bytes]) -> str:
    if b"geo" not in stated:
        raise ValueError(f"it has no metadata 'geo', only {b', '.join(sorted(stated)).decode() or 'none'}")
    geo = json.loads(stated[b"geo"])
    name = geo["primary_column"]
    if (encoding := geo["columns"][name]["encoding"]) != "WKB":
        raise ValueError(f"its column {name!r} is encoded as {encoding!r}, not WKB")
    return str(name)


def _objects(table: pa.Table, geometry: str, classes: dict[str, int]) -> Objects:
    polygons = _largest_parts(shapely.from_wkb(table[geometry].to_numpy()))
    numbers = {name: _number(table, name) for name in _NUMBERS}
    measures = np.column_stack([numbers[name] for name in MEASURES])
    objects = objects_of(polygons, _class_index(table, classes), numbers["score"], measures)
    stated = np.column_stack([numbers["centroid_x"], numbers["centroid_y"]])
    objects.centroid[:] = np.where(np.isnan(stated), objects.centroid, stated)
    return objects


def _largest_parts(shapes: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    for row in np.flatnonzero(shapely.get_type_id(shapes) != shapely.GeometryType.POLYGON):
        if not isinstance(shapes[row], shapely.MultiPolygon) or shapes[row].is_empty:
            raise ValueError(f"row {row} of a row group is {shapes[row]}; objects are polygons")
        shapes[row] = max(shapes[row].geoms, key=lambda part: float(part.area))
    if shapely.is_empty(shapes).any():
        raise ValueError("it holds an empty polygon")
    return shapes


def _number(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    numbers: npt.NDArray[np.float64] = table[name].cast(pa.float64()).to_numpy()
    return numbers


def _class_index(table: pa.Table, classes: dict[str, int]) -> npt.NDArray[np.int64]:
    names = table["class"].cast(pa.string()).fill_null(CLASSLESS).to_pylist() if "class" in table.column_names else []
    index = np.array([classes.setdefault(name, len(classes)) for name in names or [CLASSLESS] * len(table)], np.int64)
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"it has more than {MAX_CLASSES} classes")
    return index
