"""Polygons of labelled pixels, as `Objects`: outlines in level-0 px, and measures in um."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage

from wsi_umedpt.slides.stains import DENSITY, unmixing
from wsi_umedpt.store.objects import MEASURES, Objects

TOLERANCE_UM = 0.25
"""Most distance of an outline from that of the pixels, by default."""
_STAINS = unmixing(["hematoxylin", "eosin", "dab"])
_LEAST_PX = 0.1
"""Width by which every outline is widened, so that lines become polygons."""
_MITRE = 2.0
"""Most length of corners, in widths of the widening; sharper ones are cut off."""
_AREA_ERROR = 0.005
"""Share of its area by which an outline may be wrong before it is corrected."""
_CORRECTIONS = 4


class Placement(NamedTuple):
    """Position of a picture on its slide."""

    origin: tuple[int, int]
    """(x, y) of its top left corner, px of the picture."""
    scale: float
    """Level-0 px per px of the picture."""
    mpp: float
    """Microns per pixel of the picture."""


def outlined(
    labels: npt.NDArray[np.int32],
    image: npt.NDArray[np.uint8],
    chances: npt.NDArray[np.uint8],
    classes: tuple[str, ...],
    place: Placement,
    *,
    tolerance_um: float = TOLERANCE_UM,
) -> Objects:
    """Outline and measure the objects of a picture.

    Parameters
    ----------
    labels : int32 (h, w)
        0 is background; numbers may be missing.
    image : uint8 (h, w, 3)
        Image that they were found in, RGB.
    chances : uint8 (class, h, w)
        Chance (255 is 1) of each class; an object's is the one with the largest sum, its score the
        mean chance of all classes.
    place
        Position of the picture on the slide.
    tolerance_um
        Outlines are simplified by this much, and then widened or narrowed so that they hold the
        area of the pixels, holes among them included.

    Returns
    -------
    Objects
        In order of their numbers.
    """
    origin, scale, mpp = place
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
    corner = np.array(origin)
    # Whole numbers of px on the slide: what is found does not depend on the picture that it was found in.
    centroid = np.stack([mean(columns + corner[0]), mean(rows + corner[1])], 1) + 0.5
    density = DENSITY[image[inside]] @ _STAINS.astype(np.float32)
    rings = [_ring(labels, n, found[n - 1]) for n in numbers.tolist()]
    filled = np.array([_filled_px(r) for r in rings])
    polygons = _polygons(rings, filled, tolerance_um / mpp)
    perimeter = shapely.length(polygons) * mpp
    corners = shapely.get_coordinates(polygons)
    lengths = shapely.get_num_coordinates(polygons)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    opened = np.delete(corners, starts[1:] - 1, axis=0)  # the last corner repeats the first
    left_top = np.array([[found[n - 1][1].start, found[n - 1][0].start] for n in numbers.tolist()]) + corner
    measures = {
        "area_um2": filled * mpp**2,
        "perimeter_um": perimeter,
        "circularity": 4 * np.pi * shapely.area(polygons) * mpp**2 / perimeter**2,
        "hematoxylin": mean(density[:, 0]),
        "eosin": mean(density[:, 1]),
    }
    return Objects(
        classes,
        likely.argmax(0).astype(np.uint8),
        np.minimum(likely.sum(0), 1).astype(np.float32),
        (centroid * scale).astype(np.float32),
        np.stack([measures[name] for name in MEASURES], 1).astype(np.float32),
        (starts - np.arange(len(starts))).astype(np.int64),
        ((opened + np.repeat(left_top, lengths - 1, axis=0)) * scale).astype(np.float32),
    )


def _ring(labels: npt.NDArray[np.int32], number: int, where: tuple[slice, slice]) -> npt.NDArray[np.float64]:
    """Centres of an object's outermost pixels, px of its bounds; holes are filled. Of several parts, the largest."""
    mask = (labels[where] == number).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    ring: npt.NDArray[np.float64] = max(contours, key=len)[:, 0] + 0.5
    return ring


def _filled_px(ring: npt.NDArray[np.float64]) -> float:
    """Pixels on and within a ring of pixels' centres (Pick's theorem, with a corner at each of its steps)."""
    steps = len(ring) if len(ring) > 1 else 0
    return float(cv2.contourArea(ring.astype(np.float32))) + steps / 2 + 1


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
    length = np.where(shapely.area(shapes) > 0, shapely.length(shapes), shapely.length(lines))
    lack = pixels - shapely.area(shapes)
    by = (np.sqrt(np.maximum(length**2 + 16 * lack, 0)) - length) / 8
    polygons = _widened(shapes, by)
    for _ in range(_CORRECTIONS):
        lack = pixels - shapely.area(polygons)
        off = np.flatnonzero(np.abs(lack) > _AREA_ERROR * pixels)
        if not len(off):
            return polygons
        by[off] = np.maximum(by[off], _LEAST_PX) + lack[off] / shapely.length(polygons[off])
        polygons[off] = _widened(shapes[off], by[off])
    if tolerance > 0:  # small or thin, and simplified to something else
        off = np.flatnonzero(np.abs(pixels - shapely.area(polygons)) > _AREA_ERROR * pixels)
        polygons[off] = _polygons([rings[i] for i in off], pixels[off], 0.0) if len(off) else []
    return polygons


def _widened(shapes: npt.NDArray[np.object_], by: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    """Widen shapes; the result is one polygon without holes for each."""
    wider = shapely.buffer(
        shapes, np.maximum(by, _LEAST_PX), quad_segs=1, join_style="mitre", mitre_limit=_MITRE, cap_style="square"
    )
    parts, of = shapely.get_parts(wider, return_index=True)
    whole = shapely.polygons(shapely.get_exterior_ring(parts))
    order = np.lexsort((-shapely.area(whole), of))  # the largest part of each comes first
    first: npt.NDArray[np.object_] = whole[order][np.flatnonzero(np.diff(of[order], prepend=-1))]
    return first
