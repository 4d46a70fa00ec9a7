"""Interface of readers: levels, a physical scale, and pixels as they are stored.

A reader does no resampling, no padding and sets no policy; `wsi_umedpt.slides.slide.Slide` does.
Readers whose pixels lie in tiles that decode alone also offer `native_tiles`, which lets
`wsi_umedpt.slides.tile_loader` decode each of them once. A slide whose channels are no colours is a `ChannelReader`, of
which `wsi_umedpt.slides.channels` makes a `Reader` once somebody says which channels are to be seen.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import RemoteError
from wsi_umedpt.geometry import Box, Mpp

Pixels = npt.NDArray[np.uint8]
"""(rows, cols, 3) RGB, C-contiguous."""
Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(rows, cols) of one channel, as it is stored."""

MAX_SIDE = 4_000_000
"""No slide is wider, px: a header that claims more is a bomb or damaged."""


class Refused(Exception):
    """Reason why this reader does not open this file; the next one is asked."""


class ContentRefused(Refused):
    """Fault of the file itself, or of its content: no other reader is asked.

    Another would take it for something that it is not: planes of colours for grey, a thumbnail
    for the slide, what is missing for black.
    """


@dataclass(frozen=True)
class Level:
    """One raster of the pyramid."""

    width: int
    height: int
    scale: float
    """Level-0 px per px of this level."""


@dataclass(frozen=True)
class Channel:
    """A channel of a slide that is not in colour."""

    name: str
    """As the slide names it (DAPI), or its number where it does not."""
    dtype: str
    """uint8 or uint16."""


@dataclass(frozen=True)
class SlideInfo:
    """Facts that a reader knows of a slide. Never raw vendor metadata: that carries patient data."""

    vendor: str
    mpp: Mpp | None
    objective: float | None = None
    """Objective power, as in 20 for 20x."""
    bounds: Box | None = None
    """Region where the scanner put pixels, level-0 px; None if that is the whole slide."""
    channels: tuple[Channel, ...] = ()
    """Channels of a slide that is not in colour."""
    fingerprint: str = ""
    """Fingerprint, of a slide that is no file; else empty."""


class NativeTiles(Protocol):
    """The compressed tiles of one level, each decodable alone and from any thread."""

    tile_width: int
    tile_height: int
    scalable: bool
    """True if `decode` can shrink by 2, 4 or 8 while decoding (JPEG's DCT scaling)."""

    def decode(self, col: int, row: int, *, shrink: int, buffer: Pixels) -> Pixels | None:
        """Decode one tile into `buffer` (1-D, large enough).

        Returns
        -------
        uint8 (tile_height / shrink, tile_width / shrink, 3), or None
            A view of `buffer`; None for a tile that the file leaves out, which is white.

        Raises
        ------
        PixelError
            If the tile is damaged.
        """
        ...


@runtime_checkable
class ExpectingTiles(Protocol):
    """Native tiles that are cheaper several at a time, as those that a server is asked for."""

    def expect(self, tiles: Sequence[tuple[int, int]]) -> None:
        """Be told which tiles (column, row) will be decoded next, in about this order."""
        ...


class Reader(Protocol):
    """An open slide file. `read_level` may be called from several threads."""

    name: str
    levels: tuple[Level, ...]
    info: SlideInfo

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle that lies inside a level; transparent is white.

        Parameters
        ----------
        level
            Number of the level; 0 is the finest.
        x, y, width, height : px of that level
            The rectangle.
        """
        ...

    def native_tiles(self, level: int) -> NativeTiles | None:
        """The level's own tiles, or None where pixels do not come that way."""
        ...

    def close(self) -> None:
        """Free the file."""
        ...


@runtime_checkable
class ChannelReader(Protocol):
    """An open slide of channels that are no colours. `read_channel` may be called from several threads."""

    name: str
    levels: tuple[Level, ...]
    info: SlideInfo
    """`channels` are at least one."""

    def read_channel(self, level: int, channel: int, x: int, y: int, width: int, height: int) -> Plane:
        """Read a rectangle that lies inside a level, of one channel; what the file leaves out is 0.

        Parameters
        ----------
        level
            Number of the level; 0 is the finest.
        channel
            Index in `SlideInfo.channels`.
        x, y, width, height : px of that level
            The rectangle.
        """
        ...

    def tile_size(self, level: int) -> tuple[int, int] | None:
        """(width, height) of what is decoded at a time, px; None where any rectangle costs what its size does."""
        ...

    def close(self) -> None:
        """Free the file."""
        ...


AnyReader = Reader | ChannelReader


class OpenReader(Protocol):
    """Opens a path, or raises `Refused` with the reason."""

    def __call__(self, path: Path) -> AnyReader:
        """Open it."""
        ...


def checked_size(width: int, height: int) -> tuple[int, int]:
    """Refuse dimensions that no slide has."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ContentRefused(f"the file claims {width} x {height} px; no slide has such a size")
    return width, height


@contextmanager
def closed_where_refused(file: Any, part: str) -> Iterator[None]:
    """Close a file of another library that turns out to be none of a slide; the library's errors are `ContentRefused`.

    Parameters
    ----------
    file
        File with ``close``.
    part
        Part of the file that is looked at, in the plural, for the message.
    """
    try:
        yield
    except (Refused, RemoteError):
        file.close()
        raise
    except Exception as error:  # noqa: BLE001 - what is read there can be wrong in any way
        file.close()
        raise ContentRefused(f"its {part} cannot be used: {type(error).__name__}: {error}") from None


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Number of threads that decode what is looked at: as many as the cores that this process may use, at most 8."""
    return min(8, usable_cores())
