"""Figures of predictions, for many weightings of the same cases at once.

A weighting gives every case a number: 1 for the figure itself, and how often the case was drawn
for a bootstrap resample. `weights` is (weighting, case), and every function returns one number a
weighting, or one a weighting and class. With whole numbers they are what scikit-learn would give
for cases repeated that often. A figure that is not defined is nan, never 0: a class without cases
has no sensitivity.
"""

import numpy as np
import numpy.typing as npt

from wsi_umedpt.mil.evaluation.heldout import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
BINS = 10
"""Number of bins of equal width from 0 to 1, for calibration."""
_LEAST = float(np.finfo(np.float64).eps)
"""Chances are not taken for smaller, whose logarithm would be infinite."""


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide one by the other; nan where the other is 0."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=np.broadcast_to(below > 0, out.shape))
    return out


def roc_auc(positive: Bools, score: Floats, weights: Floats, fold: Ints) -> Floats:
    """Area under the ROC curve: of pairs of a positive and a negative case of one fold, the share in the right order.

    Parameters
    ----------
    positive, score : (case,)
        Equal scores count one half.
    weights : (weighting, case)
    fold : (case,)
        Cases of different folds were scored by different predictors and are not compared: pooling
        them is biased, downward for a predictor that knows nothing (Forman and Scholz 2010; Airola
        et al. 2011).
    """
    order = np.lexsort((score, fold))
    f, s = fold[order], score[order]
    fresh_fold = np.append(True, f[1:] != f[:-1])
    starts = np.flatnonzero(fresh_fold | np.append(True, s[1:] != s[:-1]))
    w = weights[:, order]
    p = np.add.reduceat(w * positive[order], starts, axis=1)  # (weighting, tie), as all below
    n = np.add.reduceat(w * ~positive[order], starts, axis=1)
    below = n.cumsum(axis=1) - n
    tie_fold = np.cumsum(fresh_fold)[starts] - 1
    opens = np.flatnonzero(np.append(True, tie_fold[1:] != tie_fold[:-1]))
    below -= below[:, opens][:, tie_fold]
    pairs = np.add.reduceat(p, opens, axis=1) * np.add.reduceat(n, opens, axis=1)
    return ratio((p * (below + n / 2)).sum(axis=1), pairs.sum(axis=1))


def average_precision(positive: Bools, score: Floats, weights: Floats) -> Floats:
    """Precision at every threshold, weighed by the recall that it adds; cases of all folds together."""
    order = np.argsort(-score, kind="stable")
    s, w = score[order], weights[:, order]
    ends = np.flatnonzero(np.append(s[1:] != s[:-1], True))
    found = (w * positive[order]).cumsum(axis=1)[:, ends]
    called = w.cumsum(axis=1)[:, ends]
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return ratio((np.diff(found, axis=1, prepend=0) * precision).sum(axis=1), found[:, -1])


def confusion(truth: Ints, decided: Ints, classes: int, weights: Floats) -> Floats:
    """Weight of the cases of each true class that were called each class; (weighting, truth, decided)."""
    cells, place = np.unique(truth * classes + decided, return_inverse=True)
    out = np.zeros((len(weights), classes * classes))
    out[:, cells] = weights @ (place[:, None] == np.arange(len(cells))).astype(np.float64)
    return out.reshape(len(weights), classes, classes)


def recall(counts: Floats) -> Floats:
    """Recall (sensitivity) of each class, from `confusion`; (weighting, class)."""
    return ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))


def specificity(counts: Floats) -> Floats:
    """Specificity of each class: share of the cases without it that are not called it; (weighting, class)."""
    called, own = counts.sum(axis=1), counts.sum(axis=2)
    others = counts.sum(axis=(1, 2))[:, None] - own
    return ratio(others - (called - np.diagonal(counts, axis1=1, axis2=2)), others)


def precision(counts: Floats) -> Floats:
    """Precision of each class; (weighting, class), nan where no case was called it."""
    return ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=1))


