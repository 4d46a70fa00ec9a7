"""Folds: cases dealt so that a patient (or a site) is never on both sides, and classes are spread evenly."""

import warnings
from collections import Counter

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from wsi_umedpt.errors import MilError
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.cohort import Cohort
from wsi_umedpt.mil.data.targets import CLASS_KINDS, SURVIVAL_KINDS
from wsi_umedpt.mil.settings import StudySettings

Folds = npt.NDArray[np.int64]
"""(case,) number of the fold that it is held out in"""


def deal(cohort: Cohort, folds: int, seed: int, *, preserve_sites: bool = False) -> Folds:
    """Deal cases to folds by patient, or by site.

    Parameters
    ----------
    cohort
        Its first target is spread evenly.
    folds
        Number of folds.
    seed
        Deals them.
    preserve_sites
        Keep all patients of a site together; sites that share a patient count as one.

    Raises
    ------
    MilError
        If there are too few patients or sites, or a fold, or what is left without it, has one class only.
    """
    groups = _groups(cohort, preserve_sites)
    if (many := len(np.unique(groups))) < folds:
        what = "sites" if preserve_sites else "patients"
        raise MilError(
            f"{many} {what} cannot be dealt to {counted(folds, 'fold')}; ask for fewer with `folds` or `inner_folds`"
        )
    strata = strata_of(cohort)
    if np.unique(strata, return_counts=True)[1].max() < folds:
        strata[:] = 0  # too few of each kind for one a fold
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rare classes: `check` says which and refuses
        parts = splitter.split(np.zeros(len(cohort)), strata, groups)
        found = np.empty(len(cohort), np.int64)
        for number, (_, held) in enumerate(parts):
            found[held] = number
    check(cohort, found)
    return found


def deal_inner(cohort: Cohort, study: StudySettings, seed: int) -> Folds:
    """Inner folds of what is developed on; see `deal`."""
    # A seed of their own, so that inner folds do not repeat the outer ones.
    return deal(cohort, study.inner_folds, 7919 + seed, preserve_sites=study.preserve_sites)


def _groups(cohort: Cohort, preserve_sites: bool) -> Folds:
    """(case,) number of the patient, or of all sites that have patients in common."""
    patients = np.unique([case.patient for case in cohort.cases], return_inverse=True)[1]
    if not preserve_sites:
        return patients
    seen = [(patient, name) for patient, case in zip(patients, cohort.cases, strict=True) for name in case.sites]
    if not all(name for _, name in seen):
        raise MilError("sites are to be kept together, but the table has no column site, or cells of it are empty")
    sites = np.unique([name for _, name in seen], return_inverse=True)[1]
    rows, columns = np.array([patient for patient, _ in seen]), sites + patients.max() + 1
    size = columns.max() + 1
    joined = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size)))[1]
    return np.asarray(joined[patients], np.int64)


def stated(cohort: Cohort) -> Folds | None:
    """Folds as the table's column ``fold`` deals them, sorted by name; None where it has none."""
    names = [case.fold for case in cohort.cases]
    if not any(names):
        return None
    known = sorted({*names})
    if len(known) < 2:
        raise MilError(f"the column fold names one fold only, {known[0]!r}; leave it out, or deal two or more")
    found = np.array([known.index(name) for name in names], np.int64)
    check(cohort, found)
    return found


def strata_of(cohort: Cohort) -> npt.NDArray[np.int64]:
    """(case,) what is spread evenly: the first target's classes, quarters of its values, or its events."""
    target, truth = cohort.targets[0], cohort.truth[0]
    first = truth[:, 1] if target.kind in SURVIVAL_KINDS else truth[:, 0]
    unknown = np.isnan(first)
    if target.kind == "regression":
        first = np.digitize(first, np.quantile(first[~unknown], (0.25, 0.5, 0.75))).astype(float)
    return np.where(unknown, -1, np.nan_to_num(first)).astype(np.int64)


def check(cohort: Cohort, folds: Folds) -> None:
    """Refuse folds that cannot be trained without, listing them all.

    Raises
    ------
    MilError
        If a class is found in one fold only, so that it is never trained on while that is held out, survival has
        no event left, or a quantity no two values.
    """
    problems = []
    for target, truth in zip(cohort.targets, cohort.truth, strict=True):
        for fold in np.unique(folds):
            rest = truth[folds != fold]
            if target.kind in CLASS_KINDS:
                there = Counter(rest[~np.isnan(rest[:, 0]), 0].astype(int).tolist())
                lacking = [name for k, name in enumerate(target.classes) if not there[k]]
                if lacking:
                    problems.append(f"without fold {fold}, {target.name} has no case of {', '.join(lacking)}")
            elif target.kind == "multilabel":
                one_sided = [
                    n for k, n in enumerate(target.classes) if len(np.unique(rest[~np.isnan(rest[:, k]), k])) < 2
                ]
                if one_sided:
                    problems.append(f"without fold {fold}, {target.name} has one value only of {', '.join(one_sided)}")
            elif target.kind in SURVIVAL_KINDS and np.nansum(rest[:, 1]) < 2:
                problems.append(f"without fold {fold}, {target.name} has fewer than two events")
            elif target.kind == "regression" and len(np.unique(rest[~np.isnan(rest)])) < 2:
                problems.append(f"without fold {fold}, {target.name} has fewer than two values")
    if problems:
        raise MilError(
            "cases cannot be dealt to folds like this:\n  " + "\n  ".join(problems) + "\nThere are too few patients of "
            "some classes: ask for fewer folds (`folds`, `inner_folds`), join classes, or leave the rarest out."
        )
