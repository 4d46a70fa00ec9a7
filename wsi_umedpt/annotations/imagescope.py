"""Aperio ImageScope's XML: layers of regions.

Positions are level-0 px as ImageScope shows the slide: it crops its own SCN to the scanned area, as QuPath does,
and SVS have no bounds. A class is the layer's name; ImageScope calls one without a name "Layer N".
"""

from collections import Counter

import shapely

from wsi_umedpt.annotations.annotation import Annotation, Geometry, Origin, area_of
from wsi_umedpt.annotations.layers import annotations_of_layers
from wsi_umedpt.annotations.xml_text import Corners, RawRegion, box_of, ellipse_in

COUNTS_FROM: Origin = "bounds"

_POLYGON, _RECTANGLE, _ELLIPSE = "0", "1", "2"
"""Types of regions; others are arrows and rulers."""


def imagescope_annotations(regions: list[RawRegion]) -> tuple[list[Annotation], Counter[str]]:
    """Annotations of a file's regions, and what was left out."""
    return annotations_of_layers(regions, _shape, _class, "Text")


def _class(region: RawRegion) -> str:
    layer = region.layer
    return (
        layer.get("Name", "").strip()
        or layer.get("Description", "").strip()
        or region.attrs.get("Text", "").strip()
        or f"Layer {layer.get('Id', '')}".strip()
    )


def _shape(attrs: dict[str, str], corners: Corners) -> Geometry:
    kind, shape = attrs.get("Type", _POLYGON), attrs.get("GeoShape", "")
    if shape == "Points":  # QuPath's scripts write such
        return shapely.points(corners[0]) if len(corners) == 1 else shapely.multipoints(shapely.points(corners))
    if kind == _ELLIPSE and shape != "Rectangle" and len(corners) in (2, 4):
        return ellipse_in(corners)
    if kind == _RECTANGLE and len(corners) == 2:
        return box_of(corners)
    if kind in (_POLYGON, _RECTANGLE, _ELLIPSE) and len(corners) > 2:
        return area_of([[corners]])
    return shapely.linestrings(corners) if len(corners) > 1 else shapely.points(corners[0])
