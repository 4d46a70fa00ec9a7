"""Area averaging: pixels shrunk by any factor, each output pixel the exact mean of the area that it covers.

Whole-number factors are OpenCV's. By a fraction, OpenCV averages pixel by pixel in scalar code, which costs as much
as three decodings; here rows, then columns, are each one product with a sparse matrix, whose rows hold the two to
four weights of an output pixel. Rows of such a product are whole rows of pixels, so that it runs at the speed of
memory, and outside Python's lock.
"""

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.slides.readers.base import Pixels

_ROWS = 256
"""Output rows that are averaged at once: what is between the two products stays in the processor's cache."""


def shrink(pixels: Pixels, size: tuple[int, int], factor: float, out: Pixels | None = None) -> Pixels:
    """Average the area under each output pixel, exactly, also for fractional factors.

    Parameters
    ----------
    pixels : uint8 (rows, cols, 3)
        Covers at least ``size * factor``.
    size : (width, height) of the result, px
    factor : input px per output px; below 1 it magnifies, linearly
    """
    width, height = size
    if factor == 1:
        result = pixels[:height, :width]
    elif factor == int(factor):
        n = int(factor)
        result = cv2.resize(pixels[: height * n, : width * n], size, dst=out, interpolation=cv2.INTER_AREA)
    elif factor > 1:
        return _shrink_by_fraction(pixels, size, factor, out)
    else:
        # Given fx and fy rather than a size, OpenCV keeps the fractional factor exactly.
        resized = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_LINEAR)
        result = resized[:height, :width]
    if out is not None and result is not out:
        out[:] = result
        return out
    return np.asarray(result, np.uint8)


def _shrink_by_fraction(pixels: Pixels, size: tuple[int, int], factor: float, out: Pixels | None) -> Pixels:
    width, height = size
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    cols, right = _weights(0, width, factor, pixels.shape[1], samples=3)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        rows, below = _weights(top, bottom, factor, pixels.shape[0])
        first = int(top * factor)
        piece = pixels[first : first + below, : right // 3].reshape(below, right)
        averaged = rows @ _as_float(piece)  # (output rows, columns and samples)
        averaged = cols @ cv2.transpose(averaged)  # (output columns and samples, output rows)
        out[top:bottom] = cv2.transpose(cv2.convertScaleAbs(averaged)).reshape(bottom - top, width, 3)
    return out


def _as_float(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return pixels.astype(np.float32)


@lru_cache(maxsize=64)
def _weights(begin: int, end: int, factor: float, size: int, samples: int = 1) -> tuple[Any, int]:
    """Weights of input pixels in output pixels from `begin` to before `end`, counted from the first that has one.

    Parameters
    ----------
    size
        Pixels that there are: what rounding lets the last output pixel reach beyond them is left out.
    samples
        Samples of a pixel, side by side; they do not mix.

    Returns
    -------
    sparse float32 (output px * samples, input px * samples), number of its columns
    """
    from scipy.sparse import coo_array, eye_array, kron  # half a second that slides at a whole factor are spared

    first = int(begin * factor)
    edges = np.arange(begin, end + 1) * factor - first
    taps = math.ceil(factor) + 1
    row = np.repeat(np.arange(end - begin), taps)
    col = (np.floor(edges[:-1]).astype(int)[:, None] + np.arange(taps)).ravel()
    weight = np.minimum(edges[1:].repeat(taps), col + 1) - np.maximum(edges[:-1].repeat(taps), col)
    there = (weight > 1e-9) & (col < size - first)
    row, col, weight = row[there], col[there], (weight[there] / factor).astype(np.float32)
    reach = int(col.max()) + 1
    one = coo_array((weight, (row, col)), (end - begin, reach))
    return (one if samples == 1 else kron(one, eye_array(samples, dtype=np.float32))).tocsr(), reach * samples
