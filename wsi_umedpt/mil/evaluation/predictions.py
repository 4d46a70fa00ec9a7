"""Predictions of every case: a CSV for other tools, and rows for a reader, the worst errors first.

The CSV is one of `wsi_umedpt.interop.tables`; what is not known is an empty cell.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_umedpt.interop.tables import write_rows
from wsi_umedpt.mil.data.targets import CLASS_KINDS, SURVIVAL_KINDS
from wsi_umedpt.mil.evaluation.heldout import Floats, HeldOut, Study
from wsi_umedpt.mil.evaluation.metric_table import risk_of
from wsi_umedpt.mil.evaluation.report_text import number, percent
from wsi_umedpt.mil.evaluation.survival import misordered
from wsi_umedpt.plotting.web_page import NOTHING

Cell = str | int | float | None


def write_predictions(path: Path, studies: Sequence[Study], *, baselines: bool = False) -> None:
    """Write a row for each target, seed and case.

    Parameters
    ----------
    path
        Path of the CSV; it is there whole or not at all.
    studies
        Columns are those of all targets together; a row has cells in those of its own.
    baselines
        Write the baselines instead of the model; a column ``arm`` says which.
    """
    rows = [row for study in studies for arm in _arms(study, baselines) for row in _rows(study, arm)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not baselines:
        columns.remove("arm")
    write_rows(path, [columns, *([_known(row.get(name)) for name in columns] for row in rows)])


def _known(cell: Cell) -> Cell:
    return cell if isinstance(cell, str) or cell is None or np.isfinite(cell) else None


def _arms(study: Study, baselines: bool) -> tuple[HeldOut, ...]:
    return study.arms[1:] if baselines else study.arms[:1]


def _rows(study: Study, arm: HeldOut) -> Iterator[dict[str, Cell]]:
    for k, seed in enumerate(study.seeds):
        for case in range(len(study.case_ids)):
            row: dict[str, Cell] = {
                "case_id": study.case_ids[case],
                "patient": study.patients[case],
                "site": study.sites[case],
                "target": study.target.name,
                "arm": arm.arm,
                "seed": int(seed),
                "fold": int(study.fold[k, case]),
                "tiles": int(study.tiles[case]),
            }
            row |= _truth_cells(study, case)
            row |= {
                f"predicted_{name}": float(value)
                for name, value in zip(study.target.predicted, arm.predicted[k, case], strict=True)
            }
            row |= _decided_cells(study, arm.decided[k, case])
            if arm.sets is not None:
                row["conformal_set"] = "|".join(_in_set(study, arm, k, case))
            if arm.intervals is not None:
                row["conformal_low"], row["conformal_high"] = map(float, arm.intervals[k, case])
            if arm.unlike is not None:
                row["ood_p_value"] = float(arm.unlike[k, case])
            yield row


def _truth_cells(study: Study, case: int) -> dict[str, Cell]:
    truth, target = study.truth[case], study.target
    if target.kind in SURVIVAL_KINDS:
        return {"truth_time": float(truth[0]), "truth_event": float(truth[1])}
    if target.kind == "multilabel":
        return {f"truth_{name}": float(value) for name, value in zip(target.classes, truth, strict=True)}
    return {"truth": float(truth[0]) if target.kind == "regression" else _class_name(study, truth[0])}


def _decided_cells(study: Study, decided: Floats) -> dict[str, Cell]:
    target = study.target
    if target.kind == "multilabel":
        return {f"decided_{name}": float(value) for name, value in zip(target.classes, decided, strict=True)}
    if target.kind in SURVIVAL_KINDS:
        return {}
    return {"decided": float(decided[0]) if target.kind == "regression" else _class_name(study, decided[0])}


def _class_name(study: Study, index: float) -> str | None:
    return study.target.classes[int(index)] if np.isfinite(index) else None


def _in_set(study: Study, arm: HeldOut, seed: int, case: int) -> list[str]:
    assert arm.sets is not None  # noqa: S101 - asked for by the callers
    return [name for name, inside in zip(study.target.classes, arm.sets[seed, case], strict=True) if inside]


@dataclass(frozen=True)
class CaseRow:
    """A case as a reader sees it; predictions are means over the seeds."""

    case_id: str
    patient: str
    site: str
    tiles: int
    truth: str
    predicted: str
    decided: str
    """Answer of most seeds, and their number where not all agree; empty for survival."""
    in_set: str
    """Classes in the sets of most seeds; empty where there are no sets."""
    unlike: float | None
    """Mean p of being like the training slides."""
    error: float
    """Error that the rows are sorted by; see `error_words`. nan where there is none."""
    wrong: bool
    """True if the answer is not the truth."""


def error_words(study: Study) -> str:
    """Name of the error that sorts the rows; it is small for a good prediction."""
    kind = study.target.kind
    if kind in CLASS_KINDS:
        return "probability not given to the truth"
    if kind in SURVIVAL_KINDS:
        return "share of wrongly ordered pairs"
    return "mean distance to the labels" if kind == "multilabel" else "distance to the truth"


def case_rows(study: Study) -> list[CaseRow]:
    """Every case, the model's worst errors first; cases without a known label last."""
    model = study.arms[0]
    errors = _errors(study)
    order = np.argsort(np.where(np.isfinite(errors), -errors, np.inf), kind="stable")
    return [_case_row(study, model, int(case), float(errors[case])) for case in order]


