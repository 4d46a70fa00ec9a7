"""A class for every pixel: one of several, or several at once.

The loss is half soft Dice, half focal loss over its own value at chance, so that it is about 1
for an untrained head with any number of classes.
"""

import math
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.datasets.samples import IGNORED, Batch
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import Features, UMedPT
from wsi_umedpt.models.unet import PixelDecoder
from wsi_umedpt.tasks.base import Meter, Task, needed, nothing, widened

_GAMMA = 2.0


class Segmentation(Task):
    """One class a pixel."""

    def __init__(self, spec: HeadSpec, dim: int = PixelDecoder.dim) -> None:
        super().__init__(spec)
        self.head = nn.Conv2d(dim, len(spec.classes), 3, padding=1)

    def forward(self, shared: UMedPT, features: Features) -> torch.Tensor:
        """Logits at full resolution, float (image, class, h, w)."""
        return self.logits(shared.pixels(features.pyramid), features.size)

    def logits(self, embedded: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Logits of a pixel embedding that other heads may share."""
        small = widened(self.head(embedded))
        full = F.interpolate(small, scale_factor=float(PixelDecoder.stride), mode="bilinear", align_corners=False)
        return full[:, :, : size[0], : size[1]]

    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Half Dice, half softmax focal loss (Lin et al., ICCV 2017, eq. 5) over its value at chance."""
        masks = needed(batch.masks, "a class for each pixel")
        known = masks != IGNORED
        k = outputs.shape[1]
        if k == 1 or not bool(known.any()):
            return nothing(outputs)
        logs = widened(outputs.permute(0, 2, 3, 1)[known]).log_softmax(1)  # (pixel, class)
        classes = masks[known]
        true = logs.gather(1, classes[:, None])[:, 0]
        focal = ((1 - true.exp()) ** _GAMMA * -true).mean()
        at_chance = (1 - 1 / k) ** _GAMMA * math.log(k)
        loss: torch.Tensor = (soft_dice(logs.exp(), F.one_hot(classes, k).to(logs.dtype)) + focal / at_chance) / 2
        return loss

    def meter(self) -> Meter:
        """See `DiceMeter`."""
        return DiceMeter(self.spec.classes)


class MultiLabelSegmentation(Segmentation):
    """Any number of labels a pixel; masks are int64 (image, label, h, w)."""

    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Half Dice, half sigmoid focal loss over its value at chance."""
        masks = needed(batch.masks, "labels for each pixel")
        known = masks != IGNORED
        if not bool(known.any()):
            return nothing(outputs)
        chance = widened(outputs).sigmoid()
        labels = masks.clamp(min=0).to(chance.dtype)
        entropy = F.binary_cross_entropy_with_logits(widened(outputs), labels, reduction="none")
        focal = ((1 - torch.exp(-entropy)) ** _GAMMA * entropy)[known].mean() / (0.5**_GAMMA * math.log(2))
        if bool((masks == 1).any()):
            flat = [torch.where(known, t, 0).transpose(0, 1).flatten(1).T for t in (chance, labels)]
            dice = soft_dice(flat[0], flat[1])
        else:
            dice = chance[known].mean()  # nothing is there: what is claimed is wrong
        loss: torch.Tensor = (dice + focal) / 2
        return loss

    def meter(self) -> Meter:
        """See `DiceMeter`."""
        return DiceMeter(self.spec.classes, exclusive=False)


def soft_dice(chances: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice (Milletari et al., 3DV 2016), mean over the classes that are there.

    Parameters
    ----------
    chances, truth : float (pixel, class)
        Pooled over a batch; at least one class is there.
    """
    there = truth.sum(0) > 0
    overlap = 2 * (chances * truth).sum(0) / (chances.sum(0) + truth.sum(0)).clamp(min=1e-7)
    return (1 - overlap)[there].mean()


class DiceMeter(Meter):
    """Dice of each class pooled over all pixels of a split, and its mean without the background.

    The first class is the background where classes exclude each other.
    """

    main: ClassVar[str] = "dice"

    def __init__(self, classes: tuple[str, ...], *, exclusive: bool = True) -> None:
        self._classes, self._exclusive = classes, exclusive
        self._both = torch.zeros(len(classes), dtype=torch.float64)
        self._sum = torch.zeros(len(classes), dtype=torch.float64)

    def add(self, outputs: torch.Tensor, batch: Batch) -> None:
        """See `Meter.add`."""
        masks = needed(batch.masks, "masks")
        found = outputs.argmax(1) if self._exclusive else outputs > 0
        known = masks != IGNORED
        for k in range(len(self._classes)):
            f, t = (found == k, masks == k) if self._exclusive else (found[:, k], masks[:, k] == 1)
            seen = known if self._exclusive else known[:, k]
            f, t = f & seen, t & seen
            self._both[k] += float((f & t).sum())
            self._sum[k] += float(f.sum() + t.sum())

    def figures(self) -> dict[str, float]:
        """See `Meter.figures`."""
        dice = torch.where(self._sum > 0, 2 * self._both / self._sum.clamp(min=1), torch.nan)
        front = dice[1:] if self._exclusive and len(dice) > 1 else dice
        named = {f"dice_{name}": float(d) for name, d in zip(self._classes, dice, strict=True)}
        return {"dice": float(front.nanmean()), **named}
