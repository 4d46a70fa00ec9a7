"""Average precision of boxes: area under the precision-recall curve, all points, one IoU."""

import math
from collections.abc import Sequence

import torch
from torchvision.ops import box_iou

from wsi_umedpt.datasets.samples import Boxes
from wsi_umedpt.tasks.fcos import Detections


def mean_average_precision(
    found: Sequence[Detections], true: Sequence[Boxes], classes: int, iou: float = 0.5
) -> list[float]:
    """Average precision of each class over all images (Everingham et al., IJCV 2015; area, not 11 points).

    Best score first, a found box is right if it overlaps a true box of its image and class, not
    taken by a better one, by at least `iou`; it takes the one that it overlaps most.

    Returns
    -------
    list of float
        For each class; nan where no image has a true box of it.
    """
    return [_average_precision(found, true, k, iou) for k in range(classes)]


def _average_precision(found: Sequence[Detections], true: Sequence[Boxes], k: int, iou: float) -> float:
    total = sum(int((boxes.classes == k).sum()) for boxes in true)
    if total == 0:
        return math.nan
    scores, right = [], []
    for detections, boxes in zip(found, true, strict=True):
        mine = detections.classes == k
        order = detections.scores[mine].argsort(descending=True, stable=True)
        scores.append(detections.scores[mine][order])
        right.append(_matched(detections.xyxy[mine][order], boxes.xyxy[boxes.classes == k], iou))
    score = torch.cat(scores)
    hit = torch.cat(right)[score.argsort(descending=True, stable=True)].double()
    recall = hit.cumsum(0) / total
    precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
    # Precision at a recall is the best at that recall or a higher one.
    best = precision.flip(0).cummax(0).values.flip(0)
    steps = torch.diff(recall, prepend=recall.new_zeros(1))
    return float((steps * best).sum())


def _matched(found: torch.Tensor, true: torch.Tensor, iou: float) -> torch.Tensor:
    """Flags of the boxes found, best first, that are right."""
    hit = torch.zeros(len(found), dtype=torch.bool)
    if len(true) == 0 or len(found) == 0:
        return hit
    overlap = box_iou(found, true)
    free = torch.ones(len(true), dtype=torch.bool)
    for i in range(len(found)):
        best, which = torch.where(free, overlap[i], -1.0).max(0)
        if best >= iou:
            hit[i], free[which] = True, False
    return hit
