"""Held-out predictions, from which all figures and reports are made.

Nothing here knows of models. A `Study` is one target of a cross-validation: the truth of every
case, and for each arm (the model, and the baselines beside it) what was predicted while the
case lay in the held-out fold, once for every seed.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsi_umedpt.mil.data.targets import Target

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldOut:
    """Predictions of one arm for held-out cases."""

    arm: str
    """Name of the arm, as the report prints it."""
    predicted: Floats
    """(seed, case, p): see `Target.predicted` for the p columns of every kind of target."""
    decided: Floats
    """(seed, case, d): classes chosen by thresholds of the inner folds. d is 1 (index of the class) for binary,
    multiclass and ordinal targets, one 0 or 1 a label for multilabel; the value for regression; nan for survival."""
    sets: npt.NDArray[np.bool_] | None = None
    """(seed, case, class): conformal sets, where the target has classes and the arm makes sets."""
    intervals: Floats | None = None
    """(seed, case, 2): conformal intervals of a value, where the target is one and the arm makes them."""
    unlike: Floats | None = None
    """(seed, case): p-value of being like the training slides; small is unlike."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """Truth of one target, and the predictions of every arm."""

    target: Target
    case_ids: tuple[str, ...]
    patients: tuple[str, ...]
    """(case,) whose case it is; bootstrap draws patients."""
    sites: tuple[str, ...]
    """(case,) empty strings where no site is known."""
    tiles: npt.NDArray[np.int64]
    """(case,) tiles of the bag."""
    slides: npt.NDArray[np.int64] | None = None
    """(case,) slides of the bag, where they are known."""
    truth: Floats
    """(case, t): see `Target.truth`; nan where a label is not known."""
    fold: npt.NDArray[np.int64]
    """(seed, case) fold in which the case was held out."""
    seeds: tuple[int, ...]
    arms: tuple[HeldOut, ...]
    """The model first, then baselines."""
    coverage: float | None = None
    """Nominal coverage of the conformal sets or intervals, 0 to 1."""
    notes: tuple[str, ...] = field(default=())
    """Notes for readers, as that some cases have no label."""
