"""Size of the batches that networks run, found by trying: larger ones are taken as long as they are faster."""

import logging
import time
from collections.abc import Callable, Sequence

from wsi_umedpt.errors import DeviceMemoryError
from wsi_umedpt.models.encoder import Encoder, probe_tile
from wsi_umedpt.settings import CHUNK_ROWS

WORTH_TRYING = CHUNK_ROWS
"""Number of tiles of a slide from which on trying costs little beside the work."""
SIZES = (8, 16, 32, 64, 128, 256, 512)
"""Sizes that are tried, in this order."""
MOST_BYTES = 64 << 20
"""Pixels of a batch, at most: of what readers share with the network, eight fit (`reader_processes.RING_BYTES`)."""
_SMALLER = (4, 2, 1)
"""Sizes that are tried where the device has no memory for the first of them."""
_GAIN = 1.05
"""By how much a batch must be faster than the one before it, tile for tile."""
_MOST_S = 2.0
"""Seconds after which nothing larger is tried."""

_log = logging.getLogger(__name__)


def fastest_batch(encoders: Sequence[tuple[Encoder, int]]) -> int:
    """Tiles in a batch with which encoders are fastest together, or nearly so.

    Parameters
    ----------
    encoders
        Each with the side of its tiles, px.

    Raises
    ------
    DeviceMemoryError
        If the device has not enough memory for one tile.
    """

    def encode(count: int) -> None:
        for encoder, side in encoders:
            encoder.encode(probe_tile(side).repeat(count, axis=0))

    began, bytes_each = time.perf_counter(), 3 * max(side for _, side in encoders) ** 2
    found = fastest(encode, [size for size in SIZES if size * bytes_each <= MOST_BYTES] or SIZES[:1])
    _log.info("batches of %d tiles, found in %.1f s", found, time.perf_counter() - began)
    return found


def fastest(
    encode: Callable[[int], None], sizes: Sequence[int] = SIZES, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Number of tiles at which encoding is fastest, or nearly so, tile for tile.

    Sizes are doubled until that gains less than 5 %, or would take over two seconds in all, or the device has no
    memory left; of what fits half is then the most that is taken, as two batches are there at a time.

    Parameters
    ----------
    encode
        Encodes so many tiles.
    sizes
        Sizes that are tried, ascending.
    clock
        Seconds.
    """
    best, best_s, began = 0, float("inf"), clock()
    for size in sizes:
        try:
            if not best:
                encode(size)  # which may choose kernels, and takes its memory for the first time
            seconds = _seconds(encode, size, clock)
        except DeviceMemoryError:
            return min(best, size // 4) if best else _largest_that_fits(encode)
        if best and seconds / size > best_s / _GAIN:
            break
        best, best_s = size, seconds / size
        if clock() - began + 2 * seconds > _MOST_S:  # what the next would take
            break
    return best


def _seconds(encode: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    """Seconds of a batch: the fewer of two, where that costs little."""
    seconds = float("inf")
    for _ in range(2):
        began = clock()
        encode(size)
        seconds = min(seconds, clock() - began)
        if seconds > _MOST_S / 8:
            break
    return seconds


def _largest_that_fits(encode: Callable[[int], None]) -> int:
    for size in _SMALLER:
        try:
            encode(size)
        except DeviceMemoryError:
            if size == 1:
                raise
        else:
            return max(1, size // 2)
    raise AssertionError("one tile fits or does not")  # pragma: no cover
