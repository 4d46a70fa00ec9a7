"""`TaskData`: the records of one task, split, and the batches made of them.

`batch(i)` is a pure function of the seed and i: which cases, which crops, which colours. So
training can stop and go on at any step, with any number of loader processes, and see the same.

What is shown together is a unit: one image, or all images of a bag.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from wsi_umedpt.cases import Batch, Boxes, Case
from wsi_umedpt.datasets.augment import Framing, Modality, Rng, View, draw_view, recolour, still_view, take
from wsi_umedpt.datasets.records import DataSpec, Record
from wsi_umedpt.datasets.sources import find_records
from wsi_umedpt.datasets.splits import split_records
from wsi_umedpt.datasets.targets import class_mask, label_of
from wsi_umedpt.errors import DataError
from wsi_umedpt.spelling import quoted, several_spellings, spelled

Kind = Literal["classification", "multilabel", "segmentation", "detection", "regression", "bag_classification"]
"""What there is data for."""
Unit = list[Record]
_STRIDE = 32
_MOMENT_BATCHES = 32


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of a pretraining config."""

    name: str
    """Names the head; letters, digits, '-' and '_'."""
    kind: Kind
    """What is predicted: a class, labels, or values of an image; a class of every pixel; boxes; a class of a bag."""
    classes: tuple[str, ...]
    """Names of classes, labels or values; of segmentation the first is the background."""
    modality: Modality
    """Which augmentations make sense."""
    data: DataSpec
    framing: Framing = "crop"
    """crop: windows of the image. whole: the whole image."""
    zoom: tuple[float, float] = (0.7, 1.4)
    """Least and greatest, output px per image px."""
    size_px: tuple[int, int] = (96, 192)
    """Least and greatest side of a batch's images; multiples of 32 between them are drawn."""
    batch_size: int = 16
    """Images, or bags, a batch; where `max_pixels` cuts a batch short, the rest is left for the next epoch."""
    mpp: float | None = None
    """um/px of the images at zoom 1, where known; recorded with the head."""
    about: str = ""
    """What the head finds, and where, for people who choose among heads; recorded with it."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a task's name is letters, digits, '-' and '_', got {self.name!r}")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom is (least, greatest), both positive, got {self.zoom}")
        if not 0 < self.size_px[0] <= self.size_px[1] or self.size_px[0] % _STRIDE or self.size_px[1] % _STRIDE:
            raise ValueError(f"size_px is (least, greatest), multiples of {_STRIDE}, got {self.size_px}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError(f"classes need names of their own, got {[*self.classes]}")
        if alike := several_spellings(self.classes, spelled):
            raise ValueError(f"{quoted(alike[0])} are one class but for how it is spelled; write it in one way")
        if self.mpp is not None and self.mpp <= 0:
            raise ValueError(f"mpp must be positive, got {self.mpp}")
        if (self.kind == "bag_classification") != bool(self.data.bag_column):
            raise ValueError("bag_classification needs data.bag_column, and nothing else does")


@dataclass(frozen=True)
class TaskData:
    """Records of one task and how they become batches."""

    spec: TaskSpec
    splits: dict[str, list[Record]]
    seed: int
    max_pixels: int
    """Most pixels in one batch."""
    cases: dict[Record, Case] = field(default_factory=dict, repr=False)
    """What `door.check` read and had room to keep."""

    @classmethod
    def find(
        cls, spec: TaskSpec, *, val: float, test: float, split_seed: int, seed: int, max_pixels: int
    ) -> "TaskData":
        """Find and split the records of a task; nothing is read yet."""
        records = find_records(spec.data, spec.kind, spec.classes)
        splits = split_records(records, val=val, test=test, seed=split_seed)
        if not splits["train"]:
            raise DataError(f"task {spec.name}: no training records among {len(records)}")
        return cls(spec, splits, seed, max_pixels)

    def batch(self, number: int) -> Batch:
        """Training batch `number`, counted from 0; a pure function of it and the seed."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.spec.name.encode()), number])
        least, greatest = (side // _STRIDE for side in self.spec.size_px)
        height, width = (int(n) * _STRIDE for n in rng.integers(least, greatest + 1, 2))
        units = _fitting(self._turn(number), max(1, self.max_pixels // (height * width)), rng)
        shown = []
        for record in (r for unit in units for r in unit):
            case = self._read(record)
            spec = self.spec
            seen = take(case, draw_view(case, (height, width), spec.zoom, spec.framing, spec.modality, rng))
            shown.append(replace(seen, image=recolour(seen.image, spec.modality, rng)))
        return self._collate(units, shown)

    def evaluated(self, split: str) -> Iterator[Batch]:
        """Whole images of a split as they are, at the middle zoom; one image, or one bag, a batch."""
        zoom = float(np.sqrt(self.spec.zoom[0] * self.spec.zoom[1]))
        for unit in self._units(split):
            cases = [self._read(record) for record in unit]
            views = [still_view(case, zoom, self.spec.framing, self.spec.size_px[1]) for case in cases]
            # Images of a bag may differ in size: smaller ones get a border.
            shape = max(v.shape[0] for v in views), max(v.shape[1] for v in views)
            seen = [take(case, View(v.matrix, shape)) for case, v in zip(cases, views, strict=True)]
            yield self._collate([unit], seen)

    def label_moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each value over the first training batches (regression).

        Over batches, because a crop of a mask has other values than the whole of it.
        """
        labels = np.concatenate(
            [batch.labels for i in range(_MOMENT_BATCHES) if (batch := self.batch(i)).labels is not None]
        )
        unknown = [n for n, known in zip(self.spec.classes, np.isfinite(labels).any(0), strict=True) if not known]
        if unknown:
            raise DataError(f"task {self.spec.name}: no training image has a value for {', '.join(unknown)}")
        centre, spread = np.nanmean(labels, 0), np.nanstd(labels, 0)
        return tuple(float(c) for c in centre), tuple(float(s) for s in spread)

    def _units(self, split: str) -> list[Unit]:
        """What is shown together, in the order of the records."""
        if self.spec.kind != "bag_classification":
            return [[record] for record in self.splits[split]]
        bags: dict[str, Unit] = {}
        for record in self.splits[split]:
            bags.setdefault(record.bag, []).append(record)
        return [*bags.values()]

    def _turn(self, number: int) -> list[Unit]:
        """The units whose turn it is: every epoch a new order, no unit twice in it."""
        units = self._units("train")
        out: list[Unit] = []
        at = number * self.spec.batch_size
        while len(out) < self.spec.batch_size:
            epoch, first = divmod(at, len(units))
            order = np.random.default_rng([self.seed, zlib.crc32(self.spec.name.encode()), epoch, 1]).permutation(
                len(units)
            )
            taken = order[first : first + self.spec.batch_size - len(out)]
            out += [units[i] for i in taken]
            at += len(taken)
        return out

    def _read(self, record: Record) -> Case:
        return self.cases.get(record) or record.read()

    def _collate(self, units: list[Unit], cases: list[Case]) -> Batch:
        spec, data = self.spec, self.spec.data
        images = torch.from_numpy(np.stack([c.image for c in cases])).permute(0, 3, 1, 2)
        if spec.kind == "detection":
            boxes = []
            for case in cases:
                if case.xyxy is None or case.box_classes is None:
                    raise DataError(f"task {spec.name}: detection needs boxes, or masks with instances = true")
                boxes.append(Boxes(torch.from_numpy(case.xyxy), torch.from_numpy(case.box_classes)))
            return Batch(images=images, boxes=tuple(boxes))
        if spec.kind == "segmentation":
            instances = data.instances or data.components
            masks = [class_mask(c.mask, spec.classes, instances=instances) for c in cases if c.mask is not None]
            return Batch(images=images, masks=torch.from_numpy(np.stack(masks)))
        labels = torch.from_numpy(np.stack([label_of(c, spec.kind, spec.classes) for c in cases]))
        if spec.kind == "classification":
            return Batch(images=images, labels=labels[:, 0].long())
        if spec.kind == "bag_classification":
            bags = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
            first = np.searchsorted(bags, np.arange(len(units)))  # the label of a bag stands with each of its images
            return Batch(images=images, labels=labels[first, 0].long(), bags=torch.from_numpy(bags))
        return Batch(images=images, labels=labels)


def _fitting(units: list[Unit], room: int, rng: Rng) -> list[Unit]:
    """The first units, whole, with no more than `room` images; of a first one that is larger, a random part."""
    if len(units[0]) > room:
        return [[units[0][i] for i in np.sort(rng.permutation(len(units[0]))[:room])]]
    ends = np.cumsum([len(unit) for unit in units])
    return units[: int((ends <= room).sum())]
