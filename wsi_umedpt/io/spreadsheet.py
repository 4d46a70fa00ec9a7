"""Tables that people made: CSV (comma, semicolon or tab) and .xlsx in, rows by the columns' names out.

All commands read their tables here, so that one sheet serves them all. Columns are found whatever their case and
blanks. A column that is nearly one of ours is refused rather than left aside: what it says (a scale, a patient, an
id that is to hide a name) would be lost without a word.

Read top to bottom: `Table` and `read_table`, then how a file becomes lists of cells.
"""

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_umedpt.errors import DataError, WsiError, reason_of
from wsi_umedpt.io.spelling import quoted, spelled

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")
ALSO = {"patient": ("patient_id",), "slide_id": ("slideid",)}
"""Other names that a column of ours goes by."""

Row = dict[str, str]
"""A row's cells by the names of columns, blanks at their ends taken off."""
_Record = tuple[int, list[str]]
"""Number of a row in its file, the first being 1, and its cells."""

_SHOWN = 20
_MOST_BYTES = 256 << 20
_MOST_CELLS = 20_000_000
_DELIMITERS = ",;\t"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_ZIP = b"PK\x03\x04"
_SHORT = 4
"""Letters up to which a name is no near miss of another that has other letters: size is not site."""
_ENDINGS = (
    "id",
    "ids",
    "no",
    "nr",
    "num",
    "number",
    "name",
    "code",
    "key",
    "identifier",
    "um",
    "umpx",
    "x",
    "y",
    "level0",
)
_MEANT = {
    "patient": ("case", "caseid", "casesubmitterid", "subject", "subjectid", "participant", "participantid", "donor",
                "donorid", "individual", "person", "personid", "mrn", "pid"),
    "mpp": ("micronsperpixel", "umperpixel", "umperpx", "micronperpixel", "pixelsize", "pixelsizeum", "resolution"),
    "slide": ("wsi", "image", "file", "filename", "filepath", "path"),
}  # fmt: skip
"""Names that others give to a column of ours."""


class _UnreadableError(ValueError):
    """A file is no table, for the reason given."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a table, and what its columns are called."""

    path: Path
    columns: tuple[str, ...]
    """Those that were asked for and are there, by the names that were asked for."""
    others: tuple[str, ...]
    """The remaining ones, as they are written."""
    rows: dict[int, Row]
    """Rows by their number in the file, the header being the first row that is not empty."""


def read_table(
    path: Path,
    *,
    needed: Sequence[str | tuple[str, ...]] = (),
    optional: Sequence[str] = (),
    named: Iterable[str] = (),
    error: type[WsiError] = DataError,
) -> Table:
    """Read a table.

    Parameters
    ----------
    path
        CSV with commas, semicolons or tabs, as UTF-8 or UTF-16; or .xlsx, of which the first sheet is read.
    needed
        Columns of ours that must be there; of a tuple at least one.
    optional
        Columns of ours that may be there; others that are nearly these are refused.
    named
        Columns that the user named, which must be there.
    error
        Class of the error to raise.

    Returns
    -------
    Table
        Rows without any cell are left out, and missing cells at the end of a row are empty.

    Raises
    ------
    WsiError
        If the file cannot be read, lacks a column, has one twice that differs, has one that is nearly one of ours,
        or has rows with more cells than the header.
    """
    groups = [(name,) if isinstance(name, str) else name for name in needed]
    ours = [*dict.fromkeys([*(name for group in groups for name in group), *optional])]
    named = [*dict.fromkeys(name for name in named if name)]
    try:
        records = list(_records(path, {*map(_squeezed, _all_names(ours)), *map(spelled, named)}))
    except (OSError, UnicodeError, _UnreadableError, csv.Error) as problem:
        why = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise error(f"{path} cannot be read as a table: {why}") from None
    if not records:
        raise error(f"{path} is empty: a table has a row with the names of its columns")
    header, records = records[0][1], records[1:]
    places = _places(header, ours, named)
    if problems := [*_lacking(header, groups, named, places), *_near_misses(header, ours, places)]:
        raise error(f"{path} {'; '.join(problems)}")
    if problems := [*_too_long(header, records), *_contradictions(header, records, places)]:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise error(f"{path} cannot be read as a table:\n  " + "\n  ".join(problems[:_SHOWN]) + more)
    taken = {place for at in places.values() for place in at}
    others = {n: name for n, name in enumerate(header) if name and n not in taken}
    wanted = {**{name: n for n, name in others.items()}, **{name: at[0] for name, at in places.items()}}
    width = len(header)
    rows = {}
    for number, cells in records:
        whole = [*cells, *[""] * (width - len(cells))]
        rows[number] = {name: whole[n] for name, n in wanted.items()}
    return Table(path=path, columns=tuple(places), others=tuple(others.values()), rows=rows)


