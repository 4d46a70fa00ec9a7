"""A slide as a continuous pyramid: any box at any um/px, level choice and resampling in one place.

`open_slide` picks the reader and settles the physical scale; `Slide.read` is what users
call; `Slide.plan` and `shrink` are what `wsi_umedpt.loading` shares with it, so that tiles
in bulk and single boxes are the same pixels.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Literal, Self, final

import cv2
import numpy as np

from wsi_umedpt.errors import SlideError
from wsi_umedpt.files import open_regular
from wsi_umedpt.geometry import Box, Mpp, checked_mpp, snap_scale
from wsi_umedpt.readers import open_reader
from wsi_umedpt.readers.base import Level, NativeTiles, Pixels, Reader
from wsi_umedpt.readers.parts import parts
from wsi_umedpt.stalls import STALL_S

Resampling = Literal["area", "dct"]
"""How pixels are shrunk: by exact area averaging, or, where tiles are JPEG and the factor is
2, 4 or 8, in the decoder ('dct': faster, about 41 dB from area averaging)."""

ReadBlocks = Callable[[str, Sequence[tuple[int, int]]], Iterable[bytes]]

WHITE = 255
_BLOCK = 1 << 16
_BLOCKS = 16


@dataclass(frozen=True)
class ReadPlan:
    """How a scale is read: which level, and what is left to shrink."""

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
        """Seconds without progress after which `wsi_umedpt.loading.read_tiles` gives up."""

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
        """Who states the mpp: 'vendor', 'tiff resolution', 'ome', 'objective power' or 'user'."""
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
        """Where the scanner put pixels, level-0 px, if it says so (as MRXS does)."""
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
    def fingerprint(self) -> str:
        """sha256 over the file's size and blocks spread over it; see `fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.path)
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
        """The level's compressed tiles, where they can be decoded alone."""
        return self._reader.native_tiles(level)

    def plan(self, scale: float, size_px: int, *, upsample: bool = False) -> ReadPlan:
        """Choose the coarsest level that needs no magnifying.

        Parameters
        ----------
        scale : level-0 px per output px
        size_px : side of the output, px
            The larger the output, the less a scale may be rounded; see `snap_scale`.

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
        """Read a box at a resolution; what lies outside the slide is white.

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
        """Read `size` (width, height) output pixels from `xy`, level-0 px, as `plan` says."""
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
        out = np.full((height, width, 3), WHITE, np.uint8)
        if inside:
            pixels = self._reader.read_level(number, left, top, right - left, bottom - top)
            out[top - y : bottom - y, left - x : right - x] = pixels
        return out


def shrink(pixels: Pixels, size: tuple[int, int], factor: float, out: Pixels | None = None) -> Pixels:
    """Average the area under each output pixel, exactly, also for fractional factors.

    Parameters
    ----------
    pixels : uint8 (rows, cols, 3)
        Covers at least ``size * factor``.
    size : (width, height) of the result, px
    factor : input px per output px; below 1 it magnifies, linearly
    """
    width, height = size
    if factor == 1:
        result = pixels[:height, :width]
    elif factor == int(factor):
        n = int(factor)
        result = cv2.resize(pixels[: height * n, : width * n], size, dst=out, interpolation=cv2.INTER_AREA)
    else:
        # Given fx and fy rather than a size, OpenCV keeps the fractional factor exactly.
        method = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
        resized = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=method)
        result = resized[:height, :width]
    if out is not None and result is not out:
        out[:] = result
        return out
    return np.asarray(result, np.uint8)


def open_slide(path: str | Path, *, mpp: float | None = None) -> Slide:
    """Open a slide of any supported format.

    Parameters
    ----------
    path
        A slide file, or an OME-Zarr folder.
    mpp : um/px at level 0
        Overrides what the slide states.

    Raises
    ------
    UnsupportedSlideError
        If no reader opens it; the message holds each reader's reason.
    SlideError
        If its physical scale is missing or absurd and none is given.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    reader = open_reader(path)
    try:
        stated = reader.info.mpp if mpp is None else Mpp(mpp, mpp, "user")
        size = reader.levels[0].width, reader.levels[0].height
        return Slide(path, reader, checked_mpp(stated, path.name, size))
    except BaseException:
        reader.close()
        raise


def fingerprint(path: Path) -> str:
    """Identify a slide's content without reading all of it, whatever its file is called.

    Of a file: sha256 over its size and 16 blocks of 64 KiB spread evenly, first and last
    included. Of a slide of several files (DICOM, MRXS, VMS; see `readers.parts`): over the
    sorted fingerprints of the files. Of a folder (OME-Zarr): over the names and sizes of all
    files below it, and such blocks of all metadata and of 16 chunk files spread evenly over
    their names.
    """
    base = path if path.is_dir() else path.parent

    def read(name: str, blocks: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with open_regular(base / name) as file:
            for start, end in blocks:
                file.seek(start)
                yield file.read(end - start)

    sizes = {file.relative_to(base).as_posix(): file.stat().st_size for file in parts(path)}
    return fingerprint_of(sizes, read, folder=path.is_dir())


def fingerprint_of(sizes: Mapping[str, int], read: ReadBlocks, *, folder: bool) -> str:
    """Identify a slide whose files lie anywhere; see `fingerprint`.

    Parameters
    ----------
    sizes
        Bytes of its files, by name; of a folder, of all files below it.
    read
        Gives the bytes of a file from one to before another, for each such pair.
    folder
        Whether the slide is a folder.
    """
    if folder:
        return _of_folder(sizes, read)
    each = [_of_blocks(hashlib.sha256(), name, size, read).hexdigest() for name, size in sizes.items()]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def _of_folder(sizes: Mapping[str, int], read: ReadBlocks) -> str:
    digest = hashlib.sha256()
    names = sorted(sizes, key=PurePosixPath)
    for name in names:
        digest.update(f"{name}\0{sizes[name]}\0".encode())
    metadata = [n for n in names if n.endswith(".json") or PurePosixPath(n).name.startswith(".z")]
    chunks = sorted(set(names) - set(metadata), key=PurePosixPath)
    spread = sorted({(len(chunks) - 1) * n // (_BLOCKS - 1) for n in range(_BLOCKS)}) if chunks else []
    for name in (*metadata, *(chunks[n] for n in spread)):
        _of_blocks(digest, name, sizes[name], read)
    return digest.hexdigest()


def _of_blocks(digest: "hashlib._Hash", name: str, size: int, read: ReadBlocks) -> "hashlib._Hash":
    digest.update(f"{size}\0".encode())
    starts = [(size - _BLOCK) * n // (_BLOCKS - 1) for n in range(_BLOCKS)]
    whole = size <= _BLOCK * _BLOCKS
    for part in read(name, [(0, size)] if whole else [(start, start + _BLOCK) for start in starts]):
        digest.update(part)
    return digest
