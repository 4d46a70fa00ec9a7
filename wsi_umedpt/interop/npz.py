"""Plain NumPy files: ``SLIDE.npz`` with features (tile, dim) and, if known, positions (tile, 2); ``SLIDE.npy``.

Names of the arrays are in `wsi_umedpt.interop.feature_sources`. Positions are top left corners in level-0 px; a
``.npy`` is the features alone. What made the features is not there.
"""

import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import (
    FEATURES,
    POSITIONS,
    FileSource,
    NotThisFormatError,
    Numbers,
    check_expansion,
    check_rows,
    check_same_positions,
    named,
    tiles_and_dim,
)
from wsi_umedpt.store.features import FeatureKind

NAME = "npz"
SUFFIX = ".npz"

SUFFIX_ALONE = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Read = TypeVar("Read")


class Header(NamedTuple):
    """Header of an array in an archive."""

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
    name = named(held, FEATURES, "features of tiles", str(path))
    if name is None:
        raise NotThisFormatError(f"it has no array features, but {', '.join(held) or 'none'}")
    at = named(held, POSITIONS, "level-0 px of top left corners", str(path))
    tiles, dim = tiles_and_dim(*held[name], f"{path}: {name}")
    if at:
        check_rows(tiles, held[at].shape, f"{path}: {at}")
    same = at == "coords" and "coords_patching" in held
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(dim=dim, format=NAME),
        tiles=tiles,
        side=None,
        unit="px" if at else "",
        read=partial(_read, name=name, at=at, same=same),
    )


def open_npy(path: Path) -> FileSource:
    """Say what a file of one array holds, reading its header alone.

    Raises
    ------
    InteropError
        If it is no array (tile, dim) of floats, or claims more than is there.
    """
    with _guarded(path, lambda: path.open("rb")) as file:
        header = _guarded(path, lambda: _header(file, path.stem, path.stat().st_size, str(path)))
    tiles, dim = tiles_and_dim(*header, f"{path}: the array")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(dim=dim, format=SUFFIX_ALONE[1:]),
        tiles=tiles,
        side=None,
        unit="",
        read=_read_alone,
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


def _read(path: Path, *, name: str, at: str | None, same: bool) -> tuple[Numbers, Numbers | None]:
    features, *positions = read_npz(path, name, *([at] if at else []), *(["coords_patching"] if same else []))
    if same:
        check_same_positions(positions[0], positions[1], str(path))
    return features, positions[0] if positions else None


def _read_alone(path: Path) -> tuple[Numbers, None]:
    return _guarded(path, lambda: np.load(path, allow_pickle=False)), None


def _headers(path: Path) -> dict[str, Header]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise InteropError(f"{path} holds {member.filename!r:.60}, which is no array; it is no npz archive")
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                found[name] = _header(file, name, member.file_size, str(path))
            size = int(np.prod(found[name].shape, dtype=object)) * found[name].dtype.itemsize
            check_expansion(f"{path}: {name}", size, member.compress_size)
    return found


def _header(file: IO[bytes], name: str, there: int, where: str) -> Header:
    """Read the header of an array, in a file or a member of an archive that has so many bytes."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise InteropError(f"{where}: {name} is an array of NumPy format {version}, which holds no features")
    shape, _, dtype = _HEADERS[version](file)
    begin = file.tell()
    if dtype.kind not in "iufb":
        raise InteropError(f"{where}: {name} holds {dtype}, not plain numbers; such arrays are never read")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size != there - begin:
        raise InteropError(f"{where}: {name} claims {size} bytes and has {there - begin}: damaged")
    return Header(shape, dtype)


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
        what = "an array" if path.suffix.lower() == SUFFIX_ALONE else "an npz archive"
        raise InteropError(f"{path} cannot be read as {what} of numbers: {why:.300}") from None
