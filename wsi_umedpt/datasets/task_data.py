"""`TaskData`: the records of one task, split, and the batches made of them.

`batch(i)` is a pure function of the seed and i: which samples, which crops, which colours. So
training can stop and go on at any step, with any number of loader processes, and see the same.

What is shown together is a unit: one image, or all images of a bag.
"""

import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from wsi_umedpt.datasets.augment import Framing, Modality, Rng, View, draw_view, recolour, still_view, take
from wsi_umedpt.datasets.records import DataSpec, SampleRecord, check_zoom
from wsi_umedpt.datasets.samples import Batch, Boxes, Sample
from wsi_umedpt.datasets.sources import find_records
from wsi_umedpt.datasets.splits import SPLITS, split_records
from wsi_umedpt.datasets.targets import class_mask, label_of
from wsi_umedpt.errors import DataError
from wsi_umedpt.io.spelling import quoted, several_spellings, spelled

Kind = Literal["classification", "multilabel", "segmentation", "detection", "regression", "survival"]
"""Kinds of task that there is data for."""
Unit = list[SampleRecord]
_STRIDE = 32
_MOMENT_BATCHES = 32


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of a pretraining config."""

    name: str
    """Names the head; letters, digits, '-' and '_'."""
    kind: Kind
    """Prediction: a class, labels, values, or how soon an event comes, of an image or of a bag of images; a class of
    every pixel; boxes."""
    classes: tuple[str, ...]
    """Names of classes, labels or values; of segmentation the first is the background; of survival the columns of
    the time and of the event (1, or 0 where the case was last seen without it)."""
    modality: Modality
    """Modality of the images, which decides the augmentations."""
    data: DataSpec
    more: tuple[DataSpec, ...] = ()
    """Further collections with labels of the same meaning; a batch has as many images of each."""
    framing: Framing = "crop"
    """crop: windows of the image. whole: the whole image."""
    zoom: tuple[float, float] = (0.7, 1.4)
    """Least and greatest, output px per image px."""
    size_px: tuple[int, int] = (96, 192)
    """Least and greatest side of a batch's images; multiples of 32 between them are drawn."""
    batch_size: int = 16
    """Images, or bags, a batch; where `max_pixels` cuts a batch short, the rest is left for the next epoch."""
    weight: float = 1.0
    """Factor of the task's loss in the mean over tasks; above 1 for a task that matters more than the others."""
    mpp: float | None = None
    """um/px of the images at zoom 1, where known; recorded with the head."""
    about: str = ""
    """Description of the head's objects and data, for people who choose among heads; recorded with it."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a task's name is letters, digits, '-' and '_', got {self.name!r}")
        check_zoom(self.zoom)
        if not 0 < self.size_px[0] <= self.size_px[1] or self.size_px[0] % _STRIDE or self.size_px[1] % _STRIDE:
            raise ValueError(f"size_px is (least, greatest), multiples of {_STRIDE}, got {self.size_px}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive, got {self.weight}")
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError(f"classes need names of their own, got {[*self.classes]}")
        if alike := several_spellings(self.classes, spelled):
            raise ValueError(f"{quoted(alike[0])} are one class but for how it is spelled; write it in one way")
        if self.mpp is not None and self.mpp <= 0:
            raise ValueError(f"mpp must be positive, got {self.mpp}")
        if len({data.bags for data in self.collections}) > 1:
            raise ValueError("labels of all collections of a task are of bags, or those of all are of images")
        if self.kind == "survival" and len(self.classes) != 2:
            raise ValueError(f"classes of survival are the columns of time and event, got {[*self.classes]}")
        if self.kind == "survival" and self.batch_size < 2:
            raise ValueError("survival compares the cases of a batch: batch_size is at least 2")
        if self.kind == "segmentation" and len({data.numbered for data in self.collections}) > 1:
            raise ValueError("masks of all collections of a task hold classes, or those of all hold instances")

    @property
    def bags(self) -> bool:
        """Return whether labels are of bags of images."""
        return self.data.bags

    @property
    def collections(self) -> tuple[DataSpec, ...]:
        """All data of the task: `data` and `more`."""
        return (self.data, *self.more)


@dataclass(frozen=True)
class TaskData:
    """Records of one task and how they become batches."""

    spec: TaskSpec
    splits: dict[str, list[SampleRecord]]
    seed: int
    max_pixels: int
    """Most pixels in one batch."""
    samples: dict[SampleRecord, Sample] = field(default_factory=dict, repr=False)
    """Samples that `check` read and had room to keep."""
    counts: tuple[int, ...] = ()
    """Training records of each collection, in whose order `splits` has them; empty where there is one collection."""

    @classmethod
    def find(
        cls, spec: TaskSpec, *, val: float, test: float, split_seed: int, seed: int, max_pixels: int
    ) -> "TaskData":
        """Find and split the records of a task; nothing is read yet."""
        parts = []
        for data in spec.collections:
            records = find_records(data, spec.kind, spec.classes)
            parts.append(split_records(records, val=val, test=test, seed=split_seed))
            if not parts[-1]["train"]:
                raise DataError(f"task {spec.name}: no training records among {len(records)} of {data.images}")
        splits = {name: [record for part in parts for record in part[name]] for name in SPLITS}
        return cls(spec, splits, seed, max_pixels, counts=tuple(len(part["train"]) for part in parts))

    def batch(self, number: int) -> Batch:
        """Training batch `number`, counted from 0; a pure function of it and the seed."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.spec.name.encode()), number])
        least, greatest = (side // _STRIDE for side in self.spec.size_px)
        height, width = (int(n) * _STRIDE for n in rng.integers(least, greatest + 1, 2))
        units = _fitting(self._turn(number), max(1, self.max_pixels // (height * width)), rng)
        shown = []
        for record in (r for unit in units for r in unit):
            sample = self._read(record)
            spec, zoom = self.spec, record.zoom or self.spec.zoom
            seen = take(sample, draw_view(sample, (height, width), zoom, spec.framing, spec.modality, rng))
            shown.append(replace(seen, image=recolour(seen.image, spec.modality, rng)))
        return self._collate(units, shown)

    def evaluated(self, split: str) -> Iterator[Batch]:
        """Whole images of a split as they are, at the middle zoom; one image, or one bag, a batch."""
        for unit in self._units(self.splits[split]):
            samples = [self._read(record) for record in unit]
            zooms = [float(np.sqrt(least * most)) for least, most in (r.zoom or self.spec.zoom for r in unit)]
            views = [
                still_view(sample, zoom, self.spec.framing, self.spec.size_px[1])
                for sample, zoom in zip(samples, zooms, strict=True)
            ]
            # Images of a bag may differ in size: smaller ones get a border.
            shape = max(v.shape[0] for v in views), max(v.shape[1] for v in views)
            seen = [take(sample, View(v.matrix, shape)) for sample, v in zip(samples, views, strict=True)]
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

    def _units(self, records: list[SampleRecord]) -> list[Unit]:
        """Units of records that are shown together, in the order of the records."""
        if not self.spec.bags:
            return [[record] for record in records]
        bags: dict[str, Unit] = {}
        for record in records:
            bags.setdefault(record.bag, []).append(record)
        return [*bags.values()]

    def _turn(self, number: int) -> list[Unit]:
        """The units whose turn it is: collections in turn, and in each every epoch a new order, no unit twice in it."""
        records = iter(self.splits["train"])
        counts = self.counts or (len(self.splits["train"]),)
        train = [self._units([*itertools.islice(records, count)]) for count in counts]
        orders: dict[tuple[int, int], np.ndarray] = {}
        out: list[Unit] = []
        for at in range(number * self.spec.batch_size, (number + 1) * self.spec.batch_size):
            place, which = divmod(at, len(train))
            epoch, place = divmod(place, len(train[which]))
            if (which, epoch) not in orders:
                seeds = [self.seed, zlib.crc32(self.spec.name.encode()), epoch, 1, *([which] if which else [])]
                orders[which, epoch] = np.random.default_rng(seeds).permutation(len(train[which]))
            out.append(train[which][orders[which, epoch][place]])
        return out

    def _read(self, record: SampleRecord) -> Sample:
        return self.samples.get(record) or record.read()

    def _collate(self, units: list[Unit], samples: list[Sample]) -> Batch:
        spec = self.spec
        images = torch.from_numpy(np.stack([c.image for c in samples])).permute(0, 3, 1, 2)
        if spec.kind == "detection":
            boxes = []
            for sample in samples:
                if sample.xyxy is None or sample.box_classes is None:
                    raise DataError(f"task {spec.name}: detection needs boxes, or masks with instances = true")
                boxes.append(Boxes(torch.from_numpy(sample.xyxy), torch.from_numpy(sample.box_classes)))
            return Batch(images=images, boxes=tuple(boxes))
        if spec.kind == "segmentation":
            numbered = spec.data.numbered
            masks = [class_mask(c.mask, spec.classes, instances=numbered) for c in samples if c.mask is not None]
            return Batch(images=images, masks=torch.from_numpy(np.stack(masks)))
        bags = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        first = np.searchsorted(bags, np.arange(len(units)))  # the label of a bag stands with each of its images
        labels = torch.from_numpy(np.stack([label_of(samples[at], spec.kind, spec.classes) for at in first]))
        if spec.kind == "classification":
            labels = labels[:, 0].long()
        return Batch(images=images, labels=labels, bags=torch.from_numpy(bags) if spec.bags else None)


def _fitting(units: list[Unit], room: int, rng: Rng) -> list[Unit]:
    """The first units, whole, with no more than `room` images; of a first one that is larger, a random part."""
    if len(units[0]) > room:
        return [[units[0][i] for i in np.sort(rng.permutation(len(units[0]))[:room])]]
    ends = np.cumsum([len(unit) for unit in units])
    return units[: int((ends <= room).sum())]
