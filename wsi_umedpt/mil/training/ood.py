"""Is a slide like those that were trained on? A p-value by the distance of its mean feature to its nearest.

Conformal: the distance is ranked among those that each training slide has to the slides of other patients,
in the units that those alone would have given; so that of slides like them a share of at most about p gets a
p-value of p or less, however many numbers a feature has (jackknife; Barber et al. 2021, arXiv 1905.02928).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_umedpt.mil.data.standardize import scale_of

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
        """Similarity of a slide's mean features (dim,) to the training slides: small is unlike."""
        z = ((mean - self.centre) * self.scale)[None]
        (found,) = _nearest(z, self.known, np.ones_like(z), np.zeros((1, len(self.known)), bool))
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
    means, owner = means[::step], np.unique(np.array(patients[::step]), return_inverse=True)[1]
    centre = _single(means.mean(0))
    scale = _single(scale_of(centre, means.std(0)))
    known = _single((means - centre) * scale)
    distances = _nearest(known, known, _units_of_others(known, owner)[owner], owner[:, None] == owner[None])
    return Typical(centre, scale, known, _single(np.sort(distances)))


def _units_of_others(known: Floats, owner: npt.NDArray[np.int64]) -> Floats:
    """(patient, dim) one over the variance of the slides of all other patients; 0 where they do not vary."""
    count = np.bincount(owner)[:, None]
    sums, squares = np.zeros((2, len(count), known.shape[1]))
    np.add.at(sums, owner, known)
    np.add.at(squares, owner, known**2)
    rest = np.maximum(len(known) - count, 1)
    variance = (squares.sum(0) - squares) / rest - ((sums.sum(0) - sums) / rest) ** 2
    return np.where(variance > 1e-9, 1 / np.maximum(variance, 1e-9), 0.0)


def _nearest(rows: Floats, known: Floats, units: Floats, barred: npt.NDArray[np.bool_]) -> Floats:
    """(row,) mean distance, by units (row, dim) of each, to the nearest known slides that are not barred."""
    own = rows * units
    squares = (own * rows).sum(1)[:, None] - 2 * own @ known.T + units @ (known**2).T
    distances = np.sqrt(np.maximum(squares, 0))
    distances[barred] = np.inf
    near = np.sort(distances, axis=1)[:, :_NEIGHBOURS]
    there = np.isfinite(near)
    count = there.sum(1)
    return np.where(count > 0, np.where(there, near, 0).sum(1) / np.maximum(count, 1), 0.0)


def _single(values: Floats) -> Floats:
    """Round to float32, as saved moments are."""
    return values.astype(np.float32).astype(np.float64)
