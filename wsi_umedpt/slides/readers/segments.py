"""One tile or strip of a TIFF: its bytes in, samples out.

All is tifffile's and imagecodecs' work but Aperio's JPEG 2000 in YCbCr (33003), whose convention is Aperio's own: the
stream names no colours, TIFF's Photometric tag is not to be believed, and colours are stored at half the width.
"""

import io
import struct

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.slides.readers.streams import check_stream, stated_size

APERIO_YCBCR = int(tifffile.COMPRESSION.APERIO_JP2000_YCBC)
"""33003. What `decode_segment` gives of it is RGB."""
_SRGB = 16  # EnumCS of a colour specification box (ISO 15444-1, I.5.3.3)
_FROM_128 = np.arange(256) - 128
# ITU-R BT.601 in full range, rounded as OpenSlide does, so that pixels are equal bit for bit.
_RED_OF_CR = np.round(1.402 * _FROM_128).astype(np.int32)
_GREEN_OF_CB = np.round(2**16 * (0.5 - 0.34414 * _FROM_128)).astype(np.int32)
_GREEN_OF_CR = np.round(2**16 * -0.71414 * _FROM_128).astype(np.int32)
_BLUE_OF_CB = np.round(1.772 * _FROM_128).astype(np.int32)

Placed = tuple[npt.NDArray[np.generic] | None, tuple[int, ...], tuple[int, ...]]
"""Samples (depth, rows, cols, samples), where they lie in the page, and their shape."""


def decode_segment(page: tifffile.TiffPage, data: bytes, index: int, size: tuple[int, int]) -> Placed:
    """Decode a tile or strip.

    Parameters
    ----------
    page
        That it belongs to.
    data
        Its bytes.
    index
        Its number in the page.
    size : (width, height), px
        Its place: a stream that claims to be larger is not decoded.

    Raises
    ------
    ValueError
        If it is damaged; other codecs raise errors of their own.
    """
    check_stream(page.compression, data, *size)
    if page.compression != APERIO_YCBCR:
        found: Placed = page.decode(data, index, jpegtables=page.jpegtables)
        return found
    _, place, shape = page.decode(None, index)
    return _rgb_of_ycbcr(_samples_of_ycbcr(data))[np.newaxis], place, shape


def _samples_of_ycbcr(data: bytes) -> Pixels:
    """Y, Cb and Cr of each pixel, (rows, cols, 3); those of pixels between are those to the left."""
    # Decoders take a stream of subsampled components for YCbCr, and convert it less exactly. Said to be RGB, it is left
    # as it is.
    width, height = stated_size(APERIO_YCBCR, data) or (0, 0)
    header = _box(b"ihdr", struct.pack(">IIHBBBB", height, width, 3, 7, 7, 1, 0))
    header += _box(b"colr", struct.pack(">BBBI", 1, 0, 0, _SRGB))
    start = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    file = start + _box(b"jp2h", header) + _box(b"jp2c", data)
    with Image.open(io.BytesIO(file), formats=("JPEG2000",)) as image:
        if image.mode != "RGB":
            raise ValueError(f"is not of three components of 8 bits, but {image.mode}")
        return np.asarray(image)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _rgb_of_ycbcr(samples: Pixels) -> Pixels:
    y = samples[..., 0].astype(np.int32)
    cb, cr = samples[..., 1], samples[..., 2]
    out = np.empty(samples.shape, np.uint8)
    green = (_GREEN_OF_CB[cb] + _GREEN_OF_CR[cr]) >> 16
    for channel, chroma in enumerate((_RED_OF_CR[cr], green, _BLUE_OF_CB[cb])):
        out[..., channel] = np.clip(y + chroma, 0, 255)
    return out
