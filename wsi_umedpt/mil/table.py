"""The table of labels: a CSV and the features that are there in, a `Cohort` out, checked at the door.

The CSV has a column ``slide`` (or ``slide_id``), ``patient`` (or ``patient_id``), the columns of the targets,
and optionally ``fold`` and ``site``. All that is wrong is listed at once; nothing is guessed.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_umedpt.bag import BagSource, FeatureKind
from wsi_umedpt.datasets.tables import Row, read_rows
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.cohort import Case, Cohort, Unit
from wsi_umedpt.mil.targets import INTERVALS, SURVIVAL_KINDS, Asked, Target, columns_of, with_edges

Floats = npt.NDArray[np.float64]
_SHOWN = 20
_MOST_CLASSES = 50
_FEW_VALUES = 10
_MOST = 1e30
"""Networks compute in float32."""
_ABSENT = ("na", "n/a", "nan", "null", "-", "?", ".")
"""What other programs write where there is no label."""


def read_cohort(
    labels: Path,
    sources: Mapping[str, BagSource],
    targets: Sequence[Asked],
    *,
    unit: Unit = "slide",
    slides_are_patients: bool = False,
    skip_missing: bool = False,
    unusable: Collection[str] = (),
) -> tuple[Cohort, list[str]]:
    """Read the table of labels and match it with the features.

    Parameters
    ----------
    labels
        CSV; see the module.
    sources
        Features by slide; those that the table does not name are left out.
    targets
        What is to be predicted.
    unit
        What a case is.
    slides_are_patients
        Whether every slide is of another patient; otherwise the table must name them.
    skip_missing
        Leave out slides that have no features, instead of refusing.
    unusable
        Slides whose features are there and cannot be used: they are left out.

    Returns
    -------
    cohort
        Cases in the table's order.
    notes
        What was left out, in words.

    Raises
    ------
    MilError, DataError
        If the table cannot be used; all reasons are listed.
    """
    wanted = [name for named in targets for name in columns_of(named)]
    rows = {n: {k: v.strip() for k, v in row.items()} for n, row in read_rows(labels, wanted, {}).items()}
    columns = {*next(iter(rows.values()), {})}
    slide_column = _column(columns, ("slide", "slide_id"), labels)
    patient_column = "" if slides_are_patients else _column(columns, ("patient", "patient_id"), labels)
    problems, notes = _row_problems(rows, slide_column, patient_column), list[str]()
    names = [named.name for named in targets]
    problems += [f"target {name} is asked for twice" for name in {n: 0 for n in names if names.count(n) > 1}]
    lost = [row[slide_column] for row in rows.values() if row[slide_column] in unusable]
    if lost:
        notes.append(f"{len(lost)} labelled slides have features that cannot be used and were left out: {_some(lost)}")
    rows = {n: row for n, row in rows.items() if row[slide_column] not in unusable}
    missing = [r[slide_column] for r in rows.values() if r[slide_column] and r[slide_column] not in sources]
    if missing and not skip_missing:
        problems.append(
            f"{len(missing)} slides have no features: {_some(missing)}. Features there: {_some(sorted(sources))}. "
            "Embed them, or leave them out with --skip-missing"
        )
    elif missing:
        notes.append(f"{len(missing)} labelled slides have no features and were left out: {_some(missing)}")
    kept = [row for row in rows.values() if row[slide_column] in sources]
    unlabelled = sorted({*sources} - {row[slide_column] for row in kept})
    if unlabelled:
        notes.append(f"{len(unlabelled)} slides with features are not in the table: {_some(unlabelled)}")
    if not kept:
        _refuse([*problems, f"it labels none of the {len(sources)} slides that have features"], labels)
    by_kind = _by_kind({row[slide_column]: sources[row[slide_column]] for row in kept})
    problems += _kind_problems(by_kind)
    cases, members = _cases(kept, slide_column, patient_column, unit)
    made, truth = [], []
    for named in targets:
        try:
            target, values = _target(named, kept)
        except MilError as error:
            problems.append(str(error))
            continue
        made.append(target)
        truth.append(_of_cases(values, members, cases, target, problems))
    _refuse(problems, labels)
    kind = sources[next(iter(by_kind.values()))[0]].kind
    return Cohort(tuple(cases), tuple(made), tuple(truth), unit, kind), notes


def _column(columns: set[str], names: tuple[str, ...], labels: Path) -> str:
    for name in names:
        if name in columns:
            return name
    hint = (
        ". Slides of one patient on both sides of a split make any figure too good: name the patients, or say that "
        "every slide is of another one with --slides-are-patients"
    )
    raise MilError(
        f"{labels} has no column {' or '.join(names)} but {', '.join(sorted(columns)) or 'no rows'}"
        f"{hint if 'patient' in names else ''}"
    )


def _row_problems(rows: Mapping[int, Row], slide: str, patient: str) -> list[str]:
    problems, seen = [], dict[str, int]()
    for number, row in rows.items():
        if not row[slide]:
            problems.append(f"row {number} names no slide")
        elif row[slide] in seen:
            problems.append(f"rows {seen[row[slide]]} and {number} are of the same slide {row[slide]!r}")
        seen.setdefault(row[slide], number)
        if patient and not row[patient]:
            problems.append(f"row {number} names no patient")
    if any("fold" in row for row in rows.values()):
        folds: dict[str, set[str]] = {}
        for row in rows.values():
            folds.setdefault(row[patient or slide], set()).add(row["fold"])
        problems += [
            f"patient {name!r} is in several folds: {', '.join(sorted(map(repr, found)))}"
            for name, found in folds.items()
            if len(found) > 1 and patient
        ]
        dealt = [bool(row["fold"]) for row in rows.values()]
        if any(dealt) and not all(dealt):
            problems.append(f"{dealt.count(False)} rows name no fold, the others do")
    return problems


def _cases(rows: Sequence[Row], slide: str, patient: str, unit: Unit) -> tuple[list[Case], list[list[int]]]:
    """Cases, and the rows of the table that each is made of."""
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row[slide] if unit == "slide" else row[patient or slide], []).append(number)
    cases = []
    for name, members in groups.items():
        first = rows[members[0]]
        sites = {rows[m].get("site", "") for m in members}
        cases.append(
            Case(
                name,
                first[patient or slide],
                tuple(rows[m][slide] for m in members),
                "+".join(sorted(sites)),
                first.get("fold", ""),
            )
        )
    return cases, list(groups.values())


def _of_cases(
    values: Floats, members: Sequence[Sequence[int]], cases: Sequence[Case], target: Target, problems: list[str]
) -> Floats:
    """Labels of the rows as labels of the cases; slides of one case must agree."""
    truth = np.full((len(cases), values.shape[1]), np.nan)
    for number, (rows, case) in enumerate(zip(members, cases, strict=True)):
        found = values[list(rows)]
        # Said so that a label that is lacking everywhere is no difference.
        if len(np.unique(np.nan_to_num(found, nan=-np.inf), axis=0)) > 1:
            problems.append(
                f"target {target.name}: the slides of {case.case_id!r} have different labels: {_some(case.slides)}"
            )
        truth[number] = found[0]
    return truth


def _by_kind(sources: Mapping[str, BagSource]) -> dict[FeatureKind, list[str]]:
    """Slides by the kind of their features, the commonest first."""
    found: dict[FeatureKind, list[str]] = {}
    for slide, source in sources.items():
        found.setdefault(replace(source.kind, format=""), []).append(slide)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _kind_problems(by_kind: Mapping[FeatureKind, Sequence[str]]) -> list[str]:
    """Which slides have features that cannot be trained on together with the others'."""
    (common, many), *others = by_kind.items()
    problems = [
        f"{len(slides)} slides have {'; '.join(common.differences(kind))}: {_some(slides)}" for kind, slides in others
    ]
    if problems:
        problems.append(
            f"features of different kinds cannot be trained on together ({len(many)} slides agree): embed them alike, "
            "or choose features with --features and --grid"
        )
    return problems


