"""Is a slide like those that were trained on? A p-value by the distance of its mean feature to its nearest.

Conformal: the distance is ranked among those that each training slide has to the slides of other
patients, so that of slides like them a share of at most about p gets a p-value of p or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_NEIGHBOURS = 5
_MOST_SLIDES = 5000


@dataclass(frozen=True, eq=False)
class Typical:
    """Mean features of the training slides, and how far each lies from the others."""

    centre: Floats
    """(dim,)"""
    scale: Floats
    """(dim,) what deviations are multiplied by"""
    known: Floats
    """(slide, dim) standardised"""
    distances: Floats
    """(slide,) of each to those of other patients, sorted"""

    def p_value(self, mean: Floats) -> float:
        """How like the training slides one with these mean features (dim,) is: small is unlike."""
        found = _nearest(((mean - self.centre) * self.scale)[None], self.known, np.zeros((1, len(self.known)), bool))[0]
        return float((1 + (self.distances >= found * (1 - 1e-6)).sum()) / (1 + len(self.distances)))


def typical_of(means: Floats, patients: Sequence[str]) -> Typical:
    """Learn from the mean features of training slides.

    Parameters
    ----------
    means : (slide, dim)
        Over 5,000 slides every n-th is kept.
    patients : (slide,)
        Slides of one patient are no neighbours of each other.
    """
    step = -(-len(means) // _MOST_SLIDES)
    means, names = means[::step], np.unique(np.array(patients[::step], object).astype(str), return_inverse=True)[1]
    deviation = means.std(0)
    centre = _single(means.mean(0))
    scale = _single(np.where(deviation > 1e-6 * (1 + np.abs(centre)), 1 / np.maximum(deviation, 1e-30), 0.0))
    known = _single((means - centre) * scale)
    distances = np.sort(_nearest(known, known, names[:, None] == names[None]))
    return Typical(centre, scale, known, _single(distances))


def _single(values: Floats) -> Floats:
    """As they will be once they were saved."""
    return values.astype(np.float32).astype(np.float64)


def _nearest(rows: Floats, known: Floats, barred: npt.NDArray[np.bool_]) -> Floats:
    """(row,) mean distance to the nearest known slides that are not barred."""
    squares = (rows**2).sum(1)[:, None] - 2 * rows @ known.T + (known**2).sum(1)[None]
    distances = np.sqrt(np.maximum(squares, 0))
    distances[barred] = np.inf
    near = np.sort(distances, axis=1)[:, :_NEIGHBOURS]
    there = np.isfinite(near)
    count = there.sum(1)
    return np.where(count > 0, np.where(there, near, 0).sum(1) / np.maximum(count, 1), 0.0)
