"""Forecast of a slide classifier for one case: a prediction for each target, and the share of each tile in it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_umedpt.mil.data.targets import CLASS_KINDS, Target

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Forecast:
    """Prediction of one target for one case."""

    target: Target
    predicted: Floats
    """(p,) see `Target.predicted`"""
    decided: Floats
    """(d,) see `wsi_umedpt.mil.evaluation.heldout.HeldOut.decided`"""
    spread: Floats
    """(p,) standard deviation of `predicted` over the networks"""
    conformal: npt.NDArray[np.bool_] | None
    """(class,) which classes are possible; the others are unlikely, not excluded; None without classes"""
    interval: Floats | None
    """(2,) where a value lies; None for other targets"""

    @property
    def answer(self) -> str:
        """The decision in words; empty for survival."""
        if self.target.kind in CLASS_KINDS:
            return self.target.classes[int(self.decided[0])]
        if self.target.kind == "multilabel":
            return "+".join(n for n, d in zip(self.target.classes, self.decided, strict=True) if d)
        return f"{self.predicted[0]:.4g}" if self.target.kind == "regression" else ""


@dataclass(frozen=True, eq=False, kw_only=True)
class TileShares:
    """Share of each tile of one bag in a prediction."""

    attention: npt.NDArray[np.float32]
    """(tile,) sums to 1; mean of the networks'"""
    contribution: npt.NDArray[np.float32]
    """(tile, output) signed, on the scale of the logits; see `SlideModel.outputs`"""
