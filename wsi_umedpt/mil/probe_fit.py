"""The fit of a probe: logistic regression with a fixed penalty, and its cross-validation, which keeps groups together.

Nothing is chosen by the figures that are reported. Features are standardised; those of objects, of which a few dozen
are labelled and thousands are not, by all objects of the slides that are fitted on, labelled or not, and so that
each part of a row (vector, measures) weighs as much as each other. Slides that are left out say nothing, not even that.

Read top to bottom: `Labelled` (what is given), `kept_together`, `fit_linear`, `cross_validate`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from wsi_umedpt.errors import ProbeError

PENALTY = 0.1
"""scikit-learn's C, the inverse of the penalty, on standardised features."""
PARTS_PENALTY = 1.0
"""The same, on features whose parts have a variance of 1 in all."""
_FOLDS = 5
_ROUNDS = 1000

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Background:
    """Mean and variance of each feature over all objects of a slide, labelled or not."""

    count: int
    mean: npt.NDArray[np.float64]
    """(dim,)"""
    variance: npt.NDArray[np.float64]
    """(dim,)"""
    parts: tuple[int, ...]
    """Lengths of the parts of a row."""


@dataclass(frozen=True)
class Labelled:
    """Tiles or objects of one slide that have a label."""

    slide_id: str
    patient: str
    """Empty if not known."""
    features: Floats
    """(row, dim)"""
    labels: tuple[str, ...]
    blocks: tuple[str, ...]
    """The block of neighbours that each row lies in."""
    background: Background | None = None
    """Features that standardise the others; the labelled rows where there are none."""
    missed: int = 0
    """Number of labels that lie on nothing."""
    made_of: Mapping[str, Any] = field(default_factory=dict)
    """Kind of the features: ``encoder`` (name, weights_sha256, ...) and, of objects, ``objects`` (head, maps, ...)."""


def one_patient(slide_id: str, names: Iterable[str]) -> str:
    """The patient of a slide, of what its labels and tables say; empty where nothing does.

    Raises
    ------
    ProbeError
        If several are named.
    """
    stated = sorted({name for name in names if name})
    if len(stated) > 1:
        raise ProbeError(f"{slide_id} is said to be of several patients: {', '.join(stated)}")
    return stated[0] if stated else ""


def kept_together(slides: Sequence[Labelled], numbers: Numbers) -> tuple[npt.NDArray[np.object_], str]:
    """Groups that cross-validation keeps together, and their name: the largest unit with every class at least twice."""
    by = {
        "patient": [s.patient for s in slides for _ in s.labels] if any(s.patient for s in slides) else [],
        "slide": [s.slide_id for s in slides for _ in s.labels],
        "block of neighbours": [block for s in slides for block in s.blocks],
    }
    for name, groups in by.items():
        found = np.array(groups, object)
        if len(found) and all(len({*found[numbers == k]}) > 1 for k in np.unique(numbers)):
            return found, name
        if name == "patient" and len(found):
            break  # patients are known: nothing smaller would be honest
    return np.array([], object), "none"


def fit_linear(
    slides: Sequence[Labelled], numbers: Numbers, train: npt.NDArray[np.bool_], classes: int
) -> tuple[Floats, Floats]:
    """Fit on some rows.

    Parameters
    ----------
    slides
        All of them.
    numbers : (row,)
        The class of each row.
    train : bool (row,)
        Rows that are fitted on; nothing of other slides is used.

    Returns
    -------
    weight : float32 (class, dim), on features as they are
    bias : float32 (class,)
    """
    features, numbers = np.concatenate([s.features for s in slides])[train], numbers[train]
    mean, spread = _scale(slides, train, features)
    model = LogisticRegression(C=penalty_of(slides), class_weight="balanced", max_iter=_ROUNDS)
    model.fit((features - mean) / spread, numbers)
    weight, bias = model.coef_, model.intercept_
    if classes == 2:  # one row says how much the second is likelier than the first
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def penalty_of(slides: Sequence[Labelled]) -> float:
    """scikit-learn's C for these features."""
    return PENALTY if slides[0].background is None else PARTS_PENALTY


def cross_validate(
    slides: Sequence[Labelled], numbers: Numbers, groups: npt.NDArray[np.object_], classes: int, seed: int
) -> dict[str, Any]:
    """AUC and balanced accuracy on groups that were left out, mean over folds; empty if there are too few.

    Folds in which a class is missing are left out: they have no AUC.
    """
    if not len(groups):
        return {}
    features = np.concatenate([s.features for s in slides])
    folds = min(_FOLDS, min(len({*groups[numbers == k]}) for k in range(classes)))
    areas, accuracies, tested = [], [], 0
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in dealer.split(features, numbers, groups):
        if len(np.unique(numbers[train])) < classes or len(np.unique(numbers[test])) < classes:
            continue
        weight, bias = fit_linear(slides, numbers, np.isin(np.arange(len(numbers)), train), classes)
        chances = softmax(features[test] @ weight.T + bias)
        one = chances[:, 1] if classes == 2 else chances
        areas.append(float(roc_auc_score(numbers[test], one, multi_class="ovr")))
        accuracies.append(float(balanced_accuracy_score(numbers[test], chances.argmax(axis=1))))
        tested += len(test)
    if not areas:
        return {}
    return {
        "folds": len(areas),
        "auc": float(np.mean(areas)),
        "balanced_accuracy": float(np.mean(accuracies)),
        "tiles" if slides[0].background is None else "objects": tested,
    }


def softmax(logits: Floats) -> Floats:
    """Probabilities of classes, (row, class)."""
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(chances / chances.sum(axis=1, keepdims=True), np.float32)


def _scale(
    slides: Sequence[Labelled], train: npt.NDArray[np.bool_], features: Floats
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Offset that is subtracted from features, and scale that divides them; see the head of this file."""
    ends = np.cumsum([len(s.labels) for s in slides])
    fitted = [s.background for s, rows in zip(slides, np.split(train, ends[:-1]), strict=True) if rows.any()]
    known = [b for b in fitted if b is not None]
    if not known:
        return features.mean(axis=0), features.std(axis=0) + 1e-6
    weight = np.array([b.count for b in known], np.float64)[:, None] / sum(b.count for b in known)
    mean = (weight * [b.mean for b in known]).sum(axis=0)
    variance = (weight * [b.variance + (b.mean - mean) ** 2 for b in known]).sum(axis=0)
    lengths = np.array(known[0].parts)
    return mean, (np.sqrt(variance) + 1e-6) * np.sqrt(np.repeat(lengths, lengths))
