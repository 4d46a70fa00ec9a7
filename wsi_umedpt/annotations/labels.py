"""Labels that people drew on a slide: regions and points of annotation files, labelled points from tables.

Coordinates are level-0 pixels, counted from the corner of the whole slide; see
`wsi_umedpt.annotations.reading` for files that count from elsewhere.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotations.annotation import FRAME, Corner, Geometry, Origin, is_starred, skipped_words
from wsi_umedpt.annotations.filling import Work, holds, share_within
from wsi_umedpt.annotations.reading import read_annotation_file
from wsi_umedpt.errors import AnnotationError, WsiError
from wsi_umedpt.io.spelling import is_missing, quoted, several_spellings
from wsi_umedpt.io.spreadsheet import Row, read_table, to_number

POINT_COLUMNS = ("slide_id", "x", "y", "label")
_SLIDE = ("slide_id", "slide")
_LABEL = ("label", "class")


class Region(NamedTuple):
    """An area and what it was called."""

    label: str
    area: Geometry
    """Polygon or MultiPolygon, level-0 px, as it was drawn: it may cross itself."""


class Point(NamedTuple):
    """A labelled place on a slide."""

    slide_id: str
    x: float
    y: float
    """Level-0 px."""
    label: str
    patient: str
    """Empty where the table has no column ``patient``."""


class NumberedObject(NamedTuple):
    """A labelled object."""

    slide_id: str
    object: int
    """Its row among the objects of a slide's store, from 0."""
    label: str
    patient: str
    """Empty where the table has no column ``patient``."""


class DrawnLabels(NamedTuple):
    """The labels in a file of annotations."""

    regions: list[Region]
    """Those of starred classes of QuPath (Ignore*) among them: they leave out what lies in them, see `labels_at`."""
    points: list[Point]
    note: str
    """Description of what was left out; empty where nothing was."""


def read_drawn_labels(path: Path, slide_id: str, corner: Corner = (0, 0), origin: Origin | None = None) -> DrawnLabels:
    """Read classified areas and points that were drawn with QuPath, ASAP, ImageScope or HALO.

    The label is the class; in GeoJSON, where there is none, the name.

    Parameters
    ----------
    slide_id
        Slide of the points.
    corner, origin
        As `wsi_umedpt.annotations.reading.read_annotation_file` takes them.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or holds nothing that has a class.
    """
    found = read_annotation_file(path, corner, origin)
    regions, points, skipped = [], [], found.skipped.copy()
    for one in found.annotations:
        label = one.name or (one.title if found.format == "GeoJSON" else "")
        if one.shape == "line":
            skipped["lines"] += 1
        elif not label:
            skipped["without a class"] += 1
        elif label == FRAME or (one.shape == "point" and is_starred(label)):
            skipped[f"of the class {label}"] += 1
        elif one.shape == "area":
            regions.append(Region(label, one.geometry))
        else:
            points += [Point(slide_id, x, y, label, "") for x, y in shapely.get_coordinates(one.geometry).tolist()]
    note = skipped_words(skipped)
    if not points and all(is_starred(region.label) for region in regions):
        raise AnnotationError(
            f"{path} labels nothing{f' ({note})' if note else ''}: give areas or points a class before exporting, as "
            "with Set class in QuPath; classes whose names end in * do not count"
        )
    return DrawnLabels(regions, points, note)


def labels_at(regions: Sequence[Region], xy: npt.NDArray[np.floating]) -> tuple[list[str], list[Region]]:
    """Label positions by the region that they lie in, of nested ones the innermost.

    Parameters
    ----------
    regions
        Those of a starred class give no label to what lies in them, unless that lies in a further region within.
    xy : (position, 2) level-0 px
        Positions, x before y.

    Returns
    -------
    labels
        Label of each position; empty where there is none.
    lost
        Regions with a label that hold none of the positions.

    Raises
    ------
    AnnotationError
        If a position lies in two regions with different labels of which neither lies in the other.
    """
    work = Work()
    held = [np.flatnonzero(holds(region.area, xy, work)) for region in regions]
    if (pairs := sum(map(len, held))) > _MOST_PAIRS:
        raise AnnotationError(
            f"{len(regions):,} regions hold {pairs:,} tiles together: they lie over each other. Merge them."
        )
    lost = [
        region for region, rows in zip(regions, held, strict=True) if not len(rows) and not is_starred(region.label)
    ]
    labels = [""] * len(xy)
    within = _Nesting(regions)
    over: dict[int, list[int]] = {}
    for number, rows in enumerate(held):
        for row in rows.tolist():
            over.setdefault(row, []).append(number)
    known: dict[tuple[int, ...], str | None] = {}
    for row, numbers in over.items():
        at = tuple(numbers)
        if at not in known:
            known[at] = within.label(at)
        if (label := known[at]) is None:
            one, other = sorted({regions[n].label for n in at if not is_starred(regions[n].label)})[:2]
            x, y = xy[row]
            raise AnnotationError(
                f"the place at {x:g}, {y:g} is labelled both {one!r} and {other!r}; regions of different classes must "
                "not overlap, unless one lies in the other"
            )
        labels[row] = label
    return labels, lost