def to_number(text: str) -> float:
    """Number of a cell.

    Raises
    ------
    ValueError
        If it is none, in words that say so.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number{decimal_comma([text])}") from None


def decimal_comma(texts: Iterable[str]) -> str:
    """Advice on numbers that are written with a comma; empty where there are none."""
    found = next((text for text in texts if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text)), None)
    return f"; write a decimal point, {found.strip().replace(',', '.')}" if found else ""


def did_you_mean(names: Iterable[str], known: Iterable[str]) -> str:
    """Say which of the known columns names that are not there may have meant; empty where none is near."""
    known = [*known]
    found = [other for name in names for other in known if _is_near(other, name) or _is_near(name, other)]
    return f". Did you mean {' or '.join(map(repr, dict.fromkeys(found)))}?" if found else ""


# ---- columns ----


def _all_names(ours: Iterable[str]) -> list[str]:
    return [other for name in ours for other in (name, *ALSO.get(name, ()))]


def _squeezed(name: str) -> str:
    """A column's name by its letters and digits alone."""
    return re.sub(r"[\W_]+", "", spelled(name))


def _places(header: Sequence[str], ours: Sequence[str], named: Sequence[str]) -> dict[str, list[int]]:
    """Positions of each column that was asked for; several where it is there several times."""
    by_letters, by_spelling = [_squeezed(name) for name in header], [spelled(name) for name in header]
    places: dict[str, list[int]] = {}
    for name in ours:
        letters = {_squeezed(other) for other in (name, *ALSO.get(name, ()))}
        places[name] = [n for n, found in enumerate(by_letters) if found in letters]
    for name in named:
        exact = [n for n, found in enumerate(header) if found == name]
        places[name] = exact or [n for n, found in enumerate(by_spelling) if found == spelled(name)]
    return {name: at for name, at in places.items() if at}


def _lacking(
    header: Sequence[str], groups: Sequence[tuple[str, ...]], named: Sequence[str], places: dict[str, list[int]]
) -> Iterator[str]:
    absent = [" or ".join(group) for group in groups if not any(name in places for name in group)]
    absent += [name for name in named if name not in places]
    if absent:
        there = [name for name in header if name]
        yield (
            f"has no column {', '.join(absent)}; it has {', '.join(there)}"
            f"{did_you_mean([one for name in absent for one in name.split(' or ')], there)}"
        )


def _near_misses(header: Sequence[str], ours: Sequence[str], places: dict[str, list[int]]) -> Iterator[str]:
    """Columns that would be left aside and are nearly one that is not there."""
    taken = {n for at in places.values() for n in at}
    absent = [name for name in ours if name not in places and not (name == "slide" and "slide_id" in places)]
    for n, found in enumerate(header):
        meant = [name for name in absent if n not in taken and _is_near(found, name)]
        if meant:
            yield f"has a column {found!r}, which is not read: did you mean {meant[0]!r}? Rename it, or take it out"


def _is_near(found: str, name: str) -> bool:
    """Return whether a column may have been meant to be another."""
    short, name = _squeezed(re.sub(r"[(\[].*", "", found)), _squeezed(name)
    if not short:
        return False
    if short == name or short in _MEANT.get(name, ()) or _squeezed(found) in _MEANT.get(name, ()):
        return True
    stem = name.removesuffix("id")
    words = re.split(r"[\W_]+", spelled(found))
    if words[0] == stem and len(words) > 1 and all(word in _ENDINGS for word in words[1:]):
        return True
    if len(name) <= 2 or abs(len(short) - len(name)) > 2:
        return False
    if len(name) <= _SHORT:
        return _edits(short, name) == 1 and (len(short) != len(name) or {*short} == {*name})
    return _edits(short, name) <= (1 if len(name) <= 5 else 2)


def _edits(a: str, b: str) -> int:
    """Letters to insert, take out, change or swap with their neighbour (Damerau 1964, restricted)."""
    rows: list[list[int]] = [[*range(len(b) + 1)]]
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def _too_long(header: Sequence[str], records: Sequence[_Record]) -> Iterator[str]:
    for number, cells in records:
        if any(cells[len(header) :]):
            yield (
                f"row {number} has more cells than the header ({len(cells)}, not {len(header)}); is there a comma "
                "within a cell, or in a number? Quote the cell, or write a decimal point"
            )


