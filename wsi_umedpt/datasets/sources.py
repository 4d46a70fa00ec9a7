"""`find_records`: a `DataSpec` in, the records that it describes out. One function a source.

Nothing here opens an image; tables, box files and folders are read, and every label is
checked against the task's classes. All that is wrong is said in one error.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_umedpt.datasets.boxes import read_boxes
from wsi_umedpt.datasets.images import IMAGE_SUFFIXES, count_slices
from wsi_umedpt.datasets.records import BoxRecord, DataSpec, LabelRecord, MaskRecord, SampleRecord, SliceRecord
from wsi_umedpt.datasets.samples import IGNORED
from wsi_umedpt.datasets.tables import Row, read_rows, refuse, stem_of
from wsi_umedpt.datasets.targets import BORDER, FROM_MASK
from wsi_umedpt.errors import DataError
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.spelling import is_missing, quoted, several_spellings

_SERVES = {
    "class_folders": ("classification",),
    "table": ("classification", "multilabel", "regression", "survival"),
    "masks": ("segmentation", "detection", "multilabel", "regression"),
    "boxes": ("detection",),
    "volumes": ("segmentation", "multilabel", "regression"),
}
"""Kinds of label that a source gives."""


def find_records(data: DataSpec, kind: str, classes: tuple[str, ...]) -> list[SampleRecord]:
    """Records of a task.

    Parameters
    ----------
    data
        Location of the records.
    kind, classes
        Kind and classes of the task: the labels that may be.

    Raises
    ------
    DataError
        Naming the files and rows that cannot be used (how many, and the first twenty), or if
        there are none at all.
    """
    if reason := _unfit(data, kind, classes):
        raise DataError(reason)
    if not data.images.is_dir():
        raise DataError(f"there is no folder of images at {data.images}")
    problems: list[str] = []
    find: dict[str, Callable[[DataSpec, str, tuple[str, ...], list[str]], Iterator[SampleRecord]]] = {
        "class_folders": _class_folders,
        "table": _table_rows,
        "masks": _masks,
        "boxes": _boxes,
        "volumes": _volumes,
    }
    records = list(find[data.source](data, kind, classes, problems))
    if data.patient_column or data.patient_pattern:
        # What a hash of the name deals to a side, two spellings of it deal to two.
        problems += [
            f"are {quoted(names)} one patient? Write one in one way"
            for names in several_spellings(sorted(record.group for record in records))
        ]
    refuse(problems, f"{data.images}: labels cannot be used")
    if not records:
        raise DataError(f"{data.images} holds no labelled images (source {data.source}, where {data.where or 'all'})")
    return [replace(record, zoom=data.zoom) for record in records] if data.zoom else records


def _unfit(data: DataSpec, kind: str, classes: tuple[str, ...]) -> str:
    """Reason why a source cannot give what a task needs; empty if it can."""
    numbered = data.numbered
    tabled = data.source == "table" or (data.source == "volumes" and data.bags)
    serves = _SERVES["table" if tabled else data.source]
    if kind not in serves:
        by = "with a table of labels " if tabled and data.source != "table" else ""
        return f"source {data.source} {by}gives labels for {', '.join(serves)}, not what {kind} needs"
    if tabled and not data.label_column and kind == "classification":
        return f"{kind} from a table needs label_column"
    if kind == "survival" and data.label_column:
        return "survival has two columns, time and event, which classes names; leave label_column out"
    if tabled or data.source not in ("masks", "volumes"):
        return ""
    if kind == "detection" and not numbered:
        return "detection from masks needs instances = true or components = true"
    if kind == "multilabel" and numbered:
        return "multilabel asks which classes are in view; masks of instances hold none"
    if kind == "segmentation" and numbered and (len(classes) < 2 or classes[2:] not in ((), (BORDER,))):
        return f"masks of instances give two classes, or three whose last is {BORDER!r}; got {', '.join(classes)}"
    strange = [c for c in classes if c not in FROM_MASK] if kind == "regression" else []
    if strange:
        return f"a mask gives {', '.join(FROM_MASK)}, not {', '.join(strange)}"
    if kind == "regression" and "count" in classes and not numbered:
        return "count needs masks with instances = true or components = true"
    return ""


def _group(data: DataSpec, path: Path, row: Row | None) -> str:
    collection = data.collection or data.images.resolve().parent.name
    patient = stem_of(path.name)
    if data.patient_column:
        patient = (row or {}).get(data.patient_column, "")
        if not patient or is_missing(patient):
            raise DataError(f"{path.name}: no patient in column {data.patient_column!r}, got {patient!r}")
    elif data.patient_pattern:
        match = re.search(data.patient_pattern, path.name)
        if not match or not match.group(1):
            raise DataError(f"{path.name}: no patient by the pattern {data.patient_pattern!r}")
        patient = match.group(1) if not data.patient_block else _block(match.groups(), path, data.patient_block)
    elif data.bag_column:
        patient = (row or {}).get(data.bag_column, "")
    return f"{collection}/{patient.strip().lower()}"


def _block(groups: Sequence[str], path: Path, size: int) -> str:
    *names, number = groups
    if not number.isdecimal():
        raise DataError(f"{path.name}: patient_block needs a number in patient_pattern's last group, got {number!r}")
    return "/".join([*names, str(int(number) // size)])


def _split(data: DataSpec, path: Path, row: Row | None) -> str:
    if not data.split_column:
        return ""
    found = (row or {}).get(data.split_column, "").strip().lower()
    if found not in ("train", "val", "test"):
        raise DataError(f"{path.name}: split is train, val or test, got {found!r}")
    return found


def _images(folder: Path) -> dict[str, Path]:
    """Images of a folder, by name and by stem; none may share a stem with another."""
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES and not is_clutter(p.name)]
    first: dict[str, Path] = {}
    doubled = [f"{first[p.stem].name} and {p.name}" for p in found if first.setdefault(p.stem, p) is not p]
    refuse(doubled, f"{folder} holds images that differ in their suffix alone, so that a label may be of either")
    return {key: p for p in found for key in (p.name, p.stem)}


def _find(images: Mapping[str, Path], name: str, data: DataSpec, said_in: Path) -> Path | None:
    """The image that a table or box file names: by name or stem, or by a path from the folder of images or the file.

    It must lie in the folder of images or below it; None where nothing of that name does.
    """
    if name in images:
        return images[name]
    folder = Path(os.path.abspath(data.images))
    for base in (folder, said_in if said_in.is_dir() else said_in.parent):
        at = Path(os.path.abspath(base / name.replace("\\", "/")))
        for path in (at, *(at.with_name(at.name + suffix) for suffix in IMAGE_SUFFIXES)):
            if path.is_relative_to(folder) and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                return images.get(path.name, path) if path.parent == folder else data.images / path.relative_to(folder)
    return None


def _name(data: DataSpec, path: Path) -> str:
    """Name of an image in lists: its path from the folder of images."""
    return path.relative_to(data.images).as_posix()


def _listed(data: DataSpec) -> dict[str, Row] | None:
    """Rows of the table that says more of each image, by stem; None if there is no such table."""
    if data.table is None:
        return None
    telling = [c for c in (data.patient_column, data.split_column) if c]
    out: dict[str, Row] = {}
    problems = []
    for number, row in read_rows(data.table, [data.image_column, *telling], data.where).items():
        first = out.setdefault(stem_of(row[data.image_column]), row)
        problems += [
            f"row {number}: {c} of {row[data.image_column]} is {row[c]!r}, in an earlier row {first[c]!r}"
            for c in telling
            if row[c] != first[c]
        ]
    refuse(problems, f"{data.table} contradicts itself")
    return out


def _need(data: DataSpec, what: str) -> Path:
    if data.labels is None or not data.labels.exists():
        raise DataError(f"source {data.source} needs labels = {what}; there is nothing at {data.labels}")
    return data.labels


def _class_folders(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[SampleRecord]:
    listed = _listed(data)
    for k, name in enumerate(classes):
        folder = data.images / name
        found = sorted(set(_images(folder).values())) if folder.is_dir() else []
        if not found:
            problems.append(f"{folder} is no folder of images; one is needed for each of {', '.join(classes)}")
        for path in found:
            row = None if listed is None else listed.get(path.stem)
            if listed is not None and row is None:
                continue  # not among the rows that `where` selects
            try:
                group, split = _group(data, path, row), _split(data, path, row)
                yield LabelRecord(name=f"{name}/{path.name}", group=group, split=split, path=path, label=(k,))
            except DataError as error:
                problems.append(str(error))


def _table_rows(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[SampleRecord]:
    images = _images(data.images)
    table = _need(data, "a CSV file")
    columns = [data.image_column, data.patient_column, data.split_column, data.bag_column]
    seen: dict[Path, int] = {}
    bags: dict[str, tuple[int, LabelRecord]] = {}
    positive = [False] * len(classes)
    for number, row in _labelled_rows(data, table, columns, classes):
        try:
            path = _find(images, row[data.image_column].strip(), data, table)
            if path is None:
                raise DataError(
                    f"no image {row[data.image_column]!r} in {data.images}: name it by its file name, or by its path "
                    "from there or from the table"
                )
            if path in seen:
                raise DataError(f"{_name(data, path)} stands in row {seen[path]} too")
            seen[path] = number
            label = _label(row, data, kind, classes)
            positive = [p or v > 0 for p, v in zip(positive, label, strict=False)]
            group, split = _group(data, path, row), _split(data, path, row)
            bag = row[data.bag_column].strip() if data.bag_column else ""
            record = LabelRecord(name=_name(data, path), group=group, split=split, path=path, label=label, bag=bag)
            if data.bag_column:
                _agree(record, *bags.setdefault(bag, (number, record)))
            yield record
        except DataError as error:
            problems.append(f"{table.name} row {number}: {error}")
    if kind == "multilabel" and data.label_column and seen:
        problems += [
            f"{table.name}: no row has the label {c!r}" for c, p in zip(classes, positive, strict=True) if not p
        ]
    if kind == "survival" and seen and not positive[1]:
        problems.append(_no_event(table, classes))


def _no_event(table: Path, classes: tuple[str, ...]) -> str:
    return f"{table.name}: no row has an event (1 in column {classes[1]!r}), so that nothing can be learnt"


def _labelled_rows(
    data: DataSpec, table: Path, columns: Sequence[str], classes: tuple[str, ...]
) -> Iterator[tuple[int, Row]]:
    labels = [data.label_column] if data.label_column else classes
    yield from read_rows(table, [*columns, *labels], data.where).items()


def _agree(record: LabelRecord, number: int, first: LabelRecord) -> None:
    """Refuse a record that says another thing of its bag than the bag's first row."""
    if not record.bag:
        raise DataError("the bag has no name")
    for what in ("label", "group", "split"):
        if getattr(record, what) != getattr(first, what):
            raise DataError(f"bag {record.bag!r} has another {what} than in row {number}")