_MOST_PAIRS = 20_000_000
_NESTED = 0.95
"""Share of a region that lies in another which it is drawn within: hands cross outlines by a little."""


class _Nesting:
    """Nesting of regions in each other."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._known: dict[tuple[int, int], bool] = {}

    def label(self, numbers: tuple[int, ...]) -> str | None:
        """Label of a place in all of these regions; None if they contradict each other."""
        names = {n: self._regions[n].label for n in numbers}
        starred = [n for n in numbers if is_starred(names[n])]
        counting = [n for n in numbers if n not in starred and all(self._within(n, star) for star in starred)]
        if not counting:
            return ""
        for n in counting:
            others = [m for m in counting if names[m] != names[n]]
            if all(self._within(n, m) and not self._within(m, n) for m in others):
                return names[n]
        return None

    def _within(self, inner: int, outer: int) -> bool:
        key = inner, outer
        if key not in self._known:
            share = share_within(self._regions[inner].area, self._regions[outer].area)
            self._known[key] = share >= _NESTED
        return self._known[key]


def read_points(path: Path) -> list[Point]:
    """Read labelled points from a table with the columns of `POINT_COLUMNS`, and ``patient`` if it has it.

    ``slide`` stands for ``slide_id``, and ``class`` for ``label``, where that is not there.

    Raises
    ------
    AnnotationError
        If columns are missing or a row cannot be read.
    """
    needed: list[str | tuple[str, ...]] = [_SLIDE, "x", "y", _LABEL]
    rows = read_table(path, needed=needed, optional=["patient"], error=AnnotationError).rows
    return [_point(row, f"{path} row {number}") for number, row in rows.items()]


def read_object_labels(path: Path) -> tuple[list[Point], list[NumberedObject]]:
    """Read labels of objects from a table: as `read_points`, or with a column ``object`` in place of x and y.

    Where a table has both, the number counts where a row has one.

    Raises
    ------
    AnnotationError
        If columns are missing or a row cannot be read.
    """
    columns = ["x", "y", "object", "patient"]
    table = read_table(path, needed=[_SLIDE, _LABEL], optional=columns, error=AnnotationError)
    if "object" not in table.columns and not {"x", "y"} <= {*table.columns}:
        raise AnnotationError(f"{path} says of which objects its labels are neither by x and y nor by object")
    points, numbers = [], []
    for number, row in table.rows.items():
        where, text = f"{path} row {number}", row.get("object", "")
        if not text:
            points.append(_point(row, where))
        elif not text.isdecimal():
            raise AnnotationError(f"{where}: object is {text!r}; it is a row of the objects, a whole number from 0 on")
        else:
            numbers.append(NumberedObject(_slide_of(row, where), int(text), _label_of(row, where), _patient_of(row)))
    return points, numbers


def _point(row: Row, where: str) -> Point:
    slide = _slide_of(row, where)
    try:
        x, y = to_number(row.get("x", "")), to_number(row.get("y", ""))
    except ValueError as error:
        raise AnnotationError(f"{where}: x and y: {error}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise AnnotationError(f"{where}: x and y are {row['x']!r}, {row['y']!r}, which is no place")
    return Point(slide, x, y, _label_of(row, where), _patient_of(row))


def _label_of(row: Row, where: str) -> str:
    label = row.get("label") or row.get("class", "")
    if not label or is_missing(label, words=False):
        raise AnnotationError(f"{where}: the label is {label or 'empty'}; leave such rows out")
    return label


def _patient_of(row: Row) -> str:
    patient = row.get("patient", "")
    return "" if is_missing(patient) else patient


def read_patients(path: Path) -> dict[str, str]:
    """Read which patient each slide is of: a table with the columns slide_id (or slide) and patient.

    Raises
    ------
    AnnotationError
        If columns are missing, a slide is given to two patients, or a patient is spelled in several ways.
    """
    patients: dict[str, str] = {}
    for number, row in read_table(path, needed=[_SLIDE, "patient"], error=AnnotationError).rows.items():
        slide, patient = _slide_of(row, f"{path} row {number}"), row["patient"]
        if not patient or is_missing(patient):
            raise AnnotationError(f"{path} row {number}: the patient of {slide} is {patient or 'empty'}")
        if patients.setdefault(slide, patient) != patient:
            raise AnnotationError(f"{path} row {number}: {slide} is of two patients")
    check_patients(patients.values(), path)
    return patients


def check_patients(patients: Iterable[str], where: object, error: type[WsiError] = AnnotationError) -> None:
    """Refuse patients that are one but for how they are spelled: they would stand on both sides of a split.

    Parameters
    ----------
    patients
        As they are written.
    where
        Named in the error.
    error
        Class of the error to raise.
    """
    if found := several_spellings(patients):
        listed = "; ".join(quoted(group) for group in found[:5]) + (f" and {len(found) - 5} more" * (len(found) > 5))
        raise error(
            f"{where}: are these one patient? {listed}. Write one patient in one way, and two so that they differ by "
            "more than case, blanks, leading zeros or characters that cannot be seen"
        )


def _slide_of(row: Row, where: str) -> str:
    slide = row.get("slide_id") or row.get("slide", "")
    if not slide:
        raise AnnotationError(f"{where} names no slide")
    return slide
