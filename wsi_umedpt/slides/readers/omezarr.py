"""OME-Zarr images, versions 0.4 (zarr v2) and 0.5 (zarr v3), as slides."""

import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import Box, level_scale
from wsi_umedpt.io.chunk_files import ChunkFiles
from wsi_umedpt.io.files import read_regular
from wsi_umedpt.messages import counted
from wsi_umedpt.slides.readers.base import (
    AnyReader,
    Channel,
    Level,
    NativeTiles,
    Pixels,
    Plane,
    Refused,
    SlideInfo,
    checked_size,
)
from wsi_umedpt.slides.readers.colour import are_colours
from wsi_umedpt.slides.readers.multiscale import check_levels
from wsi_umedpt.slides.readers.tiff_directories import MAX_TILE_SIDE

_SAFE_CODECS = frozenset(
    [
        "blosc",
        "zstd",
        "gzip",
        "zlib",
        "lz4",
        "bz2",
        "lzma",
        "shuffle",
        "delta",
        "bytes",
        "crc32c",
        "transpose",
        "sharding_indexed",
    ]
)
"""Codecs that only ever yield numbers. Any other, pickle above all, is refused unread."""
_DTYPES = frozenset(["|u1", "uint8", "<u2", ">u2", "uint16"])
_MAX_CHUNK_BYTES = 1 << 29
"""A chunk is unpacked whole, however little of it is read."""
_LEAST_STORED = 0.01  # of the chunks of a level; see `readers.directories`


def open_omezarr(path: Path) -> AnyReader:
    """Open a multiscale OME-Zarr image: in colour, or of channels.

    Raises
    ------
    Refused
        If it is none, or one that cannot be read as a slide.
    """
    if not path.is_dir():
        raise Refused("not a folder")
    try:
        return _open(path)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - JSON can be wrong in any way
        raise Refused(f"its metadata cannot be used: {type(error).__name__}: {error}") from None


def _open(path: Path) -> AnyReader:
    image = _image(path)
    attributes = _attributes(image)
    multiscale = _multiscale(attributes)
    axes = [str(axis["name"]) for axis in multiscale["axes"]]
    if not {"c", "y", "x"} <= set(axes):
        raise Refused(f"needs axes c, y and x, found {axes}")
    arrays = [_open_array(image, str(d["path"])) for d in multiscale["datasets"]]
    dtype, count = arrays[0].dtype, arrays[0].shape[axes.index("c")]
    sizes = []
    for array in arrays:
        shape = dict(zip(axes, array.shape, strict=True))
        others = {a: n for a, n in shape.items() if a not in "cyx" and n != 1}
        if array.dtype != dtype or shape["c"] != count or others:
            raise Refused(f"needs one focal plane, one time and the same channels throughout, found {dtype} {shape}")
        sizes.append(checked_size(shape["x"], shape["y"]))
    named = (attributes.get("omero") or {}).get("channels") or []
    names = [str(channel.get("label", "")) for channel in named]
    info = SlideInfo(vendor="ome-zarr", mpp=check_levels(multiscale, sizes))
    if count == 3 and dtype == np.uint8 and are_colours(names, 8):
        return OmeZarrReader(path, arrays, axes, info)
    channels = tuple(
        Channel((names[n] if n < len(names) else "") or str(n), np.dtype(dtype).name) for n in range(count)
    )
    return OmeZarrChannels(path, arrays, axes, replace(info, channels=channels))


class _OmeZarr:
    """Levels that are zarr arrays."""

    name = "ome-zarr"

    def __init__(self, path: Path, arrays: "Sequence[zarr.Array[Any]]", axes: Sequence[str], info: SlideInfo) -> None:
        self._path, self._axes, self._arrays, self.info = path, axes, arrays, info
        sizes = [(array.shape[axes.index("x")], array.shape[axes.index("y")]) for array in arrays]
        self.levels = tuple(Level(*size, level_scale(sizes[0], size)) for size in sizes)

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self, level: int, box: Box, channels: slice) -> npt.NDArray[Any]:
        """(rows, cols, channel) of a level."""
        window = {"c": channels, "y": slice(box.y, box.y + box.height), "x": slice(box.x, box.x + box.width)}
        try:
            block = self._arrays[level][tuple(window.get(axis, 0) for axis in self._axes)]
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            raise PixelError(f"{self._path.name}: level {level} at ({box.x}, {box.y}): {error}") from None
        left = [axis for axis in self._axes if axis in "cyx"]
        order = tuple(left.index(axis) for axis in "yxc")
        return np.ascontiguousarray(np.transpose(np.asarray(block), order))


