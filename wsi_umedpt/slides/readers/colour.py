"""Meaning of a TIFF's pixels: its tags in, a function to 8-bit RGB out.

Only what can be converted exactly is: grey, RGB, palettes, CMYK without a profile, YCbCr;
8 or 16 bits; alpha over white. Everything else is refused with the reason, since another
reader would show something, and nobody would notice.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import tifffile

from wsi_umedpt.messages import counted
from wsi_umedpt.slides.readers.base import ContentRefused, Pixels
from wsi_umedpt.slides.readers.segments import APERIO_YCBCR
from wsi_umedpt.slides.readers.streams import check_codec

Samples = npt.NDArray[np.generic]
"""(rows, cols, samples), as they are stored."""
Conversion = Callable[[Samples], Pixels]

JPEG = 7
_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NAMES = {4: "a transparency mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a camera's raw mosaic",
          32844: "LogL", 32845: "LogLuv", 34892: "a camera's linear raw"}  # fmt: skip
_RGB_CODECS = frozenset([APERIO_YCBCR, 33007, 34933, 50001])
"""Codecs that give RGB whatever the tag says: Aperio's JPEG 2000 in YCbCr, JPEG (as 7), PNG, WebP."""
_OPAQUE, _PREMULTIPLIED, _ALPHA = 0, 1, 2  # ExtraSamples
_NARROW = 4095
"""16-bit pixels of which none is greater have fewer bits than their file says, and would be black."""


def conversion(page: tifffile.TiffPage, planes: int = 1) -> Conversion | None:
    """Conversion of the stored samples of a page to RGB; None if they are 8-bit RGB already.

    Parameters
    ----------
    page
        Page of the file; of an image of a page a colour, the first.
    planes
        Pages that the image's colours lie in: 1, or 3 for red, green and blue.

    Raises
    ------
    ContentRefused
        If they cannot be converted exactly.
    """
    check_codec(page.compression)
    bits, photometric, samples = page.bitspersample, int(page.photometric), page.samplesperpixel * planes
    if int(page.sampleformat) != 1 or bits not in (1, 8, 16) or page.dtype is None:
        raise ContentRefused(f"needs whole numbers of 8 or 16 bits, found {_kind(page)}")
    if (orientation := int(page.tags.valueof(274, 1))) != 1 and page.is_tiled:
        raise ContentRefused(f"its tiles are stored turned or mirrored (orientation {orientation}); export it upright")
    if planes > 1:
        if photometric != _GREY or samples != 3:
            raise ContentRefused("its colours lie in pages of their own, which are not grey")
        photometric = _RGB
    if photometric in (_RGB, _YCBCR) and samples < 3:
        raise ContentRefused(f"says that it is in colour, but has {counted(samples, 'sample')} a pixel")
    if bits == 1 and photometric not in (_WHITE_IS_ZERO, _GREY):
        raise ContentRefused("pixels of one bit that are not black and white")
    if page.compression in (JPEG, 33007) and samples not in (1, 3):
        raise ContentRefused(f"JPEG with {samples} samples a pixel does not say what they are")
    if photometric == _YCBCR and int(page.compression) in (JPEG, *_RGB_CODECS) and page.planarconfig == 1:
        photometric = _RGB
    steps = _model(page, photometric, samples)
    extra = samples - (1 if photometric in (_WHITE_IS_ZERO, _GREY, _PALETTE) else 4 if photometric == _CMYK else 3)
    if extra:
        steps = _with_alpha(page, steps, samples, extra)
    if photometric == _RGB and bits == 8 and not extra:
        return None
    return _eight_bits(steps, bits) if bits != 8 else steps


def check_grey(page: tifffile.TiffPage) -> None:
    """Refuse a page that is no plane of grey values of 8 or 16 bits.

    Raises
    ------
    ContentRefused
        If it is in colour, inverted, turned, or of other numbers.
    """
    check_codec(page.compression)
    if int(page.sampleformat) != 1 or page.bitspersample not in (8, 16) or page.dtype is None:
        raise ContentRefused(f"its channels need whole numbers of 8 or 16 bits, found {_kind(page)}")
    if int(page.photometric) != _GREY or page.samplesperpixel != 1 or page.imagedepth != 1:
        raise ContentRefused("its channels are not planes of grey values")
    if (orientation := int(page.tags.valueof(274, 1))) != 1:
        raise ContentRefused(
            f"its channels are stored turned or mirrored (orientation {orientation}); export it upright"
        )


def says_all(page: tifffile.TiffPage) -> bool:
    """Return whether tags alone tell what pixels mean: not how many of 16 bits are used, nor what a channel is."""
    colours = {_CMYK: 4, _RGB: 3, _YCBCR: 3}.get(int(page.photometric), 1)
    unnamed = page.samplesperpixel > colours and int((page.extrasamples or (_OPAQUE,))[0]) == _OPAQUE
    return page.bitspersample != 16 and not unnamed


def _model(page: tifffile.TiffPage, photometric: int, samples: int) -> Conversion:
    if photometric in (_WHITE_IS_ZERO, _GREY):
        return _inverted if photometric == _WHITE_IS_ZERO else _grey
    if photometric == _RGB:
        return lambda pixels: pixels[..., :3].astype(np.uint8, copy=False)
    if photometric == _PALETTE:
        return _palette(page)
    if photometric == _CMYK:
        if samples < 4 or int(page.tags.valueof(332, 1)) != 1:
            raise ContentRefused("its inks are not cyan, magenta, yellow and black; export it as RGB")
        if 34675 in page.tags:
            raise ContentRefused("its inks (CMYK) have a colour profile of their own; export it as RGB")
        return _cmyk
    if photometric == _YCBCR:
        if page.is_subsampled:
            raise ContentRefused("its YCbCr colours are subsampled without JPEG; export it as RGB")
        return _ycbcr(page)
    raise ContentRefused(
        f"its colours are {_NAMES.get(photometric, f'of an unknown kind ({photometric})')}; export it as RGB"
    )


