"""Figures of each kind of target, their names, and their values for one arm's predictions of one seed.

Figures of order (ROC AUC, concordance, Spearman) compare only cases of one fold: cases of other
folds were scored by other predictors. All other figures take the folds together. A figure over
several classes is the plain mean over the classes that occur in the truth; a weighting that lacks
one of them leaves it undefined.

Read this file top to bottom: `FIGURES` (names), `Values` (what is measured), `measure_arm` (how).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.integrate import trapezoid

from wsi_umedpt.mil.data.targets import CLASS_KINDS, SURVIVAL_KINDS, Kind, Target
from wsi_umedpt.mil.evaluation import metrics
from wsi_umedpt.mil.evaluation.heldout import Floats
from wsi_umedpt.mil.evaluation.metrics import Bools, Ints
from wsi_umedpt.mil.evaluation.survival import brier, concordance


@dataclass(frozen=True)
class Meaning:
    """A figure as a reader meets it."""

    label: str
    words: str
    better: Literal["higher", "lower"] = "higher"
    chance: float | None = None
    """Value of guessing, where that is a fixed number."""
    unit: bool = False
    """True if the figure has the unit of the target: it is not to be drawn beside others."""
    traded: bool = False
    """Half of a pair: to call everything positive raises one and ruins the other. Alone it makes no arm better."""


_BINNED = f"{metrics.BINS} bins of equal width; no interval, because it grows when cases are drawn twice"
FIGURES: dict[str, Meaning] = {
    "roc_auc": Meaning(
        "ROC AUC within folds",
        "how often a case that has the class gets a higher probability than a case that has not; "
        "pairs of cases of one fold",
        chance=0.5,
    ),
    "quadratic_kappa": Meaning(
        "Quadratic kappa", "agreement of the decided class beyond chance; errors weigh by the square of the steps",
        chance=0.0,
    ),
    "average_precision": Meaning(
        "Average precision pooled over folds", "area under the precision-recall curve; guessing gives the share "
        "of the class"
    ),
    "roc_auc_pooled": Meaning(
        "ROC AUC pooled over folds",
        "the same over all pairs of cases, though each fold was scored by a predictor of its own, whose scores need "
        "not have a common zero",
    ),
    "balanced_accuracy": Meaning("Balanced accuracy", "mean over the classes of the share that was found"),
    "accuracy": Meaning("Accuracy", "share of cases that were decided rightly"),
    "macro_f1": Meaning("Macro F1", "mean over the classes of F1"),
    "sensitivity": Meaning("Sensitivity", "share found of the cases that have the class", traded=True),
    "specificity": Meaning("Specificity", "share not called of the cases that have not the class", traded=True),
    "precision": Meaning("Precision", "share that has the class of the cases that were called it", traded=True),
    "f1": Meaning("F1", "harmonic mean of sensitivity and precision"),
    "brier": Meaning("Brier score", "squared error of the probabilities", "lower"),
    "log_loss": Meaning("Log loss", "mean of the negative logarithm of the probability given to the truth", "lower"),
    "calibration_error": Meaning(
        "Calibration error (ECE)", f"mean distance of probability and share that came true; {_BINNED}", "lower"
    ),
    "r2": Meaning("R²", "share of the variance that is explained; 0 is predicting the mean", chance=0.0),
    "spearman": Meaning("Spearman correlation", "of the ranks of truth and prediction, within folds", chance=0.0),
    "mean_error": Meaning("Mean absolute error", "in the unit of the target", "lower", unit=True),
    "root_error": Meaning("Root mean squared error", "in the unit of the target", "lower", unit=True),
    "c_index": Meaning(
        "Concordance within folds (Harrell's C)",
        "how often the patient with the sooner event had the higher risk; pairs of one fold whose order is known",
        chance=0.5,
    ),
    "c_index_uno": Meaning(
        "Concordance within folds (Uno's C)", "the same, made independent of how long patients were followed",
        chance=0.5,
    ),
    "integrated_brier": Meaning(
        "Integrated Brier score", "squared error of the predicted survival, mean over time", "lower"
    ),
    "coverage": Meaning("Coverage", "share of cases whose set, or interval, holds the truth"),
    "interval_width": Meaning("Mean width of the intervals", "in the unit of the target", "lower", unit=True),
    "set_size": Meaning("Mean size of the sets", "classes in a set", "lower", unit=True),
    "set_single": Meaning("Sets of one class", "share of cases whose set is one class"),
    "set_empty": Meaning("Empty sets", "share of cases whose set is empty", "lower"),
}  # fmt: skip
"""Figures, in the order of the report."""
OF_CLASSES = ("roc_auc", "average_precision", "roc_auc_pooled")
"""Means over the classes where there are more than two; of labels all figures are."""
HEADLINE: dict[Kind, str] = {
    "binary": "roc_auc", "multiclass": "roc_auc", "multilabel": "roc_auc", "ordinal": "quadratic_kappa",
    "regression": "r2", "cox": "c_index", "discrete": "c_index",
}  # fmt: skip
"""The figure that stands for a target."""
OF_SETS = ("coverage", "interval_width", "set_size", "set_single", "set_empty")
NO_INTERVAL = ("calibration_error",)


@dataclass
class Values:
    """Values of all figures, for every weighting."""

    figures: dict[str, Floats] = field(default_factory=dict)
    """(weighting,) of each name in `FIGURES` that the target has."""
    classes: dict[str, Floats] = field(default_factory=dict)
    """(weighting, class) of figures that each class has of its own."""
    confusion: Floats | None = None
    """(weighting, truth, decided) where one class of several is right."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one seed of one arm, for cases whose truth is known."""

    truth: Floats
    """(case, t)"""
    predicted: Floats
    """(case, p)"""
    decided: Floats
    """(case, d)"""
    fold: Ints
    """(case,)"""
    sets: Bools | None = None
    """(case, class)"""
    intervals: Floats | None = None
    """(case, 2)"""


