"""The directories of a TIFF, walked within bounds before any library follows them.

libtiff, OpenSlide and tifffile follow a file's pointers for as long as there are any, and
allocate what its tags ask for. `read_directories` follows each pointer once;
`check_directories` refuses what no reader may be handed: loops, files that are cut short,
tiles that are missing, absurd or longer than the file.

Read top to bottom: `Directory` (one page), `Directories` (the file), the two functions.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from wsi_umedpt.io.files import open_regular
from wsi_umedpt.slides.readers.base import ContentRefused, checked_size

MOST_DIRECTORIES = 10_000
"""Most directories of one file, SubIFDs among them; no slide has as many."""
MAX_TILE_SIDE = 8192
_MOST_TAGS = 4096  # of one directory
_MOST_BYTES = 1 << 28  # of the values of one tag: where 30 million tiles lie
_LEAST_STORED = 0.01  # of the tiles of a level: sparse slides leave out glass, not 99 % of themselves
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FORMS = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_RATIONAL = (5, 10)
_NDPI = 65420  # a tag of every directory of Hamamatsu's NDPI, whose offsets have 64 bits in a classic TIFF

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Tag:
    kind: int
    count: int
    at: int
    """Offset of its values in the file."""
    inline: bytes | None
    """The values, where they lie in the directory itself: the file is not asked again."""


@dataclass(frozen=True)
class Directory:
    """One image file directory: a page, or a SubIFD of one."""

    file: "Directories"
    offset: int
    tags: dict[int, _Tag]
    subs: tuple["Directory", ...] = ()

    def numbers(self, code: int) -> Numbers:
        """All values of a tag; empty if it is missing or holds text.

        Raises
        ------
        ContentRefused
            If they lie outside the file.
        """
        tag = self.tags.get(code)
        if tag is None or tag.kind not in _SIZES:
            return np.empty(0, np.int64)
        size = tag.count * _SIZES[tag.kind]
        if size > _MOST_BYTES:
            raise ContentRefused(f"its tag {code} claims {tag.count:,} values; no slide has as many")
        data = self.file.bytes_at(tag.at, size) if tag.inline is None else tag.inline[:size]
        if tag.kind in _RATIONAL:
            pairs = np.frombuffer(data, self.file.order + ("u4" if tag.kind == 5 else "i4")).reshape(-1, 2)
            return np.asarray(pairs[:, 0] / np.maximum(pairs[:, 1], 1), np.float64)
        if tag.kind not in _FORMS:
            return np.empty(0, np.int64)
        values: npt.NDArray[Any] = np.frombuffer(data, self.file.order + _FORMS[tag.kind])
        if values.dtype.kind == "f":
            return values.astype(np.float64)
        if values.dtype.kind == "u" and values.dtype.itemsize == 8:
            values = np.minimum(values, np.iinfo(np.int64).max)
        return values.astype(np.int64)

    def number(self, code: int, default: int) -> int:
        """The first value of a tag, or a default if there is none."""
        values = self.numbers(code)
        return int(values[0]) if len(values) else default

    def text(self, code: int, most: int = 1 << 16) -> str:
        """The text of a tag, of at most so many bytes; empty if it is missing."""
        tag = self.tags.get(code)
        if tag is None or tag.kind not in (1, 2, 7):
            return ""
        count = min(tag.count, most)
        data = self.file.bytes_at(tag.at, count) if tag.inline is None else tag.inline[:count]
        return data.split(b"\0")[0].decode("utf-8", "replace")

    @cached_property
    def width(self) -> int:
        """Columns of its image, px."""
        return self.number(256, 0)

    @cached_property
    def height(self) -> int:
        """Rows of its image, px."""
        return self.number(257, 0)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""
        return self.width, self.height

    @property
    def is_tiled(self) -> bool:
        """Return whether its pixels lie in tiles rather than strips."""
        return 322 in self.tags or 324 in self.tags

    @property
    def is_reduced(self) -> bool:
        """Return whether it claims to be a smaller version of another image of the file."""
        return bool(self.number(254, 0) & 1) or self.number(255, 0) == 2

    @property
    def is_mask(self) -> bool:
        """Return whether it claims to be a transparency mask of another image."""
        return bool(self.number(254, 0) & 4) or self.number(262, 1) == 4


@dataclass(frozen=True)
class Directories:
    """All directories of a TIFF."""

    path: Path
    size: int
    """Size of the file, bytes."""
    order: str
    """Byte order, '<' or '>'."""
    is_ndpi: bool
    pages: list[Directory]

    def all(self) -> Iterator[Directory]:
        """Every page, each followed by its SubIFDs."""
        todo = list(reversed(self.pages))
        while todo:
            one = todo.pop()
            yield one
            todo += reversed(one.subs)

    def bytes_at(self, start: int, count: int) -> bytes:
        """Bytes of the file.

        Raises
        ------
        ContentRefused
            If the file does not have them.
        """
        if start + count > self.size:
            raise _cut(f"a tag's values reach to byte {start + count:,}", self.size)
        with open_regular(self.path) as file:
            file.seek(start)
            return file.read(count)


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a TIFF or BigTIFF does, whatever it is called."""
    with open_regular(path) as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_directories(path: Path) -> Directories:
    """Walk all directories of a TIFF, SubIFDs included, each once.

    Raises
    ------
    ContentRefused
        If they form a loop, are too many, or lie outside the file.
    """
    with open_regular(path) as file:
        return _Walk(path, file).walk()


