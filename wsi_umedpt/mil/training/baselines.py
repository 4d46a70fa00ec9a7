"""Baselines of a slide classifier: a linear model on mean features, and a guess that sees no features.

The linear model is logistic regression (linear, Cox or hazard regression for other targets) on the mean of a
case's tiles, standardised, its penalty chosen on inner folds; the guess is the same without features. Both are
developed from the cohort that the networks get, by the same rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.mil.data.cohort import Cohort, bags_of
from wsi_umedpt.mil.data.feature_loader import BagReader, Features
from wsi_umedpt.mil.data.splits import Folds, deal_inner
from wsi_umedpt.mil.data.standardize import mean_of, scale_of
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.settings import StudySettings
from wsi_umedpt.mil.training.calibration import Calibration, calibrate
from wsi_umedpt.mil.training.ensemble import filled
from wsi_umedpt.mil.training.losses import loss_of, predicted_of

Floats = npt.NDArray[np.float64]

LINEAR, GUESS = "mean + linear", "no features"
"""Names of the arms."""
_PENALTIES = (3e-4, 3e-3, 3e-2, 0.3, 3.0)
"""Times the mean square of the weights of a standardised feature, times features."""


@dataclass(frozen=True, eq=False)
class _Linear:
    target: Target
    calibration: Calibration
    weight: Floats
    """(dim, output)"""
    bias: Floats
    """(output,)"""


@dataclass(frozen=True, eq=False)
class Baseline:
    """Linear models of all targets on mean features."""

    name: str
    centre: Floats
    scale: Floats
    parts: tuple[_Linear, ...]

    def forecast(self, bags: Sequence[Features]) -> list[tuple[Target, Floats, Floats]]:
        """Target, predicted (p,) and decided (d,) of each target, of one case; see `heldout`."""
        x = (mean_of_case(bags) - self.centre) * self.scale
        found = []
        for part in self.parts:
            logits = (x @ part.weight + part.bias)[None]
            predicted = predicted_of(part.target, logits, part.calibration.temperature)
            found.append((part.target, predicted[0], part.calibration.decide(part.target, predicted)[0]))
        return found


def mean_of_case(bags: Sequence[Features]) -> Floats:
    """(dim,) mean over tiles, then over bags."""
    return np.asarray(np.mean([mean_of(bag) for bag in bags], axis=0))


def develop_baselines(cohort: Cohort, reader: BagReader, study: StudySettings, seed: int) -> list[Baseline]:
    """Fit both baselines on a cohort and nothing else."""
    cohort = filled(cohort)
    bags = [bags_of(case.slides, cohort.unit) for case in cohort.cases]
    means = np.stack([mean_of_case([reader(slides) for slides in each]) for each in bags])
    centre = means.mean(0)
    scale = scale_of(centre, means.std(0))
    x = (means - centre) * scale
    if len(x) < x.shape[1]:  # the penalty does not see a rotation: as many numbers as cases are enough
        left, sizes, rotation = np.linalg.svd(x, full_matrices=False)
        x = left * sizes
    else:
        rotation = np.eye(x.shape[1])
    folds = deal_inner(cohort, study, seed)
    made = []
    for name, used, penalties in ((LINEAR, len(rotation), _PENALTIES), (GUESS, 0, (1.0,))):
        pairs = zip(cohort.targets, cohort.truth, strict=True)
        parts = [_fit(target, x[:, :used], truth, folds, penalties) for target, truth in pairs]
        back = tuple(replace(part, weight=rotation[:used].T @ part.weight) for part in parts)
        made.append(Baseline(name, centre, scale, back))
    return made


def _fit(target: Target, x: Floats, truth: Floats, folds: Folds, penalties: Sequence[float]) -> _Linear:
    best = None
    for penalty in penalties:
        logits, losses = np.zeros((len(x), target.outputs)), []
        for fold in np.unique(folds):
            held = folds == fold
            weight, bias = _minimise(target, x[~held], truth[~held], penalty)
            logits[held] = x[held] @ weight + bias
            found = loss_of(target, torch.from_numpy(logits[held]), torch.from_numpy(truth[held]))
            losses += [float(found)] * int(held.sum())
        if best is None or np.mean(losses) < best[0] - 1e-12:
            best = float(np.mean(losses)), penalty, logits
    assert best is not None  # noqa: S101 - there is a penalty at least
    weight, bias = _minimise(target, x, truth, best[1])
    calibration = calibrate(target, best[2], truth)
    if not x.any():  # a guess has no ranking to put a threshold into
        calibration = Calibration(1.0, tuple(0.5 for _ in calibration.thresholds), calibration.nonconformity)
    return _Linear(target, calibration, weight, bias)


def _minimise(target: Target, x: Floats, truth: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Weights (dim, output) and bias (output,) of the least penalised loss: convex for every kind of target."""
    rows, labels = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(truth)
    weight = torch.zeros(x.shape[1], target.outputs, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(target.outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def cost() -> torch.Tensor:
        optimizer.zero_grad()
        total = loss_of(target, rows @ weight + bias, labels) + penalty * (weight**2).sum()
        # A bias alone of classes that are never wrong would grow for ever.
        total = total + 1e-6 * (bias**2).sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(cost)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), bias.detach().numpy()
