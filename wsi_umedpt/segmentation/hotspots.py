"""Hotspots: the circle of a given area that holds most objects of a class.

Circles are centred on objects of the class, and hold those whose centroid lies at most a radius away. Of these circles
the densest is found exactly: a coarse raster bounds how many any circle of a cell can hold, and circles are counted
from the highest bound down until none can hold more. A circle may reach beyond the tissue; its area is not reduced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from wsi_umedpt.annotations.annotation import Annotation, Geometry
from wsi_umedpt.annotations.filling import holds
from wsi_umedpt.segmentation.region_counts import named_areas
from wsi_umedpt.store.objects import Objects

HOTSPOT_MM2 = (0.5, 1.0, 2.0)
"""Areas of circles that are looked for, mm2; 2 mm2 is that of ten high-power fields of 0.5 mm."""
_CELLS = 24.0
"""Cells of the raster along a radius ..."""
_MOST_CELLS = 1 << 23
"""... or fewer, of a raster that would be larger: circles are small on a large slide."""
_AT_ONCE = 512
"""Circles that are counted before the bound is asked again."""


@dataclass(frozen=True)
class Hotspot:
    """The densest circle of a class."""

    label: str
    """The class."""
    area_mm2: float
    """Area of the circle."""
    x: float
    """Middle of the circle, level-0 px."""
    y: float
    radius_px: float
    """Level-0 px."""
    count: int
    """Objects of the class in it."""

    @property
    def per_mm2(self) -> float:
        """Objects of the class for each mm2 of the circle."""
        return self.count / self.area_mm2

    def row(self, mpp: float) -> dict[str, Any]:
        """All of it as columns of a table; `mpp` is um per level-0 px."""
        return {
            "class": self.label, "area_mm2": self.area_mm2, "x_px": self.x, "y_px": self.y,
            "radius_um": self.radius_px * mpp, "objects_count": self.count, "objects_per_mm2": self.per_mm2,
        }  # fmt: skip


def find_hotspots(
    objects: Objects, mpp: float, areas_mm2: Sequence[float] = HOTSPOT_MM2, within: Geometry | None = None
) -> list[Hotspot]:
    """Find the densest circle of each class and area.

    Parameters
    ----------
    objects
        Objects of a slide.
    mpp : um per level-0 px
        Scale of the slide.
    areas_mm2
        Areas of the circles.
    within
        Polygon or MultiPolygon, level-0 px: objects outside do not count, and no circle is centred there.

    Returns
    -------
    list of Hotspot
        By class, then by area, in the order given; classes without objects are left out. Of circles that hold as many,
        that of the first object.

    Raises
    ------
    ValueError
        If an area is not over 0.
    AnnotationError
        If the outline of `within` crosses rows of objects too often; see `wsi_umedpt.annotations.filling`.
    """
    if wrong := [area for area in areas_mm2 if not area > 0]:
        raise ValueError(f"a hotspot was asked for of {wrong[0]:g} mm2. Ask for an area over 0.")
    centroid = objects.centroid.astype(np.float64)
    counting = np.ones(len(objects), bool) if within is None else holds(within, centroid)
    found = []
    for k, label in enumerate(objects.classes):
        xy = centroid[counting & (objects.class_index == k)]
        for area in areas_mm2 if len(xy) else ():
            radius = np.sqrt(area / np.pi) * 1000 / mpp
            row, count = densest_circle(xy, radius)
            x, y = xy[row].tolist()
            found.append(Hotspot(label, float(area), x, y, float(radius), count))
    return found


def hotspot_rows(
    objects: Objects, mpp: float, areas_mm2: Sequence[float] = HOTSPOT_MM2, drawn: Sequence[Annotation] | None = None
) -> list[dict[str, Any]]:
    """Find hotspots of a slide, or of every area of an annotation file.

    Parameters
    ----------
    objects, mpp, areas_mm2
        As `find_hotspots` takes them.
    drawn
        As `wsi_umedpt.annotations.read_annotation_file` reads them; lines and points are left out.

    Returns
    -------
    list of dict
        A row for each hotspot, with the columns of `Hotspot.row`; of regions, behind their number, name and class.
    """
    if drawn is None:
        return [one.row(mpp) for one in find_hotspots(objects, mpp, areas_mm2)]
    return [
        columns | one.row(mpp)
        for columns, area in named_areas(drawn)
        for one in find_hotspots(objects, mpp, areas_mm2, area)
    ]


def densest_circle(xy: npt.NDArray[np.float64], radius: float) -> tuple[int, int]:
    """Find the place around which most places lie.

    Parameters
    ----------
    xy : (place, 2)
        One place at least.
    radius
        In the unit of `xy`.

    Returns
    -------
    row
        Row of the place; the first of those that have as many.
    count
        Places at most a radius away, itself among them.
    """
    cell_of, most = _bounds(xy, radius)
    order = np.argsort(-most[cell_of], kind="stable")
    bounds = most[cell_of[order]]
    tree = cKDTree(xy)
    best_row, best = 0, 0
    for start in range(0, len(order), _AT_ONCE):
        if bounds[start] < best:
            break
        rows = np.sort(order[start : start + _AT_ONCE])
        counts = tree.query_ball_point(xy[rows], radius, return_length=True)
        top = int(counts.max())
        row = int(rows[counts.argmax()])
        if top > best or (top == best and row < best_row):
            best_row, best = row, top
    return best_row, best


def _bounds(xy: npt.NDArray[np.float64], radius: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The cell of each place, and how many places any circle whose middle lies in a cell can hold."""
    extent = np.ptp(xy, axis=0) / radius
    along = min(_CELLS, float(np.sqrt(_MOST_CELLS / max(extent[0] * extent[1], 1e-9))))
    cells = np.floor((xy - xy.min(axis=0)) * (along / radius)).astype(np.int64)
    width, height = (cells.max(axis=0) + 1).tolist()
    flat = cells[:, 1] * width + cells[:, 0]
    counts = np.bincount(flat, minlength=width * height).reshape(height, width)
    # Between places of two cells that many whole ones lie at least.
    reach = int(along) + 2
    between = np.maximum(np.abs(np.arange(-reach, reach + 1)) - 1, 0)
    reached = np.hypot(between[:, None], between) <= along * (1 + 1e-9)
    most = np.rint(fftconvolve(counts.astype(np.float64), reached.astype(np.float64), mode="same"))
    return flat, most.astype(np.int64).ravel()
