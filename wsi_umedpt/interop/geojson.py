"""QuPath's GeoJSON: features out, one by one, so that half a million need no memory.

What is here knows files; `wsi_umedpt.interop.qupath` makes features of objects, and
`wsi_umedpt.interop.qupath_tiles` of tiles. `wsi_umedpt.annotations.geojson` reads them.
"""

import gzip
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import orjson

from wsi_umedpt.errors import InteropError
from wsi_umedpt.store.zarr_io import whole_file

T = TypeVar("T")

BLOCK = 4096
"""Features that are in memory at once."""
SUFFIXES = (".geojson", ".geojson.gz")
_GZIP_LEVEL = 2
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/wsi-umedpt/wsi-umedpt")


def write_features(
    path: Path, count: int, block: Callable[[slice], Iterable[dict[str, Any]]], about: Mapping[str, Any] | None = None
) -> None:
    """Write a FeatureCollection, a feature a line; the file is whole or absent.

    Parameters
    ----------
    path
        ``.geojson``, or ``.geojson.gz`` for gzip.
    count
        Number of features.
    block
        Gives those of some rows.
    about
        Further members of the collection, which other programs ignore (RFC 7946, section 6.1).
    """
    check_geojson(path)
    with whole_file(path) as raw, _packed(raw, path) as file:
        file.write(orjson.dumps({"type": "FeatureCollection", **(about or {})})[:-1] + b',"features":[')
        for first in range(0, count, BLOCK):
            file.write(b",\n" if first else b"\n")
            file.write(b",\n".join(map(orjson.dumps, block(slice(first, min(first + BLOCK, count))))))
        file.write(b"\n]}\n")


def check_geojson(path: Path) -> None:
    """Refuse a name that is no GeoJSON's, before anything is computed."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InteropError(f"{path.name} must end in {' or '.join(SUFFIXES)}")


def feature_id(name: str) -> str:
    """The same name gives the same id in every file."""
    return str(uuid.uuid5(_NAMESPACE, name))


def printed(values: npt.NDArray[Any]) -> list[Any]:
    """Python floats that print as the float32s do, None where one is not finite."""
    # Through orjson and back, which is where they are bound for.
    numbers = np.ascontiguousarray(values, np.float32)
    return cast(list[Any], orjson.loads(orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)))


def _packed(raw: IO[bytes], path: Path) -> AbstractContextManager[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        return nullcontext(raw)
    # No name and no time in it: equal objects give equal bytes.
    return cast(IO[bytes], gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0))


def in_blocks(items: Iterator[T]) -> Iterator[list[T]]:
    """Read blocks of as many as may be in memory at once."""
    while block := list(itertools.islice(items, BLOCK)):
        yield block
