"""Tables that say something of images, and the names by which they say it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from wsi_umedpt.datasets.images import IMAGE_SUFFIXES
from wsi_umedpt.errors import DataError
from wsi_umedpt.io.spreadsheet import Row, read_table

__all__ = ["Row", "read_rows", "refuse", "stem_of"]

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


def read_rows(
    path: Path, columns: Iterable[str], where: dict[str, str], optional: Sequence[str] = ()
) -> dict[int, Row]:
    """Rows of a table by their number in the file, the header being row 1.

    Parameters
    ----------
    path
        The file; missing cells at the end of a row are empty.
    columns
        Columns that must be there, beside those of `where`; empty names are left out.
    where
        Column = value: only these rows.
    optional
        Columns that are read if they are there.
    """
    rows = read_table(path, named=[*columns, *where], optional=optional, error=DataError).rows
    return {n: row for n, row in rows.items() if all(row[c] == v.strip() for c, v in where.items())}