def f1(counts: Floats) -> Floats:
    """Harmonic mean of recall and precision; (weighting, class), nan for one neither there nor called."""
    return ratio(2 * np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=1) + counts.sum(axis=2))


def quadratic_kappa(counts: Floats) -> Floats:
    """Agreement beyond chance, errors weighed by the square of the steps (Cohen 1968); (weighting,)."""
    step = np.arange(counts.shape[1], dtype=np.float64)
    cost = (step[:, None] - step[None, :]) ** 2
    chance = counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None, :]
    total = counts.sum(axis=(1, 2))
    return 1 - ratio((cost * counts).sum(axis=(1, 2)) * total, (cost * chance).sum(axis=(1, 2)))


def mean(values: Floats, weights: Floats) -> Floats:
    """Mean over the cases; (weighting,), or (weighting, column) for (case, column)."""
    total = weights.sum(axis=1)
    return ratio(weights @ values, total if values.ndim == 1 else total[:, None])


def squared_error(truth: Ints, predicted: Floats) -> Floats:
    """Brier's score of each case, (case,): squared error of the chances (case, class), summed over the classes."""
    right = np.zeros_like(predicted)
    right[np.arange(len(truth)), truth] = 1
    return np.asarray(((predicted - right) ** 2).sum(axis=1))


def surprise(chance: Floats) -> Floats:
    """Log loss of each case, from the chance that was given to what is true."""
    return np.asarray(-np.log(np.clip(chance, _LEAST, 1)))


def bins(chance: Floats) -> Ints:
    """Index of the bin of each probability, of `BINS` of equal width; 1 falls in the last."""
    return np.minimum((chance * BINS).astype(np.int64), BINS - 1)


def calibration_error(chance: Floats, came: Bools, weights: Floats) -> Floats:
    """Expected calibration error: mean distance of chance and share in `bins`, weighed by cases (Guo et al. 2017)."""
    placed = np.zeros((len(chance), BINS))
    placed[np.arange(len(chance)), bins(chance)] = 1
    gap = weights @ (placed * (chance - came)[:, None])  # (weighting, bin)
    return ratio(np.abs(gap).sum(axis=1), weights.sum(axis=1))


def r2(truth: Floats, predicted: Floats, weights: Floats) -> Floats:
    """Share of the variance that is explained, against the mean of the cases themselves; below 0 is worse than it."""
    apart = truth - truth.mean()  # first, so that the sums below do not cancel
    total = np.maximum(weights.sum(axis=1), np.finfo(float).tiny)  # a draw may hold no case at all
    spread = weights @ apart**2 - (weights @ apart) ** 2 / total
    spread = np.where(spread > 1e-12 * (weights @ apart**2), spread, 0)
    return 1 - ratio(weights @ (truth - predicted) ** 2, spread)


def spearman(truth: Floats, predicted: Floats, weights: Floats, fold: Ints) -> Floats:
    """Correlation of the ranks of truth and prediction, ranks within each fold as in `roc_auc`."""
    products, left, right = np.zeros((3, len(weights)))
    for one in np.unique(fold):
        mine = fold == one
        w = weights[:, mine]
        a, b = _centred_ranks(truth[mine], w), _centred_ranks(predicted[mine], w)
        products += (w * a * b).sum(axis=1)
        left += (w * a * a).sum(axis=1)
        right += (w * b * b).sum(axis=1)
    return ratio(products, np.sqrt(left * right))


def _centred_ranks(values: Floats, weights: Floats) -> Floats:
    """Rank less the mean rank, ties sharing theirs, cases repeated by their weight; (weighting, case)."""
    _, tie = np.unique(values, return_inverse=True)
    order = np.argsort(tie, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(tie[order]) > 0))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)  # (weighting, tie)
    middle = tied.cumsum(axis=1) - tied / 2
    return np.asarray((middle - weights.sum(axis=1, keepdims=True) / 2)[:, tie])