def _kind(page: tifffile.TiffPage) -> str:
    names = {1: "whole numbers", 2: "signed numbers", 3: "floating-point numbers", 5: "complex numbers"}
    return f"{names.get(int(page.sampleformat), 'numbers')} of {page.bitspersample} bits"


def _eight_bits(convert: Conversion, bits: int) -> Conversion:
    def scaled(pixels: Samples) -> Pixels:
        if bits == 1:
            return convert(pixels.astype(np.uint8) * np.uint8(255))
        return convert(to_eight_bits(pixels))

    return scaled


def are_colours(names: Sequence[str], bits: int) -> bool:
    """Return whether three channels are red, green and blue by their names; of 8 bits, none, and numbers, will do.

    Stains of fluorescence are not, nor are colours in another order.
    """
    plain = [name.strip().lower() for name in names]
    numbered = all(re.fullmatch(r"((channel|ch|c|image|sample)?[\s:_-]*[\d:]*)?", name) for name in plain)
    return (numbered and bits == 8) or plain in (["r", "g", "b"], ["red", "green", "blue"])


def to_eight_bits(pixels: Samples) -> Pixels:
    """16 bits to 8, rounded: 65,535 is 255."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_depth(most: int) -> None:
    """Refuse 16-bit pixels that use fewer bits than they have.

    Raises
    ------
    ContentRefused
        If the greatest of them is one that 12 bits hold.
    """
    if 0 < most <= _NARROW:
        raise ContentRefused(
            f"its pixels have 16 bits, but reach to {most:,} of 65,535 only: how bright white is, is not said. "
            "Export it with 8 bits"
        )


def _grey(pixels: Samples) -> Pixels:
    return np.repeat(pixels[..., :1].astype(np.uint8, copy=False), 3, axis=-1)


def _inverted(pixels: Samples) -> Pixels:
    return np.repeat(255 - pixels[..., :1].astype(np.uint8, copy=False), 3, axis=-1)


def _palette(page: tifffile.TiffPage) -> Conversion:
    colours = np.asarray(page.tags.valueof(320, ()))
    if page.bitspersample != 8 or colours.size != 3 * 256:
        raise ContentRefused("its colours are numbers in a palette that it does not have whole; export it as RGB")
    table = np.ascontiguousarray(colours.reshape(3, 256).T)
    # 16 bits a colour; some writers give 8.
    table = to_eight_bits(table) if table.max(initial=0) > 255 else table.astype(np.uint8)
    return lambda pixels: np.asarray(table[pixels[..., 0].astype(np.uint8, copy=False)], np.uint8)


def _cmyk(pixels: Samples) -> Pixels:
    ink = 255 - pixels[..., :4].astype(np.uint16)
    return ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)


def _ycbcr(page: tifffile.TiffPage) -> Conversion:
    """TIFF 6.0, section 21."""
    red, green, blue = _rationals(page, 529, (0.299, 0.587, 0.114))
    low_y, high_y, low_b, high_b, low_r, high_r = _rationals(page, 532, (0, 255, 128, 255, 128, 255))
    if not (green > 0 and high_y > low_y and high_b > low_b and high_r > low_r):
        raise ContentRefused("what black, white and green are in its YCbCr colours makes no sense")

    def convert(pixels: Samples) -> Pixels:
        y, cb, cr = np.moveaxis(pixels[..., :3].astype(np.float32), -1, 0)
        y = (y - low_y) * (255 / (high_y - low_y))
        cb, cr = (cb - low_b) * (127 / (high_b - low_b)), (cr - low_r) * (127 / (high_r - low_r))
        r = cr * (2 - 2 * red) + y
        b = cb * (2 - 2 * blue) + y
        g = (y - blue * b - red * r) / green
        return np.clip(np.stack([r, g, b], axis=-1) + 0.5, 0, 255).astype(np.uint8)

    return convert


def _rationals(page: tifffile.TiffPage, code: int, default: tuple[float, ...]) -> tuple[float, ...]:
    value = page.tags.valueof(code)
    if value is None:
        return default
    tag = page.tags[code]
    pairs = zip(value[::2], value[1::2], strict=True) if int(tag.dtype) in (5, 10) else ((v, 1) for v in value)
    found = tuple(a / b for a, b in pairs)
    if len(found) != len(default):
        raise ContentRefused(f"its tag {code} has {len(found)} values instead of {len(default)}")
    return found


def _with_alpha(page: tifffile.TiffPage, convert: Conversion, samples: int, extra: int) -> Conversion:
    if extra != 1:
        raise ContentRefused(f"has {samples} samples a pixel, of which {extra} have no known meaning")
    said = page.extrasamples or (_OPAQUE,)
    kind = int(said[0])
    if kind == _OPAQUE:
        return _opaque(convert)

    def over_white(pixels: Samples) -> Pixels:
        alpha = pixels[..., -1:].astype(np.uint16)
        colour = convert(pixels[..., :-1]).astype(np.uint16)
        blended = (colour * alpha + 127) // 255 if kind == _ALPHA else colour
        return np.asarray(np.minimum(blended + (255 - alpha), 255), np.uint8)

    return over_white


def _opaque(convert: Conversion) -> Conversion:
    def checked(pixels: Samples) -> Pixels:
        last = pixels[..., -1]
        if last.size and last.min() != last.max():
            raise ContentRefused("has a channel beyond its colours that it does not name: transparency, or a stain?")
        return convert(pixels[..., :-1])

    return checked
