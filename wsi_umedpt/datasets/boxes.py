"""Box files as they are met: CSV, COCO JSON, a folder of VOC XML; all become boxes by image name."""

import json
from collections.abc import Sequence
from pathlib import Path

import defusedxml.ElementTree

from wsi_umedpt.datasets.records import DataSpec
from wsi_umedpt.datasets.tables import Row, read_rows
from wsi_umedpt.errors import DataError
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.spreadsheet import TABLE_SUFFIXES as TABLES

Box = tuple[str, tuple[float, float, float, float]]
"""Class, and x0, y0, x1, y1 in px."""
Named = dict[str, tuple[Row | None, list[Box]]]
"""Row of a CSV and its boxes, by the name of the image."""

_CORNERS, _SIZES, _POINT = ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "w", "h"), ("x", "y")


def read_boxes(labels: Path, data: DataSpec, problems: list[str]) -> Named:
    """Boxes of every image that the labels name; what cannot be read is added to `problems`."""
    if labels.is_dir():
        return _voc(labels, problems)
    if labels.suffix.lower() == ".json":
        return _coco(labels, problems)
    if labels.suffix.lower() in TABLES:
        return _csv(labels, data, problems)
    raise DataError(
        f"boxes are read from {', '.join(TABLES)}, .json (COCO) or a folder of .xml (VOC), not from {labels}"
    )


def _csv(labels: Path, data: DataSpec, problems: list[str]) -> Named:
    """A row a box: xmin ymin xmax ymax, or x y w h, or points x y; an image without any has one row, empty there."""
    column = data.label_column or "cls"
    telling = [] if data.table else [data.patient_column, data.split_column]
    where = {} if data.table else data.where
    rows = read_rows(labels, [data.image_column, column, *telling], where, (*_CORNERS, *_SIZES))
    out: Named = {}
    for number, row in rows.items():
        forms = (_POINT,) if data.point_px else (_CORNERS, _SIZES)
        names = next((n for n in forms if {*n} <= {*row}), None)
        if names is None:
            raise DataError(f"{labels} has no columns {' and no '.join(' '.join(n) for n in forms)}")
        first, boxes = out.setdefault(row[data.image_column], (row, []))
        try:
            for c in telling:
                if c and first and row[c] != first[c]:
                    raise DataError(f"{c} is {row[c]!r}, in an earlier row of the image {first[c]!r}")
            if any(row[c].strip() for c in names):
                boxes.append((row[column], _box(row, names, data.point_px)))
        except ValueError as error:
            problems.append(f"{labels.name} row {number}: {error}")
    return out


def _box(row: Row, names: Sequence[str], point_px: float) -> tuple[float, float, float, float]:
    if names is not _POINT:
        return _four([row[c] for c in names], sizes=names is _SIZES)
    try:
        x, y = (float(row[c]) for c in names)
    except ValueError:
        raise DataError(f"a point is two numbers, got {[row[c] for c in names]}") from None
    return (x - point_px / 2, y - point_px / 2, x + point_px / 2, y + point_px / 2)


def _four(values: Sequence[str | float | None], *, sizes: bool) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(v) for v in values if v is not None)
    except ValueError:
        raise DataError(f"a box is four numbers, got {[*values]}") from None
    return (a, b, a + c, b + d) if sizes else (a, b, c, d)


def _coco(labels: Path, problems: list[str]) -> Named:
    try:
        content = json.loads(labels.read_bytes())
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {i["id"]: str(i["file_name"]) for i in content["images"]}
        annotations = [*content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{labels} cannot be read as COCO: {error!r}") from None
    out: Named = {name: (None, []) for name in files.values()}
    for number, annotation in enumerate(annotations):
        try:
            if not annotation.get("iscrowd"):
                box = _four(annotation["bbox"], sizes=True)
                out[files[annotation["image_id"]]][1].append((names[annotation["category_id"]], box))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else error
            problems.append(f"{labels.name}: annotation {number}: {reason}")
    return out


def _voc(labels: Path, problems: list[str]) -> Named:
    out: Named = {}
    for path in sorted(p for p in labels.glob("*.xml") if not is_clutter(p.name)):
        try:
            root = defusedxml.ElementTree.parse(path).getroot()
            boxes = []
            for thing in root.iter("object"):
                box = thing.find("bndbox")
                boxes.append((str(thing.findtext("name")), _four([box.findtext(c) for c in _CORNERS], sizes=False)))
            name = str(root.findtext("filename") or path.stem)
            if name in out:
                raise DataError(f"another file has the boxes of {name!r}")
            out[name] = (None, boxes)
        except (OSError, ValueError, AttributeError, SyntaxError) as error:
            # ElementTree's ParseError is a SyntaxError; what defusedxml forbids is a ValueError.
            problems.append(f"{path.name} cannot be read as VOC: {error}")
    return out
