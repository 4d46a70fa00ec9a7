"""Changes on purpose to files of CZI, JPEG 2000 and JPEG-LS: directories, sizes and counts that lie."""

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    """One way to change a file."""

    what: str
    apply: Callable[[Path], None]


def put(at: int, data: bytes) -> Callable[[Path], None]:
    """Write bytes at a place of a file."""

    def apply(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return apply


def cut(path: Path, share: float) -> None:
    """Leave the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


_SEGMENT = 32
"""Bytes of the head of a segment of a CZI: its name, and the bytes that it has and uses."""


def of_czi(original: Path) -> Iterator[Mutation]:
    """Entries of the directory, and of the subblocks themselves, segments, and what the metadata say."""
    data = original.read_bytes()
    segments = {name: [m.start() for m in re.finditer(name, data)] for name in _CZI_SEGMENTS}
    for name, places in segments.items():
        for at in {places[0], places[-1]} if places else ():
            which = f"{name.decode()} at {at}"
            for field, place in (("allocated", at + 16), ("used", at + 24)):
                for value in (0, 1, len(data), 1 << 40, (1 << 63) - 1):
                    yield Mutation(f"{which}: {value} bytes {field}", put(place, struct.pack("<q", value)))
            yield Mutation(f"{which}: another name", put(at, b"ZISRAWNOTHING\0\0\0"))
    [head], [directory] = segments[b"ZISRAWFILE"], segments[b"ZISRAWDIRECTORY"]
    for what, place in (("directory", head + _SEGMENT + 52), ("metadata", head + _SEGMENT + 60)):
        for value in (0, 1, head, directory + 8, len(data) - 4, len(data) * 2, 1 << 62):
            yield Mutation(f"{what} at {value}", put(place, struct.pack("<q", value)))
    for value in (0, 1, 3, 1000, (1 << 31) - 1):
        yield Mutation(f"directory of {value} entries", put(directory + _SEGMENT, struct.pack("<i", value)))
    entries = [m.start() for m in re.finditer(b"DV[\\x00-\\x20]\0\0\0", data)]
    for at in {entries[0], entries[-1], *[e for e in entries if e > directory][:2]}:
        which = f"entry at {at}"
        for value in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, -1, 99):
            yield Mutation(f"{which}: pixels of type {value}", put(at + 2, struct.pack("<i", value)))
        for value in (0, 1, head, directory, len(data) - 4, len(data) * 2, 1 << 62):
            yield Mutation(f"{which}: its subblock at {value}", put(at + 6, struct.pack("<q", value)))
        for value in (0, 1, 2, 4, 5, 6, 104, 1000):
            yield Mutation(f"{which}: compression {value}", put(at + 18, struct.pack("<i", value)))
        (dimensions,) = struct.unpack_from("<i", data, at + 28)
        for value in (0, 1, 100, (1 << 31) - 1):
            yield Mutation(f"{which}: {value} dimensions", put(at + 28, struct.pack("<i", value)))
        for n in range(min(dimensions, 8)):
            place = at + 32 + 20 * n
            axis = data[place : place + 1].decode("latin-1")
            (size,) = struct.unpack_from("<i", data, place + 8)
            for field, offset in (("start", 4), ("size", 8), ("stored size", 16)):
                for value in (0, 1, -1, -1000, size // 2, size * 2, 40_000, 1 << 20, (1 << 31) - 1):
                    yield Mutation(f"{which}: {field} of {axis} {value}", put(place + offset, struct.pack("<i", value)))
            yield Mutation(f"{which}: {axis} is Q", put(place, b"Q"))
    for match in re.finditer(rb"<(Value|SizeX|SizeY|SizeC|PixelType|ComponentBitCount)>([^<]+)<", data):
        for new in (b"0", b"-1", b"x", b"9" * len(match[2]), b"nan", b"<"):
            if len(new) <= len(match[2]):
                what = f"{match[1].decode()} {match[2].decode()} says {new.decode()}"
                yield Mutation(what, put(match.start(2), new.ljust(len(match[2]))))
    for share in (0.3, 0.9, 0.999):
        yield Mutation(f"cut at {share}", lambda path, share=share: cut(path, share))


_CZI_SEGMENTS = (b"ZISRAWFILE", b"ZISRAWDIRECTORY", b"ZISRAWMETADATA", b"ZISRAWSUBBLOCK")


def of_streams(original: Path) -> Iterator[Mutation]:
    """Heads of the first and last picture of JPEG 2000 or JPEG-LS, whose sizes a decoder believes."""
    data = original.read_bytes()
    size = b"\xff\x4f\xff\x51"
    for at in {found[n] for n in (0, -1) if (found := [m.start() for m in re.finditer(size, data)])}:
        which = f"stream at {at}"
        for n, what in enumerate(("right", "bottom", "left", "top", "tile width", "tile height", "tile x", "tile y")):
            for value in (0, 1, 255, 257, 40_000, (1 << 31) - 1, (1 << 32) - 1):
                yield Mutation(f"{which}: {what} {value}", put(at + 8 + 4 * n, struct.pack(">I", value)))
        for value in (0, 1, 2, 4, 5, 255, 16_384):
            yield Mutation(f"{which}: {value} components", put(at + 40, struct.pack(">H", value)))
        for n in range(3):
            for what, offset, values in (("bits", 0, (0, 1, 15, 37, 135)), ("steps", 1, (0, 1, 2, 3, 255))):
                for value in values:
                    yield Mutation(f"{which}: {what} {value} of {n}", put(at + 42 + 3 * n + offset, bytes([value])))
        coding = data.index(b"\xff\x52", at)
        for what, offset, values in (
            ("progression", 5, (1, 2, 5)), ("layers", 6, (0, 255)), ("colours turned", 8, (0, 1, 2)),
            ("resolutions", 9, (0, 1, 32, 33, 255)), ("block width", 10, (8, 255)), ("wavelet", 13, (0, 1, 2)),
        ):  # fmt: skip
            for value in values:
                yield Mutation(f"{which}: {what} {value}", put(coding + offset, bytes([value])))
    frame = b"\xff\xd8\xff\xf7"  # JPEG-LS
    for at in {found[n] for n in (0, -1) if (found := [m.start() for m in re.finditer(frame, data)])}:
        which = f"frame at {at}"
        for what, offset, form, values in (
            ("bits", 6, ">B", (0, 1, 7, 12, 16)), ("height", 7, ">H", (0, 1, 255, 257, 65_535)),
            ("width", 9, ">H", (0, 1, 255, 257, 65_535)), ("components", 11, ">B", (0, 1, 2, 4, 255)),
        ):  # fmt: skip
            for value in values:
                yield Mutation(f"{which}: {what} {value}", put(at + offset, struct.pack(form, value)))
        yield Mutation(f"{which}: as large as can be", put(at + 7, struct.pack(">HH", 65_535, 65_535)))
