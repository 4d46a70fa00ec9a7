"""Plain zarr v3 arrays: written once to local disk, durable, and read back at disk speed, or from elsewhere.

Arrays are uncompressed, so that a chunk file is the numbers themselves; `read_array` reads
them straight into place, 2 to 3 times faster than through zarr's pipeline, and takes a
missing or short chunk for the damage it is instead of filling it with zeros.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import zarr

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.files import open_regular, read_regular
from wsi_umedpt.io.paths import RemotePath, elsewhere

NODE = "zarr.json"
"""File that makes a folder a zarr group or array."""
ROWS_CHUNK = 8192
"""Rows of a chunk of an array of `write_rows`."""
NOT_AS_WRITTEN = "its numbers are not those that were written (sha256 differs)"


def write_array(
    path: Path, values: npt.NDArray[Any], attrs: dict[str, Any] | None = None, *, dims: Sequence[str] | None = None
) -> None:
    """Write an array as one chunk, its sha256 among its attributes; it is there whole or not at all.

    Parameters
    ----------
    path
        Folder of the array.
    values
        Its numbers.
    attrs
        Further attributes.
    dims
        Name of each axis, as xarray needs them: within a group the same name stands for the same length.
    """
    with _arriving(path) as fresh:
        said = {**(attrs or {}), "sha256": array_sha256(values)}
        array = _created(fresh, values.shape, values.dtype, attributes=said, dimension_names=dims)
        if values.size:
            array[...] = values


def write_rows(
    path: Path, shape: tuple[int, int], dtype: npt.DTypeLike, blocks: Iterable[npt.NDArray[Any]],
    attrs: dict[str, Any] | None = None, *, dims: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write rows as `write_array` does, in chunks of `ROWS_CHUNK` rows, so that not all rows are in memory at once.

    Parameters
    ----------
    blocks : each (row, column)
        All rows of the array, so many at a time as the caller likes.
    """
    chunk = min(ROWS_CHUNK, shape[0])
    with _arriving(path) as fresh:
        array = _created(fresh, shape, np.dtype(dtype), chunk_rows=chunk, dimension_names=dims)
        digest, done, waiting = hashlib.sha256(), 0, np.empty((0, shape[1]), dtype)
        for block in itertools.chain(blocks, [waiting]):
            waiting = np.concatenate([waiting, block.astype(dtype, copy=False)])
            while len(waiting) and (len(waiting) >= chunk or done + len(waiting) == shape[0]):
                rows, waiting = waiting[:chunk], waiting[chunk:]
                array[done : done + len(rows)] = rows
                digest.update(np.ascontiguousarray(rows).data)
                done += len(rows)
        if len(waiting) or done != shape[0]:
            raise StoreError(f"{path.name}: {done + len(waiting)} rows were given, expected {shape[0]}")
        array.update_attributes({**(attrs or {}), "sha256": digest.hexdigest()})


