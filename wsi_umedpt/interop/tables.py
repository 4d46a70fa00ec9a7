"""Tables as CSV or Parquet, whole or absent.

Text in a CSV that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, *CSV Injection*):
names of slides and classes come from files that others made. Numbers are as they are.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.geojson import printed
from wsi_umedpt.store.zarr_io import whole_file

SUFFIXES = (".csv", ".parquet")
_FORMULA = ("=", "+", "-", "@")


def check_table(path: Path) -> None:
    """Refuse a name that is no table's, before anything is counted."""
    if path.suffix not in SUFFIXES:
        raise InteropError(f"tables are {' or '.join(SUFFIXES)}; {path} is neither")


def as_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns, in the order in which they come first; what a row lacks is None.

    Examples
    --------
    >>> as_columns([{"a": 1}, {"a": 2, "b": 3}])
    {'a': [1, 2], 'b': [None, 3]}
    """
    rows = list(rows)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as a table, whole or not at all.

    Parameters
    ----------
    path
        ``.csv`` or ``.parquet``.
    columns
        Values by the name of their column.

    Raises
    ------
    InteropError
        If the file's name has another suffix.
    """
    check_table(path)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    if path.suffix == ".parquet":
        with whole_file(path) as file:
            parquet.write_table(table, file, compression="zstd")
        return
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    write_rows(path, itertools.chain([table.column_names], rows))


def write_rows(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of a CSV, the header first."""
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        csv.writer(text, lineterminator="\n").writerows(map(safe_cell, row) for row in rows)
        text.detach()  # flushed; the file is closed by who opened it


def safe_cell(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, on one line."""
    if not isinstance(cell, str):
        return cell
    # A return that csv leaves unquoted begins another row for who reads it.
    cell = cell.replace("\r", " ").replace("\n", " ")
    if not cell.lstrip().startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_tile_table(path: Path, xy: npt.NDArray[Any], side: float, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write tiles with the columns that WSInfer names their places by, and then their scores.

    Parameters
    ----------
    path
        ``.csv`` or ``.parquet``.
    xy : (tile, 2) top left corners, level-0 px
    side : level-0 px
    columns : each (tile,)
        Scores, as float32s print; empty where one is not finite.
    """
    check_tiles(xy, columns)
    sides = [int(side) if float(side).is_integer() else float(side)] * len(xy)
    places = {"minx": xy[:, 0].tolist(), "miny": xy[:, 1].tolist(), "width": sides, "height": sides}
    if taken := places.keys() & columns.keys():
        raise InteropError(f"a score cannot be called {sorted(taken)[0]!r}, as the tile's place is")
    write_table(path, places | {name: printed(np.asarray(values)) for name, values in columns.items()})


def check_tiles(xy: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse scores that are not one for each tile."""
    for name, values in columns.items():
        if np.shape(values) != (len(xy),):
            raise InteropError(f"{name!r} is of shape {np.shape(values)} for {len(xy)} tiles: give a value for each")
