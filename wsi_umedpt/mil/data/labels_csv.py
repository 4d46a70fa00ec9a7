"""The table of labels: a CSV or .xlsx and the features that are there in, a `Cohort` out, checked at the door.

The table has a column ``slide_id`` or ``slide``, ``patient`` (or ``patient_id``), the columns of the targets, and
optionally ``fold`` and ``site``; it may be the one that slides were embedded by. All that is wrong is listed at
once; nothing is guessed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_umedpt.annotations.labels import check_patients
from wsi_umedpt.errors import DataError, MilError
from wsi_umedpt.io.spelling import identity, is_missing, quoted, several_spellings, spelled
from wsi_umedpt.io.spreadsheet import Row, Table, did_you_mean, read_table
from wsi_umedpt.messages import counted, noun, some
from wsi_umedpt.mil.data.cohort import Case, Cohort, Unit
from wsi_umedpt.mil.data.label_columns import labels_of
from wsi_umedpt.mil.data.targets import SURVIVAL_KINDS, Asked, Target, columns_of
from wsi_umedpt.slides.slide_id import SlideNames
from wsi_umedpt.store.features import BagSource, FeatureKind

Floats = npt.NDArray[np.float64]
_SHOWN = 20
_SIDES = {
    "train", "training", "trainset", "test", "testing", "testset", "val", "valid", "validation", "dev", "development",
    "tune", "tuning", "holdout", "hold-out", "heldout", "held-out", "external", "internal",
}  # fmt: skip
"""Names that tables give to the sides of one split, which are no folds."""


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
        Targets of prediction.
    unit
        Unit of a case.
    slides_are_patients
        Count every slide as of another patient; otherwise the table must name them.
    skip_missing
        Leave out slides that have no features, instead of refusing.
    unusable
        Slides whose features are there and cannot be used: they are left out.

    Returns
    -------
    cohort
        Cases in the table's order.
    notes
        Notes on what was left out.

    Raises
    ------
    MilError, DataError
        If the table cannot be used; all reasons are listed.
    """
    wanted = [name for named in targets for name in columns_of(named)]
    table = read_table(
        labels, needed=[("slide_id", "slide")], optional=("slide_id", "patient", "fold", "site"), named=wanted,
        error=DataError,
    )  # fmt: skip
    if not table.rows:
        raise MilError(f"{labels} has no rows")
    rows = _rows(table, [*sources, *unusable], slides_are_patients)
    problems, notes = _row_problems(rows, slides_are_patients), list[str]()
    names = [named.name for named in targets]
    problems += [f"target {name} is asked for twice" for name in {n: 0 for n in names if names.count(n) > 1}]
    lost = [row["slide"] for row in rows.values() if row["slide"] in unusable]
    if lost:
        notes.append(
            f"{counted(len(lost), 'labelled slide has', 'labelled slides have')} features that cannot be used and "
            f"{noun(len(lost), 'was', 'were')} left out: {some(sorted(lost))}"
        )
    rows = {n: row for n, row in rows.items() if row["slide"] not in unusable}
    missing = [r["slide"] for r in rows.values() if r["slide"] and r["slide"] not in sources]
    if missing and not skip_missing:
        problems.append(
            f"{counted(len(missing), 'slide has', 'slides have')} no features: {some(missing)}. Features there: "
            f"{some(sorted(sources))}. Embed them, or leave them out with `skip_missing`"
        )
    elif missing:
        notes.append(
            f"{counted(len(missing), 'labelled slide has', 'labelled slides have')} no features and "
            f"{noun(len(missing), 'was', 'were')} left out: {some(missing)}"
        )
    kept = [row for row in rows.values() if row["slide"] in sources]
    unlabelled = sorted({*sources} - {row["slide"] for row in kept})
    if unlabelled:
        notes.append(
            f"{counted(len(unlabelled), 'slide with features is', 'slides with features are')} not in the table: "
            f"{some(unlabelled)}"
        )
    if not kept:
        _refuse(
            [
                *problems,
                f"it labels none of the {counted(len(sources), 'slide that has', 'slides that have')} features",
            ],
            labels,
        )
    by_kind = _by_kind({row["slide"]: sources[row["slide"]] for row in kept})
    problems += _kind_problems(by_kind)
    cases, members = _cases(kept, unit)
    made, truth = [], []
    for named in targets:
        try:
            target, values, said = labels_of(named, kept)
        except MilError as error:
            problems.append(str(error))
            continue
        made.append(target)
        notes += said
        truth.append(_of_cases(values, members, cases, target, problems))
        if target.kind in SURVIVAL_KINDS and unit == "slide":
            problems += _two_times(values, kept, target)
    if ignored := [name for name in table.others if spelled(name) not in ("mpp", "mask")]:
        # Their names may tell of patients, and notes stand in the report.
        notes.append(f"columns of the table that were not read, as nothing asks for them: {len(ignored)}")
    _refuse(problems, labels)
    kind = sources[next(iter(by_kind.values()))[0]].kind
    return Cohort(tuple(cases), tuple(made), tuple(truth), unit, kind), notes