def _target(named: Asked, rows: Sequence[Row]) -> tuple[Target, Floats]:
    """A target filled in from its labels, and the labels as numbers (row, `Target.truth`)."""
    columns = columns_of(named)
    texts = {column: [row[column] for row in rows] for column in columns}
    where = f"target {named.name}"
    if named.kind in SURVIVAL_KINDS:
        time = _numbers(texts[columns[0]], f"{where}, column {columns[0]}")
        event = _numbers(texts[columns[1]], f"{where}, column {columns[1]}")
        values = np.stack([time, event], 1)
        values[np.isnan(values).any(1)] = np.nan
        if (time <= 0).any() or not np.isin(event[~np.isnan(event)], (0, 1)).all():
            raise MilError(f"{where}: times must be above 0, and events 0 or 1")
        if np.nansum(values[:, 1]) < 2:
            raise MilError(f"{where}: there are fewer than two events")
        try:
            intervals = int(named.inside[2]) if len(named.inside) > 2 else INTERVALS
        except ValueError:
            raise MilError(f"{where}: {named.inside[2]!r} is no number of intervals") from None
        target = Target(name=named.name, kind=named.kind, columns=columns, intervals=intervals)
        return (with_edges(target, values) if named.kind == "discrete" else target), values
    if named.kind == "multilabel":
        values = np.stack([_numbers(texts[c], f"{where}, column {c}") for c in columns], 1)
        if not np.isin(values[~np.isnan(values)], (0, 1)).all():
            raise MilError(f"{where}: labels are 0, 1 or empty")
        return Target(name=named.name, kind="multilabel", columns=columns, classes=columns), values
    found = texts[columns[0]]
    if not any(found):
        raise MilError(f"{where}: no slide has a label")
    if not named.inside and (absent := sorted({t for t in found if t.lower() in _ABSENT})):
        raise MilError(
            f"{where}: does {_some(absent)} mean that there is no label? Leave such cells empty, or, if it is a class, "
            f"name all classes: {named.name}:{named.kind or 'binary'}(A,B)"
        )
    kind = named.kind or _seen_kind(found, named.name)
    if kind == "regression":
        values = _numbers(found, where)[:, None]
        if len(np.unique(values[~np.isnan(values)])) < 2:
            raise MilError(f"{where}: all values are the same")
        return Target(name=named.name, kind="regression", columns=columns), values
    classes = named.inside or tuple(_sorted({text for text in found if text}))
    if strange := sorted({text for text in found if text} - {*classes}):
        raise MilError(f"{where}: {_some(strange)} is none of its classes {', '.join(classes)}")
    if len(classes) < 2 or (kind == "binary" and len(classes) != 2) or len(classes) > _MOST_CLASSES:
        raise MilError(f"{where}: {kind} cannot have {len(classes)} classes: {_some(classes)}")
    if kind == "ordinal" and not named.inside and any(math.isnan(v) for v in _lenient(classes)):
        raise MilError(f"{where}: say the order, low to high: {named.name}:ordinal({','.join(classes)})")
    if kind == "multiclass" and len(classes) == 2:
        kind = "binary"
    values = np.array([[classes.index(text) if text else math.nan] for text in found])
    return Target(name=named.name, kind=kind, columns=columns, classes=classes), values


