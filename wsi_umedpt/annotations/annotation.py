"""Annotations, and the content of a file of them: the same for every format.

Positions are level-0 px, x before y, counted from the corner of the whole slide. Formats count from
elsewhere: see `Origin`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

Origin = Literal["bounds", "level-0"]
"""The corner that positions of a file count from: that of the scanned area, where a slide states its bounds (MRXS and
SCN do), as QuPath crops it; or that of the whole slide. On slides without bounds both are the same."""
Corner = tuple[int, int]
"""(x, y) of a slide's bounds, level-0 px; (0, 0) where it states none."""
Geometry = Any  # shapely's geometries have no types
"""A shapely geometry as it was drawn: a polygon may cross itself; its area is what `filling` fills."""

DRAWING_TOOLS = ("rectangle", "ellipse", "line")
"""Tools whose shapes are drawn by fewer corners than their geometry has, and can only be edited as they are."""
STAR = "*"
"""Ends the names of QuPath's classes that do not count: Ignore*, Region* and those of the user."""
FRAME = "Region*"
"""QuPath's class for the place that somebody worked in; it says nothing of what is there."""
FARTHEST_PX = 1 << 31
MOST_VERTICES = 5_000_000
"""Most corners of all annotations of a file: more are damaged, or a stranger's."""
MOST_ANNOTATIONS = 200_000
MOST_BYTES = 1 << 30
"""Most bytes of a file, packed or not."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """Something that somebody drew."""

    geometry: Geometry
    """Polygons, lines or points, level-0 px."""
    name: str = ""
    """Its class; empty where there is none."""
    title: str = ""
    """Its own name, if it has one."""
    colour: tuple[int, int, int] | None = None
    id: str = ""
    locked: bool = False
    kind: str = "annotation"
    """QuPath's objectType."""
    measurements: Mapping[str, float] = field(default_factory=dict)
    drawn_as: str = ""
    """One of `DRAWING_TOOLS` if it was drawn with that; empty where that is not known."""

    @property
    def shape(self) -> Literal["area", "line", "point"]:
        """Kind of shape that was drawn."""
        kinds: dict[str, Literal["area", "line", "point"]] = {
            "Polygon": "area", "MultiPolygon": "area", "LineString": "line", "MultiLineString": "line",
        }  # fmt: skip
        return kinds.get(self.geometry.geom_type, "point")

    def moved(self, by: tuple[float, float]) -> "Annotation":
        """The same, so far to the right and down, level-0 px."""
        if not any(by):
            return self
        return replace(self, geometry=shapely.transform(self.geometry, lambda xy: xy + by))


def is_starred(name: str) -> bool:
    """Return whether a class is one of those that do not count; of a derived class ("Tumor: Ignore*") any part."""
    return any(part.strip().endswith(STAR) for part in name.split(":"))


class AnnotationFile(NamedTuple):
    """Content of a file of annotations."""

    annotations: list[Annotation]
    skipped: Counter[str]
    """Number of annotations that were left out, by kind, in words."""
    origin: Origin
    """The corner that its positions counted from; those of `annotations` always count from the whole slide's."""
    format: str
    """"GeoJSON", "ASAP", "ImageScope" or "HALO"."""


def skipped_words(skipped: Mapping[str, int]) -> str:
    """Description of what was left out; empty where nothing was.

    Examples
    --------
    >>> skipped_words({"lines": 1, "without geometry": 2})
    'skipped: 1 lines, 2 without geometry'
    """
    found = [f"{count:,} {what}" for what, count in sorted(skipped.items()) if count]
    return f"skipped: {', '.join(found)}" if found else ""


def polygons_of(geometry: Geometry) -> Iterator[list[npt.NDArray[np.float64]]]:
    """Rings of each polygon of an area: the outer one, then its holes; each (corner, 2) and closed."""
    for part in shapely.get_parts(geometry):
        yield [shapely.get_coordinates(ring) for ring in shapely.get_rings(part)]


def area_of(polygons: Sequence[Sequence[npt.NDArray[np.float64]]]) -> Geometry:
    """A Polygon or MultiPolygon of rings, as they are: nothing is checked or made good.

    Parameters
    ----------
    polygons
        Rings of each, the outer one first, then its holes; (corner, 2), open or closed.
    """
    made = [
        shapely.polygons(shapely.linearrings(rings[0]), [shapely.linearrings(hole) for hole in rings[1:]] or None)
        for rings in polygons
    ]
    return made[0] if len(made) == 1 else shapely.multipolygons(made)
