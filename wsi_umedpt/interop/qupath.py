"""QuPath's GeoJSON: `Objects` out and in, feature by feature, so that half a million nuclei need no memory.

What QuPath makes of a file is in its `QuPathTypeAdapters.java` and `PathObjectTypeAdapters.java`: positions
are level-0 px, rings are closed, measurements are finite (it cannot read the NaN that it once wrote),
and objects that do not say they are detections become annotations, which are far slower.

Read top to bottom: `write_geojson` (orjson, a block at a time), `read_geojson`, and what it makes of a
feature.
"""

import gzip
import itertools
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TextIO, cast, get_args

import numpy as np
import numpy.typing as npt
import orjson
import shapely

from wsi_umedpt.arrays import whole_file
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.exchange import CLASSLESS, MAX_CLASSES, check_outlines, objects_of
from wsi_umedpt.interop.json_text import JsonText
from wsi_umedpt.objects import PALETTE, Objects

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
"""Names in QuPath of an object's score and then of each of `wsi_umedpt.objects.MEASURES`."""

_SUFFIXES = (".geojson", ".geojson.gz")
_GZIP_LEVEL = 2
_BLOCK = 4096
"""Features that are in memory at once."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/wsi-umedpt/wsi-umedpt")
_FARTHEST_PX = 1 << 31
_FRAMES = ("root", "tmaCore")
"""QuPath's objects that stand for a place and not for what was found there."""