class _Walk:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = file.seek(0, 2)
        self._seen: set[int] = set()
        file.seek(0)
        head = file.read(16).ljust(16, b"\0")
        self._order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\0", b"\0+")
        # Only Hamamatsu writes classic TIFFs with offsets of 64 bits.
        self._ndpi = not self._big and (path.suffix.lower() == ".ndpi" or self._size > 1 << 32)
        wide = self._big or self._ndpi
        self._first = int(struct.unpack_from(self._order + ("Q" if wide else "I"), head, 8 if self._big else 4)[0])

    def walk(self) -> Directories:
        pages: list[Directory] = []
        found = Directories(self._path, self._size, self._order, self._ndpi, pages)
        offset = self._first
        while offset:
            one, offset = self._read(found, offset, depth=0)
            pages.append(one)
            if len(pages) == 1 and _NDPI in one.tags and not self._big and not self._ndpi:
                self._ndpi = True  # under another name
                object.__setattr__(found, "is_ndpi", True)
                offset = self._next_wide(one)
        if not pages:
            raise ContentRefused("it is a TIFF without any image")
        return found

    def _next_wide(self, one: Directory) -> int:
        return int(struct.unpack("<Q", self._take(one.offset + 2 + 12 * len(one.tags), 8))[0])

    def _read(self, found: Directories, offset: int, depth: int) -> tuple[Directory, int]:
        if offset in self._seen:
            raise ContentRefused(
                f"its directories form a loop: one that was read already, at byte {offset:,}, is pointed to again. "
                "The file is damaged; export it again"
            )
        if len(self._seen) >= MOST_DIRECTORIES:
            raise ContentRefused(f"it has over {MOST_DIRECTORIES:,} directories; no slide has as many")
        self._seen.add(offset)
        form, width, entry = ("Q", 8, 20) if self._big else ("H", 2, 12)
        (count,) = struct.unpack(self._order + form, self._take(offset, width))
        if not 0 < count <= _MOST_TAGS:
            raise ContentRefused(f"its directory at byte {offset:,} claims {count:,} tags: the file is damaged")
        after = 8 if self._big or self._ndpi else 4
        data = self._take(offset + width, entry * count + after)
        tags: dict[int, _Tag] = {}
        for n in range(count):
            at = offset + width + n * entry
            code, kind, values = struct.unpack_from(self._order + ("HHQ" if self._big else "HHI"), data, n * entry)
            inline = entry - 12 if self._big else 4
            held: bytes | None = data[(n + 1) * entry - inline : (n + 1) * entry]
            where = at + entry - inline
            if _SIZES.get(kind, 1) * values > inline:
                (where,) = struct.unpack(self._order + ("Q" if self._big else "I"), held or b"")
                held = None
            tags.setdefault(code, _Tag(kind, values, where, held))
        (following,) = struct.unpack(self._order + ("Q" if after == 8 else "I"), data[-after:])
        one = Directory(found, offset, tags)
        subs = tuple(self._read(found, int(sub), depth + 1)[0] for sub in self._subs(one, depth))
        return Directory(found, offset, tags, subs), int(following)

    def _subs(self, one: Directory, depth: int) -> Numbers:
        tag = one.tags.get(330)
        if tag is None or self._ndpi:
            return np.empty(0, np.int64)
        if depth > 2 or tag.count > MOST_DIRECTORIES:
            raise ContentRefused("its SubIFDs nest, or claim to be, more than any slide's: the file is damaged")
        return one.numbers(330)

    def _take(self, start: int, count: int) -> bytes:
        if start + count > self._size:
            raise _cut(f"its directory at byte {start:,} is not there", self._size)
        self._file.seek(start)
        return self._file.read(count)


