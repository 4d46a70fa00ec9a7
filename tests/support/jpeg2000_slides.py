"""Slides of Aperio's JPEG 2000, in RGB (33005) and in YCbCr (33003), which no encoder at hand writes subsampled."""

import struct
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

_TILE = 256
_ABOUT = "Aperio Image Library v11.2.1 \r\n{0}x{1} [0,0 {0}x{1}] (256x256) J2K/KDU Q=70|AppMag = 20|MPP = 0.5000"
_BY_COMPONENT = 4  # progression order CPRL: all packets of a component before those of the next


def write_rgb(path: Path, image: np.ndarray) -> None:
    """A slide of compression 33005."""
    tifffile.imwrite(
        path, image, tile=(_TILE, _TILE), compression=33005, compressionargs={"level": 60, "codecformat": "j2k"},
        photometric="rgb", description=_ABOUT.format(*image.shape[1::-1]), metadata=None,
    )  # fmt: skip


def write_ycbcr(path: Path, image: np.ndarray, *, half: bool = True, aperio: bool = True, broken: int = -1) -> None:
    """A slide of compression 33003.

    Parameters
    ----------
    half
        Whether colours are stored at half the width, as Aperio's are.
    aperio
        Whether it says that Aperio wrote it.
    broken
        Number of a tile whose stream is cut short.
    """
    rows, cols = image.shape[:2]
    whole = np.pad(image, ((0, -rows % _TILE), (0, -cols % _TILE), (0, 0)), mode="edge")

    def tiles() -> Iterator[bytes]:
        number = 0
        for top in range(0, rows, _TILE):
            for left in range(0, cols, _TILE):
                tile = Image.fromarray(whole[top : top + _TILE, left : left + _TILE])
                stream = ycbcr_stream(np.asarray(tile.convert("YCbCr")), half=half)
                yield stream[:150] if number == broken else stream
                number += 1

    tifffile.imwrite(
        path, tiles(), shape=image.shape, dtype=np.uint8, tile=(_TILE, _TILE), compression=33003, photometric="rgb",
        description=_ABOUT.format(cols, rows) if aperio else None, metadata=None,
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
    )  # fmt: skip


def ycbcr_stream(samples: np.ndarray, *, half: bool) -> bytes:
    """A lossless codestream of Y, Cb and Cr (rows, cols, 3): three of one component each, put into one."""
    step = 2 if half else 1
    planes = samples[..., 0], samples[:, ::step, 1], samples[:, ::step, 2]
    streams = [
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane), codecformat="j2k", level=0, resolutions=3)
        for plane in planes
    ]
    packets = b"".join(stream[stream.index(b"\xff\x93") + 2 : -2] for stream in streams)  # from SOD to EOC
    head = bytearray(streams[0][: streams[0].index(b"\xff\x90")])  # SOC, SIZ, COD, QCD
    head[head.index(b"\xff\x52") + 5] = _BY_COMPONENT
    (length,) = struct.unpack_from(">H", head, 4)
    components = struct.pack(">HBBB", 3, 7, 1, 1) + 2 * struct.pack(">BBB", 7, step, 1)
    size = struct.pack(">H", 38 + 9) + bytes(head[6:40]) + components
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + len(packets), 0, 1) + b"\xff\x93" + packets
    return bytes(head[:4]) + size + bytes(head[4 + length :]) + tile + b"\xff\xd9"
