"""DICOM through wsidicom: files that OpenSlide refuses (JPEG-LS, grey of 16 bits), and what `dicomweb` opens.

Needs the extra ``dicom`` (wsidicom). Levels are those of the series in the file's folder; labels and overviews are
never read.
"""

import itertools
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import PixelError, RemoteError
from wsi_umedpt.geometry import Mpp, is_level, level_scale
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
from wsi_umedpt.slides.readers.dicom import check_dicom, is_dicom_slide
from wsi_umedpt.slides.readers.multifile import parts
from wsi_umedpt.slides.readers.tiff_directories import MAX_TILE_SIDE

_COLOURS = frozenset(["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"])
_GREY = "MONOCHROME2"
_TOGETHER = 32
"""Most frames that are asked for at a time, and decoded: 6 MB of 256 px."""


def open_wsidicom(path: Path) -> AnyReader:
    """Open a DICOM series, in colour or as one grey channel.

    Raises
    ------
    Refused
        If it is none of a whole slide, or wsidicom is not installed.
    ContentRefused
        If it is damaged, or its pixels are neither RGB of 8 bits nor grey of 8 or 16.
    """
    if not is_dicom_slide(path):
        raise Refused("not a DICOM file of a whole-slide image")
    files = parts(path)
    for file in files:
        check_dicom(file)
    try:
        from wsidicom import WsiDicom
    except ImportError:
        raise Refused("needs wsidicom: pip install 'wsi-umedpt[dicom]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that are not quite as the standard wants them
            slide = WsiDicom.open(files)
    except Exception as error:  # noqa: BLE001 - headers can be wrong in any way
        raise Refused(f"wsidicom does not open it: {type(error).__name__}: {error}") from None
    with closed_where_refused(slide, "headers"):
        return reader_of(Opened("wsidicom", path.name, slide, slide.close))


@dataclass(frozen=True)
class Opened:
    """A slide that wsidicom opened."""

    reader: str
    """Name of the reader that is made of it."""
    name: str
    """Name of the slide, for messages."""
    slide: Any
    close: Callable[[], None]
    fingerprint: str = ""
    """See `SlideInfo.fingerprint`."""


def reader_of(opened: Opened) -> AnyReader:
    """Make a reader of a slide that wsidicom opened, in colour or as one grey channel.

    Raises
    ------
    ContentRefused
        If its pixels are neither RGB of 8 bits nor grey of 8 or 16.
    """
    slide = opened.slide
    first = slide.levels[0].default_instance
    data = first.image_data
    samples, bits, kind = data.samples_per_pixel, data.bits, str(data.photometric_interpretation)
    if max(data.tile_size.width, data.tile_size.height) > MAX_TILE_SIDE:
        raise ContentRefused(f"frames of {data.tile_size.width} x {data.tile_size.height} px")
    mpp = slide.levels[0].mpp
    info = SlideInfo("dicom", Mpp(float(mpp.width), float(mpp.height), "vendor"), fingerprint=opened.fingerprint)
    if samples == 3 and bits == 8 and kind in _COLOURS:
        return DicomColours(opened, info)
    if samples == 1 and 1 < bits <= 16 and kind == _GREY:
        channel = Channel("0", "uint8" if bits <= 8 else "uint16")
        return DicomChannel(opened, replace(info, channels=(channel,)))
    raise ContentRefused(f"has {samples} samples a pixel of {bits} bits ({kind}); RGB of 8 bits and grey are read")


class _Dicom:
    """Levels of a series."""

    def __init__(self, opened: Opened, info: SlideInfo) -> None:
        self.name, self._opened, self.info = opened.reader, opened, info
        self._reading = threading.Lock()
        self._groups = {level.level: level for level in opened.slide.levels}
        listed = [(n, checked_size(level.size.width, level.size.height)) for n, level in self._groups.items()]
        size = listed[0][1]
        kept = [(number, one) for number, one in listed if is_level(size, one)]
        self._numbers = [number for number, _ in kept]
        self.levels = tuple(Level(*one, level_scale(size, one)) for _, one in kept)

    def close(self) -> None:
        """Free the files."""
        self._opened.close()

    def _read(self, level: int, box: Sequence[int]) -> npt.NDArray[Any]:
        x, y, width, height = box
        try:
            with self._reading:
                found = self._opened.slide.read_region((x, y), self._numbers[level], (width, height))
        except RemoteError:  # a server that fails is no damage of the slide
            raise
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            raise PixelError(f"{self._opened.name}: level {level} at ({x}, {y}): {error}") from None
        return np.asarray(found)


class DicomColours(_Dicom):
    """A series in RGB."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        return np.ascontiguousarray(self._read(level, (x, y, width, height))[..., :3])

    def native_tiles(self, level: int) -> NativeTiles | None:
        """Frames of a level; None where several instances share it, of which wsidicom chooses."""
        group = self._groups[self._numbers[level]]
        if len(group.instances) > 1:
            return None
        return _Frames(self._opened.name, group.default_instance, self._reading)


class _Frames:
    """Frames of a level, asked for some at a time."""

    scalable = False

    def __init__(self, name: str, instance: Any, reading: threading.Lock) -> None:
        self._name, self._instance, self._reading = name, instance, reading
        size = instance.image_data.tile_size
        self.tile_width, self.tile_height = size.width, size.height
        self._expected: dict[tuple[int, int], None] = {}
        self._ready: dict[tuple[int, int], Any] = {}

    def expect(self, tiles: Sequence[tuple[int, int]]) -> None:
        """See `ExpectingTiles.expect`."""
        with self._reading:
            self._expected = dict.fromkeys(tiles)
            self._ready.clear()

    def decode(self, col: int, row: int, *, shrink: int, buffer: Pixels) -> Pixels | None:
        """Decode one frame into `buffer`; see `NativeTiles.decode`."""
        shape = self.tile_height, self.tile_width, 3
        out = buffer[: math.prod(shape)].reshape(shape)
        with self._reading:
            if (col, row) not in self._ready:
                self._read((col, row))
            out[:] = self._ready.pop((col, row))
        return out

    def _read(self, tile: tuple[int, int]) -> None:
        """Read a frame, and those that are expected after it; where one does not decode, the first alone."""
        self._expected.pop(tile, None)
        tiles = [tile, *itertools.islice(self._expected, _TOGETHER - 1)]
        try:
            self._ready |= self._frames(tiles)
        except PixelError:
            if len(tiles) == 1:
                raise
            self._expected.clear()
            self._ready |= self._frames([tile])
            return
        for one in tiles[1:]:
            del self._expected[one]

    def _frames(self, tiles: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Any]:
        from wsidicom.geometry import Point

        one = self._instance
        points = [Point(col, row) for col, row in tiles]
        try:
            found = one.image_data.get_decoded_tiles(points, one.default_z, one.default_path, cache=False)
            return dict(zip(tiles, found, strict=True))
        except RemoteError:
            raise
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own
            raise PixelError(f"{self._name}: frame {tiles[0]}: {error}") from None


class DicomChannel(_Dicom):
    """A series in grey, which is no colour: how bright white is, is not said."""

    def read_channel(self, level: int, channel: int, x: int, y: int, width: int, height: int) -> Plane:
        """Read a rectangle of the channel; see `ChannelReader.read_channel`."""
        found: Plane = self._read(level, (x, y, width, height)).astype(self.info.channels[channel].dtype)
        return found

    def tile_size(self, level: int) -> tuple[int, int] | None:
        """None: wsidicom composes its pixels."""
        return None
