"""What every reader gives: levels, a physical scale, and pixels as they are stored.

A reader does no resampling, no padding and sets no policy; `wsi_umedpt.slide.Slide` does.
Readers whose pixels lie in tiles that decode alone also offer `native_tiles`, which lets
`wsi_umedpt.loading` decode each of them once.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsi_umedpt.geometry import Box, Mpp

Pixels = npt.NDArray[np.uint8]
"""(rows, cols, 3) RGB, C-contiguous."""

MAX_SIDE = 4_000_000
"""No slide is wider, px: a header that claims more is a bomb or damaged."""


class Refused(Exception):
    """Why this reader does not open this file; the next one is asked."""


class ContentRefused(Refused):
    """What is wrong with the file itself, or with what it holds: no other reader is asked.

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
class SlideInfo:
    """What a reader knows of a slide. Never raw vendor metadata: that carries patient data."""

    vendor: str
    mpp: Mpp | None
    objective: float | None = None
    """Objective power, as in 20 for 20x."""
    bounds: Box | None = None
    """Where the scanner put pixels, level-0 px; None if that is the whole slide."""


class NativeTiles(Protocol):
    """The compressed tiles of one level, each decodable alone and from any thread."""

    tile_width: int
    tile_height: int
    scalable: bool
    """Whether `decode` can shrink by 2, 4 or 8 while decoding (JPEG's DCT scaling)."""

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


class Reader(Protocol):
    """An open slide file. `read_level` may be called from several threads."""

    name: str
    levels: tuple[Level, ...]
    info: SlideInfo

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle that lies inside a level; transparent is white.

        Parameters
        ----------
        x, y, width, height : px of that level
        """
        ...

    def native_tiles(self, level: int) -> NativeTiles | None:
        """The level's own tiles, or None where pixels do not come that way."""
        ...

    def close(self) -> None:
        """Free the file."""
        ...


class OpenReader(Protocol):
    """Opens a path, or raises `Refused` with the reason."""

    def __call__(self, path: Path) -> Reader:
        """Open it."""
        ...


def checked_size(width: int, height: int) -> tuple[int, int]:
    """Refuse dimensions that no slide has."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ContentRefused(f"the file claims {width} x {height} px; no slide has such a size")
    return width, height


def default_threads() -> int:
    """How many threads decode: as many as the cores that this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
