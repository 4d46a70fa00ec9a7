"""Registration of two slides by points that show the same tissue: a turn and a shift. Arithmetic alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from wsi_umedpt.errors import OptionError

Places = npt.NDArray[np.float64]
"""(point, 2) um, y first."""
_FEWEST = 2
_APART_UM = 1.0
"""Spread of points below which they are one place, and give no turn."""


@dataclass(frozen=True, eq=False)
class Rigid:
    """Turn and shift from one slide to another."""

    turn: npt.NDArray[np.float64]
    """(2, 2)"""
    shift: npt.NDArray[np.float64]
    """(2,) um, y first."""
    residual_um: float | None
    """Root mean square of distances between points and their partners; None where there were none."""

    @property
    def degrees(self) -> float:
        """Angle of the turn, clockwise on the screen."""
        return float(np.degrees(np.arctan2(self.turn[0, 1], self.turn[0, 0])))

    def to_second(self, places: Places) -> Places:
        """Places of the first slide on the second."""
        return np.asarray(places, np.float64) @ self.turn.T + self.shift

    @property
    def matrix_to_first(self) -> npt.NDArray[np.float64]:
        """(3, 3) from (y, x, 1) on the second slide to the first."""
        out = np.eye(3)
        out[:2, :2], out[:2, 2] = self.turn.T, -self.turn.T @ self.shift
        return out

    def to_first(self, places: Places) -> Places:
        """Places of the second slide on the first."""
        return (np.asarray(places, np.float64) - self.shift) @ self.turn


def rigid(first: Places, second: Places) -> Rigid:
    """Find the turn and shift with least squares of distances (Kabsch, Acta Crystallographica A32, 1976).

    Parameters
    ----------
    first, second : (point, 2) um, y first
        Points on each slide, partners in the same row; sections are never mirrored.

    Raises
    ------
    OptionError
        If there are fewer than two pairs, or all points of a slide are one place.
    """
    one, two = (np.asarray(places, np.float64) for places in (first, second))
    if one.shape != two.shape or len(one) < _FEWEST:
        raise OptionError(
            f"{len(one)} and {len(two)} points were given; two slides are registered by pairs, two or more"
        )
    middles = one.mean(axis=0), two.mean(axis=0)
    if min(np.ptp(one, axis=0).max(), np.ptp(two, axis=0).max()) < _APART_UM:
        raise OptionError("all points lie at one place. Choose points that are far apart.")
    left, _, right = np.linalg.svd((two - middles[1]).T @ (one - middles[0]))
    keep = np.diag([1.0, np.sign(np.linalg.det(left @ right))])  # a turn, and no mirror
    turn = left @ keep @ right
    shift = middles[1] - turn @ middles[0]
    apart = one @ turn.T + shift - two
    return Rigid(turn, shift, float(np.sqrt((apart**2).sum(axis=1).mean())))


def as_they_lie(first: Places, second: Places) -> Rigid:
    """Shift alone, from a place of one slide to that of the other; each (2,) um, y first."""
    return Rigid(np.eye(2), np.asarray(second, np.float64) - np.asarray(first, np.float64), None)
