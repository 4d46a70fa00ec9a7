"""Bootstrap intervals: patients are drawn again and again, and the figure is measured on each draw.

Patients are drawn, not cases: slides of one patient are alike, and to draw them one by one would
make an interval too narrow (Field and Welsh 2007 on clustered bootstraps). The interval is of the
2.5th to the 97.5th percentile. It holds for other patients like these and the same predictors; it
does not hold what training again on other patients would add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_umedpt.mil.evaluation.heldout import Floats

LEVEL = 0.95
_NUMBERS = 2_000_000
"""Weights of one block; bounds memory."""


def number_patients(patients: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(case,) number of each case's patient; a case that names no patient is a patient of its own."""
    known: dict[tuple[str, int], int] = {}
    keys = [(name, -1 if name else case) for case, name in enumerate(patients)]
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)


def draw_patients(patients: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """Weights of the cases, in blocks of rows.

    Parameters
    ----------
    patients : (case,)
        Name of each case's patient.
    resamples
        Number of draws of as many patients as there are, with replacement.
    seed
        Equal seeds give equal draws.

    Yields
    ------
    (weighting, case)
        The very first row is of ones: the cases as they are. The others say how often each case was drawn.
    """
    index = number_patients(patients)
    count = int(index.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, _NUMBERS // max(1, len(index))))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        # One draw of `count` patients a row, counted by one bincount for all rows.
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        weights = times[:, index].astype(np.float64)
        yield np.concatenate([np.ones((1, len(index))), weights]) if start == 0 else weights


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and how sure it is; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    undefined: int
    """Resamples in which the number is not defined; they were left out."""


def interval(values: Floats) -> Interval:
    """Summarise a figure: first its value, then its values on the resamples.

    Parameters
    ----------
    values : (1 + resample,)
        nan where not defined. Where more than half of the resamples are, there is no interval.
    """
    drawn = values[1:]
    kept = drawn[np.isfinite(drawn)]
    undefined = len(drawn) - len(kept)
    if not np.isfinite(values[0]):
        return Interval(value=None, low=None, high=None, undefined=undefined)
    low = high = None
    if len(kept) and 2 * len(kept) >= len(drawn):
        low, high = (float(end) for end in np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Interval(value=float(values[0]), low=low, high=high, undefined=undefined)


def two_sided_p(differences: Floats) -> float | None:
    """Twice the smaller share of resampled differences on one side of 0 (Efron and Tibshirani 1993, 15.4).

    Parameters
    ----------
    differences : (1 + resample,)
        As for `interval`. Of a paired comparison: both arms on the same resamples.

    Returns
    -------
    float or None
        At least 2 / (resamples + 1): so many draws cannot show less. None where there is no interval.
    """
    if interval(differences).low is None:
        return None
    kept = differences[1:][np.isfinite(differences[1:])]
    sides = ((kept <= 0).sum(), (kept >= 0).sum())
    return float(min(1.0, 2 * (min(sides) + 1) / (len(kept) + 1)))
