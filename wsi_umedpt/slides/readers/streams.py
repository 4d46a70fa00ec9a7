"""Size that a compressed picture claims, read before a decoder allocates it.

Codecs of raw bytes (deflate, LZW, zstd) are told how much may come out. Those of whole pictures
(JPEG, JPEG 2000, WebP, PNG) believe their own header, which in a tile of some bytes may claim
gigabytes.
"""

import struct

from wsi_umedpt.slides.readers.base import ContentRefused

_RAW = frozenset([1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000])
_JPEG = frozenset([6, 7, 33007])
_JPEG2000 = frozenset([33003, 33004, 33005, 34712])
_PNG, _WEBP = 34933, 50001
_SIZ = b"\xff\x4f\xff\x51"  # begins a codestream of JPEG 2000 and holds its size (ISO 15444-1, A.5.1)
_NO_SIZE = frozenset([0xC4, 0xC8, 0xCC])  # among the markers C0 to CF, those that begin no frame


def check_codec(compression: int) -> None:
    """Refuse a way of compressing whose claims cannot be checked.

    Raises
    ------
    ContentRefused
        If it is none of those above.
    """
    if compression not in _RAW | _JPEG | _JPEG2000 | {_PNG, _WEBP}:
        name = getattr(compression, "name", str(int(compression)))
        raise ContentRefused(f"is compressed as {name}, which is not read; export it with JPEG, deflate or LZW")


def check_stream(compression: int, data: bytes, width: int, height: int) -> None:
    """Check that a compressed picture claims to be no larger than its place.

    Raises
    ------
    ValueError
        If it does, or does not say how large it is.
    """
    if compression in _RAW:
        return
    size = stated_size(compression, data)
    if size is None:
        raise ValueError("it does not say how large it is")
    if size[0] > width or size[1] > height:
        raise ValueError(f"it claims {size[0]} x {size[1]} px, and has room for {width} x {height}")


def stated_size(compression: int, data: bytes) -> tuple[int, int] | None:
    """(width, height) of a compressed picture, px; None if it does not say it."""
    try:
        if compression in _JPEG:
            return _of_jpeg(data)
        if compression in _JPEG2000:
            at = data.find(_SIZ, 0, 4096)
            left, top = struct.unpack_from(">II", data, at + 16)
            right, bottom = struct.unpack_from(">II", data, at + 8)
            return (right - left, bottom - top) if at >= 0 else None
        if compression == _PNG:
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        return _of_webp(data)
    except (struct.error, IndexError):
        return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a byte that fills up
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        elif marker == 0xDA:
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _of_webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