def write_geojson(
    path: Path,
    objects: Objects,
    *,
    slide_id: str,
    object_type: ObjectType = "detection",
    colours: Mapping[str, Colour] | None = None,
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
        What QuPath makes of them; annotations are slow from some thousands on.
    colours
        Red, green, blue of a class, 0 to 255; others are of `PALETTE`.

    Raises
    ------
    InteropError
        If the suffix or the type is another, or an outline is no polygon.
    """
    if not path.name.lower().endswith(_SUFFIXES):
        raise InteropError(f"{path.name} must end in {' or '.join(_SUFFIXES)}")
    if object_type not in get_args(ObjectType):
        raise InteropError(f"QuPath has no objects of type {object_type!r}; use {', '.join(get_args(ObjectType))}")
    check_outlines(objects)
    classifications = [
        {"name": name, "color": (colours or {}).get(name, PALETTE[number % len(PALETTE)])}
        for number, name in enumerate(objects.classes)
    ]
    with whole_file(path) as raw, _packed(raw, path) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for first in range(0, len(objects), _BLOCK):
            block = _block(objects, slice(first, first + _BLOCK), classifications, slide_id, object_type)
            file.write(b",\n" if first else b"\n")
            file.write(b",\n".join(map(orjson.dumps, block)))
        file.write(b"\n]}\n")


def _packed(raw: IO[bytes], path: Path) -> AbstractContextManager[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        return nullcontext(raw)
    # No name and no time in it: equal objects give equal bytes.
    return cast(IO[bytes], gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0))


def _block(
    objects: Objects, rows: slice, classifications: list[dict[str, Any]], slide_id: str, object_type: str
) -> Iterator[dict[str, Any]]:
    starts = objects.starts[rows.start : rows.stop + 1]
    corners = np.round(objects.outline[starts[0] : starts[-1]].astype(np.float64), 2).tolist()
    values = np.column_stack([objects.score[rows], objects.measures[rows]])  # (object, measurement)
    # Through orjson and back: Python floats that print as the float32s do, None where one is not finite.
    printed = orjson.loads(orjson.dumps(np.ascontiguousarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY))
    bounds = itertools.pairwise((starts - starts[0]).tolist())
    for number, (begin, end), class_index, measured in zip(
        itertools.count(rows.start), bounds, objects.class_index[rows].tolist(), printed, strict=False
    ):
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{slide_id}/{number}")),
            "geometry": {"type": "Polygon", "coordinates": [[*corners[begin:end], corners[begin]]]},
            "properties": {
                "objectType": object_type,
                "classification": classifications[class_index],
                "measurements": {
                    name: value for name, value in zip(MEASUREMENTS, measured, strict=True) if value is not None
                },
            },
        }


# ---- reading ----


def read_geojson(path: Path) -> Objects:
    """Read objects that `write_geojson` or QuPath wrote: a FeatureCollection, a list of features, or one feature.

    Outlines are outer rings, of a MultiPolygon the largest; a cell's is that of the cell, not of
    its nucleus. Classes are in the order of their appearance, "object" where there is none.
    Measurements other than `MEASUREMENTS` are ignored, and nan where they are absent. Centroids
    are those of the outlines. Child objects count; frames around them (the root, cores of tissue
    arrays, annotations with children) do not.

    Raises
    ------
    InteropError
        If it cannot be read, is no GeoJSON, or a feature is no polygon.
    """
    classes: dict[str, int] = {}
    parts = []
    try:
        with _unpacked(path) as file:
            found = _found(_features(JsonText(file)))
            while block := list(itertools.islice(found, _BLOCK)):
                parts.append(_objects(block, classes))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InteropError(f"{path} cannot be read as QuPath's GeoJSON: {error}") from None
    return Objects.joined(parts, tuple(classes))


def _unpacked(path: Path) -> TextIO:
    # A byte order mark is what some editors on Windows leave.
    if path.suffix.lower() == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


class _Found(NamedTuple):
    """An object as a feature describes it."""

    name: str
    values: list[float]
    """As in `MEASUREMENTS`."""
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


def _found(features: Iterator[Any]) -> Iterator[_Found]:
    for number, top in enumerate(features, start=1):
        waiting = [top]
        while waiting:
            try:
                feature = _as_dict(waiting.pop(), "it")
                properties = feature.get("properties") or {}
                kind = properties.get("objectType") or properties.get("object_type")
                children = properties.get("childObjects") or properties.get("children") or []
                waiting.extend(reversed(children))
                if kind not in _FRAMES and not (kind in ("annotation", None) and children):
                    yield _Found(
                        _class_of(properties),
                        _values_of(properties),
                        _ring_of(_as_dict(feature["geometry"], "its geometry")),
                    )
            except KeyError as error:
                raise ValueError(f"feature {number} has no {error}") from None
            except (TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
                raise ValueError(f"feature {number}: {error}") from None


def _as_dict(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r:.60}")
    return value


def _class_of(properties: dict[str, Any]) -> str:
    classification = properties.get("classification") or {}
    # QuPath names a class derived from others as it shows it: "Tumor: Positive".
    return str(classification.get("name") or ": ".join(classification.get("names") or []) or CLASSLESS)


def _values_of(properties: dict[str, Any]) -> list[float]:
    stated = properties.get("measurements") or {}
    if isinstance(stated, list):  # before QuPath 0.4
        stated = {pair["name"]: pair["value"] for pair in stated}
    known = {_plain(name): value for name, value in stated.items()}
    return [np.nan if (value := known.get(name)) is None else float(value) for name in MEASUREMENTS]


def _plain(name: str) -> str:
    """A measurement's name with a u for both of Unicode's micro signs."""
    return name if name.isascii() else name.replace("\u00b5", "u").replace("\u03bc", "u")


def _ring_of(geometry: dict[str, Any]) -> npt.NDArray[np.float64]:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"it is a {kind}; objects are polygons")
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not parts or not all(parts):
        raise ValueError(f"its {kind} is empty")
    rings = [_corners(part[0]) for part in parts]
    return rings[0] if len(rings) == 1 else max(rings, key=lambda corners: float(shapely.Polygon(corners).area))


def _corners(ring: list[list[float]]) -> npt.NDArray[np.float64]:
    points = np.asarray(ring, np.float64)  # (point, 2), or 3 where heights are stated
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError("its ring is no list of positions")
    points = points[:-1, :2] if np.array_equal(points[0], points[-1]) else points[:, :2]
    if len(points) < 3:
        raise ValueError(f"its ring has {len(points)} corners; a polygon needs three")
    # Said so that nan fails too.
    if not (np.abs(points) < _FARTHEST_PX).all():
        raise ValueError(f"a corner of it lies {_FARTHEST_PX} px away or nowhere")
    return points


def _features(text: JsonText) -> Iterator[Any]:
    """Every feature of a file, and then what must follow them."""
    if text.ahead() == "[":
        yield from text.items()
    else:
        top: dict[str, Any] = {}
        streamed = False
        for name in text.names():
            if name == "features":
                streamed = True
                yield from text.items()
            else:
                top[name] = text.value()
        if not streamed and top.get("type") != "Feature":
            raise ValueError(f"it is of type {top.get('type')!r}, neither a FeatureCollection nor a Feature")
        if not streamed:
            yield top
    if found := text.ahead():
        raise ValueError(f"after its end follows {found!r}")
