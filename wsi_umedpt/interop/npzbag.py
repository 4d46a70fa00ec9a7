"""Plain NumPy archives: ``SLIDE.npz`` with ``features`` (tile, dim) and, if known, ``coords`` or ``xy`` (tile, 2).

Positions are top left corners in level-0 px. What made the features is not there.
"""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from wsi_umedpt.bag import FeatureKind
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.sources import (
    FileSource,
    NotThisFormatError,
    Numbers,
    check_expansion,
    check_rows,
    tiles_and_dim,
)

NAME = "npz"
SUFFIX = ".npz"

_POSITIONS = ("coords", "xy")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Read = TypeVar("Read")


class Header(NamedTuple):
    """What an array of an archive says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def open_npz(path: Path) -> FileSource:
    """Say what an archive holds, reading only the headers of its arrays.

    Raises
    ------
    NotThisFormatError
        If it has no features.
    InteropError
        If it cannot be used.
    """
    held = headers_of(path)
    if "features" not in held:
        raise NotThisFormatError(f"it has no array features, but {', '.join(held) or 'none'}")
    positions = [name for name in _POSITIONS if name in held]
    if len(positions) > 1:
        raise InteropError(f"{path} has both coords and xy; keep the one that holds level-0 px of top left corners")
    tiles, dim = tiles_and_dim(*held["features"], f"{path}: features")
    for name in positions:
        check_rows(tiles, held[name].shape, f"{path}: {name}")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(dim=dim, format=NAME),
        tiles=tiles,
        side=None,
        unit="px" if positions else "",
        read=_read,
    )


def headers_of(path: Path) -> dict[str, Header]:
    """Shapes and dtypes of all arrays of an archive; none is read.

    Raises
    ------
    InteropError
        If it is no archive of arrays, or one holds objects, or claims more than is there.
    """
    return _guarded(path, lambda: _headers(path))


def read_npz(path: Path, *names: str) -> list[Numbers]:
    """Arrays of an archive, in the order of their names."""

    def read() -> list[Numbers]:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]

    return _guarded(path, read)


def _read(path: Path) -> tuple[Numbers, Numbers | None]:
    name = next((name for name in _POSITIONS if name in headers_of(path)), None)
    features, *positions = read_npz(path, "features", *([name] if name else []))
    return features, positions[0] if positions else None


def _headers(path: Path) -> dict[str, Header]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise InteropError(f"{path} holds {member.filename!r:.60}, which is no array; it is no npz archive")
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    raise InteropError(f"{path}: {name} is an array of NumPy format {version}, which holds no features")
                shape, _, dtype = _HEADERS[version](file)
                begin = file.tell()
            if dtype.kind not in "iufb":
                raise InteropError(f"{path}: {name} holds {dtype}, not plain numbers; such archives are never read")
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if size != member.file_size - begin:
                raise InteropError(f"{path}: {name} claims {size} bytes and has {member.file_size - begin}: damaged")
            check_expansion(f"{path}: {name}", size, member.compress_size)
            found[name] = Header(shape, dtype)
    return found


def _guarded(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except InteropError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        SyntaxError,
        RuntimeError,
        MemoryError,
        RecursionError,
        OverflowError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise InteropError(f"{path} cannot be read as an npz archive of numbers: {why:.300}") from None
