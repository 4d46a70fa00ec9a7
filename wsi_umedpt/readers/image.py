"""Flat images: PNG, JPEG and TIFF in strips, held in memory whole."""

import warnings
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from wsi_umedpt.geometry import Mpp
from wsi_umedpt.readers.base import Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size
from wsi_umedpt.readers.tiff import open_tifffile, resolution_mpp

MAX_PIXELS = 170_000_000
"""Half a gigabyte in memory; anything larger belongs into a tiled pyramid."""


class ImageReader:
    """A flat image of one level. PNG and JPEG state no scale that could be believed."""

    name = "image"

    def __init__(self, path: Path) -> None:
        pixels, mpp = _read_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else (_read_pil(path), None)
        self._pixels = pixels
        self.levels: tuple[Level, ...] = (Level(pixels.shape[1], pixels.shape[0], 1.0),)
        self.info = SlideInfo(vendor="image", mpp=mpp)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        return self._pixels[y : y + height, x : x + width]

    def native_tiles(self, level: int) -> NativeTiles | None:
        """None: the image is already decoded."""
        return None

    def close(self) -> None:
        """Nothing is held open."""


def _check_pixels(width: int, height: int) -> None:
    checked_size(width, height)
    if width * height > MAX_PIXELS:
        raise Refused(
            f"a flat image of {width} x {height} px; over {MAX_PIXELS:,} px it must be a tiled pyramid "
            "(vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg)"
        )


def _read_pil(path: Path) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit
            opened = Image.open(path, formats=("PNG", "JPEG", "BMP"))
        with opened as image:
            _check_pixels(*image.size)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                white = Image.new("RGBA", image.size, "white")
                return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged image can fail anywhere in Pillow
        raise Refused(str(error)) from None


def _read_tiff(path: Path) -> tuple[Pixels, Mpp | None]:
    with open_tifffile(path) as tif:
        try:
            page = tif.pages[0].aspage()
            _check_pixels(page.imagewidth, page.imagelength)
            if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3, 4):
                raise Refused(f"needs 8-bit grey or RGB, found {page.samplesperpixel} sample(s) of {page.dtype}")
            photometric = page.photometric
            pixels = page.asarray()
            if pixels.ndim not in (2, 3):
                raise Refused(f"its pixels have shape {pixels.shape}")
            mpp = resolution_mpp(page)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged TIFF can fail anywhere in tifffile
            raise Refused(f"{type(error).__name__}: {error}") from None
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        pixels = 255 - pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return np.ascontiguousarray(pixels[..., :3]), mpp
