"""Development of a slide classifier from labelled cases: everything that is chosen is chosen here, on inner folds.

`develop` is given a cohort and nothing else. Whatever is to be reported must therefore be left out of that
cohort by the caller, and cannot be seen, stopped on, chosen by or calibrated with.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsi_umedpt import __version__
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.cohort import Cohort
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.splits import Folds, deal_inner
from wsi_umedpt.mil.data.standardize import mean_of
from wsi_umedpt.mil.data.targets import spans, with_edges, with_scale
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.mil.settings import FitSettings, StudySettings, to_dict
from wsi_umedpt.mil.training.calibration import calibrate
from wsi_umedpt.mil.training.compute import ON_CPU, Compute
from wsi_umedpt.mil.training.fit import Fitted, fit
from wsi_umedpt.mil.training.ood import typical_of
from wsi_umedpt.mil.training.parallel import Part, in_parallel

_log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Tried:
    """One candidate over all inner folds of all seeds."""

    settings: FitSettings
    fitted: list[Fitted]
    loss: float
    """Loss of the logits below, mean over folds and seeds, each fold counting by its cases."""
    logits: Floats
    """(case, output) of networks that did not train on the case, at epochs it did not choose; mean over seeds."""


def develop(
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    seeds: Sequence[int],
    compute: Compute = ON_CPU,
) -> SlideModel:
    """Train an ensemble on a cohort.

    Parameters
    ----------
    cohort
        All that may be learned from.
    reader
        Reader of its slides.
    options
        Candidates; the one of the least loss on the inner folds is kept.
    study
        Inner folds and the coverage of conformal sets.
    seeds
        Inner folds are dealt and networks begun anew for each; the ensemble holds all.
    compute
        Resources of training; the model is on the CPU.

    Raises
    ------
    MilError
        If there are too few patients for the inner folds; see `wsi_umedpt.mil.data.splits.deal`.
    """
    cohort = filled(cohort)
    dealt = {seed: deal_inner(cohort, study, seed) for seed in seeds}
    tried = [_try(settings, cohort, reader, dealt, compute) for settings in options]
    chosen = min(tried, key=lambda t: t.loss)
    slides = [(slide, case.patient) for case in cohort.cases for slide in case.slides]
    means = np.stack([mean_of(reader((slide,))) for slide, _ in slides])
    return SlideModel(
        targets=cohort.targets,
        kind=cohort.kind,
        networks=tuple(f.network.cpu() for f in chosen.fitted),
        calibrations=tuple(
            calibrate(target, chosen.logits[:, span], truth)
            for target, span, truth in zip(cohort.targets, spans(cohort.targets), cohort.truth, strict=True)
        ),
        typical=typical_of(means, [patient for _, patient in slides]),
        coverage=study.coverage,
        about={
            "trained_on": {
                "cases": len(cohort), "patients": len({c.patient for c in cohort.cases}), "slides": len(slides),
                "unit": cohort.unit, "cohort_sha256": cohort.fingerprint,
            },
            "settings": to_dict(chosen.settings),
            "study": to_dict(study),
            "seeds": [*seeds],
            "tried": [{"model": t.settings.model, "lr": t.settings.lr, "inner_loss": t.loss} for t in tried],
            "epochs": [f.epoch + 1 for f in chosen.fitted],
            "version": __version__,
        },
    )  # fmt: skip


def filled(cohort: Cohort) -> Cohort:
    """A cohort whose intervals and scales are those of its own labels."""
    targets = []
    for target, truth in zip(cohort.targets, cohort.truth, strict=True):
        if target.kind == "discrete":
            target = with_edges(target, truth)
        elif target.kind == "regression":
            target = with_scale(target, truth)
        targets.append(target)
    return replace(cohort, targets=tuple(targets))


def _try(settings: FitSettings, cohort: Cohort, reader: BagReader, dealt: dict[int, Folds], compute: Compute) -> _Tried:
    fitted, losses = [], []
    logits = np.zeros((len(cohort), spans(cohort.targets)[-1].stop))
    helds = [(seed, np.flatnonzero(folds == fold)) for seed, folds in dealt.items() for fold in np.unique(folds)]
    # A seed for each network: what they have in common is the data alone.
    parts: list[Part] = [
        (_inner, (cohort, held, reader, settings, 1000 * seed + n, compute.device))
        for n, (seed, held) in enumerate(helds)
    ]
    made = in_parallel(compute.jobs, parts)
    for network in made:
        fitted.append(network)
        _log.debug(
            "network of %s: %d epochs, inner loss %.4f",
            settings.model,
            network.epoch + 1,
            network.history[network.epoch][1],
        )
        if compute.network_done:
            compute.network_done(f"{settings.model}, {counted(network.epoch + 1, 'epoch')}")
    for seed in dealt:
        own = [n for n, (of, _) in enumerate(helds) if of == seed]
        curves, sizes = [[loss for _, loss in fitted[n].history] for n in own], [len(helds[n][1]) for n in own]
        for k, n in enumerate(own):
            epoch = epoch_of_others(curves, sizes, k)
            losses += [curves[k][epoch]] * sizes[k]
            logits[helds[n][1]] += fitted[n].answers[epoch] / len(dealt)
    return _Tried(settings, fitted, float(np.mean(losses)), logits)


def epoch_of_others(curves: Sequence[Sequence[float]], sizes: Sequence[int], fold: int) -> int:
    """Epoch of a fold's network at which the other folds lose least.

    The fold's own best epoch suits its cases by luck too: what they are answered there would make chances too
    sure, conformal sets too small, and the luckier candidate the better one.

    Parameters
    ----------
    curves : (fold, epoch)
        Stopping losses; where training ended early the last one stands for what would have followed.
    sizes : (fold,)
        Cases of each.
    fold
        Fold whose epoch is asked for.
    """
    longest = max(map(len, curves))
    whole = np.array([[*curve, *[curve[-1]] * (longest - len(curve))] for curve in curves])
    others = np.arange(len(curves)) != fold
    mean = (whole * np.array(sizes)[:, None])[others].sum(0)
    # The last of several as good: where nothing is known of the labels all are.
    return min(int(np.flatnonzero(mean == mean.min())[-1]), len(curves[fold]) - 1)


def _inner(
    cohort: Cohort, held: npt.NDArray[np.int64], reader: BagReader, settings: FitSettings, seed: int, device: str
) -> Fitted:
    """Train without an inner fold, stopped by it."""
    rest = cohort.only(np.setdiff1d(np.arange(len(cohort)), held))
    return fit(rest, cohort.only(held), reader, settings, seed, device=device)
