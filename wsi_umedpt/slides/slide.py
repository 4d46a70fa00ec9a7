"""A slide as a continuous pyramid: any box at any um/px, level choice and resampling in one place.

`open_slide` picks the reader and settles the physical scale; `Slide.read` is what users
call; `Slide.plan` and `Slide.read_tile` are what `wsi_umedpt.slides.tile_loader` shares with it, so that tiles
in bulk and single boxes are the same pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, final

import numpy as np

from wsi_umedpt.errors import ChannelError, SlideError
from wsi_umedpt.geometry import Box, Mpp, checked_mpp, snap_scale
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.stalls import STALL_S
from wsi_umedpt.slides.area import shrink
from wsi_umedpt.slides.channels import ChannelChoice, ShownChannels, choices, show
from wsi_umedpt.slides.readers import open_reader
from wsi_umedpt.slides.readers.base import Channel, ChannelReader, Level, NativeTiles, Pixels, Reader
from wsi_umedpt.slides.slide_fingerprint import fingerprint

_WHITE, _BLACK = 255, 0


@dataclass(frozen=True)
class ReadPlan:
    """Level from which a scale is read, and the factor that is left to shrink by."""

    level: int
    level_scale: float
    """Level-0 px per px of the level."""
    shrink: float
    """Level px per output px; a whole number where the pixels allow it. Below 1 if magnified."""


@final
class Slide:
    """An open slide; a context manager. Made by `open_slide`."""

    def __init__(self, path: Path, reader: Reader, mpp: Mpp) -> None:
        self.path = path
        self._reader = reader
        self._mpp = mpp
        self._fingerprint: str | None = None
        self._left_open = False
        self.stall_s = STALL_S
        """Seconds without progress after which `wsi_umedpt.slides.tile_loader.read_tiles` gives up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size
        return f"Slide({self.path.name!r}, {width} x {height} px, {self.mpp:g} um/px from {self.mpp_source})"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), level-0 px."""
        return self.levels[0].width, self.levels[0].height

    @property
    def mpp(self) -> float:
        """Microns per pixel at level 0."""
        return self._mpp.value

    @property
    def mpp_source(self) -> str:
        """Source of the mpp: 'vendor', 'tiff resolution', 'ome', 'objective power' or 'user'."""
        return self._mpp.source

    @property
    def levels(self) -> tuple[Level, ...]:
        """The rasters of the pyramid, finest first."""
        return self._reader.levels

    @property
    def vendor(self) -> str:
        """Format family, as in 'aperio'."""
        return self._reader.info.vendor

    @property
    def objective(self) -> float | None:
        """Objective power, if stated. For display: scale is always taken from `mpp`."""
        return self._reader.info.objective

    @property
    def bounds(self) -> Box | None:
        """Region where the scanner put pixels, level-0 px, if it states it (as MRXS does)."""
        return self._reader.info.bounds

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the bounds, level-0 px, from which QuPath counts; (0, 0) where the slide states none."""
        return (self.bounds.x, self.bounds.y) if self.bounds else (0, 0)

    @property
    def reader(self) -> str:
        """Name of the reader: 'tiff' is the direct path, 'openslide' the general one."""
        return self._reader.name

    @property
    def channels(self) -> tuple[ChannelChoice, ...]:
        """Channels that are seen as red, green and blue, or the one seen as grey; empty of a slide in colour."""
        return self._reader.shown if isinstance(self._reader, ShownChannels) else ()

    @property
    def blank(self) -> int:
        """Grey value of what lies beyond the slide or is not in the file: white, and black where channels are seen."""
        return _BLACK if self.channels else _WHITE

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file's size and blocks spread over it; see the function `fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = self._reader.info.fingerprint or fingerprint(self.path)
        return self._fingerprint

    def close(self) -> None:
        """Free the file."""
        if not self._left_open:
            self._reader.close()

    def leave_open(self) -> Callable[[], None]:
        """Keep `close` from closing the file: a thread that cannot be ended reads it, and would crash the process.

        Returns
        -------
        callable
            Closes the file, if that thread ends after all.
        """
        self._left_open = True
        return self._reader.close

    def native_tiles(self, level: int) -> NativeTiles | None:
        """Get a level's compressed tiles, where they can be decoded alone.

        Parameters
        ----------
        level
            Number of the level; 0 is the finest.

        Returns
        -------
        NativeTiles or None
            None where its format has no such tiles.
        """
        return self._reader.native_tiles(level)

    def plan(self, scale: float, size_px: int, *, upsample: bool = False) -> ReadPlan:
        """Choose the coarsest level that needs no magnifying.

        Parameters
        ----------
        scale
            Level-0 px per output px.
        size_px
            Side of the output. The larger it is, the less a scale may be rounded; see `snap_scale`.
        upsample
            Allow magnifying where the slide is coarser than asked.

        Returns
        -------
        ReadPlan
            Level, and what remains to be shrunk.

        Raises
        ------
        SlideError
            If the slide is coarser than asked and `upsample` is off.
        """
        shrinks = [snap_scale(scale / level.scale, size_px) for level in self.levels]
        fine_enough = [n for n, shrink in enumerate(shrinks) if shrink >= 1]
        if not fine_enough:
            if not upsample:
                raise SlideError(
                    f"{self.path.name}: pixels were asked for at {scale * self.mpp:.4g} um/px, but the slide's "
                    f"finest level has {self.mpp:.4g} um/px. Ask for mpp >= {self.mpp:.4g}, or allow upsample=True."
                )
            fine_enough = [0]
        level = fine_enough[-1]
        return ReadPlan(level, self.levels[level].scale, shrinks[level])

    def read(self, box: Box, mpp: float | None = None, *, upsample: bool = False) -> Pixels:
        """Read a box at a resolution; what lies outside the slide is `blank`.

        Parameters
        ----------
        box
            Level-0 px.
        mpp : um/px of the result
            None for the slide's own.
        upsample
            Allow finer than the slide has, interpolated.

        Returns
        -------
        uint8 (rows, cols, 3)
            RGB of round(box / scale) pixels, shrunk by area averaging.

        Raises
        ------
        SlideError
            If the slide is coarser than `mpp`.
        PixelError
            If the file is damaged there.
        """
        scale = 1.0 if mpp is None else mpp / self.mpp
        if not (math.isfinite(scale) and scale > 0):
            raise SlideError(f"mpp must be positive, got {mpp}")
        scale = snap_scale(scale, max(box.width, box.height))
        size = max(1, round(box.width / scale)), max(1, round(box.height / scale))
        return self.read_tile((box.x, box.y), size, self.plan(scale, max(size), upsample=upsample))

    def read_tile(self, xy: tuple[int, int], size: tuple[int, int], plan: ReadPlan) -> Pixels:
        """Read a rectangle at the scale of a plan.

        Parameters
        ----------
        xy : level-0 px
            Top left corner.
        size : (width, height), output px
            Size of the result.
        plan
            Plan from `plan`.

        Returns
        -------
        uint8 (height, width, 3)
            RGB; `blank` where the slide ends.
        """
        x, y = (round(v / plan.level_scale) for v in xy)
        width, height = (math.ceil(s * plan.shrink - 1e-6) for s in size)
        return shrink(self._read_padded(plan.level, x, y, width, height), size, plan.shrink)

    def _read_padded(self, number: int, x: int, y: int, width: int, height: int) -> Pixels:
        level = self.levels[number]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, level.width), min(y + height, level.height)
        inside = right > left and bottom > top
        if inside and (right - left, bottom - top) == (width, height):
            return self._reader.read_level(number, x, y, width, height)
        out = np.full((height, width, 3), self.blank, np.uint8)
        if inside:
            pixels = self._reader.read_level(number, left, top, right - left, bottom - top)
            out[top - y : bottom - y, left - x : right - x] = pixels
        return out


