"""Headers of DICOM slides, read before OpenSlide believes them.

Nothing is decoded, and of the header nothing is kept but sizes, kinds and the series: the rest
is of the patient. OpenSlide lays the frames of a TILED_FULL image out by its totals, so that
totals that contradict the frames shift every row; of TILED_SPARSE without positions it crashes.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from wsi_umedpt.io.files import open_regular
from wsi_umedpt.slides.readers.base import ContentRefused

_MOST_ELEMENTS = 10_000  # of a header; one that goes on is no header
_LONG = frozenset([b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
"""Value representations whose length takes 32 bits (DICOM PS3.5, 7.1.2)."""
_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = (f"1.2.840.10008.1.2{tail}" for tail in ("", ".1.99", ".2"))
_NATIVE = (_IMPLICIT, _IMPLICIT + ".1")
_UNDEFINED = 0xFFFFFFFF
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # the SOP class of whole-slide images
_SYNTAX, _SERIES, _FRAMES, _POSITIONS, _PIXELS = 0x00020010, 0x0020000E, 0x00280008, 0x52009230, 0x7FE00010
_PLANE_POSITION = struct.pack("<HH", 0x0048, 0x021A)
_POSITION_BYTES = 16 << 20  # of the positions of frames that are looked at
_TAIL_BYTES = 1 << 16
TEXTS = {0x00080008: "kind", 0x00080016: "sop_class", _SERIES: "series", 0x00209311: "organisation"}
NUMBERS = {
    0x00280002: "samples", _FRAMES: "frames", 0x00280010: "rows", 0x00280011: "columns", 0x00280100: "bits",
    0x00480006: "total_columns", 0x00480007: "total_rows", 0x00480303: "focal_planes", 0x00480302: "optical_paths",
    0x00209163: "part_of_many",
}  # fmt: skip


@dataclass
class Header:
    """Fields of a header that are kept."""

    syntax: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    positions: int = 0
    """Frames that say where they lie."""
    positions_whole: bool = True
    """True if all of them were counted."""

    @property
    def is_slide(self) -> bool:
        """Return whether it is a whole-slide image of visible light."""
        return self.texts.get("sop_class") == _SLIDE

    @property
    def is_volume(self) -> bool:
        """Return whether it is a level of the pyramid rather than a label, an overview or a thumbnail."""
        return "VOLUME" in self.texts.get("kind", "").split("\\")


def dicom_series(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None if it has none that can be read."""
    header = read_header(path, until=_SERIES)
    return header.texts.get("series") if header else None


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM does."""
    with open_regular(path) as file:
        return file.read(132)[128:] == b"DICM"


def may_be_dicom(path: Path) -> bool:
    """Return whether a file's name is one that DICOM files have: ``.dcm``, no suffix, or a number (of a UID)."""
    suffix = path.suffix.lower()
    return suffix in ("", ".dcm", ".dicom") or suffix[1:].isdigit()


def is_dicom_slide(path: Path) -> bool:
    """Return whether a file is DICOM and a level, label or overview of a slide, whatever it is called."""
    header = read_header(path, until=_SERIES)
    return header is not None and header.is_slide


def read_header(path: Path, until: int = _PIXELS) -> Header | None:
    """Walk the data elements of a file up to a tag; None if it is no DICOM that could be a slide."""
    header = Header()
    try:
        with open_regular(path) as file:
            if file.read(132)[128:] != b"DICM":
                return None
            _walk(file, header, until)
    except (OSError, ValueError, struct.error):
        return header if header.texts else None  # what came before the damage
    return header


def _walk(file: BinaryIO, header: Header, until: int) -> None:
    """Read what is asked for (DICOM PS3.5, 7.1): elements come in the order of their tags."""
    depth = 0
    for _ in range(_MOST_ELEMENTS):
        group, element = struct.unpack("<HH", file.read(4))
        tag = group << 16 | element
        length = _length(file, explicit=group == 2 or header.syntax != _IMPLICIT, item=group == 0xFFFE)
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif depth == 0 and tag > until:
            return
        elif depth == 0 and tag == _POSITIONS:
            _count_positions(file, header, length)
            if length == _UNDEFINED:
                return
        elif depth == 0 and tag == _PIXELS:
            return
        elif length == _UNDEFINED:
            depth += 1
        elif depth == 0 and (tag == _SYNTAX or tag in TEXTS or tag in NUMBERS):
            _keep(header, tag, file.read(min(length, 256)))
            file.seek(max(0, length - 256), 1)
            if header.syntax in (_DEFLATED, _BIG_ENDIAN):  # neither is used for slides
                return
        else:
            file.seek(length, 1)
        if depth == 0 and tag == until:
            return