def _seen_kind(texts: Sequence[str], name: str) -> Literal["binary", "multiclass", "regression"]:
    values = sorted({text for text in texts if text})
    if len(values) == 2:
        return "binary"
    if any(math.isnan(v) for v in _lenient(values)):
        return "multiclass"
    if len(values) > _FEW_VALUES:
        return "regression"
    raise MilError(
        f"target {name}: the values {_some(values)} could be classes, an order or a quantity; "
        f"say {name}:multiclass, {name}:ordinal or {name}:regression"
    )


def _numbers(texts: Sequence[str], where: str) -> Floats:
    values = np.array([math.nan if text == "" else v for text, v in zip(texts, _lenient(texts), strict=True)])
    if strange := sorted({t for t, v in zip(texts, values, strict=True) if t and not abs(v) < _MOST}):
        raise MilError(f"{where}: not numbers, or beyond {_MOST:g}: {_some(strange)}")
    return values


def _lenient(texts: Iterable[str]) -> list[float]:
    return [_number(text) for text in texts]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _sorted(texts: Iterable[str]) -> list[str]:
    texts = [*texts]
    key: Callable[[str], float | str] = str if any(math.isnan(v) for v in _lenient(texts)) else float
    return sorted(texts, key=key)


def _some(names: Iterable[str]) -> str:
    names = [*names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse(problems: Sequence[str], labels: Path) -> None:
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise MilError(f"{labels} cannot be used:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
