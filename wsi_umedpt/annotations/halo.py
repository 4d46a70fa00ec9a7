"""HALO's .annotations: XML of layers of regions.

Positions are level-0 px from the corner of the whole slide, also where that has bounds (NKI-AI/dlup issue 160).
A class is the layer's name. Rectangles and ellipses are given by two corners of the box around them.
"""

from collections import Counter

import shapely

from wsi_umedpt.annotations.annotation import Annotation, Geometry, Origin, area_of
from wsi_umedpt.annotations.layers import annotations_of_layers
from wsi_umedpt.annotations.xml_text import Corners, RawRegion, box_of, ellipse_in

COUNTS_FROM: Origin = "level-0"


def halo_annotations(regions: list[RawRegion]) -> tuple[list[Annotation], Counter[str]]:
    """Annotations of a file's regions, and what was left out."""
    return annotations_of_layers(regions, _shape, lambda region: region.layer.get("Name", "").strip(), "Text")


def _shape(attrs: dict[str, str], corners: Corners) -> Geometry:
    kind = attrs.get("Type", "Polygon")
    if len(corners) == 1:
        return shapely.points(corners[0])
    if kind == "Rectangle" and len(corners) == 2:
        return box_of(corners)
    if kind == "Ellipse" and len(corners) in (2, 4):
        return ellipse_in(corners)
    if kind in ("Polygon", "Rectangle", "Ellipse") and len(corners) > 2:
        return area_of([[corners]])
    return shapely.linestrings(corners)
