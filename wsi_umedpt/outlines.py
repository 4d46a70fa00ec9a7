"""From labelled pixels to `Objects`: outlines in level-0 px, and measures in um."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage

from wsi_umedpt.objects import MEASURES, Objects

TOLERANCE_UM = 0.25
"""How far an outline may lie from that of the pixels, by default."""
_STAINS = np.linalg.inv(
    np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    / np.linalg.norm([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], axis=1, keepdims=True)
)
"""Optical density of red, green and blue to haematoxylin, eosin and DAB (Ruifrok and Johnston, 2001, table 1)."""
_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def outlined(
    labels: npt.NDArray[np.int32],
    image: npt.NDArray[np.uint8],
    chances: npt.NDArray[np.uint8],
    classes: tuple[str, ...],
    *,
    origin: tuple[int, int],
    scale: float,
    mpp: float,
    tolerance_um: float = TOLERANCE_UM,
) -> Objects:
    """Outline and measure the objects of a picture.

    Parameters
    ----------
    labels : int32 (h, w)
        0 is background; numbers may be missing.
    image : uint8 (h, w, 3)
        What they were found in, RGB.
    chances : uint8 (class, h, w)
        Chance (255 is 1) of each class; an object's is the one with the largest sum, its score the
        mean chance of all classes.
    origin : (x, y)
        Of the picture's top left corner, px of the picture on the slide.
    scale
        Level-0 px per px of the picture.
    mpp : um/px
        Of the picture.
    tolerance_um
        Outlines are simplified by this much, and then widened or narrowed so that they hold the
        area of the pixels.

    Returns
    -------
    Objects
        In order of their numbers.
    """
    found = ndimage.find_objects(labels)
    numbers = np.array([n for n, where in enumerate(found, start=1) if where is not None], np.int64)
    if not len(numbers):
        return Objects.empty(classes)
    inside = labels > 0
    flat = np.searchsorted(numbers, labels[inside])
    pixels = np.bincount(flat, minlength=len(numbers)).astype(np.float64)

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(flat, weights=values, minlength=len(numbers)) / pixels

    likely = np.stack([mean(c[inside].astype(np.float32)) for c in chances]) / 255
    rows, columns = np.nonzero(inside)
    centroid = np.stack([mean(columns), mean(rows)], 1) + 0.5
    density = _DENSITY[image[inside]] @ _STAINS.astype(np.float32)
    rings = [_ring(labels, n, found[n - 1]) for n in numbers.tolist()]
    polygons = _polygons(rings, pixels, tolerance_um / mpp)
    perimeter = shapely.length(polygons) * mpp
    area = pixels * mpp**2
    corners = shapely.get_coordinates(polygons)
    lengths = shapely.get_num_coordinates(polygons)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    opened = np.delete(corners, starts[1:] - 1, axis=0)  # the last corner repeats the first
    corner = np.array(origin)
    measures = {
        "area_um2": area,
        "perimeter_um": perimeter,
        "circularity": 4 * np.pi * shapely.area(polygons) * mpp**2 / perimeter**2,
        "hematoxylin": mean(density[:, 0]),
        "eosin": mean(density[:, 1]),
    }
    return Objects(
        classes,
        likely.argmax(0).astype(np.uint8),
        np.minimum(likely.sum(0), 1).astype(np.float32),
        ((centroid + corner) * scale).astype(np.float32),
        np.stack([measures[name] for name in MEASURES], 1).astype(np.float32),
        (starts - np.arange(len(starts))).astype(np.int64),
        ((opened + corner) * scale).astype(np.float32),
    )


def _ring(labels: npt.NDArray[np.int32], number: int, where: tuple[slice, slice]) -> npt.NDArray[np.float64]:
    """Centres of an object's outermost pixels, px; holes are filled. Of several parts, the largest."""
    mask = (labels[where] == number).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corner = np.array([where[1].start, where[0].start])
    ring: npt.NDArray[np.float64] = max(contours, key=len)[:, 0] + corner + 0.5
    return ring


def _polygons(
    rings: list[npt.NDArray[np.float64]], pixels: npt.NDArray[np.float64], tolerance: float
) -> npt.NDArray[np.object_]:
    """Valid polygons through the edges of pixels, from rings through their centres; all px."""
    lengths = np.array([len(r) for r in rings])
    # A ring of one or two points is no polygon yet; as a line it becomes one when it is widened.
    closed = np.concatenate([p for r in rings for p in (r, r[:1])] + [np.empty((0, 2))])
    lines = shapely.linestrings(closed, indices=np.repeat(np.arange(len(rings)), lengths + 1))
    shapes = lines.copy()
    wide = lengths > 3
    shapes[wide] = shapely.polygons(shapely.linearrings(shapely.get_coordinates(lines[wide]),
        indices=np.repeat(np.arange(wide.sum()), lengths[wide] + 1)))  # fmt: skip
    shapes = shapely.simplify(shapely.make_valid(shapes), tolerance)
    # area + length d + 4 d^2 = pixels: what widening by d with pointed corners comes to
    length = np.where(shapely.area(shapes) > 0, shapely.length(shapes), 2 * shapely.length(lines) / 2)
    lack = pixels - shapely.area(shapes)
    by = (np.sqrt(np.maximum(length**2 + 16 * lack, 0)) - length) / 8
    widened = shapely.buffer(shapes, np.maximum(by, 0.1), quad_segs=1, join_style="mitre", cap_style="square")
    return np.array(
        [p if p.geom_type == "Polygon" else max(p.geoms, key=lambda g: g.area) for p in map(_filled, widened)]
    )


def _filled(shape: shapely.Geometry) -> shapely.Geometry:
    return shapely.Polygon(shape.exterior) if shape.geom_type == "Polygon" and len(shape.interiors) else shape
