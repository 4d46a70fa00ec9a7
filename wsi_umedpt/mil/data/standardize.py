"""Means of features, and what they are divided by: the same wherever features are standardised."""

from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.mil.data.feature_loader import Features

Floats = npt.NDArray[np.float64]


def mean_of(features: Features) -> Floats:
    """(dim,) mean over tiles."""
    mean: Floats = features.mean(0, dtype=np.float64)
    return mean


def scale_of(mean: npt.NDArray[Any], deviation: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(dim,) one over the deviation; 0 for a number that never varies.

    It says nothing, and must not become huge on another slide.
    """
    varies = deviation > 1e-6 * (1 + np.abs(mean))
    scale: npt.NDArray[Any] = np.where(varies, 1 / np.maximum(deviation, 1e-30), deviation.dtype.type(0))
    return scale
