"""Features of GeoJSON, one by one, so that half a million need no memory: the one reader of it in the package.

`wsi_umedpt.annotations.geojson` makes annotations of them, `wsi_umedpt.interop.qupath` objects,
`wsi_umedpt.interop.qupath_tiles` tiles.

Read top to bottom: `Collection`, `read_features`, and what features have in common.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotations.annotation import DRAWING_TOOLS, FARTHEST_PX
from wsi_umedpt.annotations.json_text import JsonText
from wsi_umedpt.errors import InteropError, WsiError
from wsi_umedpt.io.files import open_regular

T = TypeVar("T")

CLASS_MEMBER = "wsi_umedpt"
"""Member of our collections that holds what their features do not."""
ORIGIN_MEMBER = "origin"
"""Member of it: (x, y), level-0 px, of the corner that positions count from."""
DRAWN_AS_MEMBER = "drawn_as"
"""Member of a feature's properties that names the tool it was drawn with."""
FRAMES = ("root", "tmaCore")
"""QuPath's objects that stand for a place and not for what was found there."""
GEOMETRIES = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection",
)  # fmt: skip
WRONG = (TypeError, AttributeError, LookupError, ValueError, OverflowError)
"""Errors that a damaged feature raises."""
_SMALL = 1 << 28
"""Bytes that may be unpacked from however few."""
_EXPANSION = 200
"""Times that features may grow when unpacked; ours grow 4 to 20 times."""


class Collection:
    """The features of a file, and what else it says."""

    def __init__(self, text: JsonText) -> None:
        self._text = text
        self.members: dict[str, Any] = {}
        """Members besides the features; those that stand before them are there with the first."""

    def objects(self, made: Callable[[dict[str, Any]], T]) -> Iterator[T]:
        """Make something of each object, children among them; frames around them are left out.

        Frames are the root, cores of tissue arrays, annotations with children.
        """
        for number, feature, children in self.features():
            kind = kind_of(feature)
            if kind not in FRAMES and not (kind in ("annotation", "") and children):
                try:
                    yield made(feature)
                except WRONG as error:
                    raise wrong(number, error) from None

    def features(self) -> Iterator[tuple[int, dict[str, Any], list[Any]]]:
        """Each feature with the number of the one that it stands in, and its children, which follow it."""
        for number, top in enumerate(self._features(), start=1):
            waiting = [top]
            while waiting:
                try:
                    feature = as_dict(waiting.pop(), "it")
                    properties = as_dict(feature.get("properties") or {}, "what it says of itself")
                    children = properties.get("childObjects") or properties.get("children") or []
                    waiting.extend(reversed(children))
                except WRONG as error:
                    raise wrong(number, error) from None
                yield number, feature, children

    @property
    def origin(self) -> tuple[float, float] | None:
        """The corner that positions count from, level-0 px, where the file says it; known after the features."""
        stated = as_dict(self.members.get(CLASS_MEMBER) or {}, f"its member {CLASS_MEMBER}").get(ORIGIN_MEMBER)
        if stated is None:
            return None
        try:
            x, y = (float(value) for value in stated)
        except (TypeError, ValueError):
            raise ValueError(f"its member {CLASS_MEMBER} has the origin {stated!r:.60}, which is no place") from None
        if not (abs(x) < FARTHEST_PX and abs(y) < FARTHEST_PX):
            raise ValueError(f"its member {CLASS_MEMBER} has the origin {stated!r:.60}, which is no place")
        return x, y

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
            if not streamed and kind in GEOMETRIES:
                yield {"type": "Feature", "geometry": self.members}
            elif not streamed and kind == "FeatureCollection":
                raise ValueError("it is a FeatureCollection without features")
            elif not streamed and kind != "Feature":
                raise ValueError(f"it is of type {kind!r}, neither a FeatureCollection nor a Feature")
            elif not streamed:
                yield self.members
        if found := text.ahead():
            raise ValueError(f"after its end follows {found!r}")


def wrong(number: int, error: Exception) -> ValueError:
    """An error of values that says which feature it is of."""
    return ValueError(
        f"feature {number} has no {error}" if isinstance(error, KeyError) else f"feature {number}: {error}"
    )


@contextmanager
def read_features(path: Path, error_type: type[WsiError] = InteropError) -> Iterator[Collection]:
    """Open GeoJSON: a FeatureCollection, a list of features, one feature or one geometry; packed by gzip or not.

    Parameters
    ----------
    error_type
        Is raised in place of any error of values within the context, with the file's name.

    Raises
    ------
    InteropError, or `error_type`
        If it cannot be read.
    """
    try:
        with _text(path) as file:
            yield Collection(JsonText(file))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise error_type(f"{path} cannot be read as GeoJSON: {reason}") from None


def _text(path: Path) -> TextIO:
    raw: Any = open_regular(path)
    try:
        if raw.peek(2)[:2] == b"\x1f\x8b":
            raw = _Unpacked(raw, path.stat().st_size)
        # Some editors on Windows leave a byte order mark, or write UTF-16.
        wide = raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        return io.TextIOWrapper(raw, encoding="utf-16" if wide else "utf-8-sig")
    except BaseException:
        raw.close()
        raise


class _Unpacked(gzip.GzipFile):
    """Unpacks a file, but not to far more than features can shrink to: a few kB may hold a terabyte of spaces."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._file, self._left = file, max(_SMALL, _EXPANSION * size)

    def read1(self, size: int = -1) -> bytes:
        """Some bytes of what comes next; `io.TextIOWrapper` reads no other way."""
        piece = super().read1(size)
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError(f"it unpacks to over {_EXPANSION} times its size; features do not shrink so much")
        return piece

    def close(self) -> None:
        """Close the file, too."""
        super().close()
        self._file.close()


def as_dict(value: Any, what: str) -> dict[str, Any]:
    """A value that must be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r:.60}")
    return value


def kind_of(feature: dict[str, Any]) -> str:
    """QuPath's type of the object; empty where it is not said."""
    properties = feature.get("properties") or {}
    return str(properties.get("objectType") or properties.get("object_type") or "")


def class_of(feature: dict[str, Any]) -> str:
    """The class, as QuPath shows one that is derived of others: "Tumor: Positive"; empty where there is none."""
    classification = (feature.get("properties") or {}).get("classification") or {}
    if isinstance(classification, str):
        return classification
    return str(classification.get("name") or ": ".join(map(str, classification.get("names") or [])))


def drawn_as(feature: dict[str, Any]) -> str:
    """Tool, of `wsi_umedpt.annotations.annotation.DRAWING_TOOLS`, that it was drawn with; empty if not stated."""
    ours = (feature.get("properties") or {}).get(CLASS_MEMBER)
    stated = ours.get(DRAWN_AS_MEMBER) if isinstance(ours, dict) else None
    return stated if isinstance(stated, str) and stated in DRAWING_TOOLS else ""


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
    if not (np.abs(points) < FARTHEST_PX).all():
        raise ValueError(f"a corner of it lies {FARTHEST_PX} px away or nowhere")
    return points