@contextmanager
def _arriving(path: Path) -> Iterator[Path]:
    """A folder for an array to be written to, which then takes its name."""
    # zarr writes the metadata first: an array under its own name would look whole before
    # its chunks are there.
    fresh = path.with_name(f".{path.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    yield fresh
    sync_folder(fresh, files=True)
    os.rename(fresh, path)
    sync_folder(path.parent)


def _created(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, chunk_rows: int | None = None, **said: Any
) -> "zarr.Array[Any]":
    """Make an array of one chunk, or of chunks of so many rows; `said` is what else zarr is told of it."""
    chunks = shape if chunk_rows is None else (chunk_rows, *shape[1:])
    return zarr.create_array(
        path,
        shape=shape,
        chunks=tuple(max(1, n) for n in chunks),
        dtype=dtype,
        compressors=None,
        fill_value=0,
        config={"write_empty_chunks": True},
        overwrite=True,
        **said,
    )


def array_sha256(values: npt.NDArray[Any]) -> str:
    """sha256 of the numbers in C order, little endian."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def read_array(path: Path, *, check: bool = False) -> npt.NDArray[Any]:
    """Read a whole array that this package wrote.

    Parameters
    ----------
    path
        Path of the array.
    check
        Compare the numbers with their sha256.

    Raises
    ------
    StoreError
        If it is not such an array, a chunk is missing or has the wrong length, or the numbers are others.
    """
    return decoded_array(path, _node_of(path), check=check)


def decoded_array(path: Path, node: bytes, *, check: bool) -> npt.NDArray[Any]:
    """Read an array as `read_array` does, whose ``zarr.json`` was read already."""
    values, attributes = _numbers(path, node)
    if check and array_sha256(values) != attributes.get("sha256"):
        raise StoreError(f"{path}: {NOT_AS_WRITTEN}")
    return values


def _numbers(path: Path, node: bytes) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    try:
        meta = json.loads(node)
        attributes = dict(meta.get("attributes") or {})
        shape, dtype = tuple(meta["shape"]), np.dtype(meta["data_type"])
        chunks = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = [(codec["name"], codec.get("configuration", {}).get("endian", "little")) for codec in meta["codecs"]]
        known = chunks[1:] == tuple(max(1, n) for n in shape[1:]) and chunks[0] >= 1 and not dtype.hasobject
        if not known or codecs != [("bytes", "little")]:
            raise StoreError(f"{path} has a layout that this package does not write")
        out = np.empty(shape, dtype)
    except StoreError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as a zarr array: {type(error).__name__}: {error}") from None
    rows = chunks[0]
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    tail = "/0" * (len(shape) - 1)
    flat = out.reshape(-1).view(np.uint8)
    if remote := elsewhere(path):
        _read_remote(remote, flat, rows * row_bytes, [f"c/{n}{tail}" for n in range(-(-shape[0] // rows))])
        return out, attributes
    for n in range(-(-shape[0] // rows)) if out.size else ():
        count = min(rows, shape[0] - n * rows)
        first = n * rows * row_bytes
        try:
            with open_regular(f"{path}/c/{n}{tail}") as file:
                stored = os.fstat(file.fileno()).st_size
                found = file.readinto(flat[first : first + count * row_bytes].data)
        except OSError as error:
            raise StoreError(f"{path}: chunk {n} cannot be read: {error}") from None
        if found != count * row_bytes or stored != rows * row_bytes:
            raise StoreError(f"{path}: chunk {n} has {stored} bytes, expected {rows * row_bytes}")
    return out, attributes


def _read_remote(path: RemotePath, flat: npt.NDArray[np.uint8], size: int, chunks: list[str]) -> None:
    """Read chunks into place, many at once; each must be there and as long as all are."""
    for n, content in enumerate(path.read_many(chunks) if len(flat) else ()):
        if content is None:
            raise StoreError(f"{path}: chunk {n} cannot be read: it is not there")
        if len(content) != size:
            raise StoreError(f"{path}: chunk {n} has {len(content)} bytes, expected {size}")
        part = flat[n * size : (n + 1) * size]
        part[:] = np.frombuffer(content, np.uint8, count=len(part))


def read_node(path: Path) -> bytes:
    """Content of the ``zarr.json`` of a group or array; `OSError` if it is not there, or no regular file."""
    node = path / NODE
    return node.read_bytes() if elsewhere(node) else read_regular(node)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is either the old one or the new one, whatever happens."""
    fresh = path.with_name(path.name + ".tmp")
    with fresh.open("w") as file:
        json.dump(content, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write beside a file and take its place at the end; where that fails, what was there before still is.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    IO
        File to write to.
    """
    fresh = path.with_name(f".{path.name}.fresh")
    try:
        with fresh.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def sync_folder(path: Path, *, files: bool = False) -> None:
    """Make a folder durable, with `files` all that is below it too."""
    below = sorted(path.rglob("*")) if files else []
    for item in itertools.chain(below, [path]):
        handle = os.open(item, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError:  # some network file systems cannot sync folders
            if not item.is_dir():
                raise
        finally:
            os.close(handle)


def discard(folder: Path) -> None:
    """Remove a folder, what marks it as usable first: a kill half-way leaves nothing that looks whole."""
    for name in ("progress.json", "zarr.json"):
        (folder / name).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def write_group(path: Path, attrs: dict[str, Any]) -> None:
    """Write a group node, making its folder."""
    path.mkdir(parents=True, exist_ok=True)
    write_node(path, attrs)


def write_node(path: Path, attrs: dict[str, Any]) -> None:
    """Write a group node into a folder that must be there."""
    write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attrs})


def read_attrs(path: Path) -> dict[str, Any]:
    """Read the attributes of a group or an array, or raise `StoreError`."""
    return attrs_in(_node_of(path), path)


def attrs_in(node: bytes, path: Path) -> dict[str, Any]:
    """Attributes in a ``zarr.json`` that was read from `path`, or `StoreError`."""
    try:
        attributes = dict(json.loads(node)["attributes"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as zarr: {type(error).__name__}: {error}") from None
    return attributes


def _node_of(path: Path) -> bytes:
    try:
        return read_node(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be read as zarr: {type(error).__name__}: {error}") from None
