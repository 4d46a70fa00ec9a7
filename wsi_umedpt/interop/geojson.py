"""QuPath's GeoJSON: features out and in, one by one, so that half a million need no memory.

What is here knows files and frames; `wsi_umedpt.interop.qupath` makes objects of features, and
`wsi_umedpt.interop.qupath_tiles` tiles.

Read top to bottom: `write_features` (orjson, a block at a time), `read_features`, and the `Collection`
that it gives.
"""

import gzip
import io
import itertools
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar, cast

import numpy as np
import numpy.typing as npt
import orjson
import shapely

from wsi_umedpt.arrays import whole_file
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.json_text import JsonText

T = TypeVar("T")

BLOCK = 4096
"""Features that are in memory at once."""
SUFFIXES = (".geojson", ".geojson.gz")
_GZIP_LEVEL = 2
_SMALL = 1 << 28
"""Bytes that may be unpacked from however few."""
_EXPANSION = 200
"""Times that features may grow when unpacked; ours grow 4 to 20 times."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/wsi-umedpt/wsi-umedpt")
_FARTHEST_PX = 1 << 31
_FRAMES = ("root", "tmaCore")
"""QuPath's objects that stand for a place and not for what was found there."""


def write_features(
    path: Path, count: int, block: Callable[[slice], Iterable[dict[str, Any]]], about: Mapping[str, Any] | None = None
) -> None:
    """Write a FeatureCollection, a feature a line; the file is whole or absent.

    Parameters
    ----------
    path
        ``.geojson``, or ``.geojson.gz`` for gzip.
    count
        How many features there are.
    block
        Gives those of some rows.
    about
        Further members of the collection, which other programs ignore (RFC 7946, section 6.1).
    """
    check_geojson(path)
    with whole_file(path) as raw, _packed(raw, path) as file:
        file.write(orjson.dumps({"type": "FeatureCollection", **(about or {})})[:-1] + b',"features":[')
        for first in range(0, count, BLOCK):
            file.write(b",\n" if first else b"\n")
            file.write(b",\n".join(map(orjson.dumps, block(slice(first, min(first + BLOCK, count))))))
        file.write(b"\n]}\n")


def check_geojson(path: Path) -> None:
    """Refuse a name that is no GeoJSON's, before anything is computed."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InteropError(f"{path.name} must end in {' or '.join(SUFFIXES)}")


def feature_id(name: str) -> str:
    """The same name gives the same id in every file."""
    return str(uuid.uuid5(_NAMESPACE, name))


def printed(values: npt.NDArray[Any]) -> list[Any]:
    """Python floats that print as the float32s do, None where one is not finite."""
    # Through orjson and back, which is where they are bound for.
    numbers = np.ascontiguousarray(values, np.float32)
    return cast(list[Any], orjson.loads(orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)))


def _packed(raw: IO[bytes], path: Path) -> AbstractContextManager[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        return nullcontext(raw)
    # No name and no time in it: equal objects give equal bytes.
    return cast(IO[bytes], gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0))


# ---- reading ----


class Collection:
    """The features of a file, and what else it says."""

    def __init__(self, text: JsonText) -> None:
        self._text = text
        self.members: dict[str, Any] = {}
        """Members besides the features; those that stand before them are there with the first."""

    def objects(self, made: Callable[[dict[str, Any]], T]) -> Iterator[T]:
        """What is made of each object, children among them; frames around them are left out.

        Frames are the root, cores of tissue arrays, annotations with children.
        """
        for number, top in enumerate(self._features(), start=1):
            waiting = [top]
            while waiting:
                try:
                    feature = as_dict(waiting.pop(), "it")
                    properties = feature.get("properties") or {}
                    kind = properties.get("objectType") or properties.get("object_type")
                    children = properties.get("childObjects") or properties.get("children") or []
                    waiting.extend(reversed(children))
                    if kind not in _FRAMES and not (kind in ("annotation", None) and children):
                        yield made(feature)
                except KeyError as error:
                    raise ValueError(f"feature {number} has no {error}") from None
                except (TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
                    raise ValueError(f"feature {number}: {error}") from None

    def _features(self) -> Iterator[Any]:
        """Every feature, and then what must follow them."""
        text, streamed = self._text, False
        if text.ahead() == "[":
            yield from text.items()
        else:
            for name in text.names():
                if name == "features":
                    streamed = True
                    yield from text.items()
                else:
                    self.members[name] = text.value()
            kind = self.members.get("type")
            if not streamed and kind != "Feature":
                raise ValueError(f"it is of type {kind!r}, neither a FeatureCollection nor a Feature")
            if not streamed:
                yield self.members
        if found := text.ahead():
            raise ValueError(f"after its end follows {found!r}")


@contextmanager
def read_features(path: Path) -> Iterator[Collection]:
    """Open what `write_features` or QuPath wrote: a FeatureCollection, a list of features, or one feature.

    Raises
    ------
    InteropError
        In place of any error of values within the context, with the file's name.
    """
    try:
        with _unpacked(path) as file:
            yield Collection(JsonText(file))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InteropError(f"{path} cannot be read as QuPath's GeoJSON: {error}") from None


def in_blocks(items: Iterator[T]) -> Iterator[list[T]]:
    """As many as may be in memory at once."""
    while block := list(itertools.islice(items, BLOCK)):
        yield block


def _unpacked(path: Path) -> TextIO:
    # A byte order mark is what some editors on Windows leave.
    if path.suffix.lower() == ".gz":
        return io.TextIOWrapper(_Unpacked(path), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


class _Unpacked(gzip.GzipFile):
    """Unpacks a file, but not to far more than features can shrink to: a few kB may hold a terabyte of spaces."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._left = max(_SMALL, _EXPANSION * path.stat().st_size)

    def read1(self, size: int = -1) -> bytes:
        """Some bytes of what comes next; `io.TextIOWrapper` reads no other way."""
        piece = super().read1(size)
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError(f"it unpacks to over {_EXPANSION} times its size; features do not shrink so much")
        return piece


def as_dict(value: Any, what: str) -> dict[str, Any]:
    """A value that must be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r:.60}")
    return value


def measurements_of(feature: dict[str, Any]) -> dict[str, Any]:
    """Values by name, as stated."""
    stated = (feature.get("properties") or {}).get("measurements") or {}
    # a list before QuPath 0.4
    return {pair["name"]: pair["value"] for pair in stated} if isinstance(stated, list) else stated


def ring_of(feature: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Corners of a feature's outer ring, left open; of a MultiPolygon that of its largest part. (corner, 2)."""
    geometry = as_dict(feature["geometry"], "its geometry")
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