def _errors(study: Study) -> Floats:
    """(case,) error of the mean over the seeds; for survival the mean of the seeds' errors."""
    target, predicted, truth = study.target, study.arms[0].predicted, study.truth
    mean = predicted.mean(axis=0)
    known = np.isfinite(truth).all(axis=1)
    out = np.full(len(truth), np.nan)
    if target.kind in CLASS_KINDS:
        out[known] = 1 - mean[known, truth[known, 0].astype(np.int64)]
    elif target.kind == "multilabel":
        there = np.isfinite(truth)
        apart = np.where(there, np.abs(mean - np.where(there, truth, 0)), 0).sum(axis=1)
        np.divide(apart, there.sum(axis=1), out=out, where=there.any(axis=1))
    elif target.kind == "regression":
        out[known] = np.abs(mean[known, 0] - truth[known, 0])
    else:
        time, event = truth[known].T
        risks = risk_of(target, predicted[:, known])
        wrong = [misordered(time, event, risk, row[known]) for risk, row in zip(risks, study.fold, strict=True)]
        out[known] = np.mean(wrong, axis=0)
    return out


def _case_row(study: Study, model: HeldOut, case: int, error: float) -> CaseRow:
    decided, wrong = _most_decided(study, model, case)
    inside = ""
    if model.sets is not None:
        most = model.sets[:, case].mean(axis=0) > 0.5
        names = [name for name, one in zip(study.target.classes, most, strict=True) if one]
        inside = ", ".join(names) or "(none)"
    return CaseRow(
        case_id=study.case_ids[case],
        patient=study.patients[case],
        site=study.sites[case],
        tiles=int(study.tiles[case]),
        truth=_truth_words(study, case),
        predicted=_predicted_words(study, model.predicted[:, case].mean(axis=0)),
        decided=decided,
        in_set=inside,
        unlike=None if model.unlike is None else float(model.unlike[:, case].mean()),
        error=error,
        wrong=wrong,
    )


def _most_decided(study: Study, model: HeldOut, case: int) -> tuple[str, bool]:
    kind, truth = study.target.kind, study.truth[case]
    if kind in SURVIVAL_KINDS or kind == "regression":
        return "", False
    options = Counter(tuple(row) for row in model.decided[:, case].tolist())
    choice, times = options.most_common(1)[0]
    if not np.isfinite(choice).all():
        return NOTHING, False
    if kind == "multilabel":
        named = ", ".join(n for n, yes in zip(study.target.classes, choice, strict=True) if yes) or "(none)"
    else:
        named = study.target.classes[int(choice[0])]
    known = np.isfinite(truth)
    agreed = "" if times == len(study.seeds) else f" ({times} of {len(study.seeds)} seeds)"
    return named + agreed, bool((np.array(choice)[known] != truth[known]).any())


def _truth_words(study: Study, case: int) -> str:
    truth, target = study.truth[case], study.target
    if not np.isfinite(truth).any():
        return "not known"
    if target.kind in SURVIVAL_KINDS:
        return f"{number(truth[0], 0)}, {'event' if truth[1] else 'censored'}"
    if target.kind == "multilabel":
        told = [n for n, value in zip(target.classes, truth, strict=True) if value == 1]
        return ", ".join(told + [f"{n} not known" for n in _unknown(study, case)]) or "(none)"
    return f"{truth[0]:.4g}" if target.kind == "regression" else target.classes[int(truth[0])]


def _unknown(study: Study, case: int) -> list[str]:
    return [n for n, value in zip(study.target.classes, study.truth[case], strict=True) if not np.isfinite(value)]


def _predicted_words(study: Study, predicted: Floats) -> str:
    """The number, the probability of the positive class, or the three likeliest classes."""
    target = study.target
    if target.kind == "regression":
        return f"{predicted[0]:.4g}" if np.isfinite(predicted[0]) else NOTHING
    if target.kind == "cox":
        return number(float(predicted[0]), 2)
    if target.kind == "binary":
        return percent(float(predicted[1]))
    if target.kind == "discrete":
        return ", ".join(f"{edge:g}: {percent(float(p))}" for edge, p in zip(target.edges, predicted, strict=True))
    best = range(len(predicted)) if target.kind == "multilabel" else np.argsort(-predicted, kind="stable")[:3]
    return ", ".join(f"{target.classes[k]} {percent(float(predicted[k]))}" for k in best)


def predicted_words(study: Study) -> str:
    """Heading of the column of `CaseRow.predicted`."""
    target = study.target
    match target.kind:
        case "binary":
            return f"probability of {target.classes[1]}"
        case "cox":
            return "log hazard ratio"
        case "discrete":
            return "survival to"
        case "regression":
            return "predicted"
    return "probabilities"
