"""Every format that OpenSlide reads: the reference for all other readers, and the fallback."""

import threading
from pathlib import Path

import numpy as np
import openslide

from wsi_umedpt.errors import PixelError
from wsi_umedpt.geometry import Box, Mpp, is_level, level_scale
from wsi_umedpt.slides.readers.base import ContentRefused, Level, NativeTiles, Pixels, Refused, SlideInfo, checked_size


class OpenSlideReader:
    """A slide through OpenSlide."""

    name = "openslide"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._handle = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise Refused("not a format that OpenSlide knows") from None
        except (openslide.OpenSlideError, OSError) as error:
            raise Refused(str(error)) from None
        try:
            size = checked_size(*self._handle.dimensions)
            dimensions = self._handle.level_dimensions
            if dimensions.count(size) > 1:
                raise ContentRefused(
                    f"holds {dimensions.count(size)} images of {size[0]} x {size[1]} px, as a stack of focal planes "
                    "does. Which is the slide is not said: export that one to a file of its own"
                )
            # OpenSlide takes every tiled page for a level, a macro picture too.
            self._numbers = [n for n, s in enumerate(dimensions) if is_level(size, s)]
            self.levels = tuple(Level(*dimensions[n], level_scale(size, dimensions[n])) for n in self._numbers)
            self.info = _info(self._handle)
        except BaseException:
            self._handle.close()
            raise

    def is_exact_at(self, level: int, x: int, y: int) -> bool:
        """Return whether OpenSlide can be asked for this very pixel of a level.

        It takes level-0 coordinates and divides by its own downsample (4.0002, say); at
        what is then a fraction of a pixel it interpolates.
        """
        own = self._handle.level_downsamples[self._numbers[level]]
        return all(abs(round(v * own) / own - v) < 1e-9 for v in (x, y))

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        handle, number = self._handle, self._numbers[level]
        own = handle.level_downsamples[number]
        try:
            rgba = handle.read_region((round(x * own), round(y * own)), number, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            self._reopen(handle)
            raise PixelError(f"{self._path.name}: level {level} at ({x}, {y}): {error}") from None
        alpha = rgba.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return np.asarray(rgba.convert("RGB"))
        pixels = np.asarray(rgba)
        opacity = pixels[..., 3:].astype(np.uint16)
        blended = pixels[..., :3] * opacity + 255 * (255 - opacity)  # transparent is white
        return ((blended + 127) // 255).astype(np.uint8)

    def native_tiles(self, level: int) -> NativeTiles | None:
        """None: OpenSlide composes its pixels."""
        return None

    def close(self) -> None:
        """Free the file."""
        self._handle.close()

    def _reopen(self, failed: openslide.OpenSlide) -> None:
        # After one error a handle answers nothing but that error, so that one damaged
        # tile would cost the whole slide.
        with self._lock:
            if self._handle is failed:
                try:
                    self._handle = openslide.OpenSlide(self._path)
                except (openslide.OpenSlideError, OSError) as error:
                    raise PixelError(f"{self._path.name} cannot be opened any more: {error}") from None


def _info(handle: openslide.OpenSlide) -> SlideInfo:
    properties = handle.properties
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")

    def number(name: str) -> float | None:
        try:
            return float(properties[name])
        except (KeyError, ValueError):
            return None

    objective = number(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    x, y = number(openslide.PROPERTY_NAME_MPP_X), number(openslide.PROPERTY_NAME_MPP_Y)
    mpp = None
    if x and y:
        # OpenSlide takes the mpp of a plain TIFF from its resolution tags.
        mpp = Mpp(x, y, "tiff resolution" if vendor == "generic-tiff" else "vendor")
    elif objective:
        mpp = Mpp(10 / objective, 10 / objective, "objective power")
    corner = [number(f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")]
    bounds = None
    if all(value is not None for value in corner) and corner[2] and corner[3]:
        bounds = Box(*(int(value or 0) for value in corner))
    return SlideInfo(vendor=vendor, mpp=mpp, objective=objective, bounds=bounds)
