"""`check`: every record is read once before training, and what cannot be trained on is refused.

Labels that lie, damaged files, and images or patients that stand on two sides of a split all
cost more later than the minutes that reading takes.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsi_umedpt.datasets.records import SampleRecord, SliceRecord
from wsi_umedpt.datasets.samples import IGNORED, Sample
from wsi_umedpt.datasets.splits import SPLITS
from wsi_umedpt.datasets.tables import refuse
from wsi_umedpt.datasets.task_data import TaskData, TaskSpec
from wsi_umedpt.errors import DataError

_Part = tuple[SampleRecord, ...]
"""Records that are read together: the slices of one volume, else one."""
_Users = list[tuple[TaskData, str]]
"""Tasks that show a part, and in which split."""
_AHEAD = 64


def check(tasks: list[TaskData], *, cache_bytes: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Read every record once, keep what fits, and refuse what cannot be trained on.

    Parameters
    ----------
    tasks
        Their `samples` are filled; a record of several tasks is read and kept once.
    cache_bytes
        Room for decoded samples, all tasks together.
    progress
        Called with (done, all), in records.

    Raises
    ------
    DataError
        Listing the files that are damaged or whose labels do not fit; or the images, or the
        groups, that are in one split of one task and in another split of the same or another
        task. How many there are, and the first twenty.
    """
    users: dict[_Part, _Users] = {}
    for data in tasks:
        for split in SPLITS:
            for part in _parts(data.splits[split]):
                users.setdefault(part, []).append((data, split))
    _refuse_split_groups(users)
    total = sum(map(len, users))
    problems: list[str] = []
    sides: dict[bytes, dict[str, str]] = {}
    room, done = cache_bytes, 0
    with ThreadPoolExecutor(4) as pool:
        for part, samples in _read_ahead(pool, [*users]):
            for record, sample in zip(part, samples, strict=True):
                if isinstance(sample, DataError):
                    problems.append(f"{users[part][0][0].spec.name}: {sample}")
                    continue
                room -= sample.image.nbytes + (sample.mask.nbytes if sample.mask is not None else 0)
                for data, split in users[part]:
                    if reason := _unfit(sample, data.spec):
                        problems.append(f"{data.spec.name}: {record.name}: {reason}")
                    if sample.image.min() < sample.image.max():  # one that is all black is like any other
                        digest = hashlib.sha256(f"{sample.image.shape}".encode() + sample.image.tobytes()).digest()
                        sides.setdefault(digest, {}).setdefault(split, f"{data.spec.name}: {record.name}")
                    if room > 0:
                        data.samples[record] = sample
            done += len(part)
            if progress:
                progress(done, total)
    refuse(problems, "labelled images cannot be used")
    _refuse_sides(sides.values(), "the same image is in several splits; give them one collection and patient")


def _refuse_split_groups(users: dict[_Part, _Users]) -> None:
    """A split that data states may tear a patient apart."""
    sides: dict[str, dict[str, str]] = {}
    for part, shown in users.items():
        for data, split in shown:
            sides.setdefault(part[0].group, {}).setdefault(split, f"{data.spec.name}: {part[0].name}")
    _refuse_sides(
        sides.values(),
        "the same patient is in several splits; mend split_column, or leave it out, or give unrelated data "
        "another collection",
    )


def _refuse_sides(sides: Iterable[dict[str, str]], what: str) -> None:
    torn = [s for s in sides if len(s) > 1]
    refuse([" and ".join(f"{where} ({side})" for side, where in s.items()) for s in torn], what)


def _read_ahead(pool: ThreadPoolExecutor, parts: list[_Part]) -> Iterator[tuple[_Part, list[Sample | DataError]]]:
    for first in range(0, len(parts), _AHEAD):  # not all at once: what is read must fit in memory
        window = parts[first : first + _AHEAD]
        yield from zip(window, pool.map(_read_part, window), strict=True)


def _parts(records: list[SampleRecord]) -> Iterator[_Part]:
    volume: list[SampleRecord] = []
    for record in records:
        if not isinstance(record, SliceRecord):
            yield (record,)
        elif volume and isinstance(volume[0], SliceRecord) and record.path == volume[0].path:
            volume.append(record)
        else:
            if volume:
                yield tuple(volume)
            volume = [record]
    if volume:
        yield tuple(volume)


def _read_part(part: _Part) -> list[Sample | DataError]:
    first = part[0]
    try:
        if isinstance(first, SliceRecord):
            every = first.read_all()
            return [every[r.index] for r in part if isinstance(r, SliceRecord)]
        return [first.read()]
    except DataError as error:
        return [error] * len(part)


def _unfit(sample: Sample, spec: TaskSpec) -> str:
    """Reason why a sample cannot be trained on; empty if it can."""
    if sample.mask is None or spec.data.numbered:
        return ""
    lowest, highest = int(sample.mask.min(initial=0)), int(sample.mask.max(initial=0))
    if lowest < IGNORED:
        return f"its mask holds class {lowest}; only {IGNORED}, not labelled, is below 0"
    # Labels of an image are the mask's classes from 1 on.
    most = len(spec.classes) - (spec.kind == "segmentation")
    if spec.kind in ("segmentation", "multilabel") and highest > most:
        white = highest == 255 and np.isin(sample.mask, (0, IGNORED, 255)).all()
        hint = ". It is black and white: save it with the numbers of the classes, or with one bit" if white else ""
        return f"its mask holds class {highest}; the task names classes up to {most}{hint}"
    return ""
