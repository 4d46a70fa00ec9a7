"""A folder of slides to be looked at one after the other: what was seen, and what was thought of it.

A `CaseList` is a folder's slides and stores, one case a slide id, and a CSV of states and notes
(``slide_id,state,note``), written whole after every change and only then. Cases that the CSV
names and the folder lacks are kept in it.
"""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from wsi_umedpt.arrays import whole_file
from wsi_umedpt.cohort.manifest import default_id, is_store
from wsi_umedpt.errors import DataError

from napari_wsi_umedpt._whereabouts import slide_files

State = Literal["unseen", "seen", "done", "doubtful"]
STATES: tuple[State, ...] = get_args(State)
FILE = "review.csv"
COLUMNS = ("slide_id", "state", "note")
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class ReviewCase:
    """One slide of a folder, and what was thought of it."""

    slide_id: str
    slide: Path | None = None
    store: Path | None = None
    state: State = "unseen"
    note: str = ""

    @property
    def path(self) -> Path | None:
        """What is opened: the store where there is one, as it brings its slide."""
        return self.store or self.slide


class CaseList:
    """The slides of a folder, by name.

    Parameters
    ----------
    folder
        Slides and stores lie in it, not below it.
    file
        CSV of states and notes; by default `FILE` in the folder.
    results
        Where stores lie, if elsewhere.

    Raises
    ------
    DataError
        If there is no slide, or the CSV cannot be used.
    """

    def __init__(self, folder: Path, file: Path | None = None, results: Path | None = None) -> None:
        self.folder, self.file = folder, file or folder / FILE
        cases: dict[str, ReviewCase] = {}
        for path in (p for place in dict.fromkeys((folder, results or folder)) for p in slide_files(place)):
            if path.suffix == ".zarr" and is_store(path):
                name = path.name.removesuffix(".zarr")
                cases[name] = replace(cases.get(name, ReviewCase(name)), store=path)
            else:
                name = default_id(path)
                cases[name] = replace(cases.get(name, ReviewCase(name)), slide=path)
        if not cases:
            raise DataError(f"{folder} holds no slides and no stores. Choose the folder in which they lie.")
        self._absent: dict[str, ReviewCase] = {}
        for told in _read(self.file):
            if (case := cases.get(told.slide_id)) is not None:
                cases[told.slide_id] = replace(case, state=told.state, note=told.note)
            else:
                self._absent[told.slide_id] = told
        self.cases = [cases[name] for name in sorted(cases)]

    def __len__(self) -> int:
        return len(self.cases)

    def review(self, number: int, *, state: State | None = None, note: str | None = None) -> None:
        """Set a case's state or note, and write the CSV if that is new.

        Raises
        ------
        OSError
            If the CSV cannot be written; the list stays as it was.
        """
        case = self.cases[number]
        changed = replace(case, state=state or case.state, note=case.note if note is None else note.strip())
        if changed != case:
            cases = [*self.cases]
            cases[number] = changed
            _write(self.file, [*cases, *self._absent.values()])
            self.cases = cases

    def next_of(self, number: int, step: int = 1) -> int | None:
        """The case after (or before) one; None at the end."""
        to = number + step
        return to if 0 <= to < len(self.cases) else None

    @property
    def summary(self) -> str:
        """How many are in which state."""
        counts = {state: sum(case.state == state for case in self.cases) for state in STATES}
        return f"{len(self.cases)} slides: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _read(file: Path) -> list[ReviewCase]:
    if not file.exists():
        return []
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            columns = table.fieldnames or []
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from None
    if missing := [name for name in COLUMNS if name not in columns]:
        raise DataError(
            f"{file} needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}. It would be written over: "
            "move it away, or choose another file for the case list."
        )
    found = []
    for number, row in enumerate(rows, start=2):
        state = row["state"] or "unseen"
        if state not in STATES:
            raise DataError(f"{file} row {number}: the state is {state!r}; use one of {', '.join(STATES)}")
        found.append(ReviewCase(row["slide_id"] or "", state=state, note=_plain(row["note"] or "")))
    return found


def _write(file: Path, cases: list[ReviewCase]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    table.writerows([case.slide_id, case.state, _guarded(case.note)] for case in cases)
    with whole_file(file) as out:
        out.write(text.getvalue().encode())


def _guarded(note: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return f"'{note}" if note.startswith(_FORMULA) else note


def _plain(note: str) -> str:
    return note[1:] if note.startswith("'") and note[1:].startswith(_FORMULA) else note