def _label(row: Row, data: DataSpec, kind: str, classes: tuple[str, ...]) -> tuple[float, ...]:
    if kind == "classification":
        value = data.rename.get(row[data.label_column], row[data.label_column])
        if value not in classes:
            raise DataError(f"class {value!r} is none of {', '.join(classes)}")
        return (float(classes.index(value)),)
    if kind == "multilabel":
        if data.label_column:
            if not row[data.label_column].strip():
                return (float(IGNORED),) * len(classes)  # unknown, which is not the same as none
            parts = (part.strip() for part in row[data.label_column].split(data.separator))
            named = {data.rename.get(part, part) for part in parts}
            return tuple(float(name in named) for name in classes)
        values = tuple(_number(row[name], empty=-1) for name in classes)
        if not {*values} <= {-1.0, 0.0, 1.0}:
            raise DataError(
                f"a label is 1, 0, or -1 or empty where it is not known; got {[row[name] for name in classes]}"
            )
        return values
    found = tuple(_number(row[data.label_column or name], empty=float("nan")) for name in classes)
    if kind == "survival" and (found[0] < 0 or found[1] not in (0, 1)) and not any(map(math.isnan, found)):
        time, event = classes
        raise DataError(f"{time} is 0 or more and {event} 0 or 1, got {row[time]!r} and {row[event]!r}")
    return found


