"""OME-Zarr images, versions 0.4 (zarr v2) and 0.5 (zarr v3), as slides."""

import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsi_umedpt.chunkfiles import ChunkFiles
from wsi_umedpt.errors import PixelError
from wsi_umedpt.files import read_regular
from wsi_umedpt.geometry import level_scale
from wsi_umedpt.readers.base import Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size
from wsi_umedpt.readers.colour import check_colour_names
from wsi_umedpt.readers.multiscale import check_levels

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
_MAX_CHUNK_BYTES = 1 << 29
"""A chunk is unpacked whole, however little of it is read."""
_LEAST_STORED = 0.01  # of the chunks of a level; see `readers.directories`


class OmeZarrReader:
    """A multiscale OME-Zarr image with three colour channels."""

    name = "ome-zarr"

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise Refused("not a folder")
        try:
            self._open(path)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - JSON can be wrong in any way
            raise Refused(f"its metadata cannot be used: {type(error).__name__}: {error}") from None

    def _open(self, path: Path) -> None:
        image = _image(path)
        attributes = _attributes(image)
        multiscale = _multiscale(attributes)
        axes = [str(axis["name"]) for axis in multiscale["axes"]]
        if not {"c", "y", "x"} <= set(axes):
            raise Refused(f"needs axes c, y and x, found {axes}")
        self._path, self._axes = path, axes
        self._arrays = [_open_array(image, str(d["path"])) for d in multiscale["datasets"]]
        sizes = []
        for array in self._arrays:
            shape = dict(zip(axes, array.shape, strict=True))
            others = {a: n for a, n in shape.items() if a not in "cyx" and n != 1}
            if array.dtype != np.uint8 or shape["c"] != 3 or others:
                raise Refused(
                    f"needs 8-bit images of 3 channels, one focal plane and one time, found {array.dtype} {shape}"
                )
            sizes.append(checked_size(shape["x"], shape["y"]))
        channels = (attributes.get("omero") or {}).get("channels") or []
        check_colour_names([str(channel.get("label", "")) for channel in channels])
        self.levels = tuple(Level(*s, level_scale(sizes[0], s)) for s in sizes)
        self.info = SlideInfo(vendor="ome-zarr", mpp=check_levels(multiscale, sizes))

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        window = {"c": slice(None), "y": slice(y, y + height), "x": slice(x, x + width)}
        try:
            block = self._arrays[level][tuple(window.get(axis, 0) for axis in self._axes)]
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            raise PixelError(f"{self._path.name}: level {level} at ({x}, {y}): {error}") from None
        left = [axis for axis in self._axes if axis in "cyx"]
        order = tuple(left.index(axis) for axis in "yxc")
        return np.ascontiguousarray(np.transpose(np.asarray(block), order))

    def native_tiles(self, level: int) -> NativeTiles | None:
        """None: chunks are read through zarr."""
        return None

    def close(self) -> None:
        """Nothing is held open."""


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
            f"holds {len(listed)} images (series): {', '.join(listed[:20])}. Name the one that is the slide, "
            f"as in {path.name}/{listed[0] if listed else 0}"
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
    if str(metadata.get("dtype", metadata.get("data_type"))) not in ("|u1", "uint8"):
        raise Refused(f"needs uint8, found {metadata.get('dtype', metadata.get('data_type'))}")
    if strange := _codecs(metadata) - _SAFE_CODECS:
        raise Refused(f"uses codecs that are not trusted: {sorted(strange)}")
    try:
        array = zarr.open_array(ChunkFiles(path, read_only=True), mode="r")
    except Exception as error:  # noqa: BLE001 - damaged metadata can fail anywhere in zarr
        raise Refused(f"level {name!r}: {error}") from None
    if math.prod(array.chunks) > _MAX_CHUNK_BYTES:  # inner ones, where they lie in shards
        raise Refused(f"level {name!r} is cut into chunks of {array.chunks}, too large to be unpacked; cut it anew")
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