def _keep(header: Header, tag: int, value: bytes) -> None:
    if tag == _FRAMES:  # a number as text
        header.numbers[NUMBERS[tag]] = int(value.decode("ascii").strip("\0 "))
    elif tag in NUMBERS:
        header.numbers[NUMBERS[tag]] = int.from_bytes(value[:4], "little")
    elif tag == _SYNTAX:
        header.syntax = value.decode("ascii").rstrip("\0 ")
    else:
        header.texts[TEXTS[tag]] = value.decode("ascii").rstrip("\0 ")[:128]


def _count_positions(file: BinaryIO, header: Header, length: int) -> None:
    data = file.read(min(length, _POSITION_BYTES))
    if length == _UNDEFINED:  # its end is not known, but the pixels are not it
        data = data.partition(struct.pack("<HH", 0x7FE0, 0x0010))[0]
    header.positions = data.count(_PLANE_POSITION)
    header.positions_whole = len(data) < _POSITION_BYTES
    if length != _UNDEFINED:
        file.seek(length - len(data), 1)


def _length(file: BinaryIO, *, explicit: bool, item: bool) -> int:
    if explicit and not item:
        if file.read(2) not in _LONG:
            return int.from_bytes(file.read(2), "little")
        file.read(2)
    return int(struct.unpack("<I", file.read(4))[0])


def check_dicom(path: Path) -> None:
    """Refuse a DICOM image whose frames cannot be laid out as its header says; other files pass.

    Raises
    ------
    ContentRefused
        If its frames are too few or too many for its totals, have no positions, are of several focal planes or
        stains, or the file ends before they do.
    """
    header = read_header(path)
    if header is None or not header.is_volume:
        return
    if raw := check_header(path.name, header):
        _check_end(path, header, raw)


def check_header(name: str, header: Header) -> int:
    """Refuse a level whose frames cannot be laid out as its header says; see `check_dicom`.

    Returns
    -------
    int
        Bytes of its frames, not compressed; 0 if the header lacks what lays them out, which whoever reads it says.
    """
    n = header.numbers
    frames, rows, columns = n.get("frames", 1), n.get("rows", 0), n.get("columns", 0)
    if not (rows and columns and n.get("total_rows") and n.get("total_columns")):
        return 0
    if n.get("part_of_many", 1) > 1:
        raise ContentRefused(f"{name} is one part of an image that was cut into several files (a concatenation)")
    for key, words in (("focal_planes", "focal planes (a Z stack)"), ("optical_paths", "optical paths (stains)")):
        if n.get(key, 1) > 1:
            raise ContentRefused(f"{name} holds {n[key]} {words}; which is the slide is not said")
    needed = -(-n["total_columns"] // columns) * -(-n["total_rows"] // rows)
    full = header.texts.get("organisation", "TILED_FULL") == "TILED_FULL"
    if full and frames != needed and not (header.positions and "organisation" not in header.texts):
        raise ContentRefused(
            f"{name} says that {n['total_columns']} x {n['total_rows']} px are tiled in full by frames of "
            f"{columns} x {rows} px: {needed} of them, and it holds {frames}. It is damaged, or was never finished"
        )
    if not full and header.positions < (frames if header.positions_whole else 1):
        raise ContentRefused(
            f"{name} is tiled sparsely, and {frames - header.positions} of its {frames} frames do not say where "
            "they lie. Export it again"
        )
    return int(frames * rows * columns * max(1, n.get("samples", 3)) * max(1, n.get("bits", 8) // 8))


def _check_end(path: Path, header: Header, raw: int) -> None:
    """Refuse a file that ends before its frames do."""
    size = path.stat().st_size
    if header.syntax in _NATIVE:
        if size < raw:
            raise ContentRefused(f"{path.name} is cut short ({size:,} of over {raw:,} bytes); copy it again")
        return
    with open_regular(path) as file:
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    # Compressed frames are a sequence of items that ends with a delimiter; after it comes padding, if anything.
    _, end, after = tail.rpartition(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    if not end or (len(after) >= 4 and struct.unpack("<H", after[:2])[0] <= 0x7FE0 and after.strip(b"\0")):
        raise ContentRefused(f"{path.name} is cut short: its last frame does not end; copy it again")
