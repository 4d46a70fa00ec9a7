"""CSV tables that say something of images, and the names by which they say it."""

import csv
from collections.abc import Iterable
from pathlib import Path

from wsi_umedpt.datasets.images import IMAGE_SUFFIXES
from wsi_umedpt.errors import DataError

Row = dict[str, str]

_SHOWN = 20
_SUFFIXES = (*IMAGE_SUFFIXES, ".nii.gz", ".nii")


def refuse(problems: list[str], what: str) -> None:
    """Raise a `DataError` that lists `problems`, if there are any."""
    if problems:
        problems = [*dict.fromkeys(problems)]  # a volume that is damaged is so for every slice
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{what} ({len(problems)}):\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def stem_of(name: str) -> str:
    """The name of an image or volume without folder and suffix; other dots are part of the name."""
    name = Path(name).name
    found = next((s for s in _SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(found)]


def read_rows(path: Path, columns: Iterable[str], where: dict[str, str]) -> dict[int, Row]:
    """Rows of a CSV by their number in the file, the header being row 1.

    Parameters
    ----------
    path
        The file; missing cells at the end of a row are empty.
    columns
        What must be there, beside those of `where`; empty names are left out.
    where
        Column = value: only these rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows, there = list(reader), [*(reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    absent = [c for c in dict.fromkeys([*columns, *where]) if c and c not in there]
    if absent:
        raise DataError(f"{path} has no column {', '.join(absent)}; it has {', '.join(there)}")
    if twice := {c for c in there if c and there.count(c) > 1}:
        raise DataError(f"{path} has several columns {', '.join(sorted(twice))}: which one counts?")
    numbered = dict(enumerate(rows, start=2))
    # DictReader puts what is beyond the last column under None.
    refuse(
        [f"row {n} has more cells than the header" for n, row in numbered.items() if None in row],
        f"{path} cannot be read as CSV",
    )
    return {n: row for n, row in numbered.items() if all(row[c] == v for c, v in where.items())}
