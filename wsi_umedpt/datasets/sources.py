"""`find_records`: a `DataSpec` in, the records that it describes out. One function a source.

Nothing here opens an image; tables, box files and folders are read, and every label is
checked against the task's classes. All that is wrong is said in one error.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import defusedxml.ElementTree

from wsi_umedpt.datasets.images import IMAGE_SUFFIXES, read_volume
from wsi_umedpt.datasets.records import BoxRecord, DataSpec, LabelRecord, MaskRecord, Record, SliceRecord
from wsi_umedpt.errors import DataError

Row = dict[str, str]
_SHOWN = 20


def find_records(data: DataSpec, kind: str, classes: tuple[str, ...]) -> list[Record]:
    """Records of a task.

    Parameters
    ----------
    data
        Where they are.
    kind, classes
        Of the task: what a label may be.

    Raises
    ------
    DataError
        Naming all files and rows that cannot be used, or if there are none at all.
    """
    if not data.images.is_dir():
        raise DataError(f"there is no folder of images at {data.images}")
    problems: list[str] = []
    find: dict[str, Callable[[DataSpec, str, tuple[str, ...], list[str]], Iterator[Record]]] = {
        "class_folders": _class_folders,
        "table": _table_rows,
        "masks": _masks,
        "boxes": _boxes,
        "volumes": _volumes,
    }
    records = list(find[data.source](data, kind, classes, problems))
    refuse(problems, f"{data.images}: labels cannot be used")
    if not records:
        raise DataError(f"{data.images} holds no labelled images (source {data.source}, where {data.where or 'all'})")
    return records


def refuse(problems: list[str], what: str) -> None:
    """Raise a `DataError` that lists `problems`, if there are any."""
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{what} ({len(problems)}):\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _group(data: DataSpec, path: Path, row: Row | None) -> str:
    collection = data.collection or data.images.resolve().parent.name
    patient = path.stem
    if data.patient_column:
        patient = (row or {}).get(data.patient_column, "")
        if not patient:
            raise DataError(f"{path.name}: no patient in column {data.patient_column!r}")
    elif data.patient_pattern:
        match = re.search(data.patient_pattern, path.name)
        if not match or not match.groups():
            raise DataError(f"{path.name}: no patient by the pattern {data.patient_pattern!r}")
        patient = match.group(1)
    return f"{collection}/{patient.strip().lower()}"


def _split(data: DataSpec, row: Row | None) -> str:
    if not data.split_column:
        return ""
    found = (row or {}).get(data.split_column, "").strip().lower()
    if found not in ("train", "val", "test"):
        raise DataError(f"split is train, val or test, got {found!r}")
    return found


def _rows(path: Path, data: DataSpec) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    asked = [data.image_column, data.label_column, data.patient_column, data.split_column, *data.where]
    absent = [c for c in asked if c and rows and c not in rows[0]]
    if absent:
        raise DataError(f"{path} has no column {', '.join(absent)}; it has {', '.join(rows[0])}")
    return [row for row in rows if all(row[c] == v for c, v in data.where.items())]


def _images(folder: Path) -> dict[str, Path]:
    """Images of a folder, by name and by stem."""
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    return {key: p for p in found for key in (p.name, p.stem)}


def _listed(data: DataSpec) -> dict[str, Row] | None:
    """Rows of the table that says more of each image, by stem; None if there is no such table."""
    if data.table is None:
        return None
    return {Path(row[data.image_column]).stem: row for row in _rows(data.table, data)}


def _need(data: DataSpec, what: str) -> Path:
    if data.labels is None or not data.labels.exists():
        raise DataError(f"source {data.source} needs labels = {what}; there is nothing at {data.labels}")
    return data.labels


def _class_folders(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[Record]:
    if kind != "classification":
        raise DataError(f"source class_folders labels one class an image, not what {kind} needs")
    for k, name in enumerate(classes):
        folder = data.images / name
        if not folder.is_dir():
            problems.append(f"{folder} is no folder; one is needed for each of the classes {', '.join(classes)}")
            continue
        for path in sorted(set(_images(folder).values())):
            try:
                yield LabelRecord(name=f"{name}/{path.name}", group=_group(data, path, None), path=path, label=(k,))
            except DataError as error:
                problems.append(str(error))


def _table_rows(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[Record]:
    images = _images(data.images)
    table = _need(data, "a CSV file")
    for number, row in enumerate(_rows(table, data), start=2):
        try:
            path = images.get(row[data.image_column])
            if path is None:
                raise DataError(f"no image {row[data.image_column]!r} in {data.images}")
            label = _label(row, data, kind, classes)
            group, split = _group(data, path, row), _split(data, row)
            yield LabelRecord(name=path.name, group=group, split=split, path=path, label=label)
        except (DataError, KeyError) as error:
            problems.append(f"{table.name} row {number}: {error}")


def _label(row: Row, data: DataSpec, kind: str, classes: tuple[str, ...]) -> tuple[float, ...]:
    if kind in ("classification", "bag_classification"):
        value = row[data.label_column]
        if value not in classes:
            raise DataError(f"class {value!r} is none of {', '.join(classes)}")
        return (float(classes.index(value)),)
    if kind == "multilabel":
        if data.label_column:
            named = {part.strip() for part in row[data.label_column].split(data.separator)}
            return tuple(float(name in named) for name in classes)
        return tuple(_number(row[name], empty=-1) for name in classes)
    if kind == "regression":
        return tuple(_number(row[data.label_column or name], empty=float("nan")) for name in classes)
    raise DataError(f"a table cannot label what {kind} needs")


def _number(text: str, empty: float) -> float:
    try:
        return float(text) if text.strip() else empty
    except ValueError:
        raise DataError(f"{text!r} is no number") from None


def _masks(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[Record]:
    masks, listed = _images(_need(data, "a folder of masks")), _listed(data)
    for path in sorted(set(_images(data.images).values())):
        row = None if listed is None else listed.get(path.stem)
        if listed is not None and row is None:
            continue  # not among the rows that `where` selects
        try:
            mask = masks.get(path.name) or masks.get(path.stem)
            if mask is None:
                raise DataError(f"{path.name}: no mask of this name in {data.labels}")
            yield MaskRecord(
                name=path.name, group=_group(data, path, row), split=_split(data, row), path=path, mask=mask,
                components=data.components, instances=data.instances,
            )  # fmt: skip
        except DataError as error:
            problems.append(str(error))


def _boxes(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[Record]:
    if kind != "detection":
        raise DataError(f"source boxes labels boxes, not what {kind} needs")
    labels = _need(data, "a CSV or COCO JSON file, or a folder of VOC XML")
    read = _voc if labels.is_dir() else {".json": _coco, ".csv": _box_rows}.get(labels.suffix.lower())
    if read is None:
        raise DataError(f"boxes are read from .csv, .json (COCO) or a folder of .xml (VOC), not from {labels}")
    images, listed = _images(data.images), _listed(data)
    for name, (row, boxes) in read(labels, data).items():
        row = row if listed is None else listed.get(Path(name).stem)
        if listed is not None and row is None:
            continue
        try:
            path = images.get(name) or images.get(Path(name).stem)
            if path is None:
                raise DataError(f"{labels.name}: no image {name!r} in {data.images}")
            strange = sorted({kind for kind, _ in boxes} - {*classes})
            if strange:
                raise DataError(f"{name}: class {', '.join(strange)} is none of {', '.join(classes)}")
            if data.drop_empty_boxes:
                boxes = [(kind, b) for kind, b in boxes if b[2] > b[0] and b[3] > b[1]]
            yield BoxRecord(
                name=path.name, group=_group(data, path, row), split=_split(data, row), path=path,
                xyxy=tuple(box for _, box in boxes), classes=tuple(classes.index(kind) for kind, _ in boxes),
            )  # fmt: skip
        except DataError as error:
            problems.append(str(error))


Named = dict[str, tuple[Row | None, list[tuple[str, tuple[float, float, float, float]]]]]


def _box_rows(labels: Path, data: DataSpec) -> Named:
    """CSV with a row a box: xmin ymin xmax ymax, or x y w h; an image without boxes has one empty row."""
    out: Named = {}
    column = data.label_column or "cls"
    for number, row in enumerate(_rows(labels, data), start=2):
        try:
            _, boxes = out.setdefault(row[data.image_column], (row, []))
            if row.get("xmin"):
                x0, y0, x1, y1 = (float(row[c]) for c in ("xmin", "ymin", "xmax", "ymax"))
                boxes.append((row[column], (x0, y0, x1, y1)))
            elif row.get("w"):
                x, y, w, h = (float(row[c]) for c in ("x", "y", "w", "h"))
                boxes.append((row[column], (x, y, x + w, y + h)))
        except (KeyError, ValueError) as error:
            raise DataError(f"{labels} row {number}: {error!r}; columns are xmin ymin xmax ymax or x y w h") from None
    return out


def _coco(labels: Path, data: DataSpec) -> Named:
    try:
        content = json.loads(labels.read_bytes())
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {i["id"]: str(i["file_name"]) for i in content["images"]}
        out: Named = {name: (None, []) for name in files.values()}
        for annotation in content["annotations"]:
            x, y, w, h = (float(v) for v in annotation["bbox"])
            if not annotation.get("iscrowd"):
                out[files[annotation["image_id"]]][1].append((names[annotation["category_id"]], (x, y, x + w, y + h)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{labels} cannot be read as COCO: {error!r}") from None
    return out


def _voc(labels: Path, data: DataSpec) -> Named:
    out: Named = {}
    for path in sorted(labels.glob("*.xml")):
        try:
            root = defusedxml.ElementTree.parse(path).getroot()
            boxes = []
            for thing in root.iter("object"):
                box = thing.find("bndbox")
                x0, y0, x1, y1 = (float(box.findtext(c)) for c in ("xmin", "ymin", "xmax", "ymax"))
                boxes.append((str(thing.findtext("name")), (x0, y0, x1, y1)))
            out[str(root.findtext("filename") or path.stem)] = (None, boxes)
        except (OSError, ValueError, TypeError, AttributeError, defusedxml.ElementTree.ParseError) as error:
            raise DataError(f"{path} cannot be read as VOC: {error!r}") from None
    return out


def _volumes(data: DataSpec, kind: str, classes: tuple[str, ...], problems: list[str]) -> Iterator[Record]:
    labels = _need(data, "a folder of NIfTI masks")
    for path in sorted(p for p in data.images.iterdir() if p.name.endswith((".nii", ".nii.gz"))):
        try:
            mask = labels / path.name
            if not mask.is_file():
                raise DataError(f"{path.name}: no mask of this name in {labels}")
            stem = path.name.split(".nii")[0]
            group = _group(data, Path(stem), None)
            for z in range(len(read_volume(path))):
                yield SliceRecord(name=f"{stem} slice {z}", group=group, path=path, mask=mask, index=z)
        except DataError as error:
            problems.append(str(error))
