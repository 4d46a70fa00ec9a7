"""Data of a study's plots: ROC and precision-recall curves, reliability, groups by risk.

Curves are the mean over the seeds. A ROC curve is also the mean over the folds, each weighed by
its pairs of a positive and a negative case, so that the area under it is the ROC AUC of
`wsi_umedpt.mil.evaluation.metric_table`; a precision-recall curve takes the folds together, as average
precision does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from wsi_umedpt.mil.evaluation.bootstrap import LEVEL, draw_patients, number_patients
from wsi_umedpt.mil.evaluation.heldout import Floats, HeldOut, Study
from wsi_umedpt.mil.evaluation.metric_table import risk_of
from wsi_umedpt.mil.evaluation.metrics import BINS, Bools, Ints, bins

GRID: Floats = np.linspace(0, 1, 201)
"""Abscissas of curves: false positive rate, or recall."""
_RESAMPLES = 500
"""Behind a band; an interval in a table takes more."""


@dataclass(frozen=True, eq=False)
class Band:
    """A curve over `GRID`, and where 95 % of resampled patients put it."""

    middle: Floats
    low: Floats
    high: Floats


def positives(study: Study, label: int) -> tuple[Bools, Bools]:
    """Cases that have a class or label, and those of which it is known; (case,) each."""
    if study.target.kind == "multilabel":
        return study.truth[:, label] == 1, np.isfinite(study.truth[:, label])
    return study.truth[:, 0] == label, np.isfinite(study.truth[:, 0])


def roc(
    study: Study, arm: HeldOut, labels: Sequence[int], *, resamples: int = _RESAMPLES, seed: int = 0
) -> Band | None:
    """Sensitivity over the false positive rate, mean over some classes or labels.

    Returns
    -------
    Band or None
        None where a class has no case, or all of them, in every fold. Resamples without one are left out.
    """
    return _band(study, arm, labels, _roc_rows, resamples, seed)


def precision_recall(
    study: Study, arm: HeldOut, labels: Sequence[int], *, resamples: int = _RESAMPLES, seed: int = 0
) -> Band | None:
    """Precision over recall; see `roc`."""
    return _band(study, arm, labels, _precision_rows, resamples, seed)


_Rows = Callable[[Bools, Floats, Ints, Floats], Floats]


def _band(study: Study, arm: HeldOut, labels: Sequence[int], rows_of: _Rows, resamples: int, seed: int) -> Band | None:
    known: Bools = np.any([positives(study, label)[1] for label in labels], axis=0)
    patients = [name for name, ok in zip(study.patients, known.tolist(), strict=True) if ok]
    blocks = []
    for weights in draw_patients(patients, resamples, seed):
        curves = []
        for label in labels:
            has, there = (each[known] for each in positives(study, label))
            for k in range(len(study.seeds)):
                score = arm.predicted[k, known, label]
                curves.append(rows_of(has[there], score[there], study.fold[k, known][there], weights[:, there]))
        blocks.append(np.mean(curves, axis=0))
    drawn = np.concatenate(blocks)
    if np.isnan(drawn[0]).any():
        return None
    kept = drawn[1:][~np.isnan(drawn[1:]).any(axis=1)]
    if len(kept) == 0:
        return Band(drawn[0], drawn[0], drawn[0])
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Band(drawn[0], low, high)


def _steps(has: Bools, score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of true and of false positives at falling thresholds, from none called to all; (weighting, threshold)."""
    order = np.argsort(-score, kind="stable")
    s, w = score[order], weights[:, order]
    ends = np.flatnonzero(np.append(s[1:] != s[:-1], True))
    none = np.zeros((len(weights), 1))
    true = np.concatenate([none, (w * has[order]).cumsum(axis=1)[:, ends]], axis=1)
    false = np.concatenate([none, (w * ~has[order]).cumsum(axis=1)[:, ends]], axis=1)
    return true, false


def _roc_rows(has: Bools, score: Floats, fold: Ints, weights: Floats) -> Floats:
    total, pairs = np.zeros((len(weights), len(GRID))), np.zeros(len(weights))
    for one in np.unique(fold):
        mine = fold == one
        true, false = _steps(has[mine], score[mine], weights[:, mine])
        for b in np.flatnonzero(true[:, -1] * false[:, -1] > 0):
            weight = true[b, -1] * false[b, -1]
            # Of several thresholds at one false positive rate the curve goes on from the last.
            last = np.append(np.diff(false[b]) > 0, True)
            first = np.append(True, np.diff(false[b]) > 0)
            x, y = false[b] / false[b, -1], true[b] / true[b, -1]
            corners = last | first
            total[b] += weight * np.interp(GRID, x[corners], y[corners])
            pairs[b] += weight
    return np.divide(total, pairs[:, None], out=np.full_like(total, np.nan), where=pairs[:, None] > 0)


