"""Which places lie in a drawn area, in time that is known before.

A place is inside where a line from it to the left crosses the outer ring an odd number of times, and lies in no
hole; so outlines that cross themselves are filled as viewers show them, holes may cross outlines and each other,
and nothing has to be made valid. Geometry libraries
take minutes for a hand's scribble of 40,000 spikes; here work is rows crossed plus places asked for, and is
refused over `MOST_CROSSINGS`.

Read top to bottom: `fill_window` (a raster), `holds` (single places), `share_within` (one area in another).
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotationfiles.annotation import Geometry, polygons_of
from wsi_umedpt.errors import AnnotationError

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MOST_CROSSINGS = 50_000_000
"""Of outlines with rows of places, all together; an honest outline of a million corners crosses some millions."""
_AT_ONCE = 1 << 20
"""Crossings in memory."""
_MOST_CELLS = 1 << 22
"""Of a raster that single places are looked up in."""
_SAMPLES = 128
"""Places a side by which `share_within` compares areas."""


class Work:
    """How much of `MOST_CROSSINGS` is left to one question."""

    def __init__(self) -> None:
        self._left = MOST_CROSSINGS

    def take(self, crossings: int, corners: int) -> None:
        """Count what is about to be done, or refuse it."""
        self._left -= crossings
        if self._left < 0:
            raise AnnotationError(
                f"outlines cross rows of the slide more than {MOST_CROSSINGS:,} times, the last with {corners:,} "
                "corners: simplify them in the program that drew them"
            )


def fill_window(rings: Sequence[Floats], xs: Floats, ys: Floats, work: Work) -> tuple[slice, slice, Mask]:
    """Fill one polygon on a raster.

    Parameters
    ----------
    rings
        The outer ring and holes, (corner, 2) level-0 px.
    xs, ys : (cols,), (rows,) ascending
        Where the raster's columns and rows have their middles.
    work
        Shared by all that is filled for one question.

    Returns
    -------
    rows, cols
        The part of the raster that the polygon can reach.
    bool (rows, cols) of that part

    Raises
    ------
    AnnotationError
        If that is over `MOST_CROSSINGS` of work.
    """
    (left, top), (right, bottom) = rings[0].min(0), rings[0].max(0)
    cols = slice(int(np.searchsorted(xs, left)), int(np.searchsorted(xs, right, "right")))
    rows = slice(int(np.searchsorted(ys, top)), int(np.searchsorted(ys, bottom, "right")))
    return rows, cols, _filled(rings, xs[cols], ys[rows], work)


def _filled(rings: Sequence[Floats], xs: Floats, ys: Floats, work: Work) -> Mask:
    if not len(xs) or not len(ys):
        return np.zeros((len(ys), len(xs)), bool)
    inside: Mask = _turns(rings[:1], xs, ys, work) % 2 == 1
    if len(rings) > 1:
        # Turning the same way, holes that lie over each other cannot cancel each other.
        holes = [ring if shapely.is_ccw(shapely.linearrings(ring)) else ring[::-1] for ring in rings[1:]]
        inside &= _turns(holes, xs, ys, work) == 0
    return inside


def _turns(rings: Sequence[Floats], xs: Floats, ys: Floats, work: Work) -> npt.NDArray[np.int32]:
    """How often rings turn around each place, (rows, cols)."""
    begin = np.concatenate(list(rings))
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    low, high = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    first, past = np.searchsorted(ys, low), np.searchsorted(ys, high)  # rows that an edge crosses
    # Edges to the right of all places change nothing.
    crossing = np.flatnonzero((past > first) & (np.minimum(begin[:, 0], end[:, 0]) <= xs[-1]))
    begin, end, first, count = begin[crossing], end[crossing], first[crossing], (past - first)[crossing]
    work.take(int(count.sum()), sum(map(len, rings)))
    way = np.where(end[:, 1] > begin[:, 1], 1, -1).astype(np.int32)
    slope = (end[:, 0] - begin[:, 0]) / (end[:, 1] - begin[:, 1])
    turns = np.zeros((len(ys), len(xs) + 1), np.int32)  # where they change, from left to right
    flat, width = turns.reshape(-1), len(xs) + 1
    column_of = _finder(xs)
    upto = np.cumsum(count)
    part = 0
    while part < len(count):
        done = int(upto[part - 1]) if part else 0
        stop = max(part + 1, int(np.searchsorted(upto, done + _AT_ONCE, "right")))
        edge = np.repeat(np.arange(part, stop), count[part:stop])
        row = np.arange(len(edge)) - (upto[edge] - count[edge] - done) + first[edge]
        x = begin[edge, 0] + (ys[row] - begin[edge, 1]) * slope[edge]
        np.add.at(flat, row * width + column_of(x), way[edge])
        part = stop
    return np.cumsum(turns, axis=1, dtype=np.int32)[:, :-1]


def _finder(xs: Floats) -> Callable[[Floats], npt.NDArray[np.intp]]:
    """Finds the first column that does not lie left of a place."""
    step = (xs[-1] - xs[0]) / max(len(xs) - 1, 1)
    if len(xs) > 1 and np.allclose(np.diff(xs), step, rtol=1e-9):  # a raster: no search, ten times faster
        return lambda x: np.clip(np.ceil((x - xs[0]) / step), 0, len(xs)).astype(np.intp)
    return lambda x: np.searchsorted(xs, x)


def holds(area: Geometry, xy: npt.NDArray[np.floating], work: Work | None = None) -> Mask:
    """Which places lie in an area.

    Parameters
    ----------
    area
        Polygon or MultiPolygon.
    xy : (place, 2) level-0 px

    Raises
    ------
    AnnotationError
        As `fill_window`.
    """
    work = work or Work()
    places = np.asarray(xy, np.float64)
    found = np.zeros(len(places), bool)
    for rings in polygons_of(area):
        low, high = rings[0].min(0), rings[0].max(0)
        near = np.flatnonzero(((places >= low) & (places <= high)).all(axis=1))
        waiting = [near[np.argsort(places[near, 1])]] if len(near) else []
        while waiting:
            part = waiting.pop()
            (xs, col), (ys, row) = (np.unique(places[part, k], return_inverse=True) for k in (0, 1))
            if len(xs) * len(ys) > _MOST_CELLS and len(ys) > 1:
                waiting += [part[: len(part) // 2], part[len(part) // 2 :]]
            else:
                found[part] |= _filled(rings, xs, ys, work)[row, col]
    return found


def has_area(area: Geometry) -> bool:
    """Whether an area holds any place at all; it may be a line that goes back on itself."""
    left, top, right, bottom = shapely.bounds(area)
    if not (right > left and bottom > top):
        return False
    if abs(shapely.area(area)) > 0:
        return True
    # Of a figure of eight the signed halves cancel each other.
    return bool(_samples(area)[0].any())


def share_within(inner: Geometry, outer: Geometry) -> float:
    """How much of an area lies in another, 0 to 1, by samples."""
    mine, places = _samples(inner)
    if not mine.any():
        places = shapely.get_coordinates(inner)
        return float(holds(outer, places).mean())
    return float(holds(outer, places[mine.ravel()]).mean())


def _samples(area: Geometry) -> tuple[Mask, Floats]:
    left, top, right, bottom = shapely.bounds(area)
    at = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    xs, ys = left + at * (right - left), top + at * (bottom - top)
    found, work = np.zeros((_SAMPLES, _SAMPLES), bool), Work()
    for rings in polygons_of(area):
        rows, cols, cells = fill_window(rings, xs, ys, work)
        found[rows, cols] |= cells
    return found, np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
