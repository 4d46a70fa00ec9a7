"""Polygons with holes and ellipses as napari's shapes have them, and back: corners in, corners out. No Qt, no napari.

napari knows no holes: a polygon with holes is one line that goes to each hole and back. It gives an ellipse by the
corners of its box; files know polygons alone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.float64]
"""(corner, 2), of level-0 px x before y; open."""

_ELLIPSE_CORNERS = 64
_ROUNDED_PX = 0.01
"""Most distance of an ellipse's corners from what they were: files round to a thousandth."""


def one_line(part: Sequence[Ring]) -> Ring:
    """A polygon with holes as napari draws it: every ring closed, and back to the first corner after each hole."""
    if len(part) == 1:
        return part[0]
    first = part[0][:1]
    lines = [part[0], first]
    for hole in part[1:]:
        lines += [hole, hole[:1], first]
    return np.concatenate(lines)


def rings_of(line: Ring) -> tuple[Ring, ...]:
    """Undo `one_line`; none where the line has fewer than three corners. What begins a ring twice counts once."""
    rings: list[Ring] = []
    start = 0
    while start < len(line):
        again = np.flatnonzero((line[start + 1 :] == line[start]).all(axis=1))
        if len(again) and not again[0]:
            start += 1
            continue
        end = start + 1 + int(again[0]) if len(again) else len(line)
        if end - start >= 3:
            rings.append(line[start:end])
        # After a hole the line is back at the first corner of all.
        start = end + 1 if not rings or len(rings) == 1 else end + 2
    return tuple(rings)


def ellipse_ring(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A polygon of an ellipse, which napari gives by the corners of its box; it may be turned."""
    middle, right, down = corners.mean(axis=0), (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    return np.asarray(middle + np.cos(angle) * right + np.sin(angle) * down, np.float64)


def box_of_ellipse(ring: Ring) -> npt.NDArray[np.float64] | None:
    """Undo `ellipse_ring`; None where the polygon is none, as where another program changed it."""
    if len(ring) != _ELLIPSE_CORNERS:
        return None
    middle = ring.mean(axis=0)
    right, down = ring[0] - middle, ring[_ELLIPSE_CORNERS // 4] - middle
    box = middle + np.array([-right - down, right - down, right + down, down - right])
    return box if np.allclose(ellipse_ring(box), ring, rtol=0, atol=_ROUNDED_PX) else None
