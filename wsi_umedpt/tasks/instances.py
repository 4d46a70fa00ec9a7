"""Agreement of instances that were found with the true ones."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]


def aggregated_jaccard(true: Labels, found: Labels) -> float:
    """Aggregated Jaccard index (Kumar et al., IEEE TMI 36(7), 2017, algorithm 1).

    Each true instance meets the found one of highest Jaccard index; found instances that meet
    none count as wrong. 1 is perfect; nan if there is nothing in either.
    """
    shared, true_sizes, found_sizes = _overlaps(true, found)
    n, m = shared.shape
    unions = true_sizes[:, None] + found_sizes[None] - shared
    overlap, area, used = 0, 0, np.zeros(m, bool)
    for i in range(n):
        if m and shared[i].any():
            best = int((shared[i] / unions[i]).argmax())
            overlap, area, used[best] = overlap + int(shared[i, best]), area + int(unions[i, best]), True
        else:
            area += int(true_sizes[i])
    area += int(found_sizes[~used].sum())
    return overlap / area if area else float("nan")


class Panoptic(NamedTuple):
    """Panoptic quality and its parts."""

    quality: float
    """Product of the two below."""
    detection: float
    """F1 score of instances; those of IoU over 0.5 match."""
    segmentation: float
    """Mean IoU of the matches; 0 if there are none."""


def panoptic_quality(true: Labels, found: Labels) -> Panoptic:
    """Panoptic quality of one class (Kirillov et al., CVPR 2019, eq. 1); nan if there is nothing in either."""
    iou = instance_iou(true, found)
    hits = iou[iou > 0.5]  # at most one a row and column, as instances do not overlap
    total = sum(iou.shape)
    if not total:
        return Panoptic(float("nan"), float("nan"), float("nan"))
    detection, segmentation = 2 * len(hits) / total, float(hits.mean()) if len(hits) else 0.0
    return Panoptic(detection * segmentation, detection, segmentation)


def instance_iou(true: Labels, found: Labels) -> npt.NDArray[np.float64]:
    """IoU of each true instance with each found one, (true, found); numbered from 1 without gaps."""
    shared, true_sizes, found_sizes = _overlaps(true, found)
    unions = true_sizes[:, None] + found_sizes[None] - shared
    iou: npt.NDArray[np.float64] = shared / np.maximum(unions, 1)
    return iou


def _overlaps(
    true: Labels, found: Labels
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Shared pixels (true, found), and sizes, of instances numbered from 1 without gaps."""
    n, m = int(true.max(initial=0)), int(found.max(initial=0))
    flat = true.astype(np.int64).ravel() * (m + 1) + found.ravel()
    both = np.bincount(flat, minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)
    return both[1:, 1:], both.sum(1)[1:], both.sum(0)[1:]
