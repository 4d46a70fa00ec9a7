"""Tables as CSV or Parquet, whole or absent."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from wsi_umedpt.arrays import whole_file
from wsi_umedpt.errors import InteropError

SUFFIXES = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Refuse a name that is no table's, before anything is counted."""
    if path.suffix not in SUFFIXES:
        raise InteropError(f"tables are {' or '.join(SUFFIXES)}; {path} is neither")


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length."""
    check_table(path)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with whole_file(path) as file:
        if path.suffix == ".parquet":
            parquet.write_table(table, file, compression="zstd")
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(table.column_names)
        lines.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
        text.detach()  # flushed; the file is closed by who opened it