def _rows(table: Table, slides: Sequence[str], slides_are_patients: bool) -> dict[int, Row]:
    """Rows whose ``slide`` is that of the features, and whose ``patient`` is filled in.

    Where slides are said to be patients, what the table says of patients must not speak against it.
    """
    if "patient" not in table.columns and not slides_are_patients:
        raise MilError(
            f"{table.path} has no column patient or patient_id but {', '.join([*table.columns, *table.others])}"
            f"{did_you_mean(['patient'], table.others)}. Slides of one patient on both sides of a split make any "
            "figure too good: name the patients, or say that every slide is of another one with `slides_are_patients`"
        )
    there, rows = SlideNames(slides), {}
    for number, row in table.rows.items():
        called = row.get("slide_id") or row.get("slide", "")
        found = there.find(called) if called else []
        if len(found) > 1:
            raise MilError(f"{table.path} row {number}: {called!r} may be {' or '.join(found)}; write one of these")
        values = {**row, "slide": found[0] if found else called}
        for name in ("patient", "fold", "site"):
            values[name] = "" if is_missing(row.get(name, "")) else row.get(name, "")
        rows[number] = values
    if slides_are_patients:
        named = [row["patient"] for row in rows.values() if row["patient"]]
        if twice := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
            raise MilError(
                f"{table.path}: with `slides_are_patients` every slide is of another patient, but its column patient "
                f"names {some(twice)} more than once. Leave the flag out"
            )
        check_patients(named, table.path, MilError)
        for row in rows.values():
            row["patient"] = row["slide"]
    return rows


def _row_problems(rows: Mapping[int, Row], slides_are_patients: bool) -> list[str]:
    problems, seen = [], dict[str, int]()
    for number, row in rows.items():
        if not row["slide"]:
            problems.append(f"row {number} names no slide")
        elif row["slide"] in seen:
            problems.append(f"rows {seen[row['slide']]} and {number} are of the same slide {row['slide']!r}")
        seen.setdefault(row["slide"], number)
        if not row["patient"] and not slides_are_patients:
            problems.append(f"row {number} names no patient")
    alike = several_spellings(row["patient"] for row in rows.values())
    problems += [
        f"are {quoted(names)} one patient? Write one in one way, and several so that they differ by more than case, "
        "blanks, leading zeros or characters that cannot be seen"
        for names in alike
    ]
    for what in ("site", "fold"):
        problems += [
            f"are {quoted(names)} one {what}? Write it in one way"
            for names in several_spellings((row[what] for row in rows.values()), spelled)
        ]
    return problems + _fold_problems(rows, slides_are_patients)


def _fold_problems(rows: Mapping[int, Row], slides_are_patients: bool) -> list[str]:
    dealt = [row["fold"] for row in rows.values()]
    if not any(dealt):
        return []
    sides = sorted({fold for fold in dealt if spelled(fold) in _SIDES})
    if sides:
        return [
            f"the column fold names the sides of one split ({', '.join(sides)}), which are no folds to cross-validate "
            "by: `mil train` on the rows of the training side alone and `mil predict` the others, or take the column "
            "out to cross-validate all of them"
        ]
    folds: dict[str, set[str]] = {}
    for row in rows.values():
        folds.setdefault(row["patient"], set()).add(row["fold"])
    problems = [
        f"patient {name!r} is in several folds: {', '.join(sorted(map(repr, found)))}"
        for name, found in folds.items()
        if len(found) > 1 and not slides_are_patients
    ]
    if not all(dealt):
        problems.append(f"{counted(dealt.count(''), 'row names', 'rows name')} no fold, the others do")
    return problems


def _two_times(values: Floats, rows: Sequence[Row], target: Target) -> list[str]:
    """Patients whose slides have different times or events: a patient survives once."""
    told: dict[str, set[tuple[float, ...]]] = {}
    for row, pair in zip(rows, values.tolist(), strict=True):
        if pair[0] == pair[0]:
            told.setdefault(identity(row["patient"]), set()).add(tuple(pair))
    names = {identity(row["patient"]): row["patient"] for row in rows}
    return [
        f"target {target.name}: patient {names[key]!r} has several times or events: "
        f"{', '.join(f'{time:g} ({event:g})' for time, event in sorted(found))}"
        for key, found in told.items()
        if len(found) > 1
    ]


def _cases(rows: Sequence[Row], unit: Unit) -> tuple[list[Case], list[list[int]]]:
    """Cases, and the rows of the table that each is made of."""
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row["slide"] if unit == "slide" else row["patient"], []).append(number)
    cases = []
    for name, members in groups.items():
        first = rows[members[0]]
        sites = {rows[m]["site"] for m in members}
        cases.append(
            Case(
                name,
                first["patient"],
                tuple(rows[m]["slide"] for m in members),
                "+".join(sorted(sites)),
                first["fold"],
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
                f"target {target.name}: the slides of {case.case_id!r} have different labels: {some(case.slides)}"
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
    """Slides whose features cannot be trained on together with the others'."""
    (common, many), *others = by_kind.items()
    problems = [
        f"{counted(len(slides), 'slide has', 'slides have')} {'; '.join(common.differences(kind))}: {some(slides)}"
        for kind, slides in others
    ]
    if problems:
        problems.append(
            "features of different kinds cannot be trained on together "
            f"({counted(len(many), 'slide agrees', 'slides agree')}): embed them alike, or choose features with "
            "`features` and `grid_id`"
        )
    return problems


def _refuse(problems: Sequence[str], labels: Path) -> None:
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise MilError(f"{labels} cannot be used:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
