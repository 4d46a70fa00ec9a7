"""Shipped helpers for tests: slides whose every pixel is known, in every TIFF variant that scanners write.

`tissue_image` draws tissue on glass with known places; `write_pyramid` saves any image as
an Aperio-like or plain pyramid, `write_dicom` as a DICOM series, `write_scn` as a part of a slide; `flip_bytes`
damages a file as disks do.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg
import tifffile

from wsi_umedpt.store.contents import CONTENTS, seal
from wsi_umedpt.store.zarr_io import read_attrs, write_node

Pixels = npt.NDArray[np.uint8]
Vendor = Literal["aperio", "generic"]
Colour = Literal["ycbcr", "rgb"]


def tissue_image(width: int, height: int, *, glass: int = 243, seed: int = 0) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Draw stained tissue on even glass.

    Returns
    -------
    image : uint8 (height, width, 3)
        RGB.
    tissue : bool (height, width)
        An ellipse in the middle of the slide, 70 % of its width and height.
    """
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[:height, :width]
    tissue = ((x - width / 2) / (0.35 * width)) ** 2 + ((y - height / 2) / (0.35 * height)) ** 2 < 1
    coarse = rng.normal(0, 1, (height // 24 + 2, width // 24 + 2)).astype(np.float32)
    fine = rng.normal(0, 1, (height // 3 + 2, width // 3 + 2)).astype(np.float32)
    size = width, height
    mottle = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC) * 18 + cv2.resize(fine, size) * 10
    stain = np.array([185, 110, 165], np.float32) + mottle[..., None] * np.array([1.0, 1.2, 0.8], np.float32)
    background = glass + rng.normal(0, 1.0, (height, width, 1)).astype(np.float32)
    return np.clip(np.where(tissue[..., None], stain, background), 0, 255).astype(np.uint8), tissue


def write_pyramid(  # noqa: PLR0913 - keywords of a fixture, each with a default
    path: Path,
    image: Pixels,
    *,
    vendor: Vendor = "aperio",
    scales: tuple[int, ...] = (1, 4),
    tile: int = 256,
    mpp: float | None = 0.5,
    subsampling: Literal["444", "422", "420"] = "420",
    colour: Colour = "ycbcr",
    tables: bool = True,
    bigtiff: bool = False,
    quality: int = 85,
    sparse: frozenset[tuple[int, int]] = frozenset(),
    repeat: int = 1,
) -> Path:
    """Write a tiled JPEG pyramid that OpenSlide opens.

    Parameters
    ----------
    path
        ``.svs`` or ``.tif``.
    image : uint8 (rows, cols, 3)
        Level 0.
    vendor
        'aperio' carries Aperio's description, scale and thumbnail; 'generic' is a plain TIFF
        with resolution tags.
    scales
        Level-0 px per px of each level.
    tile : px
        Side of the square tiles.
    mpp : um/px
        None writes none.
    colour
        Meaning of the three components of the JPEG streams; 'rgb' has no subsampling.
    tables
        Keep quantisation and Huffman tables in the JPEGTables tag, as scanners do.
    sparse
        (col, row) of level-0 tiles to leave out.
    repeat
        Lay the image side by side this often in x and y, encoded once; its size must then
        be a multiple of the tile at every level.

    Returns
    -------
    Path
        `path`, for convenience.
    """
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for number, scale in enumerate(scales):
            size = image.shape[1] // scale, image.shape[0] // scale
            level = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            shape = level.shape[0] * repeat, level.shape[1] * repeat
            streams = _streams(level, tile, subsampling, colour, quality)
            shared = _jpeg_tables(streams[0][0]) if tables else None
            description = f"wsi_umedpt test slide, level {number}"
            if vendor == "aperio":
                scale_text = f"|AppMag = 20|MPP = {mpp:.4f}" if mpp else ""
                size_text = f"{shape[1]}x{shape[0]} ({tile}x{tile}) JPEG/RGB Q={quality}"
                description = f"Aperio Image Library v11.2.1 \r\n{size_text}{scale_text}"
            writer.write(
                _sequence(streams, repeat, shared, sparse if number == 0 else frozenset()),
                shape=(*shape, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                compression="jpeg",
                compressionargs={"outcolorspace": colour},
                photometric=colour,
                subsampling={"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling] if colour == "ycbcr" else None,
                subfiletype=0 if vendor == "aperio" or number == 0 else 1,
                description=description,
                resolution=(1e4 / (mpp * scale),) * 2 if mpp and vendor == "generic" else None,
                resolutionunit="CENTIMETER" if mpp and vendor == "generic" else None,
                extratags=[(347, 7, len(shared), shared, True)] if shared else [],
                metadata=None,
            )
            if number == 0 and vendor == "aperio":  # page 1 is the thumbnail, in strips
                writer.write(image[::16, ::16].copy(), photometric="rgb", description="Aperio thumbnail", metadata=None)
    return path


def flip_bytes(path: Path, positions: Iterator[int] | range | list[int], rng: np.random.Generator) -> None:
    """Overwrite bytes of a file with random ones."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for position in positions:
            file.seek(position % size, os.SEEK_SET)
            file.write(rng.bytes(1))


def _streams(level: Pixels, tile: int, subsampling: str, colour: Colour, quality: int) -> list[list[bytes]]:
    rows, cols = -(-level.shape[0] // tile), -(-level.shape[1] // tile)
    pad = ((0, rows * tile - level.shape[0]), (0, cols * tile - level.shape[1]), (0, 0))
    padded = np.pad(level, pad, mode="edge") if any(p[1] for p in pad) else level

    def encode(row: int, col: int) -> bytes:
        piece = np.ascontiguousarray(padded[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile])
        if colour == "rgb":
            return bytes(imagecodecs.jpeg8_encode(piece, level=quality, colorspace="rgb", outcolorspace="rgb"))
        return bytes(simplejpeg.encode_jpeg(piece, quality=quality, colorsubsampling=subsampling))

    return [[encode(row, col) for col in range(cols)] for row in range(rows)]


def _sequence(
    streams: list[list[bytes]], repeat: int, tables: bytes | None, sparse: frozenset[tuple[int, int]]
) -> Iterator[bytes]:
    for row in range(len(streams) * repeat):
        for col in range(len(streams[0]) * repeat):
            stream = streams[row % len(streams)][col % len(streams[0])]
            if (col, row) in sparse:
                yield b""
            else:
                yield _without_tables(stream) if tables else stream


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of every segment before the scan."""
    at = 2
    while stream[at + 1] != 0xDA:
        length = int.from_bytes(stream[at + 2 : at + 4], "big") + 2
        yield stream[at + 1], stream[at : at + length]
        at += length
    yield 0xDA, stream[at:]


def _jpeg_tables(stream: bytes) -> bytes:
    kept = b"".join(part for marker, part in _segments(stream) if marker in (0xDB, 0xC4))
    return b"\xff\xd8" + kept + b"\xff\xd9"


def _without_tables(stream: bytes) -> bytes:
    # Neither tables nor JFIF or Adobe markers: as inside a scanner's TIFF.
    dropped = (0xDB, 0xC4, 0xE0, 0xEE)
    return b"\xff\xd8" + b"".join(part for marker, part in _segments(stream) if marker not in dropped)


def write_dicom(folder: Path, image: Pixels, *, scales: tuple[int, ...] = (1, 4), series: str = "1.2.3") -> list[Path]:
    """Write a DICOM slide that OpenSlide opens: a file per level, tiles of 256 px, 0.5 um/px.

    Parameters
    ----------
    folder
        Made if it is missing; may hold other series.
    image : uint8 (rows, cols, 3)
        Level 0.
    scales
        Level-0 px per px of each level.
    series
        SeriesInstanceUID.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, scale in enumerate(scales):
        size = image.shape[1] // scale, image.shape[0] // scale
        level = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        frames = [stream for row in _streams(level, 256, "422", "ycbcr", 85) for stream in row]
        instance, slide_class = f"{series}.{number}", "1.2.840.10008.5.1.4.1.1.77.1.6"
        syntax, spacing = "1.2.840.10008.1.2.4.50", f"{0.0005 * scale}\\{0.0005 * scale}"
        meta = b"".join(
            [
                _element(0x00020001, "OB", b"\0\1"),
                _element(0x00020002, "UI", slide_class),
                _element(0x00020003, "UI", instance),
                _element(0x00020010, "UI", syntax),
                _element(0x00020012, "UI", "1.2"),
            ]
        )
        measures = _sequence_of(0x00289110, _element(0x00280030, "DS", spacing))
        # A sequence that names another series before the slide's own, as references do.
        reference = _sequence_of(0x00081115, _element(0x0020000E, "UI", "9.9.9"))
        kind = "ORIGINAL" if scale == 1 else "DERIVED"
        body = b"".join(
            [
                _element(0x00080008, "CS", f"{kind}\\PRIMARY\\VOLUME\\{'NONE' if scale == 1 else 'RESAMPLED'}"),
                _element(0x00080016, "UI", slide_class),
                _element(0x00080018, "UI", instance),
                _element(0x00080060, "CS", "SM"),
                reference,
                _element(0x0020000D, "UI", "1.2"),
                _element(0x0020000E, "UI", series),
                _element(0x00209311, "CS", "TILED_FULL"),
                _element(0x00280002, "US", 3),
                _element(0x00280004, "CS", "YBR_FULL_422"),
                _element(0x00280006, "US", 0),
                _element(0x00280008, "IS", str(len(frames))),
                _element(0x00280010, "US", 256),
                _element(0x00280011, "US", 256),
                *(_element(0x00280100 + n, "US", value) for n, value in enumerate((8, 8, 7, 0))),
                _element(0x00480006, "UL", level.shape[1]),
                _element(0x00480007, "UL", level.shape[0]),
                _element(0x00480303, "UL", 1),
                _sequence_of(0x52009229, measures),
                struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF),
                *(struct.pack("<HHI", 0xFFFE, 0xE000, len(s)) + s for s in [b"", *map(_even, frames)]),
                struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
            ]
        )
        path = folder / f"level-{series}-{number}.dcm"
        path.write_bytes(bytes(128) + b"DICM" + _element(0x00020000, "UL", len(meta)) + meta + body)
        paths.append(path)
    return paths


def _element(tag: int, kind: str, value: str | int | bytes) -> bytes:
    """One data element, explicit little endian (DICOM PS3.5, 7.1.2)."""
    if isinstance(value, int):
        value = struct.pack("<H" if kind == "US" else "<I", value)
    elif isinstance(value, str):
        value = _even(value.encode(), b"\0" if kind == "UI" else b" ")
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind.encode())
    length = struct.pack("<HI", 0, len(value)) if kind == "OB" else struct.pack("<H", len(value))
    return head + length + value


def _sequence_of(tag: int, item: bytes) -> bytes:
    """A sequence of one item, both of undefined length."""
    begin = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return begin + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + ends


def _even(value: bytes, pad: bytes = b"\0") -> bytes:
    return value + pad * (len(value) % 2)


def write_scn(path: Path, image: Pixels, *, corner: tuple[int, int], size: tuple[int, int], mpp: float = 0.5) -> Path:
    """Write a Leica SCN whose scanned area is a part of the slide, so that OpenSlide states bounds.

    Parameters
    ----------
    path
        ``.scn``.
    image : uint8 (rows, cols, 3)
        The scanned area at level 0; its sides must be multiples of 4.
    corner : (x, y), level-0 px
        Corner of the region on the slide.
    size : (width, height), level-0 px
        Size of the whole slide.
    mpp : um/px
        At level 0.

    Returns
    -------
    Path
        `path`, for convenience.
    """
    rows, cols = image.shape[:2]
    nm = round(mpp * 1000)
    space = "http://www.leica-microsystems.com/scn/2010/10/01"
    levels = "".join(
        f'<dimension sizeX="{cols // s}" sizeY="{rows // s}" r="{r}" ifd="{r}"/>' for r, s in enumerate((1, 4))
    )
    description = (
        f'<?xml version="1.0" encoding="utf-8"?><scn xmlns="{space}" uuid="urn:uuid:1"><collection name="c" '
        f'uuid="urn:uuid:2" sizeX="{size[0] * nm}" sizeY="{size[1] * nm}"><image name="i" uuid="urn:uuid:3">'
        "<creationDate>2012-01-01T00:00:00Z</creationDate>"
        f'<device model="test" version="1"/><pixels sizeX="{cols}" sizeY="{rows}">{levels}</pixels>'
        f'<view sizeX="{cols * nm}" sizeY="{rows * nm}" offsetX="{corner[0] * nm}" offsetY="{corner[1] * nm}" '
        'spacingZ="0"/><scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>'
        "<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield"
        "</illuminationSource></illuminationSettings></scanSettings></image></collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for scale in (1, 4):
            writer.write(
                image if scale == 1 else cv2.resize(image, (cols // 4, rows // 4), interpolation=cv2.INTER_AREA),
                photometric="rgb",
                tile=(256, 256),
                compression="deflate",
                metadata=None,
                description=description if scale == 1 else None,
                subfiletype=0 if scale == 1 else 1,
                resolution=(1e4 / (mpp * scale),) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


def relist(store: Path) -> None:
    """Make a store that was changed by hand look as if it had been written so; sums of arrays stay what they are."""
    told = {name: value for name, value in read_attrs(store).items() if name not in (CONTENTS, "sha256")}
    write_node(store, told)
    seal(store)