def open_slide(
    path: str | Path, *, mpp: float | None = None, channels: str | Sequence[str | ChannelChoice] = ()
) -> Slide:
    """Open a slide of any supported format.

    Parameters
    ----------
    path
        A slide file, an OME-Zarr folder, or the name of a series on a DICOMweb server,
        ``dicomweb:https://SERVER/PATH/studies/STUDY/series/SERIES``.
    mpp : um/px at level 0
        Overrides what the slide states.
    channels
        Channels of a slide that is not in colour, as of fluorescence: three that are seen as red, green and blue, or
        one that is seen as grey, by their names or numbers; see `ChannelChoice`.

    Returns
    -------
    Slide
        A context manager that closes it.

    Raises
    ------
    UnsupportedSlideError
        If no reader opens it; the message holds each reader's reason.
    ChannelError
        If it is not in colour and no channels are chosen, or others than it has; the message names them.
    SlideError
        If its physical scale is missing or absurd and none is given.
    FileNotFoundError
        If there is no such file.
    RemoteError
        If a server cannot be reached, refuses, or has no such series.
    """
    path = slide_path(path)
    asked, found = choices(channels), open_reader(path)
    try:
        reader = _in_colour(found, asked, path.name)
        stated = reader.info.mpp if mpp is None else Mpp(mpp, mpp, "user")
        size = reader.levels[0].width, reader.levels[0].height
        return Slide(path, reader, checked_mpp(stated, path.name, size))
    except BaseException:
        found.close()
        raise


def slide_path(name: str | Path) -> Path:
    """Path of a slide as `Slide.path` has it: of one on a DICOMweb server its name, which is no file."""
    series = series_at(name)
    return series.path if series else Path(name)


def slide_channels(path: str | Path) -> tuple[Channel, ...]:
    """List the channels of a slide file.

    Parameters
    ----------
    path
        As `open_slide` takes it.

    Returns
    -------
    tuple of Channel
        Empty if it is in colour.
    """
    reader = open_reader(slide_path(path))
    try:
        return reader.info.channels
    finally:
        reader.close()


def _in_colour(found: Reader | ChannelReader, asked: tuple[ChannelChoice, ...], name: str) -> Reader:
    if isinstance(found, ChannelReader):
        return show(found, asked, name)
    if asked:
        raise ChannelError(
            f"{name} is in colour: it has no channels {', '.join(one.name for one in asked)}.",
            remedy="Leave them out (`channels`).",
            setting="channels",
        )
    return found