def measure_arm(target: Target, seen: Predictions, weights: Floats) -> Values:
    """All figures of the target's kind.

    Parameters
    ----------
    target
    seen
        For multilabel targets some labels of a case may be unknown: each label has its own cases.
    weights : (weighting, case)
    """
    if target.kind in CLASS_KINDS:
        return _one_of_classes(target, seen, weights)
    if target.kind == "multilabel":
        return _labels(target, seen, weights)
    return _survival(target, seen, weights) if target.kind in SURVIVAL_KINDS else _regression(seen, weights)


def risk_of(target: Target, predicted: Floats) -> Floats:
    """Risk of each case, higher for a sooner event; (..., p) becomes (...)."""
    return np.asarray(predicted[..., 0] if target.kind == "cox" else -predicted.sum(axis=-1))


def _one_of_classes(target: Target, seen: Predictions, weights: Floats) -> Values:
    truth, decided = seen.truth[:, 0].astype(np.int64), seen.decided[:, 0].astype(np.int64)
    classes, predicted = len(target.classes), seen.predicted
    present = np.bincount(truth, minlength=classes) > 0
    counts = metrics.confusion(truth, decided, classes, weights)
    every = _by_class(truth, predicted, seen.fold, weights)
    every |= {
        "sensitivity": metrics.recall(counts),
        "specificity": metrics.specificity(counts),
        "precision": metrics.precision(counts),
        "f1": metrics.f1(counts),
    }
    lacking = (counts.sum(axis=2)[:, present] == 0).any(axis=1)
    confidence = predicted[:, 1] if target.kind == "binary" else predicted.max(axis=1)
    came = truth == 1 if target.kind == "binary" else predicted.argmax(axis=1) == truth
    error = metrics.squared_error(truth, predicted) / (2 if target.kind == "binary" else 1)
    f1 = every["f1"]
    macro_f1 = metrics.ratio(np.nan_to_num(f1).sum(axis=1), np.isfinite(f1).sum(axis=1).astype(np.float64))
    figures = {
        "accuracy": metrics.ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2))),
        "balanced_accuracy": every["sensitivity"][:, present].mean(axis=1),
        "macro_f1": np.where(lacking, np.nan, macro_f1),
        "brier": metrics.mean(error, weights),
        "log_loss": metrics.mean(metrics.surprise(predicted[np.arange(len(truth)), truth]), weights),
        "calibration_error": metrics.calibration_error(confidence, came, weights),
    }
    order = ("roc_auc", "roc_auc_pooled", "average_precision")
    if target.kind == "binary":
        figures |= {name: every[name][:, 1] for name in (*order, "sensitivity", "specificity")}
    else:
        figures |= {name: every[name][:, present].mean(axis=1) for name in order}
    if target.kind == "ordinal":
        figures["quadratic_kappa"] = metrics.quadratic_kappa(counts)
    if seen.sets is not None:
        held = seen.sets[np.arange(len(truth)), truth]
        size = seen.sets.sum(axis=1)
        figures["coverage"] = metrics.mean(held.astype(np.float64), weights)
        figures["set_size"] = metrics.mean(size.astype(np.float64), weights)
        figures["set_single"] = metrics.mean((size == 1).astype(np.float64), weights)
        figures["set_empty"] = metrics.mean((size == 0).astype(np.float64), weights)
        of_class = (truth[:, None] == np.arange(classes)).astype(np.float64)
        every["coverage"] = metrics.ratio(weights @ (of_class * held[:, None]), weights @ of_class)
    return Values(figures, every, counts)


