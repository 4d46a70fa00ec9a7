"""How long a study will take on this machine, before it is trained."""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from wsi_umedpt.mil.cohort import Cohort
from wsi_umedpt.mil.develop import filled
from wsi_umedpt.mil.fit import fit
from wsi_umedpt.mil.reading import BagReader
from wsi_umedpt.mil.settings import FitSettings, StudySettings
from wsi_umedpt.mil.splits import Folds

_TRIED = 24
"""Cases that one epoch is timed on."""


def seconds_at_most(
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    splits: Mapping[int, Folds],
    *,
    device: str = "cpu",
    jobs: int = 1,
) -> float:
    """Estimate how long a study takes if no network stops early.

    An epoch over some cases is timed, and multiplied by all epochs of all networks and by their cases. The linear
    baseline and reading what does not stay in memory come on top.

    Parameters
    ----------
    cohort, reader
        Of the study.
    options, study, splits
        As it is to be done; see `wsi_umedpt.mil.crossval.splits_of`.
    device, jobs
        Where, and how many networks at a time.

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
        if jobs > 1:
            torch.set_num_threads(1)
        for settings in options:
            once = FitSettings(**{**settings.__dict__, "epochs": 1})
            fit(tried, shown, reader, once, 0, device=device)  # reads the features, and wakes what sleeps
            start = time.perf_counter()
            fit(tried, shown, reader, once, 0, device=device)
            seconds += (time.perf_counter() - start) / len(tried) * settings.epochs * cases
    finally:
        torch.set_num_threads(threads)
    at_a_time = max(1, min(jobs, sum(len(np.unique(folds)) for folds in splits.values())))
    return seconds / at_a_time


def in_words(seconds: float) -> str:
    """A duration as people say it: seconds, minutes, hours or days, to two figures."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
    return f"{max(1, math.ceil(seconds))} seconds"
