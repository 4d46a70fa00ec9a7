"""Differences between a study and the one that a folder holds, in words."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_umedpt.messages import counted, some

Cases = Mapping[str, tuple[str, str]]
"""Case to patient and site."""

_NAMED = 5
_PLAIN = {"unit": "`unit`", "version": "version of wsi-umedpt", "tiles": "tiles in all"}


def differences(there: Mapping[str, Any], now: Mapping[str, Any], cases_there: Cases, cases_now: Cases) -> list[str]:
    """Say what differs; a line each.

    Parameters
    ----------
    there, now
        Content of ``run.json`` that is there, and that would be written now.
    cases_there, cases_now
        As ``splits.csv`` lists them.
    """
    told = []
    for key, name in _PLAIN.items():
        if there.get(key) != now.get(key):
            told.append(f"{name}: {there.get(key)}, {now.get(key)}")
    told += _of_fields("features", there.get("features"), now.get("features"))
    told += _of_targets(there.get("targets"), now.get("targets"))
    told += _of_fields("", there.get("study"), now.get("study"), flags=True)
    told += _of_options(there.get("options"), now.get("options"))
    if there.get("starts_sha256") != now.get("starts_sha256"):
        told.append("the grouper that networks start from (`start_from`): another, or changed")
    if there.get("cohort_sha256") != now.get("cohort_sha256"):
        of_cases = _of_cases(cases_there, cases_now)
        if not of_cases and not any(line.startswith(("features", "target", "`unit`")) for line in told):
            of_cases = ["labels, or slides of a case: of the same cases"]
        told += of_cases
    return told or ["what its run.json says"]


def cases_in(path: Path) -> Cases:
    """Cases of a ``splits.csv``; none where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return cases_of_rows([*csv.reader(file)])
    except (OSError, ValueError, csv.Error):
        return {}


def cases_of_rows(rows: Sequence[Sequence[str]]) -> Cases:
    """Cases of the rows that a ``splits.csv`` is written of, the header first."""
    return {row[0]: (row[1], row[2]) for row in rows[1:] if len(row) > 2}


def _of_cases(there: Cases, now: Cases) -> list[str]:
    told = []
    if gone := [case for case in there if case not in now]:
        told.append(f"{counted(len(gone), 'case is', 'cases are')} there and not now: {some(gone, _NAMED)}")
    if new := [case for case in now if case not in there]:
        told.append(f"{counted(len(new), 'case is', 'cases are')} now and not there: {some(new, _NAMED)}")
    for number, what in enumerate(("patient", "site")):
        if moved := [case for case in there if case in now and there[case][number] != now[case][number]]:
            first = moved[0]
            told.append(f"the {what} of {some(moved, _NAMED)}: {there[first][number]!r}, {now[first][number]!r}")
    return told


def _of_targets(there: Any, now: Any) -> list[str]:
    if not (isinstance(there, list) and isinstance(now, list)):
        return []
    by_name = [{t.get("name"): t for t in targets if isinstance(t, dict)} for targets in (there, now)]
    told = [f"target {name}: it is there and not now" for name in by_name[0] if name not in by_name[1]]
    told += [f"target {name}: it is now and not there" for name in by_name[1] if name not in by_name[0]]
    for name in by_name[0]:
        if name in by_name[1]:
            told += _of_fields(f"target {name}", by_name[0][name], by_name[1][name])
    return told


def _of_options(there: Any, now: Any) -> list[str]:
    if not (isinstance(there, list) and isinstance(now, list)):
        return []
    if len(there) != len(now):
        return [f"settings to choose from (`try`): {len(there)}, {len(now)}"]
    return [
        line
        for n, (a, b) in enumerate(zip(there, now, strict=True))
        for line in _of_fields(f"`try` {n}" if n else "", a, b, flags=True)
    ]


def _of_fields(name: str, there: Any, now: Any, *, flags: bool = False) -> list[str]:
    """Fields of two mappings that differ; as flags of the command line."""
    if not (isinstance(there, Mapping) and isinstance(now, Mapping)):
        return []
    return [
        f"{name}{' ' if name else ''}{f'`{key}`' if flags else key}: {_value(there.get(key))}, {_value(now.get(key))}"
        for key in dict.fromkeys([*there, *now])
        if there.get(key) != now.get(key)
    ]


def _value(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
