"""FCOS, the rules: which point answers for which box, what it loses, and how boxes are read off.

After Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, section 3.
Sides are distances left, top, right, bottom from a point, in units of its level's stride.
All of it works on one image at a time or on flat lists of points; no network is here.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F
from torchvision.ops import batched_nms

from wsi_umedpt.datasets.samples import Boxes
from wsi_umedpt.models.fcos import BOX_STRIDES

RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, float("inf")))
"""A level answers for boxes whose longest side from the point is in (low, high], px."""
PRIOR = 0.01
"""Chance of any class at any point before training."""
MIN_SCORE = 0.05
MAX_IOU = 0.5
PER_LEVEL = 1000
PER_IMAGE = 300
"""Boxes kept of one image; FCOS keeps 100, too few for a field of nuclei."""


class Points(NamedTuple):
    """Centres of all cells of all levels, finest first."""

    xy: torch.Tensor
    """float32 (point, 2), px."""
    stride: torch.Tensor
    """float32 (point,)."""
    level: torch.Tensor
    """int64 (point,)."""


class Targets(NamedTuple):
    """Targets of each point."""

    classes: torch.Tensor
    """int64 (point,); -1 is background."""
    sides: torch.Tensor
    """float32 (point, 4), in strides; meaningless at the background."""
    centreness: torch.Tensor
    """float32 (point,); 0 at the background."""


class Detections(NamedTuple):
    """Boxes found in one image, best first."""

    xyxy: torch.Tensor
    """float32 (box, 4), px."""
    classes: torch.Tensor
    """int64 (box,)."""
    scores: torch.Tensor
    """float32 (box,)."""


def lay_points(shapes: list[tuple[int, int]], device: torch.device | None = None) -> Points:
    """Points of levels of the shapes (h, w) given, finest first."""
    xy, strides, levels = [], [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, BOX_STRIDES, strict=True)):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        xy.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((height * width,), float(stride)))
        levels.append(torch.full((height * width,), level))
    return Points(torch.cat(xy).to(device), torch.cat(strides).to(device), torch.cat(levels).to(device))


def assign(points: Points, boxes: Boxes) -> Targets:
    """Give each point the smallest box that it lies in and whose size is of its level."""
    n = len(points.xy)
    if len(boxes.xyxy) == 0:
        empty = points.xy.new_zeros(n)
        return Targets(torch.full_like(points.level, -1), empty[:, None].expand(n, 4), empty)
    corners = torch.cat([points.xy[:, None] - boxes.xyxy[None, :, :2], boxes.xyxy[None, :, 2:] - points.xy[:, None]], 2)
    ranges = torch.tensor(RANGES, device=points.xy.device)[points.level]  # (point, 2)
    longest = corners.amax(2)  # (point, box)
    fits = (corners.amin(2) > 0) & (longest > ranges[:, :1]) & (longest <= ranges[:, 1:])
    extent = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    area = torch.where(fits, (extent[:, 0] * extent[:, 1])[None], torch.inf)
    smallest, which = area.min(1)
    classes = torch.where(torch.isfinite(smallest), boxes.classes[which], -1)
    sides = corners[torch.arange(n, device=which.device), which] / points.stride[:, None]
    return Targets(classes, sides, torch.where(classes >= 0, centreness(sides), 0.0))


def centreness(sides: torch.Tensor) -> torch.Tensor:
    """FCOS eq. 3: 1 at a box's centre, 0 at its border; sides (point, 4), all positive."""
    s = sides.clamp(min=0)
    across = s[:, [0, 2]].amin(1) / s[:, [0, 2]].amax(1).clamp(min=1e-7)
    along = s[:, [1, 3]].amin(1) / s[:, [1, 3]].amax(1).clamp(min=1e-7)
    return (across * along).sqrt()


def side_giou(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of boxes given by their sides from one point, (point, 4)."""
    shared = torch.minimum(found, true)
    around = torch.maximum(found, true)
    overlap = _area(shared)
    union = _area(found) + _area(true) - overlap
    hull = _area(around).clamp(min=1e-7)
    return overlap / union.clamp(min=1e-7) - (hull - union) / hull


def _area(sides: torch.Tensor) -> torch.Tensor:
    return (sides[:, 0] + sides[:, 2]).clamp(min=0) * (sides[:, 1] + sides[:, 3]).clamp(min=0)


def class_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Sigmoid focal loss, gamma 2, alpha 0.25 (Lin et al., ICCV 2017, eq. 5), over the number of positives.

    Scaled by its value for an untrained head: a positive whose chance is `PRIOR`.

    Parameters
    ----------
    logits : float (point, class)
    classes : int64 (point,)
        -1 is background.
    """
    truth = torch.zeros_like(logits)
    positive = classes >= 0
    truth[positive, classes[positive]] = 1.0
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weight = torch.where(truth == 1, 0.25, 0.75)
    loss = (weight * (1 - torch.exp(-entropy)) ** 2 * entropy).sum() / positive.sum().clamp(min=1)
    untrained = 0.25 * (1 - PRIOR) ** 2 * -float(torch.log(torch.tensor(PRIOR)))
    return loss / untrained


def read_boxes(
    points: Points,
    logits: torch.Tensor,
    sides: torch.Tensor,
    centre_logits: torch.Tensor,
    size: tuple[int, int],
) -> Detections:
    """Boxes of one image, after suppressing those that overlap a better one of their class.

    Parameters
    ----------
    points
        Points of all levels.
    logits : float (point, class)
    sides : float (point, 4)
        In strides.
    centre_logits : float (point,)
    size : (height, width), px
        Boxes are clipped to it.
    """
    chance = logits.sigmoid()
    rows, classes = [], []
    for level in range(len(BOX_STRIDES)):
        where = torch.nonzero(points.level == level)[:, 0]
        flat = chance[where].flatten()
        best = flat.topk(min(PER_LEVEL, len(flat))).indices
        best = best[flat[best] > MIN_SCORE]
        rows.append(where[best // logits.shape[1]])
        classes.append(best % logits.shape[1])
    row, kind = torch.cat(rows), torch.cat(classes)
    # Class and centre together, as FCOS ranks boxes: far from a centre boxes are poor.
    scores = chance[row, kind] * centre_logits[row].sigmoid()
    reach = sides[row] * points.stride[row][:, None]
    xyxy = torch.cat([points.xy[row] - reach[:, :2], points.xy[row] + reach[:, 2:]], 1)
    limit = xyxy.new_tensor([size[1], size[0], size[1], size[0]])
    xyxy = torch.minimum(xyxy.clamp(min=0), limit)
    whole = (xyxy[:, 2:] > xyxy[:, :2]).all(1) & (scores > MIN_SCORE)
    xyxy, kind, scores = xyxy[whole], kind[whole], scores[whole]
    kept = batched_nms(xyxy, scores, kind, MAX_IOU)[:PER_IMAGE]
    return Detections(xyxy[kept], kind[kept], scores[kept])
