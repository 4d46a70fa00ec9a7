"""HDF5 files of other tools: read so that nothing outside the file is touched, written whole or not at all.

An HDF5 file can point into other files (external and soft links, virtual arrays, external
storage), hold Python-like objects, and claim arrays of any size without holding them. Here an
array is plain numbers that lie in the file itself, all of them written; anything else is refused.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import check_expansion
from wsi_umedpt.store.zarr_io import whole_file

SUFFIXES = (".h5", ".hdf5")

Attrs = Mapping[str, str | int | float | tuple[int, int] | tuple[float, float]]

# ---- reading ----


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    InteropError
        If it is no HDF5, or damaged, also where that shows only while it is read.
    """
    try:
        # Network file systems may know no locks; who only reads can do without.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except InteropError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise InteropError(f"{path} cannot be read as HDF5: {why}") from None


def names_in(group: h5py.Group) -> str:
    """Names in a group, in words."""
    return ", ".join(sorted(group)[:20]) or "nothing"


def has(group: h5py.Group, name: str) -> bool:
    """Return whether a group holds something of that name, whatever it is; nothing is followed."""
    return group.get(name, getclass=True, getlink=True) is not None


def group_of(group: h5py.Group, name: str) -> h5py.Group:
    """A group within a group, neither linked nor an array."""
    found = _lying(group, name)
    if not isinstance(found, h5py.Group):
        raise InteropError(f"{_place(group, name)} is {type(found).__name__.lower()}, where a group was expected")
    return found


def array_of(group: h5py.Group, name: str) -> h5py.Dataset:
    """An array of plain numbers that lies in the file itself; its numbers are not read.

    Raises
    ------
    InteropError
        If there is none of that name, or it holds objects, or it lies elsewhere.
    """
    found = _lying(group, name)
    where = _place(group, name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise InteropError(f"{where} is no array")
    if found.is_virtual or found.external:
        raise InteropError(f"{where} takes its numbers from other files, which is not followed; repack the file")
    if found.dtype.kind not in "iuf":
        raise InteropError(f"{where} holds {found.dtype}, not plain numbers; such arrays are never read")
    return found


def values_of(array: h5py.Dataset) -> npt.NDArray[Any]:
    """Read all numbers of what `array_of` found.

    Raises
    ------
    InteropError
        If some were never written, as in a file whose program was killed.
    """
    where = f"{array.file.filename}: {array.name}"
    stored = array.id.get_storage_size()
    if array.chunks is None:
        whole = stored >= array.nbytes
    else:
        chunks = [-(-n // chunk) for n, chunk in zip(array.shape, array.chunks, strict=True)]
        whole = array.id.get_num_chunks() >= np.prod(chunks, dtype=object)
    if not whole:
        raise InteropError(f"{where} was never written to its end: whatever made the file was stopped; make it again")
    check_expansion(where, array.nbytes, stored)
    values: npt.NDArray[Any] = array[()]
    return values


def scalar_of(group: h5py.Group, name: str) -> str | int | float:
    """One number or text that lies in a group as an array without axes."""
    found = _lying(group, name)
    plain = isinstance(found, h5py.Dataset) and found.shape == () and not (found.is_virtual or found.external)
    if plain and h5py.check_string_dtype(found.dtype):
        return str(found.asstr()[()])
    if plain and found.dtype.kind in "iuf":
        number: int | float = found[()].item()
        return number
    raise InteropError(f"{_place(group, name)} is neither a number nor text")


def text_of(node: h5py.HLObject, name: str) -> str:
    """An attribute that is text; empty where it is absent, no text, or says None (as TRIDENT writes it)."""
    value = node.attrs.get(name)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and value != "None" else ""


def number_of(node: h5py.HLObject, name: str) -> float | None:
    """An attribute that is one number over 0; None where it is absent or says None.

    Raises
    ------
    InteropError
        If it is anything else.
    """
    value = node.attrs.get(name)
    if value is None or (isinstance(value, str) and value == "None"):
        return None
    plain = np.asarray(value)
    if plain.size != 1 or plain.dtype.kind not in "iuf" or not 0 < plain.item() < float("inf"):
        raise InteropError(f"{node.file.filename}: attribute {name} is {value!r:.60}, not a number over 0")
    return float(plain.item())


def _lying(group: h5py.Group, name: str) -> h5py.HLObject:
    link = group.get(name, getlink=True) if has(group, name) else None
    if link is None:
        raise InteropError(f"{_place(group, name)} is not there; it holds {names_in(group)}")
    if not isinstance(link, h5py.HardLink):
        raise InteropError(f"{_place(group, name)} is a link to elsewhere, which is not followed; repack the file")
    return group[name]


def _place(group: h5py.Group, name: str) -> str:
    return f"{group.file.filename}: {group.name.rstrip('/')}/{name}"


# ---- writing ----


@contextmanager
def whole_h5(path: Path) -> Iterator[h5py.File]:
    """Open a file for writing that takes its place at the end, or not at all; equal content gives equal bytes.

    Raises
    ------
    InteropError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file, h5py.File(file.name, "w") as written:
            yield written
    except (OSError, RuntimeError) as error:
        # Closing on a full disk is a RuntimeError of HDF5; what went wrong stands in the error before it.
        codes = [each.errno for each in (error, error.__context__) if isinstance(each, OSError) and each.errno]
        raise InteropError(f"{path} cannot be written: {os.strerror(codes[0]) if codes else error}") from None


def add_attrs(node: h5py.HLObject, attrs: Attrs) -> None:
    """Put attributes on a file or an array."""
    for name, value in attrs.items():
        node.attrs[name] = value
