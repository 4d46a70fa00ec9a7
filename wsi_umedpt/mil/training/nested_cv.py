"""Nested cross-validation: every case is predicted once a seed, by a model that was developed without it.

`run_fold` gives `develop` a cohort without the held-out cases and a reader that does not know their
slides, and only then asks the finished model about them. Each fold's predictions and model are files, so that a
study that was stopped goes on where it was.
"""

import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsi_umedpt import __version__
from wsi_umedpt.errors import MilError
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.cohort import Cohort, bags_of
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.splits import Folds, deal, deal_inner, stated
from wsi_umedpt.mil.data.targets import CLASS_KINDS, Target
from wsi_umedpt.mil.evaluation.heldout import HeldOut, Study
from wsi_umedpt.mil.settings import FitSettings, StudySettings, to_dict
from wsi_umedpt.mil.training.baselines import GUESS, LINEAR, develop_baselines
from wsi_umedpt.mil.training.compute import ON_CPU, Compute
from wsi_umedpt.mil.training.ensemble import develop
from wsi_umedpt.mil.training.parallel import Part, in_parallel
from wsi_umedpt.store.zarr_io import whole_file

_log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]

MODEL = "model"
"""Name of the first arm."""


class Fold(NamedTuple):
    """Cases that are held out together."""

    seed: int
    """Seed of the deal, and of the networks."""
    held: npt.NDArray[np.int64]
    """(case,): rows of the cohort."""


def splits_of(cohort: Cohort, study: StudySettings) -> dict[int, Folds]:
    """Folds by seed: as the table deals them, or dealt anew for every seed.

    Raises
    ------
    MilError
        If there are too few cases for them, or for the inner folds of what is left without one.
    """
    given = stated(cohort)
    if given is not None:
        splits = dict.fromkeys(study.seeds, given)
    else:
        splits = {s: deal(cohort, study.folds, s, preserve_sites=study.preserve_sites) for s in study.seeds}
    for seed, folds in splits.items():
        for fold in np.unique(folds):
            try:
                deal_inner(cohort.only(np.flatnonzero(folds != fold)), study, seed)
            except MilError as error:
                raise MilError(f"inner folds of what is left without fold {fold} (seed {seed}): {error}") from None
    return splits


def cross_validate(
    cohort: Cohort,
    reader: BagReader,
    options: Sequence[FitSettings],
    study: StudySettings,
    folder: Path,
    compute: Compute = ON_CPU,
) -> list[Study]:
    """Predict every case while it is held out.

    Parameters
    ----------
    cohort, reader
        All cases, and the features of all slides.
    options, study
        See `develop`.
    folder
        Folder of each fold's predictions and model; those of the same cohort, settings and version are not
        made again.
    compute
        Device of training, folds trained at a time, and watcher.

    Returns
    -------
    list of Study
        A target each; the arms are the model, then the baselines.
    """
    splits = splits_of(cohort, study)
    folder.mkdir(parents=True, exist_ok=True)
    folds = [(seed, int(fold)) for seed, dealt in splits.items() for fold in np.unique(dealt)]
    parts: list[Part] = []
    for seed, fold in folds:
        out, path = Fold(seed, np.flatnonzero(splits[seed] == fold)), folder / f"seed{seed}_fold{fold}.npz"
        parts.append((_kept_fold, (cohort, reader, out, options, study, path, compute.of_one_fold())))
    found: dict[tuple[int, int], Arrays] = {}
    for number, (key, arrays) in enumerate(zip(folds, in_parallel(compute.jobs, parts), strict=True)):
        found[key] = arrays
        _log.info("seed %d, fold %d: predicted (%d of %d)", *key, number + 1, len(folds))
        if compute.fold_done:
            compute.fold_done(number + 1, len(folds))
    return [_gather(cohort, reader, number, splits, found, study) for number in range(len(cohort.targets))]


def _kept_fold(
    cohort: Cohort,
    reader: BagReader,
    fold: Fold,
    options: Sequence[FitSettings],
    study: StudySettings,
    path: Path,
    compute: Compute,
) -> Arrays:
    """A fold that an earlier run finished, or one done now and kept."""
    digest = _digest(cohort, reader, options, study, fold)
    known = _read(path, digest)
    if known is None:
        known = run_fold(cohort, reader, fold, options, study, path.with_suffix(".json"), compute)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, digest=np.array(digest), **known)
    return known


