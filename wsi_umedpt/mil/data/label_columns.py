"""Labels of one target: cells of a table in, a `Target` that knows its classes and numbers out.

Nothing is guessed: what is unclear is refused with what to write instead. Cells that say that nothing is known
(`wsi_umedpt.io.spelling.is_missing`) are missing labels, and are named to the reader.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import MilError
from wsi_umedpt.io.spelling import is_missing, quoted, several_spellings, spelled
from wsi_umedpt.io.spreadsheet import Row, decimal_comma
from wsi_umedpt.messages import counted, some
from wsi_umedpt.mil.data.targets import INTERVALS, SURVIVAL_KINDS, Asked, Target, columns_of, with_edges

Floats = npt.NDArray[np.float64]
_MOST_CLASSES = 50
_FEW_VALUES = 10
_MOST = 1e30
"""Networks compute in float32."""
_SIGNS = ("+", "++", "+++", "+/-")
"""Beside these a dash is a class, and not a cell without a label."""


def labels_of(named: Asked, rows: Sequence[Row]) -> tuple[Target, Floats, list[str]]:
    """Read one target.

    Parameters
    ----------
    named
        As the user asked for it.
    rows
        Rows of the table.

    Returns
    -------
    target
        With its classes, as far as it has any.
    truth : (row, `Target.truth`)
        Labels as numbers; nan where there is none.
    notes
        Notes on the cells that count as no label.

    Raises
    ------
    MilError
        If the labels mean nothing clear.
    """
    where, notes = f"target {named.name}", list[str]()
    columns = columns_of(named)
    classes = named.inside if named.kind not in (*SURVIVAL_KINDS, "multilabel") else ()
    texts = {
        column: _known([row[column] for row in rows], classes, f"{where}, column {column}", notes) for column in columns
    }
    if named.kind in SURVIVAL_KINDS:
        return (*_survival(named, [texts[column] for column in columns], where), notes)
    if named.kind == "multilabel":
        values = np.stack([_numbers(texts[c], f"{where}, column {c}") for c in columns], 1)
        if not np.isin(values[~np.isnan(values)], (0, 1)).all():
            raise MilError(f"{where}: labels are 0, 1 or empty")
        return Target(name=named.name, kind="multilabel", columns=columns, classes=columns), values, notes
    return (*_classes_or_value(named, texts[columns[0]], where), notes)


def _known(texts: Sequence[str], classes: Sequence[str], where: str, notes: list[str]) -> list[str]:
    """Cells, empty where they say that nothing is known; what they said is noted."""
    absent = Counter(text for text in texts if text not in classes and is_missing(text))
    signs = sorted({text for text in texts if text in _SIGNS})
    if dashes := [text for text in absent if signs and spelled(text) in ("-", "--", "---")]:
        raise MilError(
            f"{where}: is {dashes[0]!r} beside {', '.join(signs)} a class, or no label? Name all classes in brackets, "
            "or leave such cells empty"
        )
    if absent:
        listed = ", ".join(f"{text!r} ({count})" for text, count in absent.items())
        notes.append(
            f"{where}: cells that say that nothing is known count as no label: {listed}. Name them among the "
            "classes in brackets if they are one"
        )
    return ["" if text in absent else text for text in texts]


def _survival(named: Asked, texts: Sequence[Sequence[str]], where: str) -> tuple[Target, Floats]:
    columns = columns_of(named)
    time, event = (_numbers(cells, f"{where}, column {name}") for cells, name in zip(texts, columns, strict=True))
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
    target = Target(name=named.name, kind=named.kind or "cox", columns=columns, intervals=intervals)
    return (with_edges(target, values) if named.kind == "discrete" else target), values


def _classes_or_value(named: Asked, found: Sequence[str], where: str) -> tuple[Target, Floats]:
    columns = columns_of(named)
    if not any(found):
        raise MilError(f"{where}: no slide has a label")
    kind = named.kind or _seen_kind(found, named.name)
    if kind == "regression":
        values = _numbers(found, where)[:, None]
        if len(np.unique(values[~np.isnan(values)])) < 2:
            raise MilError(f"{where}: all values are the same")
        return Target(name=named.name, kind="regression", columns=columns), values
    there = {text for text in found if text}
    if alike := several_spellings(sorted({*there, *named.inside}), _as_class):
        raise MilError(f"{where}: are these one class? {'; '.join(map(quoted, alike))}. Write it in one way")
    classes = named.inside or tuple(in_order(there))
    if strange := sorted(there - {*classes}):
        raise MilError(f"{where}: {some(strange)} is none of its classes {', '.join(classes)}")
    if len(classes) < 2 or (kind == "binary" and len(classes) != 2) or len(classes) > _MOST_CLASSES:
        raise MilError(f"{where}: {kind} cannot have {counted(len(classes), 'class', 'classes')}: {some(classes)}")
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
    if (commas := [text for text in values if decimal_comma([text])]) and all(
        text in commas or not math.isnan(_number(text)) for text in values
    ):
        raise MilError(f"target {name}: {some(commas)} are no numbers{decimal_comma(commas)}")
    if any(math.isnan(v) for v in _lenient(values)):
        return "multiclass"
    if len(values) > _FEW_VALUES:
        return "regression"
    raise MilError(
        f"target {name}: the values {some(values)} could be classes, an order or a quantity; "
        f"say {name}:multiclass, {name}:ordinal or {name}:regression"
    )


def _numbers(texts: Sequence[str], where: str) -> Floats:
    values = np.array([math.nan if text == "" else v for text, v in zip(texts, _lenient(texts), strict=True)])
    if strange := sorted({t for t, v in zip(texts, values, strict=True) if t and not abs(v) < _MOST}):
        raise MilError(f"{where}: not numbers, or beyond {_MOST:g}: {some(strange)}{decimal_comma(strange)}")
    return values


def _as_class(text: str) -> str:
    """Form that is the same for all spellings of a class: 1, 01 and 1.0 are one."""
    value = _number(text)
    return spelled(text) if math.isnan(value) else repr(value)


def _lenient(texts: Iterable[str]) -> list[float]:
    return [_number(text) for text in texts]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def in_order(texts: Iterable[str]) -> list[str]:
    """Numbers by what they are worth; other texts by their letters."""
    texts = [*texts]
    key: Callable[[str], float | str] = str if any(math.isnan(v) for v in _lenient(texts)) else float
    return sorted(texts, key=key)
