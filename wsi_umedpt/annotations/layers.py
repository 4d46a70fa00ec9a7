"""Layers of regions as annotations: what ImageScope and HALO have in common.

A region with NegativeROA is a hole: it is cut out of the regions of its layer that are larger than it, and
may hold a smaller one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from wsi_umedpt.annotations.annotation import Annotation, Geometry, area_of, polygons_of
from wsi_umedpt.annotations.filling import has_area
from wsi_umedpt.annotations.xml_text import Corners, RawRegion, bgr, is_set

Shape = Callable[[dict[str, str], Corners], Geometry]
"""Makes the geometry of a region's attributes and corners; None if it is of no use."""


def annotations_of_layers(
    regions: Iterable[RawRegion], shape: Shape, name: Callable[[RawRegion], str], text: str
) -> tuple[list[Annotation], Counter[str]]:
    """Annotations of regions, holes cut out; and what was left out.

    Parameters
    ----------
    shape
        Meaning of a region's type in a program.
    name
        Meaning of a region's class in a program.
    text
        Attribute that holds a region's own name.
    """
    skipped: Counter[str] = Counter()
    found: list[Annotation] = []
    layers: list[int] = []
    holes: dict[int, list[Geometry]] = {}
    for region in regions:
        geometry = shape(region.attrs, region.corners) if len(region.corners) else None
        if geometry is None:
            skipped["without geometry"] += 1
        elif geometry.geom_type == "Polygon" and not has_area(geometry):
            skipped["without area"] += 1
        elif is_set(region.attrs, "NegativeROA"):
            if geometry.geom_type == "Polygon":
                holes.setdefault(id(region.layer), []).append(geometry)
        else:
            found.append(
                Annotation(
                    geometry,
                    name(region),
                    region.attrs.get(text, "").strip(),
                    bgr(region.layer.get("LineColor")),
                    f"{len(found) + 1}",
                )
            )
            layers.append(id(region.layer))
    return [_cut(one, holes.get(layer, ())) for one, layer in zip(found, layers, strict=True)], skipped


def _cut(one: Annotation, holes: Sequence[Geometry]) -> Annotation:
    """An area without the holes that reach into it; a larger hole is what it lies in, and not its own."""
    if one.shape != "area":
        return one
    left, top, right, bottom = one.geometry.bounds
    size, within = one.geometry.area, []
    for hole in holes:
        x0, y0, x1, y1 = hole.bounds
        if hole.area < size and x0 < right and x1 > left and y0 < bottom and y1 > top:
            within += [ring for (ring,) in polygons_of(hole)]
    ((outer, *inner),) = polygons_of(one.geometry)
    return replace(one, geometry=area_of([[outer, *inner, *within]])) if within else one
