"""Validation of a `Study`: arrays that fit each other and their target, and numbers that can be measured."""

import numpy as np

from wsi_umedpt.errors import MilError
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.targets import CLASS_KINDS, SURVIVAL_KINDS
from wsi_umedpt.mil.evaluation.heldout import Floats, Study
from wsi_umedpt.mil.evaluation.metrics import Bools


def known_cases(study: Study) -> Bools:
    """(case,) whether the label is known; of several labels, any."""
    there = np.isfinite(study.truth)
    return np.asarray(there.any(axis=1) if study.target.kind == "multilabel" else there.all(axis=1))


def check_study(study: Study) -> None:
    """Refuse a study whose arrays do not fit each other or its target, or hold what cannot be measured.

    Raises
    ------
    MilError
        With what is wrong.
    """
    target, cases, seeds = study.target, len(study.case_ids), len(study.seeds)
    of = {
        "patients": (len(study.patients), cases),
        "sites": (len(study.sites), cases),
        "tiles": (len(study.tiles), cases),
        "slides": (cases if study.slides is None else len(study.slides), cases),
        "truth": (study.truth.shape, (cases, target.truth)),
        "fold": (study.fold.shape, (seeds, cases)),
    }
    for arm in study.arms:
        of[f"predicted of {arm.arm}"] = (arm.predicted.shape, (seeds, cases, len(target.predicted)))
        decided = arm.decided.shape[2:] if target.kind in SURVIVAL_KINDS else (target.truth,)
        of[f"decided of {arm.arm}"] = (arm.decided.shape, (seeds, cases, *decided))
        if arm.sets is not None:
            of[f"sets of {arm.arm}"] = (arm.sets.shape, (seeds, cases, len(target.classes)))
        if arm.intervals is not None:
            of[f"intervals of {arm.arm}"] = (arm.intervals.shape, (seeds, cases, 2))
        if arm.unlike is not None:
            of[f"unlike of {arm.arm}"] = (arm.unlike.shape, (seeds, cases))
    wrong = [
        f"{name} has shape {found}, expected {expected}" for name, (found, expected) in of.items() if found != expected
    ]
    if len({arm.arm for arm in study.arms}) != len(study.arms) or not study.arms:
        wrong.append(f"arms are one or more of different names, found {[arm.arm for arm in study.arms]}")
    if not seeds:
        wrong.append("there is no seed")
    known = None if wrong else known_cases(study)
    if known is not None and not known.any():
        wrong.append(f"none of its {counted(cases, 'case')} has a known label")
    elif known is not None:
        wrong += _wrong_values(study, known)
    if wrong:
        raise MilError(f"the study of {target.name} cannot be measured: " + "; ".join(wrong))


def _wrong_values(study: Study, known: Bools) -> list[str]:
    target, truth, wrong = study.target, study.truth[known], list[str]()
    top = len(target.classes) if target.kind in CLASS_KINDS else 2
    classed = target.kind in (*CLASS_KINDS, "multilabel")

    def indices(values: Floats, *, gaps: bool) -> bool:
        there = values[np.isfinite(values)] if gaps else values
        return bool(np.isin(there, np.arange(top)).all())

    if classed and not indices(truth, gaps=target.kind == "multilabel"):
        wrong.append(f"truth holds other than 0 to {top - 1}")
    if target.kind in SURVIVAL_KINDS and not ((truth[:, 0] >= 0).all() and np.isin(truth[:, 1], (0, 1)).all()):
        wrong.append("truth holds negative times, or events other than 0 and 1")
    for arm in study.arms:
        predicted = arm.predicted[:, known]
        if not np.isfinite(predicted).all():
            wrong.append(f"{arm.arm} predicted nothing, or no number, for labelled cases")
        elif (classed or target.kind == "discrete") and (predicted.min() < -1e-6 or predicted.max() > 1 + 1e-6):
            wrong.append(f"{arm.arm} predicted chances outside 0 to 1")
        if classed and not indices(arm.decided[:, known], gaps=False):
            wrong.append(f"{arm.arm} decided other than 0 to {top - 1}")
    return wrong