def _number(text: str, empty: float) -> float:
    try:
        value = float(text) if text.strip() else empty
    except ValueError:
        raise DataError(f"{text!r} is no number") from None
    if math.isinf(value):
        raise DataError(f"{text!r} is no number to learn")
    return value


def _masks(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[SampleRecord]:
    masks, listed = _images(_need(data, "a folder of masks")), _listed(data)
    for path in sorted(set(_images(data.images).values())):
        row = None if listed is None else listed.get(path.stem)
        if listed is not None and row is None:
            continue
        try:
            mask = masks.get(path.name) or masks.get(path.stem)
            if mask is None:
                raise DataError(f"{path.name}: no mask of this name in {data.labels}")
            yield MaskRecord(
                name=path.name, group=_group(data, path, row), split=_split(data, path, row), path=path, mask=mask,
                components=data.components, instances=data.instances,
            )  # fmt: skip
        except DataError as error:
            problems.append(str(error))


def _boxes(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[SampleRecord]:
    labels = _need(data, "a CSV or COCO JSON file, or a folder of VOC XML")
    images, listed = _images(data.images), _listed(data)
    seen: dict[Path, str] = {}
    for name, (own, boxes) in read_boxes(labels, data, problems).items():
        row = own if listed is None else listed.get(stem_of(name))
        if listed is not None and row is None:
            continue
        try:
            path = _find(images, name, data, labels) or images.get(stem_of(name))
            if path is None:
                raise DataError(f"{labels.name}: no image {name!r} in {data.images}")
            if path in seen:
                raise DataError(f"{labels.name}: {seen[path]!r} and {name!r} are both {path.name}")
            seen[path] = name
            boxes = [(data.rename.get(kind, kind), box) for kind, box in boxes]
            strange = sorted({kind for kind, _ in boxes} - {*classes})
            if strange:
                raise DataError(f"{name}: class {', '.join(strange)} is none of {', '.join(classes)}")
            if data.drop_empty_boxes:
                boxes = [(kind, b) for kind, b in boxes if not (b[2] <= b[0] or b[3] <= b[1])]
            yield BoxRecord(
                name=_name(data, path), group=_group(data, path, row), split=_split(data, path, row), path=path,
                xyxy=tuple(box for _, box in boxes), classes=tuple(classes.index(kind) for kind, _ in boxes),
                points=data.point_px > 0,
            )  # fmt: skip
        except DataError as error:
            problems.append(str(error))


def _volumes(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[SampleRecord]:
    volumes = (p for p in data.images.iterdir() if p.name.endswith((".nii", ".nii.gz")) and not is_clutter(p.name))
    if data.bags:
        yield from _labelled_volumes(data, kind, classes, problems, {stem_of(p.name): p for p in sorted(volumes)})
        return
    labels, listed = _need(data, "a folder of NIfTI masks"), _listed(data)
    for path in sorted(volumes):
        stem = stem_of(path.name)
        row = None if listed is None else listed.get(stem)
        if listed is not None and row is None:
            continue
        try:
            mask = labels / path.name
            if not mask.is_file():
                raise DataError(f"{path.name}: no mask of this name in {labels}")
            group, split = _group(data, path, row), _split(data, path, row)
            for z in range(count_slices(path)):
                yield SliceRecord(name=f"{stem} slice {z}", group=group, split=split, path=path, mask=mask, index=z)
        except DataError as error:
            problems.append(str(error))


def _labelled_volumes(
    data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str], volumes: Mapping[str, Path]
) -> Iterator[SampleRecord]:
    """Slices of the volumes that a table names, each volume a bag with the label of its row."""
    table = _need(data, "a table")
    columns = [data.image_column, data.patient_column, data.split_column]
    seen: dict[str, int] = {}
    events = kind != "survival"
    for number, row in _labelled_rows(data, table, columns, classes):
        try:
            stem = stem_of(row[data.image_column].strip())
            if stem not in volumes:
                raise DataError(f"no NIfTI volume {row[data.image_column]!r} in {data.images}")
            if stem in seen:
                raise DataError(f"{stem} stands in row {seen[stem]} too")
            seen[stem] = number
            path, label = volumes[stem], _label(row, data, kind, classes)
            events = events or label[1] > 0
            group, split = _group(data, path, row), _split(data, path, row)
            for z in range(count_slices(path)):
                yield SliceRecord(
                    name=f"{stem} slice {z}", group=group, split=split, bag=stem, path=path, mask=None, index=z,
                    label=label,
                )  # fmt: skip
        except DataError as error:
            problems.append(f"{table.name} row {number}: {error}")
    if seen and not events:
        problems.append(_no_event(table, classes))
