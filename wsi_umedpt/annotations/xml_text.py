"""XML of strangers, element by element, bounded: no tree is made, no DTD or entity is read (defusedxml).

`LayersTarget` collects what ImageScope and HALO share: layers of regions, each a list of vertices.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol
from xml.etree.ElementTree import ParseError

import numpy as np
import numpy.typing as npt
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from wsi_umedpt.annotations.annotation import FARTHEST_PX, MOST_ANNOTATIONS, MOST_VERTICES, Geometry, area_of
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.io.files import open_regular

Corners = npt.NDArray[np.float64]

_PIECE = 1 << 16
_DEEPEST = 50
_ELLIPSE_CORNERS = 64


class Target(Protocol):
    """Is told of elements as they come."""

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        """An element begins."""

    def end(self, tag: str) -> None:
        """An element ends."""


class _Bounded:
    """Passes elements on to a target, without their namespaces, and no deeper than annotations nest."""

    def __init__(self, target: Target) -> None:
        self._target, self._depth = target, 0

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"its elements nest deeper than {_DEEPEST}")
        self._target.start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str) -> None:
        self._depth -= 1
        self._target.end(tag.rpartition("}")[2])

    def close(self) -> None:
        """Nothing is made of the whole."""


def parse_xml(path: Path, target: Target) -> None:
    """Tell a target of all elements of a file.

    Raises
    ------
    AnnotationError
        If the file is no XML, has a DTD or entities, or is refused by the target with a ValueError.
    """
    parser = DefusedXMLParser(target=_Bounded(target), forbid_dtd=True)
    try:
        with open_regular(path) as file:
            while piece := file.read(_PIECE):
                parser.feed(piece)
        parser.close()
    except (OSError, ParseError, DefusedXmlException, ValueError, KeyError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise AnnotationError(f"{path} cannot be read as XML of annotations: {reason}") from None


class Vertices:
    """Corners of one outline after the other, bounded over the whole file."""

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []
        self._total = self._outlines = 0

    def add(self, attrs: dict[str, str]) -> None:
        """One more corner of this outline, from the attributes X and Y."""
        # Some programs write the decimal comma of the user's language.
        x, y = (float(attrs[name].replace(",", ".")) for name in ("X", "Y"))
        if not (abs(x) < FARTHEST_PX and abs(y) < FARTHEST_PX):
            raise ValueError(f"a corner lies at {x:g}, {y:g}, which is nowhere on a slide")
        self._total += 1
        if self._total > MOST_VERTICES:
            raise ValueError(f"it holds more than {MOST_VERTICES:,} corners")
        self._found.append((x, y))

    def taken(self) -> Corners:
        """Corners of the outline that ends here, (corner, 2)."""
        self._outlines += 1
        if self._outlines > MOST_ANNOTATIONS:
            raise ValueError(f"it holds more than {MOST_ANNOTATIONS:,} annotations")
        found, self._found = np.array(self._found, np.float64).reshape(-1, 2), []
        return found


class RawRegion(NamedTuple):
    """A region as it stands in the file."""

    layer: dict[str, str]
    """Attributes of the layer, and its first description."""
    attrs: dict[str, str]
    corners: Corners


class LayersTarget:
    """Collects Annotation / Regions / Region / Vertices / Vertex (ImageScope) or V (HALO)."""

    def __init__(self) -> None:
        self.regions: list[RawRegion] = []
        self.vertex = ""
        """Name of a corner in the file."""
        self._layer: dict[str, str] = {}
        self._region: dict[str, str] | None = None
        self._vertices = Vertices()

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        """See `Target`."""
        if tag == "Annotation":
            self._layer = dict(attrs)
        elif tag == "Attribute" and self._region is None and attrs.get("Name") == "Description":
            self._layer.setdefault("Description", attrs.get("Value", ""))
        elif tag == "Region":
            self._region = dict(attrs)
        elif tag in ("Vertex", "V") and self._region is not None:
            self.vertex = self.vertex or tag
            self._vertices.add(attrs)

    def end(self, tag: str) -> None:
        """See `Target`."""
        if tag == "Region" and self._region is not None:
            self.regions.append(RawRegion(self._layer, self._region, self._vertices.taken()))
            self._region = None


def bgr(number: str | None) -> tuple[int, int, int] | None:
    """Red, green, blue of a colour as Windows numbers them: blue highest."""
    try:
        value = int(number or "")
    except ValueError:
        return None
    return value & 255, (value >> 8) & 255, (value >> 16) & 255


def box_of(corners: Corners) -> Geometry:
    """The rectangle that corners span."""
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return area_of([[np.array([[left, top], [right, top], [right, bottom], [left, bottom]])]])


def ellipse_in(corners: Corners) -> Geometry:
    """The ellipse in the rectangle that corners span, as a polygon."""
    low, high = corners.min(0), corners.max(0)
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    ring = (low + high) / 2 + np.hstack([np.cos(angle), np.sin(angle)]) * (high - low) / 2
    return area_of([[ring]])


def is_set(attrs: dict[str, Any], name: str) -> bool:
    """Return whether a flag is 1 or true."""
    return str(attrs.get(name, "")).strip().lower() in ("1", "true")
