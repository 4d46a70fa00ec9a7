"""Measures of survival: curves of groups, the test of their difference, and the order of risks.

A time is how long a case was followed; its event is 1 where the thing happened at that time
and 0 where the case was last seen without it (censored). A case censored at the time of
another's event outlived it. Risk: higher is sooner.

Functions that take `weights` measure many weightings of the same cases at once, one a row:
a bootstrap resample is a row of whole numbers, how often each case was drawn.

Read this file top to bottom: `kaplan_meier`, `logrank`, `concordance`, `brier`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from wsi_umedpt.mil.evaluation.heldout import Floats

_ROWS = 1024
"""Cases of one block of pairs; bounds memory."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Survival of one group, a step at each time at which anything happened."""

    time: Floats
    """(step,) ascending, each once."""
    at_risk: Floats
    """(step,) cases followed up to the time or longer."""
    events: Floats
    """(step,) events at the time."""
    survival: Floats
    """(step,) share without the event after the time."""
    low: Floats
    """(step,) lower end of the 95 % interval; nan where it is not defined, as before the first event."""
    high: Floats
    """(step,) upper end."""

    @property
    def median(self) -> float | None:
        """First time at which half or fewer are without the event; None where it is not reached."""
        reached = np.flatnonzero(self.survival <= 0.5)
        return float(self.time[reached[0]]) if len(reached) else None

    def still_at_risk(self, times: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Cases followed up to each of some times or longer."""
        place = np.searchsorted(self.time, np.asarray(times, np.float64), side="left")
        return np.append(self.at_risk, 0)[place].astype(np.int64)


def kaplan_meier(time: Floats, event: Floats, level: float = 0.95) -> Curve:
    """Estimate survival, with an interval that stays between 0 and 1.

    Parameters
    ----------
    time, event : (case,)
    level
        Level of the interval.

    Returns
    -------
    Curve
        Kaplan and Meier (1958); Greenwood's variance on the scale of log(-log(survival)), as in
        Kalbfleisch and Prentice, *The Statistical Analysis of Failure Time Data* (2002), 1.4.
    """
    times = np.unique(time)
    at_risk = np.asarray(len(time) - np.searchsorted(np.sort(time), times, side="left"), np.float64)
    sorted_events = np.sort(time[event == 1])
    events = np.asarray(np.diff(np.searchsorted(sorted_events, times, side="right"), prepend=0), np.float64)
    survival = np.asarray(np.cumprod(1 - events / at_risk), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = stats.norm.ppf((1 + level) / 2) * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(spread), survival ** np.exp(-spread)
    defined = (survival > 0) & (survival < 1)
    return Curve(
        times, at_risk, events, survival, np.where(defined, low, np.nan), np.where(defined, high, np.nan)
    )  # fmt: skip


@dataclass(frozen=True)
class LogRank:
    """Log-rank test of whether the survival of groups differs."""

    statistic: float
    """Chi-squared."""
    groups: int
    p: float


def logrank(time: Floats, event: Floats, group: npt.ArrayLike) -> LogRank | None:
    """Compare the survival of two or more groups.

    Parameters
    ----------
    time, event, group : (case,)

    Returns
    -------
    LogRank or None
        Mantel (1966) and Peto (1972), with the hypergeometric covariance: Kalbfleisch and Prentice
        (2002), 1.5. None where there is nothing to compare: one group, or no event while two
        groups were followed.
    """
    names, index = np.unique(np.asarray(group), return_inverse=True)
    times = np.unique(time[event == 1])
    if len(names) < 2 or not len(times):
        return None
    n, d = np.empty((2, len(names), len(times)))  # each (group, time): at risk, events
    for k in range(len(names)):
        mine, fell = np.sort(time[index == k]), np.sort(time[(index == k) & (event == 1)])
        n[k] = len(mine) - np.searchsorted(mine, times, side="left")
        d[k] = np.searchsorted(fell, times, side="right") - np.searchsorted(fell, times, side="left")
    every_n, every_d = n.sum(axis=0), d.sum(axis=0)
    share = n / every_n
    excess = (d - every_d * share).sum(axis=1)
    factor = every_d * (every_n - every_d) / np.maximum(every_n - 1, 1)
    covariance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    rank = np.linalg.matrix_rank(covariance, hermitian=True)
    if rank == 0:
        return None
    # The excesses sum to 0: the covariance has one rank less than there are groups.
    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    return LogRank(statistic, len(names), float(stats.chi2.sf(statistic, rank)))


def concordance(
    time: Floats,
    event: Floats,
    risk: Floats,
    *,
    weights: Floats | None = None,
    fold: npt.NDArray[np.int64] | None = None,
    ipcw: bool = False,
) -> Floats:
    """Concordance: share of the pairs of known order in which the case with the sooner event had the higher risk.

    Parameters
    ----------
    time, event, risk : (case,)
        Cases. Of two, the first event counts where its case was seen to have it: the other has a longer time, or
        the same time without an event. Equal risks count one half (Harrell et al. 1982).
    weights : (weighting, case)
        One weighting in which all count 1, unless given.
    fold : (case,)
        Only cases of one fold are compared, where given.
    ipcw
        Weigh each pair by 1 / G(t-)^2, where G is the Kaplan-Meier curve of being censored: Uno et al.
        (2011), whose figure does not depend on how long cases were followed.

    Returns
    -------
    (weighting,)
        nan where no pair can be compared.
    """
    given = np.ones((1, len(time))) if weights is None else weights
    first = given
    if ipcw:
        reached = censoring(time, event, given) ** 2
        # Of cases that a resample did not draw, the curve may have ended before.
        first = np.divide(given, reached, out=np.zeros_like(given), where=given > 0)
    folds = np.zeros(len(time), np.int64) if fold is None else fold
    right, pairs = np.zeros((2, len(given)))
    for one in np.unique(folds):
        mine = np.flatnonzero(folds == one)
        for start in range(0, len(mine), _ROWS):
            rows = mine[start : start + _ROWS]
            rows = rows[event[rows] == 1]
            after, ahead = _pairs(time, event, risk, rows, mine)
            # (weighting, row) @ (row, case), then against each case's own weight
            right += ((first[:, rows] @ ahead) * given[:, mine]).sum(axis=1)
            pairs += ((first[:, rows] @ after) * given[:, mine]).sum(axis=1)
    return np.asarray(np.divide(right, pairs, out=np.full(len(given), np.nan), where=pairs > 0))


def misordered(time: Floats, event: Floats, risk: Floats, fold: npt.NDArray[np.int64]) -> Floats:
    """Share of the pairs of each case with others of its fold that are in the wrong order; nan without a pair."""
    wrong, pairs = np.zeros((2, len(time)))
    for one in np.unique(fold):
        mine = np.flatnonzero(fold == one)
        for start in range(0, len(mine), _ROWS):
            rows = mine[start : start + _ROWS]
            rows = rows[event[rows] == 1]
            after, ahead = _pairs(time, event, risk, rows, mine)
            wrong[rows] += (after - ahead).sum(axis=1)
            wrong[mine] += (after - ahead).sum(axis=0)
            pairs[rows] += after.sum(axis=1)
            pairs[mine] += after.sum(axis=0)
    return np.asarray(np.divide(wrong, pairs, out=np.full(len(time), np.nan), where=pairs > 0))


def _pairs(
    time: Floats, event: Floats, risk: Floats, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Order of pairs (row, column): whether the column's case outlived the row's, and 1, 1/2 or 0 for their risks."""
    later = time[rows, None] < time[None, columns]
    after = later | ((time[rows, None] == time[None, columns]) & (event[None, columns] == 0))
    ahead = (risk[rows, None] > risk[None, columns]) + 0.5 * (risk[rows, None] == risk[None, columns])
    return after.astype(np.float64), after * ahead


def censoring(time: Floats, event: Floats, weights: Floats, at: Floats | None = None) -> Floats:
    """Chance of not being censored before a time: the Kaplan-Meier curve of censoring, just before it.

    Parameters
    ----------
    time, event : (case,)
    weights : (weighting, case)
    at : (time,)
        Each case's own time, unless given.

    Returns
    -------
    (weighting, time)
        Events at a time come before censorings at it. 1 where no weight is left.
    """
    order = np.argsort(time, kind="stable")
    times, starts = np.unique(time[order], return_index=True)
    w, fell = weights[:, order], (event[order] == 1)
    leaving = np.add.reduceat(w, starts, axis=1)  # (weighting, distinct time)
    events = np.add.reduceat(w * fell, starts, axis=1)
    at_risk = leaving[:, ::-1].cumsum(axis=1)[:, ::-1] - events
    hazard = np.divide(leaving - events, at_risk, out=np.zeros_like(leaving), where=at_risk > 0)
    curve = np.cumprod(1 - hazard, axis=1)
    before = np.concatenate([np.ones((len(w), 1)), curve], axis=1)
    return np.asarray(before[:, np.searchsorted(times, time if at is None else at, side="left")])


def brier(time: Floats, event: Floats, survival: Floats, edges: Floats, weights: Floats | None = None) -> Floats:
    """Mean squared error of the survival that was predicted to some times.

    Parameters
    ----------
    time, event : (case,)
    survival : (case, edge)
        Predicted chance of no event up to each edge.
    edges : (edge,)
    weights : (weighting, case)

    Returns
    -------
    (weighting, edge)
        Graf et al. (1999): cases censored before an edge count nothing, the others by 1 / G.
        nan where nobody was followed to the edge.
    """
    given = np.ones((1, len(time))) if weights is None else weights
    # An event at t is weighed by G(t-), a case alive at the edge by G(edge): of censorings after the edge.
    own = np.divide(given, censoring(time, event, given), out=np.zeros_like(given), where=given > 0)
    scores = []
    for k, edge in enumerate(edges):
        fell, lived = (time <= edge) & (event == 1), time > edge
        reached = censoring(time, event, given, at=np.nextafter(edge, np.inf)[None])  # (weighting, 1)
        sooner = own @ (fell * survival[:, k] ** 2)
        share = given @ (lived * (1 - survival[:, k]) ** 2)
        later = np.divide(share, reached[:, 0], out=np.zeros_like(share), where=share > 0)
        total = given.sum(axis=1) * ((given @ (fell | lived)) > 0)
        scores.append(np.divide(sooner + later, total, out=np.full(len(given), np.nan), where=total > 0))
    return np.column_stack(scores)
