"""Slides that are several files: which files belong to one slide.

A DICOM slide is a file per level, all in one folder and of one series; an MRXS or VMS
slide is an index beside its data; an OME-Zarr is a folder. Nothing is decoded here, and of
a DICOM header nothing is kept but the series it belongs to.
"""

import struct
from pathlib import Path
from typing import BinaryIO

INDEX_BYTES = 1 << 20  # of a VMS file, which is some lines of text
_MOST_ELEMENTS = 10_000  # of a DICOM header; one that goes on is no header
_LONG = frozenset([b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
"""Value representations whose length takes 32 bits (DICOM PS3.5, 7.1.2)."""
_SERIES, _SYNTAX, _ITEM_END, _SEQUENCE_END = 0x0020000E, 0x00020010, 0xFFFEE00D, 0xFFFEE0DD
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = (f"1.2.840.10008.1.2{tail}" for tail in ("", ".1.99", ".2"))
_UNDEFINED = 0xFFFFFFFF


def parts(path: Path) -> list[Path]:
    """All files that a slide is read from, in a fixed order; for most formats the file alone.

    Parameters
    ----------
    path
        What `open_slide` is given: any file of a DICOM series, the ``.mrxs``, ``.vms`` or
        ``.vmu`` file, or an OME-Zarr folder.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _below(path)
    if suffix == ".mrxs":
        return [path, *_below(path.with_suffix(""))]
    if suffix in (".vms", ".vmu"):
        with path.open("rb") as file:
            named = named_in(file.read(INDEX_BYTES))
        return [path, *(p for p in sorted(path.parent.iterdir()) if p.name in named and p.is_file())]
    if suffix == ".dcm" and (series := dicom_series(path)):
        return [p for p in sorted(path.parent.iterdir()) if p.suffix.lower() == ".dcm" and dicom_series(p) == series]
    return [path]


def named_in(index: bytes) -> set[str]:
    """What a VMS or VMU file names, the slide's other files among it."""
    return {line.partition("=")[2].strip() for line in index.decode("latin-1").splitlines()}


def dicom_series(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None if it has none that can be read."""
    try:
        with path.open("rb") as file:
            return _series(file) if file.read(132)[128:] == b"DICM" else None
    except (OSError, ValueError, struct.error):
        return None


def _series(file: BinaryIO) -> str | None:
    """Walk the data elements (DICOM PS3.5, 7.1), which come in the order of their tags."""
    syntax, depth = "", 0
    for _ in range(_MOST_ELEMENTS):
        group, element = struct.unpack("<HH", file.read(4))
        tag = group << 16 | element
        length = _length(file, explicit=group == 2 or syntax != _IMPLICIT, item=group == 0xFFFE)
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        elif depth == 0 and tag == _SERIES:
            return _uid(file, length)
        elif depth == 0 and tag > _SERIES:
            return None
        elif tag == _SYNTAX:
            syntax = _uid(file, length)
            if syntax in (_DEFLATED, _BIG_ENDIAN):  # neither is used for slides
                return None
        else:
            file.seek(length, 1)
    return None


def _length(file: BinaryIO, *, explicit: bool, item: bool) -> int:
    if explicit and not item:
        if file.read(2) not in _LONG:
            return int.from_bytes(file.read(2), "little")
        file.read(2)
    return int(struct.unpack("<I", file.read(4))[0])


def _uid(file: BinaryIO, length: int) -> str:
    return file.read(min(length, 64)).decode("ascii").rstrip("\0 ")


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
