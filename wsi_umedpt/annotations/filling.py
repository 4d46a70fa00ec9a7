"""Rasters of drawn areas, in time that is bounded beforehand.

A place is inside where a line from it to the left crosses the outer ring an odd number of times, and lies in no
hole; so outlines that cross themselves are filled as viewers show them, holes may cross outlines and each other,
and nothing has to be made valid. Geometry libraries
take minutes for a hand's scribble of 40,000 spikes; here work is rows crossed plus places asked for, and is
refused over `MOST_CROSSINGS`.

Read top to bottom: `fill_window` (a raster), `holds` (single places), `filled_px2`, `share_within` (one area in
another).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotations.annotation import Geometry, polygons_of
from wsi_umedpt.errors import AnnotationError

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MOST_CROSSINGS = 50_000_000
"""Most crossings of outlines with rows of places; an honest outline of a million corners crosses some millions."""
_AT_ONCE = 1 << 20
"""Crossings in memory."""
_MOST_CELLS = 1 << 22
"""Most cells of a raster that single places are looked up in."""
_LATTICE = 4
"""Places a row from which they are taken for a lattice, as tiles are, and looked up in a raster."""
_SAMPLES = 128
"""Places a side by which `share_within` compares areas."""
_FINE_SAMPLES = 2048
"""Places a side by which `filled_px2` measures outlines that cross themselves."""


class Work:
    """Remainder of `MOST_CROSSINGS` for one question."""

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
        Middles of the raster's columns and rows.
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
    return _inside(rings, partial(_turns, xs=xs, ys=ys, work=work))


def _inside(rings: Sequence[Floats], turns: Callable[[Sequence[Floats]], npt.NDArray[Any]]) -> Mask:
    """Flags of the places in a polygon, by the number of times that its rings turn around each."""
    inside: Mask = turns(rings[:1]) % 2 == 1
    if len(rings) > 1:
        # Turning the same way, holes that lie over each other cannot cancel each other.
        holes = [ring if shapely.is_ccw(shapely.linearrings(ring)) else ring[::-1] for ring in rings[1:]]
        inside &= turns(holes) == 0
    return inside


def _turns(rings: Sequence[Floats], xs: Floats, ys: Floats, work: Work) -> npt.NDArray[np.int32]:
    """Number of times that rings turn around each place of a raster, (rows, cols)."""
    turns = np.zeros((len(ys), len(xs) + 1), np.int32)  # where they change, from left to right
    flat, width = turns.reshape(-1), len(xs) + 1
    column_of = _finder(xs)
    for row, x, way in _crossings(rings, float(xs[-1]), ys, work):
        np.add.at(flat, row * width + column_of(x), way)
    return np.cumsum(turns, axis=1, dtype=np.int32)[:, :-1]


def _turns_each(rings: Sequence[Floats], xs: Floats, ys: Floats, work: Work) -> npt.NDArray[np.float64]:
    """Number of times that rings turn around single places, (place,), whose `ys` ascend."""
    turns = np.zeros(len(ys))
    for row, x, way in _crossings(rings, float(xs.max()), ys, work):
        turns += np.bincount(row, way * (x <= xs[row]), minlength=len(ys))
    return turns


def _crossings(
    rings: Sequence[Floats], right: float, ys: Floats, work: Work
) -> Iterator[tuple[npt.NDArray[np.intp], Floats, npt.NDArray[np.int32]]]:
    """Crossings of rings with rows, up to some `_AT_ONCE` at a time: the row's number, x, and 1 if downwards, else -1.

    Edges that lie to the right of all places change nothing, and are left out.
    """
    begin = np.concatenate(list(rings))
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    low, high = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    first, past = np.searchsorted(ys, low), np.searchsorted(ys, high)  # rows that an edge crosses
    crossing = np.flatnonzero((past > first) & (np.minimum(begin[:, 0], end[:, 0]) <= right))
    begin, end, first, count = begin[crossing], end[crossing], first[crossing], (past - first)[crossing]
    work.take(int(count.sum()), sum(map(len, rings)))
    way = np.where(end[:, 1] > begin[:, 1], 1, -1).astype(np.int32)
    slope = (end[:, 0] - begin[:, 0]) / (end[:, 1] - begin[:, 1])
    upto = np.cumsum(count)
    part = 0
    while part < len(count):
        done = int(upto[part - 1]) if part else 0
        stop = max(part + 1, int(np.searchsorted(upto, done + _AT_ONCE, "right")))
        edge = np.repeat(np.arange(part, stop), count[part:stop])
        row = np.arange(len(edge)) - (upto[edge] - count[edge] - done) + first[edge]
        yield row, begin[edge, 0] + (ys[row] - begin[edge, 1]) * slope[edge], way[edge]
        part = stop


def _finder(xs: Floats) -> Callable[[Floats], npt.NDArray[np.intp]]:
    """Finds the first column that does not lie left of a place."""
    step = (xs[-1] - xs[0]) / max(len(xs) - 1, 1)
    if len(xs) > 1 and np.allclose(np.diff(xs), step, rtol=1e-9):  # a raster: no search, ten times faster
        return lambda x: np.clip(np.ceil((x - xs[0]) / step), 0, len(xs)).astype(np.intp)
    return lambda x: np.searchsorted(xs, x)


def holds(area: Geometry, xy: npt.NDArray[np.floating], work: Work | None = None) -> Mask:
    """Test which places lie in an area.

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
        if not len(near):
            continue
        near = near[np.argsort(places[near, 1])]
        x, y = places[near].T
        if _LATTICE * (1 + np.count_nonzero(np.diff(y))) < len(near):
            (xs, col), (ys, row) = (np.unique(values, return_inverse=True) for values in (x, y))
            if len(xs) * len(ys) <= _MOST_CELLS:
                found[near] |= _filled(rings, xs, ys, work)[row, col]
                continue
        found[near] |= _inside(rings, partial(_turns_each, xs=x, ys=y, work=work))
    return found


def filled_px2(area: Geometry) -> float:
    """Size of an area as it is filled, level-0 px2: exact where its outline is simple, else by samples (0.1 %)."""
    if shapely.is_valid(area):
        return float(shapely.area(area))
    left, top, right, bottom = shapely.bounds(area)
    return float(_samples(area, _FINE_SAMPLES)[0].mean() * (right - left) * (bottom - top))


def has_area(area: Geometry) -> bool:
    """Return whether an area holds any place at all; it may be a line that goes back on itself."""
    left, top, right, bottom = shapely.bounds(area)
    if not (right > left and bottom > top):
        return False
    if abs(shapely.area(area)) > 0:
        return True
    # Of a figure of eight the signed halves cancel each other.
    return bool(_samples(area)[0].any())


def share_within(inner: Geometry, outer: Geometry) -> float:
    """Share of an area that lies in another, 0 to 1, by samples."""
    mine, places = _samples(inner)
    if not mine.any():
        places = shapely.get_coordinates(inner)
        return float(holds(outer, places).mean())
    return float(holds(outer, places[mine.ravel()]).mean())


def _samples(area: Geometry, side: int = _SAMPLES) -> tuple[Mask, Floats]:
    left, top, right, bottom = shapely.bounds(area)
    at = (np.arange(side) + 0.5) / side
    xs, ys = left + at * (right - left), top + at * (bottom - top)
    found, work = np.zeros((side, side), bool), Work()
    for rings in polygons_of(area):
        rows, cols, cells = fill_window(rings, xs, ys, work)
        found[rows, cols] |= cells
    return found, np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
