"""`TaskData`: the records of one task, split, checked at the door, and the batches made of them.

`batch(i)` is a pure function of the seed and i: which cases, which crops, which colours. So
training can stop and go on at any step, with any number of loader processes, and see the same.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from wsi_umedpt.cases import Batch, Boxes, Case
from wsi_umedpt.datasets.augment import Framing, Modality, draw_view, recolour, still_view, take
from wsi_umedpt.datasets.records import DataSpec, Record, SliceRecord
from wsi_umedpt.datasets.sources import find_records, refuse
from wsi_umedpt.datasets.splits import SPLITS, split_records
from wsi_umedpt.datasets.targets import class_mask, label_of
from wsi_umedpt.errors import DataError

_STRIDE = 32
_MOMENT_BATCHES = 32


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of a pretraining config."""

    name: str
    """Names the head; letters, digits, '-' and '_'."""
    kind: str
    """classification, multilabel, segmentation, detection, regression."""
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
    """Images a batch, fewer where `max_pixels` asks for it."""
    mpp: float | None = None
    """um/px of the images at zoom 1, where known; recorded with the head."""

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a task's name is letters, digits, '-' and '_', got {self.name!r}")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom is (least, greatest), both positive, got {self.zoom}")
        if not 0 < self.size_px[0] <= self.size_px[1] or self.size_px[0] % _STRIDE or self.size_px[1] % _STRIDE:
            raise ValueError(f"size_px is (least, greatest), multiples of {_STRIDE}, got {self.size_px}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")


@dataclass(frozen=True)
class TaskData:
    """Records of one task and how they become batches."""

    spec: TaskSpec
    splits: dict[str, list[Record]]
    seed: int
    max_pixels: int
    """Most pixels in one batch."""
    cases: dict[Record, Case] = field(default_factory=dict, repr=False)
    """What `check` read and had room to keep."""

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
        count = max(1, min(self.spec.batch_size, self.max_pixels // (height * width)))
        shown = []
        for record in self._turn(number)[:count]:
            case = self._read(record)
            spec = self.spec
            seen = take(case, draw_view(case, (height, width), spec.zoom, spec.framing, spec.modality, rng))
            shown.append(Case(**{**vars(seen), "image": recolour(seen.image, spec.modality, rng)}))
        return self._collate(shown)

    def evaluated(self, split: str) -> Iterator[Batch]:
        """Whole images of a split as they are, at the middle zoom, one a batch."""
        zoom = float(np.sqrt(self.spec.zoom[0] * self.spec.zoom[1]))
        for record in self.splits[split]:
            case = self._read(record)
            yield self._collate([take(case, still_view(case, zoom, self.spec.framing, self.spec.size_px[1]))])

    def label_moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each value over the first training batches (regression).

        Over batches, because a crop of a mask has other values than the whole of it.
        """
        labels = np.concatenate(
            [batch.labels for i in range(_MOMENT_BATCHES) if (batch := self.batch(i)).labels is not None]
        )
        centre, spread = np.nanmean(labels, 0), np.nanstd(labels, 0)
        return tuple(float(c) for c in centre), tuple(float(s) for s in spread)

    def _turn(self, number: int) -> list[Record]:
        """The records whose turn it is: every epoch a new order, no record twice in it."""
        records = self.splits["train"]
        out: list[Record] = []
        at = number * self.spec.batch_size
        while len(out) < self.spec.batch_size:
            epoch, first = divmod(at, len(records))
            order = np.random.default_rng([self.seed, zlib.crc32(self.spec.name.encode()), epoch, 1]).permutation(
                len(records)
            )
            taken = order[first : first + self.spec.batch_size - len(out)]
            out += [records[i] for i in taken]
            at += len(taken)
        return out

    def _read(self, record: Record) -> Case:
        return self.cases.get(record) or record.read()

    def _collate(self, cases: list[Case]) -> Batch:
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
            labels = labels[:, 0].long()
        return Batch(images=images, labels=labels)


_Job = tuple[TaskData, str, list[Record]]
_AHEAD = 64


def check(tasks: list[TaskData], *, cache_bytes: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Read every record once, keep what fits, and refuse what cannot be trained on.

    Parameters
    ----------
    tasks
        Their `cases` are filled, shared between tasks that show the same image and labels.
    cache_bytes
        Room for decoded cases, all tasks together.
    progress
        Called with (done, all).

    Raises
    ------
    DataError
        Listing every file that is damaged or whose labels do not fit, or every image that is
        in one split of one task and in another split of the same or another task.
    """
    jobs = [(data, split, part) for data in tasks for split in SPLITS for part in _parts(data.splits[split])]
    total = sum(len(part) for _, _, part in jobs)
    problems: list[str] = []
    sides: dict[bytes, dict[str, str]] = {}
    room, done = cache_bytes, 0
    with ThreadPoolExecutor(4) as pool:
        for (data, split, part), cases in _read_ahead(pool, jobs):
            for record, case in zip(part, cases, strict=True):
                reason = str(case) if isinstance(case, DataError) else _unfit(case, data.spec)
                if reason:
                    problems.append(f"{data.spec.name}: {reason}")
                elif isinstance(case, Case):
                    digest = hashlib.sha256(case.image.tobytes()).digest()
                    sides.setdefault(digest, {}).setdefault(split, f"{data.spec.name}: {record.name}")
                    room -= case.image.nbytes + (case.mask.nbytes if case.mask is not None else 0)
                    if room > 0:
                        data.cases[record] = case
            done += len(part)
            if progress:
                progress(done, total)
    refuse(problems, "labelled images cannot be used")
    shared = [f"{' and '.join(f'{where} ({side})' for side, where in s.items())}" for s in sides.values() if len(s) > 1]
    refuse(shared, "the same image is in several splits; give them one collection and patient")


def _read_ahead(pool: ThreadPoolExecutor, jobs: list[_Job]) -> Iterator[tuple[_Job, list[Case | DataError]]]:
    for first in range(0, len(jobs), _AHEAD):  # not all at once: what is read must fit in memory
        window = jobs[first : first + _AHEAD]
        yield from zip(window, pool.map(lambda job: _read_part(job[2]), window), strict=True)


def _parts(records: list[Record]) -> Iterator[list[Record]]:
    """Records that are read together: the slices of one volume, else one by one."""
    volume: list[Record] = []
    for record in records:
        if not isinstance(record, SliceRecord):
            yield [record]
        elif volume and isinstance(volume[0], SliceRecord) and record.path == volume[0].path:
            volume.append(record)
        else:
            if volume:
                yield volume
            volume = [record]
    if volume:
        yield volume


def _read_part(records: list[Record]) -> list[Case | DataError]:
    first = records[0]
    try:
        if isinstance(first, SliceRecord):
            every = SliceRecord.read_all(first.path, first.mask)
            return [every[r.index] for r in records if isinstance(r, SliceRecord)]
        return [first.read()]
    except DataError as error:
        return [error] * len(records)


def _unfit(case: Case | DataError, spec: TaskSpec) -> str:
    """Why a case cannot be trained on; empty if it can."""
    if isinstance(case, DataError):
        return str(case)
    if spec.kind == "segmentation":
        if case.mask is None:
            return "segmentation needs masks"
        highest = int(case.mask.max(initial=0))
        if not (spec.data.instances or spec.data.components) and highest >= len(spec.classes):
            return f"a mask holds class {highest}; the task names {len(spec.classes)}"
    if spec.kind == "detection" and case.xyxy is None:
        return "detection needs boxes, or masks with instances = true"
    return ""