def _contradictions(header: Sequence[str], records: Sequence[_Record], places: dict[str, list[int]]) -> Iterator[str]:
    """Columns that are there several times and say different things."""
    for name, at in places.items():
        for number, cells in records:
            found = {cells[n] if n < len(cells) else "" for n in at}
            if len(found) > 1:
                yield (
                    f"there are several columns {name} ({quoted(header[n] for n in at)}), which differ in row "
                    f"{number}: which one counts?"
                )
                break


# ---- files ----


def _records(path: Path, known: set[str]) -> Iterator[_Record]:
    """Rows of a file that have any cell; `known` tells which of several delimiters is meant."""
    if not path.is_file():
        raise _UnreadableError("there is no such file" if not path.exists() else "it is no file")
    if path.stat().st_size > _MOST_BYTES:
        raise _UnreadableError(f"it is larger than {_MOST_BYTES >> 20} MB")
    content = path.read_bytes()
    if content.startswith(_OLD_EXCEL):
        raise _UnreadableError("it is an old Excel file (.xls), or one with a password; save it as .xlsx or CSV")
    rows = _of_workbook(content) if content.startswith(_ZIP) else _of_text(_decoded(content), known)
    for number, cells in rows:
        stripped = [cell.strip().strip("\ufeff\u200b").strip() for cell in cells]
        if any(stripped):
            yield number, stripped


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    for encoding, zeros in (("utf-16-le", content[1:4096:2]), ("utf-16-be", content[:4096:2])):
        if len(zeros) > 1 and zeros.count(0) > 0.4 * len(zeros):
            return content.decode(encoding)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"it is no UTF-8 ({error}); save it as CSV UTF-8, or as .xlsx") from None
    if "\0" in text:
        raise _UnreadableError("it holds bytes of 0, and is no text")
    return text


def _of_text(text: str, known: set[str]) -> Iterator[_Record]:
    first = re.match(r"sep=(.)\r?\n", text)  # as Excel writes and reads it
    if first:
        yield 1, []
        yield from _parsed(text[first.end() :], first[1], 2)
        return

    def fits(delimiter: str) -> tuple[int, int]:
        cells = next((cells for _, cells in _parsed(text, delimiter, 1) if any(cells)), [])
        return sum(_squeezed(cell) in known or spelled(cell) in known for cell in cells), len(cells)

    yield from _parsed(text, max(_DELIMITERS, key=fits), 1)


def _parsed(text: str, delimiter: str, start: int) -> Iterator[_Record]:
    # Strict, as a quotation mark that is never closed would swallow all rows after it.
    yield from enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), start=start)


def _of_workbook(content: bytes) -> Iterator[_Record]:
    """Rows of the first sheet, every cell as the text that a reader of the sheet takes it for."""
    import openpyxl  # uses defusedxml where it is installed, as it is beside this package

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
                raise _UnreadableError(f"it unpacks to more than {_MOST_BYTES >> 20} MB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and the like, which are not read
            shown, written = (
                openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=values, keep_links=False)
                for values in (True, False)
            )
            if not shown.worksheets:
                raise _UnreadableError("it has no sheet of cells")
            yield from _of_sheet(shown.worksheets[0], written.worksheets[0])
    except _UnreadableError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file fails anywhere within the library
        raise _UnreadableError(f"it is no workbook (.xlsx) that can be read: {reason_of(error)}") from None


def _of_sheet(shown: "object", written: "object") -> Iterator[_Record]:
    cells_left = _MOST_CELLS
    for sheet in (shown, written):
        sheet.reset_dimensions()  # type: ignore[attr-defined] # what a file says of its size may be wrong
    rows = zip(shown.iter_rows(), written.iter_rows(), strict=True)  # type: ignore[attr-defined]
    for number, (values, formulas) in enumerate(rows, start=1):
        cells_left -= len(values)
        if cells_left < 0:
            raise _UnreadableError(f"its first sheet has more than {_MOST_CELLS} cells")
        for value, formula in zip(values, formulas, strict=True):
            if value.value is None and formula.value is not None:
                raise _UnreadableError(f"the formula in row {number} was never calculated; open and save it in Excel")
        yield number, [_text_of(cell.value, getattr(cell, "number_format", "")) for cell in values]


def _text_of(value: object, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int):
        return str(value).zfill(len(form)) if re.fullmatch("0{2,}", form or "") else str(value)
    return repr(value) if isinstance(value, float) else str(value)
