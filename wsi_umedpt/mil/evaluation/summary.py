"""A `Study` in, its figures out: every figure of every arm with its interval, and the model against each baseline.

A figure is the mean over the seeds. Its interval comes from resampled patients, the figure of
each resample being again the mean over the seeds; all arms are measured on the same resamples,
so that a difference of two arms has an interval and a p of its own.

Read this file top to bottom: `StudyFigures` (what comes out), `measure` (how).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from wsi_umedpt.mil.data.targets import CLASS_KINDS, SURVIVAL_KINDS, Target
from wsi_umedpt.mil.evaluation.bootstrap import Interval, draw_patients, interval, number_patients, two_sided_p
from wsi_umedpt.mil.evaluation.curves import risk_groups
from wsi_umedpt.mil.evaluation.heldout import Floats, HeldOut, Study
from wsi_umedpt.mil.evaluation.metric_table import FIGURES, HEADLINE, NO_INTERVAL, Predictions, Values, measure_arm
from wsi_umedpt.mil.evaluation.metrics import Bools, Ints
from wsi_umedpt.mil.evaluation.survival import LogRank, logrank
from wsi_umedpt.mil.evaluation.validation import check_study, known_cases

RESAMPLES = 2000
UNLIKE = 0.05
"""A case is flagged as unlike the training slides where its p is below."""


@dataclass(frozen=True, kw_only=True)
class Figure(Interval):
    """A figure of one arm: mean over the seeds, and its 95 % interval."""

    by_seed: tuple[float | None, ...]
    """The figure of each seed."""


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """The model's figure less a baseline's, on the same patients."""

    baseline: str
    figure: str
    p: float | None
    """Two-sided, from the same resamples; see `bootstrap.two_sided_p`."""


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Figures of one class against the others, or of one label."""

    name: str
    cases: int
    """Number of cases that have the class."""
    patients: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """All figures of one arm."""

    arm: str
    figures: Mapping[str, Figure]
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[float, ...], ...] | None
    """Cases by true class (row) and decided class (column), mean over the seeds."""


