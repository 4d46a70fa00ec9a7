"""OME-Zarr images, versions 0.4 (zarr v2) and 0.5 (zarr v3), as slides."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import Mpp, level_scale
from wsi_umedpt.readers.base import Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size

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
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


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
        multiscale = _multiscale(path)
        axes = [str(axis["name"]) for axis in multiscale["axes"]]
        if not {"c", "y", "x"} <= set(axes):
            raise Refused(f"needs axes c, y and x, found {axes}")
        self._path, self._axes = path, axes
        self._arrays = [_open_array(path, str(d["path"])) for d in multiscale["datasets"]]
        sizes = []
        for array in self._arrays:
            shape = dict(zip(axes, array.shape, strict=True))
            others = {a: n for a, n in shape.items() if a not in "cyx" and n != 1}
            if array.dtype != np.uint8 or shape["c"] != 3 or others:
                raise Refused(f"needs 8-bit images of 3 channels, found {array.dtype} {shape}")
            sizes.append(checked_size(shape["x"], shape["y"]))
        self.levels = tuple(Level(*s, level_scale(sizes[0], s)) for s in sizes)
        self.info = SlideInfo(vendor="ome-zarr", mpp=_mpp(multiscale))

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
            found = json.loads((path / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Refused(f"{name} cannot be read: {error}") from None
        if isinstance(found, dict):
            return found
    raise Refused(f"has no {' or '.join(names)}")


def _multiscale(path: Path) -> dict[str, Any]:
    attributes = _metadata(path, "zarr.json", ".zattrs")
    attributes = attributes.get("attributes", attributes)
    try:
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        if not (multiscale["datasets"] and all("name" in axis for axis in multiscale["axes"])):
            raise KeyError("datasets")
    except (KeyError, IndexError, TypeError):
        raise Refused("is a zarr folder without OME multiscales") from None
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
        array = zarr.open_array(path, mode="r")
    except Exception as error:  # noqa: BLE001 - damaged metadata can fail anywhere in zarr
        raise Refused(f"level {name!r}: {error}") from None
    if math.prod(array.chunks) > _MAX_CHUNK_BYTES:  # inner ones, where they lie in shards
        raise Refused(f"level {name!r} is cut into chunks of {array.chunks}, too large to be unpacked; cut it anew")
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


def _mpp(multiscale: dict[str, Any]) -> Mpp | None:
    axes = multiscale["axes"]
    scales = [
        t["scale"] for t in multiscale["datasets"][0].get("coordinateTransformations", []) if t.get("type") == "scale"
    ]
    if not scales:
        return None
    found = {
        axis["name"]: float(value) * _UM[axis["unit"]]
        for axis, value in zip(axes, scales[0], strict=True)
        if axis.get("unit") in _UM
    }
    return Mpp(found["x"], found["y"], "ome") if {"x", "y"} <= set(found) else None
