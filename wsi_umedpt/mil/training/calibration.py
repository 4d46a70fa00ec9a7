"""Calibration on logits of held-out inner folds: a temperature, a threshold, and the size of conformal sets.

All three are learned from cases that the predicting network did not train on, and none of them
from a fold that is reported.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from wsi_umedpt.mil.data.targets import CLASS_KINDS, Target
from wsi_umedpt.mil.training.losses import predicted_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of one target's logits to answers."""

    temperature: float
    """Logits are divided by it."""
    thresholds: tuple[float, ...]
    """Probability from which the second class (binary), or each label (multilabel), is chosen; else empty."""
    nonconformity: Floats
    """(case,) sorted: 1 - probability of the truth, or the distance of a value from it; empty where none applies."""

    def decide(self, target: Target, predicted: Floats) -> Floats:
        """Predicted (case, p) to decisions (case, d); see `wsi_umedpt.mil.evaluation.heldout.HeldOut.decided`."""
        match target.kind:
            case "binary":
                return np.where(predicted[:, 1:] >= self.thresholds[0], 1.0, 0.0)
            case "multilabel":
                return np.where(predicted >= np.array(self.thresholds), 1.0, 0.0)
            case "multiclass":
                return np.asarray(predicted.argmax(1)[:, None], np.float64)
            case "ordinal":  # the class at which half of the probability is reached
                return np.asarray((np.cumsum(predicted, 1) < 0.5 - 1e-12).sum(1)[:, None], np.float64)
            case "regression":
                return predicted
        return np.full((len(predicted), 1), math.nan)

    def reach(self, coverage: float) -> float:
        """Nonconformity up to which a set must go to hold the truth of `coverage` of all exchangeable cases.

        Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv 2107.07511, section 1):
        the ceil((n + 1) coverage)-th smallest of n. Infinite where n is too small to promise it.
        """
        n = len(self.nonconformity)
        rank = math.ceil((n + 1) * coverage - 1e-9)
        return float(self.nonconformity[rank - 1]) if 0 < rank <= n else math.inf

    def sets(self, target: Target, predicted: Floats, coverage: float) -> npt.NDArray[np.bool_] | None:
        """Conformal sets (case, class): every class whose probability is high enough; None without classes."""
        if target.kind not in CLASS_KINDS:
            return None
        return 1 - predicted <= self.reach(coverage) + 1e-12

    def interval(self, target: Target, predicted: Floats, coverage: float) -> Floats | None:
        """Conformal intervals (case, 2) of a value; None for other targets."""
        if target.kind != "regression":
            return None
        reach = self.reach(coverage)
        return np.concatenate([predicted - reach, predicted + reach], 1)


def calibrate(target: Target, logits: Floats, truth: Floats) -> Calibration:
    """Learn from out-of-fold logits.

    Parameters
    ----------
    target
        Filled in.
    logits : (case, `Target.outputs`), of networks that did not train on the case
    truth : (case, `Target.truth`)
    """
    known = ~np.isnan(truth).all(1)
    logits, truth = logits[known], truth[known]
    temperature = _temperature(target, logits, truth) if target.classes else 1.0
    predicted = predicted_of(target, logits, temperature)
    thresholds: tuple[float, ...] = ()
    scores = np.empty(0)
    if target.kind == "binary":
        thresholds = (best_threshold(predicted[:, 1], truth[:, 0]),)
    elif target.kind == "multilabel":
        thresholds = tuple(best_threshold(p, t) for p, t in zip(predicted.T, truth.T, strict=True))
    if target.kind in CLASS_KINDS:
        scores = 1 - predicted[np.arange(len(truth)), truth[:, 0].astype(int)]
    elif target.kind == "regression":
        scores = np.abs(predicted - truth)[:, 0]
    return Calibration(temperature, thresholds, np.sort(scores))


def best_threshold(chance: Floats, truth: Floats) -> float:
    """Probability from which a class is chosen; 0.5 where one class is lacking.

    A calibrated probability has sensitivity plus specificity (Youden 1950) highest at the share of the class. That is
    the threshold, unless one found on these cases is better by more than its standard error: the best of a few dozen
    cases is mostly luck, and costs accuracy on others.

    Parameters
    ----------
    chance : (case,)
    truth : (case,) 0, 1 or nan
    """
    known = ~np.isnan(truth)
    chance, truth = chance[known], truth[known]
    if len(np.unique(truth)) < 2:
        return 0.5
    yes, no = chance[truth == 1], chance[truth == 0]
    share, values = float(truth.mean()), np.unique(chance)
    cuts = np.concatenate([[share, 0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    found = (yes >= cuts[:, None]).mean(1)  # (cut,)
    left = (no < cuts[:, None]).mean(1)
    right = found + left
    best = int(right.argmax())
    error = math.sqrt(found[best] * (1 - found[best]) / len(yes) + left[best] * (1 - left[best]) / len(no))
    as_good = cuts[right >= right[best] - error - 1e-12]
    return float(as_good[np.abs(as_good - share).argmin()])


def _temperature(target: Target, logits: Floats, truth: Floats) -> float:
    """Temperature of the least negative log likelihood, from 0.1 to 10."""

    def cost(log_temperature: float) -> float:
        predicted = np.clip(predicted_of(target, logits, math.exp(log_temperature)), 1e-12, 1 - 1e-12)
        if target.kind == "multilabel":
            return -float(np.nanmean(truth * np.log(predicted) + (1 - truth) * np.log(1 - predicted)))
        return -float(np.log(predicted[np.arange(len(truth)), truth[:, 0].astype(int)]).mean())

    found = minimize_scalar(cost, bounds=(math.log(0.1), math.log(10)), method="bounded")
    return float(math.exp(found.x))
