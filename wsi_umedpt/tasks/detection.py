"""Boxes and their classes: the task's own part of FCOS."""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.datasets.samples import Batch, Boxes
from wsi_umedpt.errors import DataError
from wsi_umedpt.models.fcos import BOX_STRIDES, WIDTH, BoxFeatures
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import Features, UMedPT
from wsi_umedpt.tasks.average_precision import mean_average_precision
from wsi_umedpt.tasks.base import Meter, Task, widened
from wsi_umedpt.tasks.fcos import (
    PRIOR,
    Detections,
    Points,
    assign,
    class_loss,
    lay_points,
    read_boxes,
    side_giou,
)

_CENTRE_WEIGHT = 0.2


class BoxOutputs(NamedTuple):
    """Output of the head at every point."""

    points: Points
    logits: torch.Tensor
    """float (image, point, class)."""
    sides: torch.Tensor
    """float (image, point, 4), in strides."""
    centres: torch.Tensor
    """float (image, point), logits."""
    size: tuple[int, int]
    """Height and width of the images, px."""


class Detection(Task):
    """Boxes of several classes."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.classes = nn.Conv2d(WIDTH, len(spec.classes), 3, padding=1)
        self.sides = nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.centre = nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(BOX_STRIDES)))
        for conv in (self.classes, self.sides, self.centre):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        # Boxes begin one stride around their point: a side of 0 would get no gradient.
        nn.init.ones_(self.sides.bias)  # type: ignore[arg-type]

    def forward(self, shared: UMedPT, features: Features) -> BoxOutputs:
        """See `BoxOutputs`."""
        return self.read(shared.boxes(features.pyramid), features.size)

    def read(self, maps: BoxFeatures, size: tuple[int, int]) -> BoxOutputs:
        """Output of the head for box features that other heads may share."""
        points = lay_points([(m.shape[2], m.shape[3]) for m in maps.classes], maps.classes[0].device)
        sides = [F.relu(widened(self.sides(m)) * scale) for m, scale in zip(maps.sides, self.scales, strict=True)]
        return BoxOutputs(
            points,
            torch.cat([_flat(widened(self.classes(m))) for m in maps.classes], 1),
            torch.cat([_flat(s) for s in sides], 1),
            torch.cat([_flat(widened(self.centre(m))) for m in maps.sides], 1)[:, :, 0],
            size,
        )

    def loss_of(self, outputs: BoxOutputs, batch: Batch) -> torch.Tensor:
        """Focal loss of classes, 1 - GIoU of boxes weighted by centreness, and 0.2 of centreness, over their sum."""
        if batch.boxes is None:
            raise DataError(f"task {self.name} needs boxes, and its batch has none")
        targets = [assign(outputs.points, boxes) for boxes in batch.boxes]
        classes = torch.cat([t.classes for t in targets])
        centres = torch.cat([t.centreness for t in targets])
        sides = torch.cat([t.sides for t in targets])
        positive = classes >= 0
        loss = class_loss(outputs.logits.flatten(0, 1), classes)
        found = outputs.sides.flatten(0, 1)[positive]
        wanted = centres[positive]
        # Sums over no positives are zeros that keep every head in the graph.
        box = ((1 - side_giou(found, sides[positive])) * wanted).sum() / wanted.sum().clamp(min=1e-7)
        logits = outputs.centres.flatten()[positive]
        centre = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / positive.sum().clamp(min=1)
        return (loss + box + _CENTRE_WEIGHT * centre / math.log(2)) / (2 + _CENTRE_WEIGHT)

    def detections(self, outputs: BoxOutputs) -> list[Detections]:
        """Boxes of each image."""
        return [
            read_boxes(outputs.points, logits, sides, centres, outputs.size)
            for logits, sides, centres in zip(outputs.logits, outputs.sides, outputs.centres, strict=True)
        ]

    def meter(self) -> Meter:
        """See `BoxMeter`."""
        return BoxMeter(self)


class BoxMeter(Meter):
    """Mean average precision at IoU 0.5."""

    main: ClassVar[str] = "map50"

    def __init__(self, task: Detection) -> None:
        self._task = task
        self._found: list[Detections] = []
        self._true: list[Boxes] = []

    def add(self, outputs: BoxOutputs, batch: Batch) -> None:
        """See `Meter.add`."""
        self._found += [Detections(*(t.cpu() for t in d)) for d in self._task.detections(outputs)]
        self._true += [Boxes(b.xyxy.cpu(), b.classes.cpu()) for b in batch.boxes or ()]

    def figures(self) -> dict[str, float]:
        """See `Meter.figures`."""
        each = mean_average_precision(self._found, self._true, len(self._task.spec.classes))
        named = {f"ap50_{name}": ap for name, ap in zip(self._task.spec.classes, each, strict=True)}
        known = [ap for ap in each if not math.isnan(ap)]
        return {"map50": sum(known) / len(known) if known else math.nan, **named}


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)  # (image, k, h, w) to (image, point, k)
