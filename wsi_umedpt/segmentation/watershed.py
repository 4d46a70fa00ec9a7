"""Instance segmentation: connected foreground of pixel probabilities, cut by seeded watershed where objects touch."""

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import watershed

Chances = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

HALF = 128
"""A chance of one half, as uint8 holds it."""
LIKELY = 191
"""A chance of three quarters, which an object's inner part needs somewhere where no box vouches for it."""
_SEED_PX = 2
"""Radius of the marker that a box's centre becomes."""
_DISC = np.argwhere(cv2.circle(np.zeros((5, 5), np.uint8), (_SEED_PX, _SEED_PX), _SEED_PX, 1, -1)) - _SEED_PX
"""Rows and columns of that marker's pixels, from its centre."""


def separate(
    front: Chances,
    inner: Chances,
    centres: npt.NDArray[np.floating] | None = None,
    *,
    min_px: int = 10,
    vouched: bool = False,
) -> Labels:
    """Number the objects of a picture.

    Pixels whose front is likelier than not are objects. Those that are connected are cut by a
    watershed, whose markers are the centres of the boxes that a detector found and the connected
    inner parts that hold no such centre; without a detector, all connected inner parts.

    Parameters
    ----------
    front : uint8 (h, w)
        Chance (255 is 1) that a pixel belongs to an object, its border included.
    inner : uint8 (h, w)
        Chance that it is of the inner part, which a border keeps apart from the next.
    centres : float (box, 2)
        x, y of the boxes' centres, px; those outside all fronts mark nothing.
    min_px
        Objects of fewer pixels are dropped, and inner parts of less than a quarter of it mark nothing.
    vouched
        Drop objects that nothing vouches for: neither a centre, nor a quarter of `min_px` pixels of an inner part
        that is at least `LIKELY`.

    Returns
    -------
    int32 (h, w)
        0 is background; objects are 1, 2, ... in no order, numbers of dropped ones left out.
    """
    mask = front >= HALF
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    markers, marked = _markers(parts, inner, centres, max(1, min_px // 4))
    # How many markers lie in each connected front: most have one, and are objects as they are.
    pairs = np.unique(np.stack([parts[marked], markers[marked]], 1), axis=0) if marked.any() else np.empty((0, 2), int)
    shared = np.bincount(pairs[:, 0], minlength=count) > 1
    shared[0] = False
    labels = parts.astype(np.int32)
    if shared.any():
        for number in np.flatnonzero(shared):
            x, y, width, height, _ = stats[number]
            where = np.s_[y : y + height, x : x + width]
            mine = parts[where] == number
            own = np.where(mine, markers[where], 0)
            # Of this front alone: what lies beside it must not move its cuts.
            smooth = cv2.GaussianBlur(np.where(mine, inner[where], 0), (0, 0), 1.0).astype(np.int16)
            # Over corners too, as fronts are connected: else pixels were left that no marker reaches.
            cut = watershed(-smooth, own, connectivity=2, mask=mine)  # type: ignore[no-untyped-call]
            labels[where][mine] = cut[mine] + count
    sizes = np.bincount(labels.ravel())
    kept = sizes >= min_px
    if vouched:
        sure = np.bincount(labels[inner >= LIKELY], minlength=len(sizes)) >= max(1, min_px // 4)
        if centres is not None and len(centres):
            sure[labels[_pixels(centres, labels.shape)]] = True
        kept &= sure
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    out: Labels = numbers[labels]
    return out


def _pixels(
    centres: npt.NDArray[np.floating], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the pixels that hold centres; of those outside none."""
    column, row = np.floor(centres).astype(np.intp).T
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    return row[inside], column[inside]


def _markers(
    parts: Labels, inner: Chances, centres: npt.NDArray[np.floating] | None, least: int
) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Markers of the connected fronts `parts`, and where they are."""
    mask = parts > 0
    likely = (inner >= HALF) & mask
    count, markers, stats, _ = cv2.connectedComponentsWithStats(likely.astype(np.uint8), connectivity=4)
    kept = stats[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False
    if centres is not None and len(centres):
        # In reading order, so that cuts do not depend on the order in which boxes were found.
        row, column = _pixels(centres[np.lexsort(centres.T)], mask.shape)
        inside = mask[row, column]
        column, row = column[inside], row[inside]
        kept[markers[row, column]] = False
        markers = np.where(kept[markers], markers, 0)
        rows, columns = row[:, None] + _DISC[:, 0], column[:, None] + _DISC[:, 1]
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        # A centre marks its own front only, however near the next one is.
        inside[inside] = parts[rows[inside], columns[inside]] == np.repeat(parts[row, column], inside.sum(1))
        numbers = np.repeat(np.arange(count, count + len(row), dtype=markers.dtype), inside.sum(1))
        markers[rows[inside], columns[inside]] = numbers
    else:
        markers = np.where(kept[markers], markers, 0)
    return markers.astype(np.int32), markers > 0