class OmeZarrReader(_OmeZarr):
    """An image of 8 bits with channels red, green and blue."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        return self._read(level, Box(x, y, width, height), slice(None))

    def native_tiles(self, level: int) -> NativeTiles | None:
        """None: chunks are read through zarr."""
        return None


class OmeZarrChannels(_OmeZarr):
    """An image of channels that are no colours."""

    def read_channel(self, level: int, channel: int, x: int, y: int, width: int, height: int) -> Plane:
        """Read a rectangle of one channel; see `ChannelReader.read_channel`."""
        return self._read(level, Box(x, y, width, height), slice(channel, channel + 1))[..., 0]

    def tile_size(self, level: int) -> tuple[int, int] | None:
        """(width, height) of the chunks of a level, px; None where they are larger than a tile may be."""
        chunks = dict(zip(self._axes, self._arrays[level].chunks, strict=True))
        return (chunks["x"], chunks["y"]) if max(chunks["x"], chunks["y"]) <= MAX_TILE_SIDE else None


def _metadata(path: Path, *names: str) -> dict[str, Any]:
    for name in names:
        try:
            found = json.loads(read_regular(path / name))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Refused(f"{name} cannot be read: {error}") from None
        if isinstance(found, dict):
            return found
    raise Refused(f"has no {' or '.join(names)}")


def _attributes(path: Path) -> dict[str, Any]:
    """A group's attributes: of version 0.5, those under 'ome'."""
    attributes = _metadata(path, "zarr.json", ".zattrs")
    attributes = attributes.get("attributes", attributes)
    inner = attributes.get("ome", attributes) if isinstance(attributes, dict) else None
    if not isinstance(inner, dict):
        raise Refused("is a zarr folder without OME multiscales")
    return inner


def _image(path: Path) -> Path:
    """The folder of the image: the one that is named, or the only one that bioformats2raw laid in it."""
    attributes = _attributes(path)
    if "multiscales" in attributes or "bioformats2raw.layout" not in attributes:
        return path
    try:
        listed = [str(name) for name in _attributes(path / "OME")["series"]]
    except (Refused, KeyError, TypeError):
        listed = [str(n) for n in itertools.takewhile(lambda n: (path / str(n)).is_dir(), itertools.count())]
    if any(not (path / name).resolve().is_relative_to(path.resolve()) for name in listed):
        raise Refused("one of its series lies outside the folder")
    if len(listed) != 1:
        raise Refused(
            f"holds {counted(len(listed), 'image')} (series): {', '.join(listed[:20])}. Name the one that is the "
            f"slide, as in {path.name}/{listed[0] if listed else 0}"
        )
    return path / listed[0]


def _multiscale(attributes: dict[str, Any]) -> dict[str, Any]:
    try:
        multiscale = attributes["multiscales"][0]
        if not (multiscale["datasets"] and all("name" in axis for axis in multiscale["axes"])):
            raise KeyError("datasets")
    except (KeyError, IndexError, TypeError):
        kind = "a plate" if "plate" in attributes else "a zarr folder"
        raise Refused(f"is {kind} without OME multiscales") from None
    return dict(multiscale)


def _open_array(root: Path, name: str) -> "zarr.Array[Any]":
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise Refused(f"its level {name!r} lies outside the folder")
    metadata = _metadata(path, "zarr.json", ".zarray")
    if (dtype := str(metadata.get("dtype", metadata.get("data_type")))) not in _DTYPES:
        raise Refused(f"needs uint8 or uint16, found {dtype}")
    if strange := _codecs(metadata) - _SAFE_CODECS:
        raise Refused(f"uses codecs that are not trusted: {sorted(strange)}")
    try:
        array = zarr.open_array(ChunkFiles(path, read_only=True), mode="r")
    except Exception as error:  # noqa: BLE001 - damaged metadata can fail anywhere in zarr
        raise Refused(f"level {name!r}: {error}") from None
    if math.prod(array.chunks) * array.dtype.itemsize > _MAX_CHUNK_BYTES:  # inner ones, where they lie in shards
        raise Refused(f"level {name!r} is cut into chunks of {array.chunks}, too large to be unpacked; cut it again")
    _check_written(path, array)
    return array


def _codecs(metadata: dict[str, Any]) -> set[str]:
    """Names of all codecs of an array, sharding's inner ones too, of either zarr version."""
    listed = [*(metadata.get("codecs") or []), *(metadata.get("filters") or []), metadata.get("compressor")]
    names = set()
    for codec in listed:
        if codec:
            names.add(str(codec.get("id", codec.get("name"))))
            inner = codec.get("configuration") or {}
            names |= _codecs({"codecs": [*inner.get("codecs", []), *inner.get("index_codecs", [])]})
    return names


def _check_written(path: Path, array: "zarr.Array[Any]") -> None:
    """Refuse an array of which almost nothing was written: it would read as one colour."""
    unit = array.shards or array.chunks
    count = math.prod(-(-size // part) for size, part in zip(array.shape, unit, strict=True))
    enough = max(1, math.ceil(_LEAST_STORED * count))
    found = sum(1 for _ in itertools.islice(_chunks(path), enough))
    if found < enough:
        raise Refused(
            f"all but {found} of the {count:,} chunks of level {path.name!r} are missing: what wrote it was "
            "interrupted, or the copy is not whole. Export or copy it again"
        )


def _chunks(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _chunks(Path(entry.path))
            elif not entry.name.startswith(".") and entry.name != "zarr.json":
                yield entry.name
