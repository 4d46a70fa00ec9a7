"""From classes of pixels to instances, and how well instances agree."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.int32]
_EIGHT = np.ones((3, 3), int)


def instances_of(classes: npt.NDArray[np.integer], *, min_pixels: int = 10) -> Labels:
    """Number the instances of a class map of background (0), inner parts (1) and borders (2).

    Connected inner parts are instances; a border pixel joins the nearest, one that touches no
    inner part at all is an instance of its own.

    Parameters
    ----------
    classes : (h, w)
    min_pixels
        Smaller instances are dropped.

    Returns
    -------
    int32 (h, w)
        0 is background; instances are 1, 2, ... in reading order.
    """
    inner, count = ndimage.label(classes == 1, _EIGHT)
    front = classes > 0
    parts, _ = ndimage.label(front, _EIGHT)
    # Fronts without an inner part are thin or small instances.
    has_inner = np.unique(parts[inner > 0])
    alone = front & ~np.isin(parts, has_inner)
    seeds = np.where(alone, parts + count, inner)
    labels = np.zeros_like(seeds)
    for number, where in enumerate(ndimage.find_objects(parts), start=1):
        # Nearest in its own connected front: never across the background.
        mine = parts[where] == number
        own = np.where(mine, seeds[where], 0)
        nearest = ndimage.distance_transform_edt(own == 0, return_distances=False, return_indices=True)
        labels[where] = np.where(mine, own[tuple(nearest)], labels[where])
    numbers, flat, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (sizes >= min_pixels) & (numbers > 0)
    renumbered = np.where(kept, np.cumsum(kept), 0)
    return renumbered[flat].reshape(labels.shape).astype(np.int32)


def aggregated_jaccard(true: Labels, found: Labels) -> float:
    """Aggregated Jaccard index (Kumar et al., IEEE TMI 36(7), 2017, algorithm 1).

    Each true instance meets the found one of highest Jaccard index; found instances that meet
    none count as wrong. 1 is perfect; nan if there is nothing in either.
    """
    n, m = int(true.max(initial=0)), int(found.max(initial=0))
    both = np.zeros((n + 1, m + 1), np.int64)
    np.add.at(both, (true.ravel(), found.ravel()), 1)
    true_sizes, found_sizes = both.sum(1), both.sum(0)
    shared = both[1:, 1:]
    unions = true_sizes[1:, None] + found_sizes[None, 1:] - shared
    overlap, area, used = 0, 0, np.zeros(m, bool)
    for i in range(n):
        if m and shared[i].any():
            best = int((shared[i] / unions[i]).argmax())
            overlap, area, used[best] = overlap + int(shared[i, best]), area + int(unions[i, best]), True
        else:
            area += int(true_sizes[i + 1])
    area += int(found_sizes[1:][~used].sum())
    return overlap / area if area else float("nan")