def _cut(what: str, size: int) -> ContentRefused:
    return ContentRefused(f"the file is cut short, or damaged: it has {size:,} bytes, and {what}; copy it again")


def check_directories(found: Directories) -> None:
    """Refuse a TIFF whose pixels are not there, or whose tags claim what cannot be.

    OpenSlide allocates what TileWidth, TileLength and TileByteCounts ask for, and GLib ends
    the whole process where there is not as much memory.

    Raises
    ------
    ContentRefused
        If a tile is absurdly large or longer than the file, a level lists too few tiles or
        almost none that hold anything, or the file ends before its pixels do.
    """
    if found.is_ndpi:
        return  # its pixels lie in strips of up to a whole level
    there = claimed = 0
    for one in found.all():
        if one.is_tiled:
            _check_tiles(one)
        offsets, counts = _segments(one)
        there += int(np.clip(found.size - offsets, 0, counts).sum())
        claimed += int(counts.sum())
    if there < claimed:
        raise ContentRefused(f"the file is cut short ({there:,} of {claimed:,} bytes of tile data); copy it again")


def _segments(one: Directory) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offsets and lengths of tiles or strips; both cut to the shorter list."""
    offsets, counts = (one.numbers(code).astype(np.int64) for code in ((324, 325) if one.is_tiled else (273, 279)))
    both = min(len(offsets), len(counts))
    # so that a sum of two cannot leave 64 bits
    return np.minimum(offsets[:both], 1 << 61), np.minimum(counts[:both], 1 << 61)


def _check_tiles(one: Directory) -> None:
    width, height = checked_size(*one.size)
    tile_width, tile_height = one.number(322, 0), one.number(323, 0)
    if not (tile_width and tile_height):
        raise ContentRefused("its tags do not say how large a tile is: the file is damaged")
    for code, name in ((324, "TileOffsets"), (325, "TileByteCounts")):
        if code not in one.tags:
            raise ContentRefused(f"it has tiles, but no {name}: the file is damaged, or was never finished")
    across, down = -(-width // tile_width), -(-height // tile_height)
    offsets, counts = _segments(one)
    if max(tile_width, tile_height) > MAX_TILE_SIDE or across * down > len(offsets):
        raise ContentRefused(
            f"its tags claim {width} x {height} px in tiles of {tile_width} x {tile_height} px, of which it lists "
            f"{len(offsets)}"
        )
    stored = np.flatnonzero(counts)
    missing = len(counts) - len(stored)
    # Whoever leaves out glass leaves out tiles here and there; whoever was stopped, all from one on.
    stopped = missing > len(stored) == int(stored.max(initial=-1)) + 1
    if missing and (len(stored) < _LEAST_STORED * len(counts) or stopped):
        raise ContentRefused(
            f"{missing:,} of the {len(counts):,} tiles of its image of {width} x {height} px are missing: what wrote "
            "it was interrupted, or has not finished. Export it again"
        )