@dataclass(frozen=True, kw_only=True)
class SiteFigure:
    """The headline figure of the model on the cases of one site."""

    site: str
    cases: int
    patients: int
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class StudyFigures:
    """All that was measured of one target."""

    target: Target
    headline: str
    """The figure that stands for the target."""
    cases: int
    """Number of cases with a known label."""
    patients: int
    slides: int | None
    events: int | None
    """Patients that were seen to have the event, for survival."""
    seeds: tuple[int, ...]
    folds: int
    arms: tuple[ArmFigures, ...]
    """The model first."""
    differences: tuple[Difference, ...]
    sites: tuple[SiteFigure, ...]
    """Empty where fewer than two sites are known."""
    unlike: Figure | None
    """Share of all cases, labelled or not, with p below `UNLIKE`."""
    logrank: LogRank | None
    """Log-rank test between patients of higher and lower predicted risk; see `curves.risk_groups`."""
    patients_in_several_folds: int
    """Must be 0 for figures of unseen patients."""
    resamples: int
    bootstrap_seed: int

    @property
    def model(self) -> ArmFigures:
        """The arm that is reported; the others are beside it."""
        return self.arms[0]

    def difference(self, baseline: str, figure: str) -> Difference | None:
        """The model's figure less a baseline's; None where there is none."""
        return next((d for d in self.differences if (d.baseline, d.figure) == (baseline, figure)), None)

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON: no nan, no infinity."""
        return dict(plain(self))


def measure(study: Study, *, resamples: int = RESAMPLES, seed: int = 0) -> StudyFigures:
    """Measure every figure of a study.

    Parameters
    ----------
    study
        Cases with an unknown label are left out, but for the share that is unlike.
    resamples
        Draws of patients behind every interval; 1,000 or more for a report.
    seed
        Seed of the draws.

    Raises
    ------
    MilError
        If the study does not hold together, or no case has a known label.
    """
    check_study(study)
    target, known = study.target, known_cases(study)
    patients = [name for name, ok in zip(study.patients, known, strict=True) if ok]
    arms = [_measured(study, arm, np.flatnonzero(known), resamples, seed) for arm in study.arms]
    times = None
    if target.kind in SURVIVAL_KINDS:
        times = risk_groups(study)
    unlike = study.arms[0].unlike
    return StudyFigures(
        target=target,
        headline=HEADLINE[target.kind],
        cases=int(known.sum()),
        patients=_count(patients),
        slides=None if study.slides is None else int(study.slides[known].sum()),
        events=None if times is None else int(times.event.sum()),
        seeds=study.seeds,
        folds=int(max(len(np.unique(row)) for row in study.fold)),
        arms=tuple(_arm_figures(study, arm.arm, values, known) for arm, values in zip(study.arms, arms, strict=True)),
        differences=_differences(study, arms),
        sites=_sites(study, known, resamples, seed),
        unlike=None if unlike is None else _share(study.patients, unlike < UNLIKE, resamples, seed),
        logrank=None if times is None else logrank(times.time, times.event, times.high),
        patients_in_several_folds=_in_several_folds(study),
        resamples=resamples,
        bootstrap_seed=seed,
    )


def _measured(study: Study, arm: HeldOut, rows: Ints, resamples: int, seed: int) -> list[Values]:
    """Values of each seed, for the cases of `rows` as they are and then each resample of them."""
    sets = arm.sets if study.target.kind in CLASS_KINDS else None
    intervals = arm.intervals if study.target.kind == "regression" else None
    seen = [
        Predictions(
            study.truth[rows],
            arm.predicted[k, rows],
            arm.decided[k, rows],
            study.fold[k, rows],
            None if sets is None else sets[k, rows],
            None if intervals is None else intervals[k, rows],
        )
        for k in range(len(study.seeds))
    ]
    blocks = [
        [measure_arm(study.target, one, weights) for one in seen]
        for weights in draw_patients([study.patients[r] for r in rows], resamples, seed)
    ]
    joined = []
    for parts in zip(*blocks, strict=True):
        names, classes = parts[0].figures, parts[0].classes
        joined.append(
            Values(
                {name: np.concatenate([part.figures[name] for part in parts]) for name in FIGURES if name in names},
                {name: np.concatenate([part.classes[name] for part in parts]) for name in FIGURES if name in classes},
                None if parts[0].confusion is None else parts[0].confusion[:1],
            )
        )
    return joined


def _figure(name: str, by_seed: Sequence[Floats]) -> Figure:
    found = interval(np.mean(by_seed, axis=0))
    if name in NO_INTERVAL:
        found = replace(found, low=None, high=None)
    return Figure(**asdict(found), by_seed=tuple(plain(float(values[0])) for values in by_seed))


def _arm_figures(study: Study, arm: str, values: Sequence[Values], known: Bools) -> ArmFigures:
    target = study.target
    figures = {name: _figure(name, [one.figures[name] for one in values]) for name in values[0].figures}
    classes = []
    for k, label in enumerate(target.classes if values[0].classes else ()):
        has = study.truth[:, k] == 1 if target.kind == "multilabel" else study.truth[:, 0] == k
        classes.append(
            ClassFigures(
                name=label,
                cases=int((has & known).sum()),
                patients=_count([p for p, ok in zip(study.patients, has & known, strict=True) if ok]),
                figures={name: _figure(name, [v.classes[name][:, k] for v in values]) for name in values[0].classes},
            )
        )
    confusion = None
    counts = [one.confusion[0] for one in values if one.confusion is not None]
    if counts:
        confusion = tuple(tuple(float(n) for n in row) for row in np.mean(counts, axis=0))
    return ArmFigures(arm=arm, figures=figures, classes=tuple(classes), confusion=confusion)


def _differences(study: Study, arms: Sequence[Sequence[Values]]) -> tuple[Difference, ...]:
    out = []
    for baseline, values in zip(study.arms[1:], arms[1:], strict=True):
        for name in arms[0][0].figures:
            if name in values[0].figures and name not in NO_INTERVAL:
                ours = np.mean([one.figures[name] for one in arms[0]], axis=0)
                apart = ours - np.mean([one.figures[name] for one in values], axis=0)
                found = asdict(interval(apart))
                out.append(Difference(**found, baseline=baseline.arm, figure=name, p=two_sided_p(apart)))
    return tuple(out)


def _sites(study: Study, known: Bools, resamples: int, seed: int) -> tuple[SiteFigure, ...]:
    sites = np.array(study.sites, dtype=object)
    names = sorted({site for site, ok in zip(study.sites, known, strict=True) if ok and site})
    out = []
    for name in names if len(names) > 1 else ():
        rows = np.flatnonzero(known & (sites == name))
        headline = HEADLINE[study.target.kind]
        values = _measured(study, study.arms[0], rows, resamples, seed)
        out.append(
            SiteFigure(
                site=name,
                cases=len(rows),
                patients=_count([study.patients[r] for r in rows]),
                figure=_figure(headline, [one.figures[headline] for one in values]),
            )
        )
    return tuple(out)


def _share(patients: Sequence[str], flagged: Bools, resamples: int, seed: int) -> Figure:
    """Share of the cases that are flagged; (seed, case)."""
    blocks = [(w @ flagged.T) / w.sum(axis=1, keepdims=True) for w in draw_patients(patients, resamples, seed)]
    return _figure("unlike", list(np.concatenate(blocks).T))


def _count(patients: Sequence[str]) -> int:
    return len(np.unique(number_patients(patients)))


def _in_several_folds(study: Study) -> int:
    """Patients of whom one seed held out cases in different folds."""
    index = number_patients(study.patients)
    several = set()
    for row in study.fold:
        pairs = np.unique(np.column_stack([index, row]), axis=0)
        patient, times = np.unique(pairs[:, 0], return_counts=True)
        several |= set(patient[times > 1].tolist())
    return len(several)


def plain(value: Any) -> Any:
    """Convert to JSON types: dataclasses to dicts, arrays to lists, nan and infinity to None, all else to text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
