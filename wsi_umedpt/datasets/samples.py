"""`Sample` and `Batch`: what one labelled image is, and what a network is trained on.

A dataset gives samples; batching crops and augments them into a `Batch`; a task reads from
the batch the kind of label it needs. Nothing here knows of files or networks.

Arrays are (row, col); boxes are ``x0, y0, x1, y1`` in pixels of their image, x before y.
The label -1 means "not labelled": it takes part in no loss and in no metric.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

IGNORED = -1

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.int32]


class Boxes(NamedTuple):
    """Boxes of one image."""

    xyxy: torch.Tensor
    """float32 (box, 4): x0, y0, x1, y1, px."""
    classes: torch.Tensor
    """int64 (box,)."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image as its dataset gives it, before it is cropped or augmented."""

    image: Image
    """uint8 (h, w, 3); grey images repeat their channel."""
    label: npt.NDArray[np.float32] | None = None
    """float32 (k,): a class index (k = 1), or one value for each label."""
    mask: Mask | None = None
    """int32 (h, w): class or instance of every pixel."""
    xyxy: npt.NDArray[np.float32] | None = None
    """float32 (box, 4), px."""
    box_classes: npt.NDArray[np.int64] | None = None
    """int64 (box,)."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of one task and their labels, each field in the same order."""

    images: torch.Tensor
    """uint8 (image, 3, h, w)."""
    labels: torch.Tensor | None = None
    """int64 (image,) classes, or float32 (image, k) values; with `bags`, one row a bag."""
    masks: torch.Tensor | None = None
    """int64 (image, h, w): class of every pixel."""
    boxes: tuple[Boxes, ...] | None = None
    """Boxes of each image."""
    bags: torch.Tensor | None = None
    """int64 (image,): the bag of each image, counted from 0 in order of appearance."""

    def to(self, device: str) -> "Batch":
        """The same batch on a device."""

        def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(
            images=self.images.to(device, non_blocking=True),
            labels=moved(self.labels),
            masks=moved(self.masks),
            boxes=self.boxes and tuple(Boxes(b.xyxy.to(device), b.classes.to(device)) for b in self.boxes),
            bags=moved(self.bags),
        )
