"""Directory of a CZI, read before OpenSlide believes it, which divides by the size that a subblock is stored with.

Nothing but sizes is looked at. Layout: ZISRAWFILE names the place of ZISRAWDIRECTORY, which lists an entry for each
subblock, and each entry the axes that it lies on (ZEISS CZI file format, "DirectoryEntryDV").
"""

import os
import struct
from pathlib import Path

from wsi_umedpt.io.files import open_regular
from wsi_umedpt.slides.readers.base import ContentRefused, Refused

_FILE, _DIRECTORY = b"ZISRAWFILE", b"ZISRAWDIRECTORY"
_HEAD = 32
"""Bytes of the head of a segment."""
_PLACE = 52
"""Place of the directory's position, in the data of ZISRAWFILE."""
_LISTED = 128
"""Place of the first entry, in the data of ZISRAWDIRECTORY."""
_ENTRY, _AXIS = struct.Struct("<2s26xi"), struct.Struct("<4sii4xi")
_MOST_BYTES = 1 << 30
"""Most bytes of a directory; one of a million subblocks has a fifth of it."""
_MOST_AXES, _MOST_CHANNELS = 64, 10_000


def is_czi(path: Path) -> bool:
    """Return whether a file begins as a CZI does."""
    with open_regular(path) as file:
        return file.read(len(_FILE)) == _FILE


def check_czi(path: Path) -> None:
    """Refuse a CZI whose directory OpenSlide or libCZI would believe too much.

    Raises
    ------
    Refused
        If it lists subblocks that are stored without pixels; libCZI reads them.
    ContentRefused
        If it is damaged, or cut short.
    """
    try:
        data, count = _directory(path)
        at, stored_at_all = 0, True
        for _ in range(count):
            kind, axes = _ENTRY.unpack_from(data, at)
            if kind != b"DV" or not 0 <= axes <= _MOST_AXES:
                raise ContentRefused("its directory is damaged; copy the file again")
            at += _ENTRY.size
            for _ in range(axes):
                name, start, size, stored = _AXIS.unpack_from(data, at)
                at += _AXIS.size
                if name[:1] in (b"X", b"Y"):
                    stored_at_all &= size > 0 and stored > 0
                elif name[:1] == b"C" and not 0 <= start < _MOST_CHANNELS:
                    raise ContentRefused(f"its directory lists a channel of number {start:,}; no slide has as many")
    except struct.error:
        raise ContentRefused("its directory is cut short; copy the file again") from None
    if not stored_at_all:
        raise Refused("its directory lists subblocks that are stored without pixels")


def _directory(path: Path) -> tuple[bytes, int]:
    """Entries of the directory, and how many they are said to be."""
    with open_regular(path) as file:
        head = file.read(_HEAD + _PLACE + 8)
        (place,) = struct.unpack_from("<q", head, _HEAD + _PLACE)
        if not 0 < place < os.fstat(file.fileno()).st_size:
            raise ContentRefused("its directory lies outside of the file; copy it again")
        file.seek(place)
        name, allocated, used = struct.unpack("<16sqq", file.read(_HEAD))
        used = used or allocated  # 0 where what wrote it did not say
        (count,) = struct.unpack("<i", file.read(4))
        if name.rstrip(b"\0") != _DIRECTORY or not 0 <= used <= _MOST_BYTES or count < 0:
            raise ContentRefused("its directory is damaged; copy the file again")
        file.seek(place + _HEAD + _LISTED)
        return file.read(used), count
