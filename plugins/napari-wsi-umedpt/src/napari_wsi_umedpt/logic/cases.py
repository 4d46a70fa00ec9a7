"""A folder of slides to be looked at one after the other: what was seen, and what was thought of it.

A `CaseList` is a folder's slides and stores, one case a slide id, and a CSV of states and notes
(``slide_id,state,note``), written whole after every change and only then. Cases that the CSV
names and the folder lacks are kept in it. Where the folder cannot be written, the CSV lies in the user's
data folder; of the two the later one counts, case by case.
"""

import csv
import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import platformdirs
from wsi_umedpt.errors import DataError
from wsi_umedpt.messages import counted
from wsi_umedpt.slides import default_id
from wsi_umedpt.store import is_store, whole_file

from napari_wsi_umedpt.opening.slide_locator import slide_files

State = Literal["unseen", "seen", "done", "doubtful"]
STATES: tuple[State, ...] = get_args(State)
FILE = "review.csv"
COLUMNS = ("slide_id", "state", "note")
_FOLDER = "review"
"""Folder in the user's data folder."""
_DIGITS = 16
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class ReviewCase:
    """Slide of a folder, and its review."""

    slide_id: str
    slide: Path | None = None
    store: Path | None = None
    state: State = "unseen"
    note: str = ""

    @property
    def path(self) -> Path | None:
        """Path to open: the store where there is one, as it brings its slide."""
        return self.store or self.slide

    @property
    def name(self) -> str:
        """Name that people gave the file; ids leave out what not every system takes."""
        found = self.slide or self.store
        return found.name.removesuffix(".zarr") if found is not None else self.slide_id


class CaseList:
    """The slides of a folder, by name.

    Parameters
    ----------
    folder
        Slides and stores lie in it, not below it.
    file
        CSV of states and notes; by default `FILE` in the folder.
    results
        Folder of the stores, if elsewhere.

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
        named = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:_DIGITS]
        self._own = Path(platformdirs.user_data_dir("wsi_umedpt", appauthor=False)) / _FOLDER / f"{named}.csv"
        later = [self.file, self._own]
        if _time(self._own) < _time(self.file):
            later.reverse()
        for told in (told for file in later for told in _read(file)):
            if (case := cases.get(told.slide_id)) is not None:
                cases[told.slide_id] = replace(case, state=told.state, note=told.note)
            else:
                self._absent[told.slide_id] = told
        self.cases = sorted(cases.values(), key=lambda case: case.name)

    def __len__(self) -> int:
        return len(self.cases)

    def change(self, number: int, *, state: State | None = None, note: str | None = None) -> bool:
        """Set a case's state or note, here alone; whether that is new. `write` writes it."""
        case = self.cases[number]
        changed = replace(case, state=state or case.state, note=case.note if note is None else note.strip())
        if changed == case:
            return False
        self.cases = [*self.cases[:number], changed, *self.cases[number + 1 :]]
        return True

    def review(self, number: int, *, state: State | None = None, note: str | None = None) -> None:
        """Set a case's state or note, and write the CSV if that is new.

        Raises
        ------
        OSError
            If the CSV cannot be written anywhere; the list stays as it was.
        """
        before = self.cases
        if self.change(number, state=state, note=note):
            try:
                self.write()
            except OSError:
                self.cases = before
                raise

    def write(self) -> None:
        """Write the CSV; may be called from any thread.

        Raises
        ------
        OSError
            If neither the folder nor the user's own takes it.
        """
        cases = [*self.cases, *self._absent.values()]
        try:
            _write(self.file, cases)
        except OSError:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            _write(self._own, cases)
            self.file = self._own

    def next_of(self, number: int, step: int = 1) -> int | None:
        """The case after (or before) one; None at the end."""
        to = number + step
        return to if 0 <= to < len(self.cases) else None

    @property
    def summary(self) -> str:
        """Number of slides in each state, in words."""
        counts = {state: sum(case.state == state for case in self.cases) for state in STATES}
        return f"{counted(len(self.cases), 'slide')}: " + ", ".join(
            f"{count} {state}" for state, count in counts.items() if count
        )


def _time(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


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
