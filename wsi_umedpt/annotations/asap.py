"""ASAP's XML: annotations that are part of groups.

Positions are level-0 px from the corner of the whole slide, as OpenSlide counts (NKI-AI/dlup issue 160). A class
is the group that an annotation is part of; of an annotation in no group, none.
"""

from collections import Counter

import numpy as np
import shapely

from wsi_umedpt.annotations.annotation import Annotation, Geometry, Origin, area_of
from wsi_umedpt.annotations.filling import has_area
from wsi_umedpt.annotations.xml_text import Corners, Vertices

COUNTS_FROM: Origin = "level-0"

_NO_GROUP = ("", "None")
_AREAS = ("Polygon", "Rectangle", "Spline")
"""Types that are areas; of a spline the corners that it goes through."""
_LINES = ("Measurement", "Line", "Polyline")


class AsapTarget:
    """Collects Annotations / Annotation / Coordinates / Coordinate, and the colours of AnnotationGroups / Group."""

    def __init__(self) -> None:
        self.annotations: list[Annotation] = []
        self.skipped: Counter[str] = Counter()
        self._attrs: dict[str, str] | None = None
        self._order: list[float] = []
        self._vertices = Vertices()

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        """See `wsi_umedpt.annotations.xml_text.Target`."""
        if tag == "Annotation":
            self._attrs, self._order = dict(attrs), []
        elif tag == "Coordinate" and self._attrs is not None:
            self._vertices.add(attrs)
            self._order.append(float(attrs.get("Order", len(self._order))))

    def end(self, tag: str) -> None:
        """See `wsi_umedpt.annotations.xml_text.Target`."""
        if tag != "Annotation" or self._attrs is None:
            return
        attrs, self._attrs = self._attrs, None
        corners = self._vertices.taken()[np.argsort(self._order, kind="stable")]
        geometry = _shape(attrs.get("Type", "Polygon"), corners) if len(corners) else None
        if geometry is None:
            self.skipped["without geometry"] += 1
        elif geometry.geom_type == "Polygon" and not has_area(geometry):
            self.skipped["without area"] += 1
        else:
            group = attrs.get("PartOfGroup", "").strip()
            number = str(len(self.annotations) + 1)
            self.annotations.append(
                Annotation(
                    geometry,
                    "" if group in _NO_GROUP else group,
                    attrs.get("Name", "").strip(),
                    _colour(attrs.get("Color", "")),
                    number,
                )
            )


def _shape(kind: str, corners: Corners) -> Geometry:
    if kind in _AREAS and len(corners) > 2:
        return area_of([[corners]])
    if kind in (*_AREAS, *_LINES) and len(corners) > 1:
        return shapely.linestrings(corners)
    return shapely.points(corners[0]) if len(corners) == 1 else shapely.multipoints(shapely.points(corners))


def _colour(text: str) -> tuple[int, int, int] | None:
    try:
        value = int(text.removeprefix("#"), 16)
    except ValueError:
        return None
    return (value >> 16) & 255, (value >> 8) & 255, value & 255