def run_fold(
    cohort: Cohort,
    reader: BagReader,
    fold: Fold,
    options: Sequence[FitSettings],
    study: StudySettings,
    model_file: Path | None = None,
    compute: Compute = ON_CPU,
) -> Arrays:
    """Develop without the held-out cases, then predict them: arrays by target number, arm and what it is."""
    rest = cohort.only(np.setdiff1d(np.arange(len(cohort)), fold.held))
    tested = [cohort.cases[row] for row in fold.held]
    shared = {c.patient for c in rest.cases} & {c.patient for c in tested}
    if shared:
        raise MilError(f"patients would be trained on and reported: {', '.join(sorted(shared)[:5])}")
    known = reader.only(slide for case in rest.cases for slide in case.slides)
    model = develop(rest, known, options, study, (fold.seed,), compute)
    baselines = develop_baselines(rest, known, study, fold.seed)
    if model_file:
        model.save(model_file)
    # From here on nothing is learned: the held-out cases are read for the first time.
    rows: dict[str, list[Any]] = {}
    for case in tested:
        bags = [reader(bag) for bag in bags_of(case.slides, cohort.unit)]
        unlike = model.unlike(bags)
        for n, forecast in enumerate(model.forecast(bags)):
            grid = cohort.targets[n]
            rows.setdefault(f"{n}/{MODEL}/predicted", []).append(_on_grid(grid, forecast.target, forecast.predicted))
            rows.setdefault(f"{n}/{MODEL}/decided", []).append(forecast.decided)
            rows.setdefault(f"{n}/{MODEL}/unlike", []).append(unlike)
            if forecast.conformal is not None:
                rows.setdefault(f"{n}/{MODEL}/sets", []).append(forecast.conformal)
            if forecast.interval is not None:
                rows.setdefault(f"{n}/{MODEL}/intervals", []).append(forecast.interval)
        for baseline in baselines:
            for n, (target, predicted, decided) in enumerate(baseline.forecast(bags)):
                on_grid = _on_grid(cohort.targets[n], target, predicted)
                rows.setdefault(f"{n}/{baseline.name}/predicted", []).append(on_grid)
                rows.setdefault(f"{n}/{baseline.name}/decided", []).append(decided)
    return {key: np.stack([np.asarray(v) for v in values]) for key, values in rows.items()}


def _on_grid(grid: Target, target: Target, predicted: Floats) -> Floats:
    """Survival at the moments at which the study compares, between those that the fold's own labels gave."""
    if grid.kind != "discrete":
        return predicted
    times = [0.0, *target.edges]
    # Beyond the last edge nothing is known but that it does not rise.
    return np.asarray(np.interp(grid.edges, times, [1.0, *predicted]))


def _gather(
    cohort: Cohort,
    reader: BagReader,
    number: int,
    splits: dict[int, Folds],
    found: dict[tuple[int, int], Arrays],
    study: StudySettings,
) -> Study:
    target = cohort.targets[number]

    def together(arm: str, what: str) -> npt.NDArray[Any] | None:
        seeds = []
        for seed, folds in splits.items():
            whole: npt.NDArray[Any] | None = None
            for fold in np.unique(folds):
                part = found[seed, int(fold)].get(f"{number}/{arm}/{what}")
                if part is None:
                    return None
                if whole is None:
                    whole = np.empty((len(cohort), *part.shape[1:]), part.dtype)
                whole[folds == fold] = part
            seeds.append(whole)
        return np.stack([s for s in seeds if s is not None])

    arms = []
    for arm in (MODEL, LINEAR, GUESS):
        predicted, decided = together(arm, "predicted"), together(arm, "decided")
        assert predicted is not None  # noqa: S101 - every arm predicts
        assert decided is not None  # noqa: S101
        extra = {what: together(arm, what) for what in ("sets", "intervals", "unlike")}
        arms.append(HeldOut(arm=arm, predicted=predicted, decided=decided, **extra))
    truth = cohort.truth[number]
    unknown = int(np.isnan(truth).all(1).sum())
    return Study(
        target=target,
        case_ids=tuple(c.case_id for c in cohort.cases),
        patients=tuple(c.patient for c in cohort.cases),
        sites=tuple(c.site for c in cohort.cases),
        tiles=np.array([reader.tiles(c.slides) for c in cohort.cases], np.int64),
        slides=np.array([len(c.slides) for c in cohort.cases], np.int64),
        truth=truth,
        fold=np.stack([*splits.values()]),
        seeds=tuple(splits),
        arms=tuple(arms),
        coverage=study.coverage if target.kind in (*CLASS_KINDS, "regression") else None,
        notes=(f"{counted(unknown, 'case has', 'cases have')} no label of {target.name}",) if unknown else (),
    )


def _digest(cohort: Cohort, reader: BagReader, options: Sequence[FitSettings], study: StudySettings, fold: Fold) -> str:
    told: list[Any] = [
        cohort.fingerprint,
        [reader.tiles(case.slides) for case in cohort.cases],
        [to_dict(o) for o in options],
        to_dict(study),
        fold.seed,
        fold.held.tolist(),
        __version__,
    ]
    del told[3]["seeds"], told[3]["folds"]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _read(path: Path, digest: str) -> Arrays | None:
    """Predictions that an earlier run wrote, if they are of the same study and whole."""
    try:
        # Opened here, since numpy leaves what is no archive open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return arrays if str(arrays.pop("digest", "")) == digest and path.with_suffix(".json").exists() else None
