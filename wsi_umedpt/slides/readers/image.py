"""Flat images, held in memory whole: PNG, JPEG and BMP by Pillow, TIFF in strips by tifffile."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

from wsi_umedpt.slides.readers.base import ContentRefused, Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size
from wsi_umedpt.slides.readers.colour import Conversion, Samples, check_depth, conversion, to_eight_bits
from wsi_umedpt.slides.readers.segments import decode_segment

MAX_PIXELS = 170_000_000
"""Half a gigabyte in memory; anything larger belongs into a tiled pyramid."""
_BAND_ROWS = 256
"""Rows that are converted at a time, so that an image is in memory twice only as it is stored and as RGB."""


class _Flat:
    """An image of one level."""

    name = "image"

    def __init__(self, pixels: Pixels, info: SlideInfo) -> None:
        self._pixels = pixels
        self.levels: tuple[Level, ...] = (Level(pixels.shape[1], pixels.shape[0], 1.0),)
        self.info = info

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        return self._pixels[y : y + height, x : x + width]

    def native_tiles(self, level: int) -> NativeTiles | None:
        """None: the image is already decoded."""
        return None

    def close(self) -> None:
        """Nothing is held open."""


class ImageReader(_Flat):
    """A PNG, JPEG or BMP. They state no scale that could be believed."""

    def __init__(self, path: Path) -> None:
        super().__init__(_read_pil(path), SlideInfo(vendor="image", mpp=None))


class FlatPages(_Flat):
    """A TIFF page in strips, or one such page a colour."""

    def __init__(self, pages: Sequence[tifffile.TiffPage], info: SlideInfo) -> None:
        super().__init__(_read_pages(pages), SlideInfo(vendor="image", mpp=info.mpp))


def check_pixels(width: int, height: int, bytes_each: int = 3) -> None:
    """Refuse an image that is too large to be held in memory, of so many bytes a pixel."""
    checked_size(width, height)
    if width * height * max(bytes_each, 3) > 3 * MAX_PIXELS:
        raise ContentRefused(_too_large(f"{width} x {height} px", MAX_PIXELS * 3 // max(bytes_each, 3)))


def _too_large(size: str, most: int = MAX_PIXELS) -> str:
    return (
        f"a flat image of {size}; over {most:,} px it must be a tiled pyramid "
        "(vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg)"
    )


def _read_pil(path: Path) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit
            opened = Image.open(path, formats=("PNG", "JPEG", "BMP"))
        with opened as image:
            clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            check_pixels(*image.size, bytes_each=4 if clear or image.mode == "CMYK" else 3)
            if image.mode == "CMYK" and "icc_profile" in image.info:
                raise ContentRefused("its inks (CMYK) have a colour profile of their own; export it as RGB")
            ImageOps.exif_transpose(image, in_place=True)  # upright, as every viewer shows it
            if image.mode.startswith("I"):  # grey of 16 bits, of which Pillow keeps what is over 255 as white
                return _grey16(np.asarray(image))
            return _rgb(image, clear=clear)
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        # Far above MAX_PIXELS Pillow takes the file for an attack; it says how many px, "(n pixels)", not which sides.
        count = re.search(r"\((\d+) pixels\)", str(error))
        raise ContentRefused(_too_large(f"{int(count[1]):,} px" if count else "too many px")) from None
    except (OSError, SyntaxError) as error:
        if "truncated" in str(error).lower():
            raise ContentRefused(f"the file is cut short ({error}); copy it again") from None
        raise Refused(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a damaged image can fail anywhere in Pillow
        raise Refused(str(error)) from None


def _grey16(pixels: Samples) -> Pixels:
    check_depth(int(pixels.max(initial=0)))
    return _in_bands(pixels, lambda band: np.repeat(to_eight_bits(band)[..., None], 3, axis=-1))


def _in_bands(stored: Samples, convert: Conversion) -> Pixels:
    out = np.empty((*stored.shape[:2], 3), np.uint8)
    for top in range(0, len(out), _BAND_ROWS):
        out[top : top + _BAND_ROWS] = convert(stored[top : top + _BAND_ROWS])
    return out


def _rgb(image: Image.Image, *, clear: bool) -> Pixels:
    if not clear:
        return np.asarray(image.convert("RGB"))
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        out[top : top + band.height] = np.asarray(Image.alpha_composite(white, band).convert("RGB"))
    return out


def _read_pages(pages: Sequence[tifffile.TiffPage]) -> Pixels:
    page = pages[0]
    if any(
        (one.imagewidth, one.imagelength, one.dtype) != (page.imagewidth, page.imagelength, page.dtype) for one in pages
    ):
        raise ContentRefused("the planes of its colours differ in how they are stored")
    samples = page.samplesperpixel * len(pages)
    convert = conversion(page, len(pages))
    check_pixels(page.imagewidth, page.imagelength, samples * np.dtype(page.dtype).itemsize)
    if page.imagedepth != 1:
        raise ContentRefused(f"is a stack of {page.imagedepth} planes")
    if missing := sum(missing_strips(one) for one in pages):
        raise ContentRefused(f"{missing} of its strips are missing: what wrote it was interrupted. Export it again")
    stored: Samples = np.empty((page.imagelength, page.imagewidth, samples), page.dtype)
    for number, one in enumerate(pages):
        read_strips(one, stored[..., number : number + 1] if len(pages) > 1 else stored)
    if page.bitspersample == 16:
        check_depth(int(stored.max(initial=0)))
    pixels = _in_bands(stored, convert) if convert else np.asarray(stored, np.uint8)
    return np.ascontiguousarray(_upright(pixels, int(page.tags.valueof(274, 1))))


def read_strips(page: tifffile.TiffPage, out: Samples) -> None:
    """Read all strips of a page into an array (rows, cols, samples)."""
    file = page.parent.filehandle
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        file.seek(offset)
        data = file.read(count)
        strip, (plane, _, top, _, _), _ = decode_segment(page, data, index, (page.imagewidth, page.rowsperstrip))
        place = out[top : top + page.rowsperstrip]
        place = place[..., plane : plane + 1] if _in_planes(page) else place
        if strip is None or strip[0].shape[0] < len(place) or strip[0].shape[1:] != place.shape[1:]:
            raise ValueError(f"strip {index} does not hold its {len(place)} rows")
        place[:] = strip[0][: len(place)]


def missing_strips(page: tifffile.TiffPage) -> int:
    """Number of strips that are missing, which tifffile would show as black."""
    expected = -(-page.imagelength // max(1, page.rowsperstrip)) * (page.samplesperpixel if _in_planes(page) else 1)
    stored = min(len(page.dataoffsets), sum(count > 0 for count in page.databytecounts))
    return max(0, expected - stored)


def _in_planes(page: tifffile.TiffPage) -> bool:
    return bool(page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo TIFF's Orientation tag: which side of the image row 0 and column 0 are (TIFF 6.0, page 36)."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
