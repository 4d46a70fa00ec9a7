"""Tables as CSV or Parquet, whole or absent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.exchange import whole_file

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
        if path.suffix == ".csv":
            csv.write_csv(table, file, csv.WriteOptions(quoting_style="needed"))
        else:
            parquet.write_table(table, file, compression="zstd")