def _precision_rows(has: Bools, score: Floats, fold: Ints, weights: Floats) -> Floats:
    del fold  # taken together
    out = np.full((len(weights), len(GRID)), np.nan)
    true, false = _steps(has, score, weights)
    for b in np.flatnonzero(true[:, -1] > 0):
        recall, called = true[b, 1:] / true[b, -1], true[b, 1:] + false[b, 1:]
        precision = np.divide(true[b, 1:], called, out=np.zeros_like(called), where=called > 0)
        # A recall is reached at the first threshold that has it or more (no line is drawn between).
        # The very first point, recall 0, shows the first threshold that calls anything.
        wanted = np.maximum(GRID, recall[np.argmax(called > 0)])
        out[b] = precision[np.minimum(np.searchsorted(recall, wanted - 1e-12), len(recall) - 1)]
    return out


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted chances and what came true, in bins of equal width."""

    chance: Floats
    """(bin,) mean chance of its cases; nan for an empty bin, as below."""
    share: Floats
    """(bin,) share of its cases that came true."""
    low: Floats
    """(bin,) lower end of Wilson's 95 % interval of the share, cases taken as independent."""
    high: Floats
    cases: Floats
    """(bin,) mean over the seeds."""


def reliability(study: Study) -> Reliability:
    """Reliability of the model: for two classes of the probability of the second, else of the likeliest class."""
    kind, predicted = study.target.kind, study.arms[0].predicted
    known = np.isfinite(study.truth).all(axis=1)
    truth = study.truth[:, 0]
    if kind == "multilabel":
        there = np.isfinite(study.truth)
        chance, came = predicted[:, there], np.broadcast_to(study.truth[there] == 1, predicted[:, there].shape)
    elif kind == "binary":
        chance, came = predicted[:, known, 1], np.broadcast_to(truth[known] == 1, (len(predicted), known.sum()))
    else:
        chance, came = predicted[:, known].max(axis=2), predicted[:, known].argmax(axis=2) == truth[known]
    place = bins(chance.ravel())
    n, yes, total = (
        np.bincount(place, weights=w, minlength=BINS) for w in (np.ones(chance.size), came.ravel(), chance.ravel())
    )
    seeds = len(study.seeds)
    share, mean = (np.divide(x, n, out=np.full(BINS, np.nan), where=n > 0) for x in (yes, total))
    cases = n / seeds  # the same cases once a seed: no more cases than that
    z2 = 1.959964**2
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (share + z2 / (2 * cases)) / (1 + z2 / cases)
        half = np.sqrt(z2 * (share * (1 - share) / cases + z2 / (4 * cases**2))) / (1 + z2 / cases)
    return Reliability(mean, share, middle - half, middle + half, cases)


@dataclass(frozen=True, eq=False)
class RiskGroups:
    """Patients by predicted risk."""

    time: Floats
    """(patient,)"""
    event: Floats
    """(patient,)"""
    high: Bools
    """(patient,) whether the risk was in the upper half of the fold."""


def risk_groups(study: Study) -> RiskGroups:
    """Split patients at the median risk of the fold that they were held out in.

    Risks of different folds come from different predictors and have no common zero; so each is
    ranked within its fold, from 0 to 1, and the ranks are averaged over the seeds and the
    patient's cases. Above one half is high. Only predictions decide the groups, no outcome does;
    still, the half is of the held-out patients, not a threshold that was fixed before.
    """
    known = np.flatnonzero(np.isfinite(study.truth).all(axis=1))
    risk = risk_of(study.target, study.arms[0].predicted[:, known])  # (seed, case)
    rank = np.empty_like(risk)
    for k, row in enumerate(study.fold[:, known]):
        for one in np.unique(row):
            mine = row == one
            rank[k, mine] = (rankdata(risk[k, mine]) - 0.5) / mine.sum()
    index = number_patients([study.patients[case] for case in known])
    _, first = np.unique(index, return_index=True)
    mean = np.bincount(index, weights=rank.mean(axis=0)) / np.bincount(index)
    truth = study.truth[known][first]
    return RiskGroups(truth[:, 0], truth[:, 1], mean > 0.5 + 1e-9)
