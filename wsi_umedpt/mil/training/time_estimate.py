"""Estimate of a study's duration on this machine, before it is trained."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from wsi_umedpt.mil.data.cohort import Cohort
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.splits import Folds
from wsi_umedpt.mil.settings import FitSettings, StudySettings
from wsi_umedpt.mil.training.compute import ON_CPU, Compute
from wsi_umedpt.mil.training.ensemble import filled
from wsi_umedpt.mil.training.fit import fit

_TRIED = 24
"""Cases that one epoch is timed on."""


def seconds_at_most(
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    splits: Mapping[int, Folds],
    compute: Compute = ON_CPU,
) -> float:
    """Estimate how long a study takes if no network stops early.

    An epoch over some cases is timed, and multiplied by all epochs of all networks and by their cases. The linear
    baseline and reading what does not stay in memory come on top.

    Parameters
    ----------
    cohort, reader
        Cohort and features of the study.
    options, study, splits
        As it is to be done; see `wsi_umedpt.mil.training.nested_cv.splits_of`.
    compute
        Device of training, and networks trained at a time.

    Returns
    -------
    float
        Seconds.
    """
    whole = filled(cohort)
    # Evenly over the cases, which may be sorted by label.
    rows = np.unique(np.linspace(0, len(whole) - 1, min(_TRIED, len(whole))).round().astype(int))
    tried, shown = whole.only(rows), whole.only(rows[: max(1, len(rows) // study.inner_folds)])
    threads = torch.get_num_threads()
    inner = 1 - 1 / study.inner_folds
    outer = sum(len(folds) - int((folds == fold).sum()) for folds in splits.values() for fold in np.unique(folds))
    cases = study.inner_folds * inner * (outer + len(splits) * len(whole))
    seconds = 0.0
    try:
        if compute.jobs > 1:
            torch.set_num_threads(1)
        for settings in options:
            once = FitSettings(**{**settings.__dict__, "epochs": 1})
            fit(tried, shown, reader, once, 0, device=compute.device)  # reads the features, and wakes what sleeps
            start = time.perf_counter()
            fit(tried, shown, reader, once, 0, device=compute.device)
            seconds += (time.perf_counter() - start) / len(tried) * settings.epochs * cases
    finally:
        torch.set_num_threads(threads)
    at_a_time = max(1, min(compute.jobs, sum(len(np.unique(folds)) for folds in splits.values())))
    return seconds / at_a_time