def _by_class(truth: Ints, predicted: Floats, fold: Ints, weights: Floats) -> dict[str, Floats]:
    """Figures of order of each class against the others; (weighting, class) each."""
    out = {
        name: np.full((len(weights), predicted.shape[1]), np.nan)
        for name in ("roc_auc", "roc_auc_pooled", "average_precision")
    }
    together = np.zeros_like(fold)
    for k in range(predicted.shape[1]):
        positive = truth == k
        if positive.any():
            out["roc_auc"][:, k] = metrics.roc_auc(positive, predicted[:, k], weights, fold)
            out["roc_auc_pooled"][:, k] = metrics.roc_auc(positive, predicted[:, k], weights, together)
            out["average_precision"][:, k] = metrics.average_precision(positive, predicted[:, k], weights)
    return out


_OF_LABELS = (
    "roc_auc", "roc_auc_pooled", "average_precision", "balanced_accuracy", "accuracy", "sensitivity",
    "specificity", "precision", "f1", "brier", "log_loss", "calibration_error",
)  # fmt: skip


def _labels(target: Target, seen: Predictions, weights: Floats) -> Values:
    """Each label as a binary target of the cases that have it; macro over the labels that are both yes and no."""
    every = {name: np.full((len(weights), len(target.classes)), np.nan) for name in _OF_LABELS}
    both = np.zeros(len(target.classes), bool)
    for k in range(len(target.classes)):
        known = np.isfinite(seen.truth[:, k])
        yes = seen.truth[known, k] == 1
        both[k] = yes.any() and not yes.all()
        chance, w = seen.predicted[known, k], weights[:, known]
        own = Predictions(
            seen.truth[known, k : k + 1],
            np.column_stack([1 - chance, chance]),
            seen.decided[known, k : k + 1],
            seen.fold[known],
        )
        if not known.any():
            continue
        one = _one_of_classes(Target(name="", kind="binary", columns=(), classes=("no", "yes")), own, w)
        for name in _OF_LABELS:
            every[name][:, k] = one.figures[name] if name in one.figures else one.classes[name][:, 1]
    if not both.any():
        return Values({name: np.full(len(weights), np.nan) for name in _OF_LABELS}, every)
    figures = {name: every[name][:, both].mean(axis=1) for name in _OF_LABELS if name not in ("precision", "f1")}
    figures["macro_f1"] = every["f1"][:, both].mean(axis=1)
    return Values(figures, every)


def _regression(seen: Predictions, weights: Floats) -> Values:
    truth, predicted = seen.truth[:, 0], seen.predicted[:, 0]
    error = truth - predicted
    figures = {
        "r2": metrics.r2(truth, predicted, weights),
        "spearman": metrics.spearman(truth, predicted, weights, seen.fold),
        "mean_error": metrics.mean(np.abs(error), weights),
        "root_error": np.sqrt(metrics.mean(error**2, weights)),
    }
    if seen.intervals is not None:
        low, high = seen.intervals.T
        figures["coverage"] = metrics.mean(((low <= truth) & (truth <= high)).astype(np.float64), weights)
        figures["interval_width"] = metrics.mean(high - low, weights)
    return Values(figures)


def _survival(target: Target, seen: Predictions, weights: Floats) -> Values:
    time, event = seen.truth[:, 0], seen.truth[:, 1]
    risk = risk_of(target, seen.predicted)
    figures = {
        "c_index": concordance(time, event, risk, weights=weights, fold=seen.fold),
        "c_index_uno": concordance(time, event, risk, weights=weights, fold=seen.fold, ipcw=True),
    }
    edges = np.array(target.edges)
    reached = edges < time.max(initial=-np.inf)
    if target.kind == "discrete" and reached.any():
        scores = brier(time, event, seen.predicted[:, reached], edges[reached], weights)  # (weighting, edge)
        figures["integrated_brier"] = _mean_over(edges[reached], scores)
    return Values(figures)


def _mean_over(edges: Floats, scores: Floats) -> Floats:
    """Mean over the time from the first edge to the last, straight lines between them."""
    if len(edges) == 1:
        return np.asarray(scores[:, 0])
    return np.asarray(trapezoid(scores, edges, axis=1) / (edges[-1] - edges[0]))
