"""CZI (Zeiss) through libCZI, where OpenSlide refuses it: channels, single planes of stacks, mosaics without a pyramid.

Needs the extra ``czi`` (pylibCZIrw). Pixels are those that libCZI composes of a file's subblocks, all scenes together;
a level is a layer of the file's own pyramid, and nothing is shrunk here.
"""

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import defusedxml.ElementTree
import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import Mpp, level_scale
from wsi_umedpt.io.files import open_regular
from wsi_umedpt.slides.readers.base import (
    AnyReader,
    Channel,
    ContentRefused,
    Level,
    NativeTiles,
    Pixels,
    Plane,
    Refused,
    SlideInfo,
    checked_size,
    closed_where_refused,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAGIC = b"ZISRAWFILE"
_GREY = {"Gray8": "uint8", "Gray16": "uint16"}
_COLOUR = "Bgr24"
_MOST_TEXT = 64 << 20
_CACHE_BYTES = 256 << 20
"""Memory of decoded subblocks, which tiles side by side share."""
_LEAST_COVERED = 0.7
"""Share of the full resolution that a layer covers, for it to be a level; subblocks of the former overlap."""


def open_czi(path: Path) -> AnyReader:
    """Open a CZI, in colour or of channels.

    Raises
    ------
    Refused
        If it is none, or pylibCZIrw is not installed.
    ContentRefused
        If it is a stack, or its pixels are neither RGB of 8 bits nor grey of 8 or 16.
    """
    with open_regular(path) as file:
        if not file.read(10).startswith(_MAGIC):
            raise Refused("not a CZI file")
    try:
        from pylibCZIrw import czi
    except ImportError:
        raise Refused("needs libCZI: pip install 'wsi-umedpt[czi]'") from None
    cache = czi.CacheOptions(max_memory_usage=_CACHE_BYTES)
    try:
        document = czi.CziReader(str(path), cache_options=cache)
    except Exception as error:  # noqa: BLE001 - libCZI has errors of many kinds
        raise Refused(f"libCZI does not open it: {error}") from None
    with closed_where_refused(document, "metadata"):
        return _open(path, document)


def _open(path: Path, document: Any) -> AnyReader:
    extents = {axis: span[1] - span[0] for axis, span in document.total_bounding_box_no_pyramid.items()}
    if stacked := [f"{n} {_AXES.get(axis, axis)}" for axis, n in extents.items() if axis not in "XYC" and n > 1]:
        raise ContentRefused(
            f"is a stack of {', '.join(stacked)}. Which of them is the slide is not said: export one plane to a file "
            "of its own"
        )
    kinds = document.pixel_types
    text = document.raw_metadata
    if len(text) > _MOST_TEXT:
        raise ContentRefused(f"its metadata has {len(text):,} characters; no slide has as many")
    root = defusedxml.ElementTree.fromstring(text)
    info = SlideInfo(vendor="zeiss", mpp=_mpp(root), objective=_objective(root))
    if list(kinds.values()) == [_COLOUR]:
        return CziColours(path, document, info)
    if not all(kind in _GREY for kind in kinds.values()) or list(kinds) != list(range(len(kinds))):
        found = ", ".join(sorted(set(kinds.values())))
        raise ContentRefused(f"has {len(kinds)} channels of {found}; one of Bgr24, or any of Gray8 and Gray16 are read")
    names = _channel_names(root)
    channels = tuple(Channel(names.get(n, str(n)), _GREY[kind]) for n, kind in kinds.items())
    return CziChannels(path, document, replace(info, channels=channels))


class _Czi:
    """Layers of a CZI's pyramid."""

    name = "czi"

    def __init__(self, path: Path, document: Any, info: SlideInfo) -> None:
        self._path, self._document, self.info = path, document, info
        self._reading = threading.Lock()
        box = document.total_bounding_rectangle_no_pyramid
        self._corner = box.x, box.y
        size = checked_size(box.w, box.h)
        blocks: list[tuple[float, float]] = []

        def note(_: int, block: Any) -> bool:
            stored, shown = block.physicalSize, block.logicalRect
            blocks.append((shown.w / max(1, stored.w), float(shown.w) * shown.h))
            return True

        document.enumerate_subblocks(note)
        sizes = [(size[0] // n, size[1] // n) for n in layers(blocks) if min(size) >= n]
        self.levels = tuple(Level(*one, level_scale(size, one)) for one in sizes)
        self._steps = [max(1, round(size[0] / one[0])) for one in sizes]

    def close(self) -> None:
        """Free the file."""
        self._document.close()

    def _read(self, level: int, channel: int, box: tuple[int, int, int, int], background: float) -> npt.NDArray[Any]:
        x, y, width, height = box
        step = self._steps[level]
        roi = self._corner[0] + x * step, self._corner[1] + y * step, width * step, height * step
        try:
            with self._reading:
                # A hair more than 1 / 3, of which libCZI would leave out the last pixel.
                zoom = 1 / step * (1 + 1e-9) if step & (step - 1) else 1 / step
                found = self._document.read(
                    roi=roi, plane={"C": channel}, zoom=zoom, background_pixel=(background,) * 3
                )
        except Exception as error:  # noqa: BLE001 - libCZI has errors of many kinds
            raise PixelError(f"{self._path.name}: level {level} at ({x}, {y}): {error}") from None
        if found.shape[:2] != (height, width):
            raise PixelError(f"{self._path.name}: level {level} at ({x}, {y}) gave {found.shape} instead of {box[2:]}")
        return np.asarray(found)


class CziColours(_Czi):
    """A CZI in RGB."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        return np.ascontiguousarray(self._read(level, 0, (x, y, width, height), 1.0)[..., ::-1])  # libCZI gives BGR

    def native_tiles(self, level: int) -> NativeTiles | None:
        """None: libCZI composes its pixels."""
        return None


class CziChannels(_Czi):
    """A CZI of channels that are no colours."""

    def read_channel(self, level: int, channel: int, x: int, y: int, width: int, height: int) -> Plane:
        """Read a rectangle of one channel; see `ChannelReader.read_channel`."""
        return self._read(level, channel, (x, y, width, height), 0.0)[..., 0]

    def tile_size(self, level: int) -> tuple[int, int] | None:
        """None: libCZI composes its pixels."""
        return None


def layers(blocks: Iterable[tuple[float, float]]) -> list[int]:
    """Scales of the layers of a pyramid that cover the slide, finest first.

    Parameters
    ----------
    blocks : (level-0 px per px, area in level-0 px) of each subblock
        Subblocks of all layers.

    Examples
    --------
    >>> layers([(1.0, 60.0), (1.0, 60.0), (2.0, 110.0), (4.01, 20.0)])
    [1, 2]
    """
    areas: dict[int, float] = {}
    for scale, area in blocks:
        areas[max(1, round(scale))] = areas.get(max(1, round(scale)), 0.0) + area
    return [1, *sorted(n for n, area in areas.items() if n > 1 and area >= _LEAST_COVERED * areas.get(1, 0.0))]


_AXES = {"Z": "focal planes (Z)", "T": "times", "R": "rotations", "I": "illuminations", "H": "phases", "V": "views"}


def _mpp(root: "Element") -> Mpp | None:
    """Scale that the metadata state, in metres a pixel; None if they state none."""
    metres = {
        str(one.get("Id")): float(one.findtext("Value") or 0)
        for one in root.iterfind("./Metadata/Scaling/Items/Distance")
    }
    x, y = metres.get("X", 0.0), metres.get("Y", 0.0)
    return Mpp(x * 1e6, y * 1e6, "vendor") if x > 0 and y > 0 else None


def _objective(root: "Element") -> float | None:
    stated = root.findtext("./Metadata/Information/Instrument/Objectives/Objective/NominalMagnification")
    try:
        return float(stated) if stated else None
    except ValueError:
        return None


def _channel_names(root: "Element") -> dict[int, str]:
    listed = root.iterfind("./Metadata/Information/Image/Dimensions/Channels/Channel")
    return {n: name for n, one in enumerate(listed) if (name := str(one.get("Name") or one.findtext("Fluor") or ""))}
