"""Objects in drawn regions: size, count by class, density, means of measures; a row a region.

An object counts where its centroid lies, by the rule of every drawn area (`wsi_umedpt.annotations.filling`): outlines
that cross themselves are filled by the even-odd rule, holes are outside. Regions may lie over each other: each counts
all that lies in it. It is fast enough for a window to count while a region is drawn (benchmarks/segmentation/counting).

Read top to bottom: `RegionCounts` (what is known of one region), `count_in_region`, `region_rows` (a file of them).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.annotations.annotation import Annotation, Geometry
from wsi_umedpt.annotations.filling import filled_px2, holds
from wsi_umedpt.errors import OptionError
from wsi_umedpt.store.objects import MEASURES, Objects


@dataclass(frozen=True)
class RegionCounts:
    """A region and the objects in it."""

    area_mm2: float
    """As it is filled, without its holes."""
    perimeter_mm: float
    """Length of all outlines, those of holes among them."""
    counts: dict[str, int]
    """Objects by class; empty where no objects were given."""
    means: dict[str, dict[str, float]]
    """Mean of each measure by class, and under "" that of all objects; nan where there is none."""
    positive_share: float | None = None
    """Share of the objects that are of the classes called positive, 0 to 1; None where none was called so."""

    @property
    def total(self) -> int:
        """Number of objects."""
        return sum(self.counts.values())

    def per_mm2(self, label: str | None = None) -> float:
        """Density of a class, by default of all objects, for each mm2 of the region; nan where it has no area."""
        count = self.total if label is None else self.counts[label]
        return count / self.area_mm2 if self.area_mm2 else float("nan")

    def row(self) -> dict[str, Any]:
        """All of it as columns of a table: sizes, all objects, then each class."""
        columns: dict[str, Any] = {"area_mm2": self.area_mm2, "perimeter_mm": self.perimeter_mm}
        if not self.counts:
            return columns
        columns |= {"objects_count": self.total, "objects_per_mm2": self.per_mm2()}
        if self.positive_share is not None:
            columns["positive_share"] = self.positive_share
        columns |= {f"mean_{name}": value for name, value in self.means[""].items()}
        for label, count in self.counts.items():
            columns |= {f"{label}_count": count, f"{label}_per_mm2": self.per_mm2(label)}
            columns |= {f"{label}_mean_{name}": value for name, value in self.means[label].items()}
        return columns


def count_in_region(
    area: Geometry, mpp: float, objects: Objects | None = None, positive: Collection[str] = ()
) -> RegionCounts:
    """Measure a region, and count the objects in it.

    Parameters
    ----------
    area
        Polygon or MultiPolygon, level-0 px, as it was drawn: it may cross itself.
    mpp : um per level-0 px
        Scale of the slide.
    objects
        Objects of the slide; without them the region is only measured.
    positive
        Classes whose share of all objects is asked for.

    Returns
    -------
    RegionCounts
        Counts; of no objects, densities are 0 and means nan.

    Raises
    ------
    OptionError
        If a class called positive is none of the objects'.
    AnnotationError
        If the outline crosses rows of objects too often; see `wsi_umedpt.annotations.filling`.

    Examples
    --------
    >>> import shapely
    >>> square = shapely.box(0, 0, 2000, 2000)
    >>> count_in_region(square, mpp=0.5).area_mm2
    1.0
    """
    mm = mpp / 1000
    sizes = filled_px2(area) * mm**2, float(shapely.length(area)) * mm
    if objects is None:
        return RegionCounts(*sizes, {}, {})
    if unknown := sorted({*positive} - {*objects.classes}):
        raise OptionError(f"{unknown[0]!r} is no class of these objects. Their classes: {', '.join(objects.classes)}")
    rows = np.flatnonzero(holds(area, objects.centroid))
    kinds, measures = objects.class_index[rows], objects.measures[rows].astype(np.float64)
    counts = np.bincount(kinds, minlength=len(objects.classes)).tolist()
    means = {"": _means(measures)} | {label: _means(measures[kinds == k]) for k, label in enumerate(objects.classes)}
    share = None
    if positive:
        mine = sum(count for label, count in zip(objects.classes, counts, strict=True) if label in positive)
        share = mine / len(rows) if len(rows) else float("nan")
    return RegionCounts(*sizes, dict(zip(objects.classes, counts, strict=True)), means, share)


def _means(measures: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean of each column, without what is not finite."""
    finite = np.isfinite(measures)
    count = finite.sum(axis=0)
    sums = np.where(finite, measures, 0).sum(axis=0)
    means = np.divide(sums, count, out=np.full(len(MEASURES), np.nan), where=count > 0)
    return dict(zip(MEASURES, means.tolist(), strict=True))


def region_rows(
    drawn: Sequence[Annotation], mpp: float, objects: Objects | None = None, positive: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Measure and count every area of an annotation file; lines and points are left out.

    Parameters
    ----------
    drawn
        As `wsi_umedpt.annotations.read_annotation_file` reads them.
    mpp, objects, positive
        As `count_in_region` takes them.

    Returns
    -------
    list of dict
        A row for each area, in their order: its number from 1, name, class, and the columns of `RegionCounts.row`.

    Raises
    ------
    OptionError, AnnotationError
        As of `count_in_region`.
    """
    return [columns | count_in_region(area, mpp, objects, positive).row() for columns, area in named_areas(drawn)]


def named_areas(drawn: Sequence[Annotation]) -> list[tuple[dict[str, Any], Geometry]]:
    """Areas of an annotation file, with columns that say which each is: its number from 1, name and class."""
    areas = [one for one in drawn if one.shape == "area"]
    return [
        ({"region": number, "region_name": one.title, "region_class": one.name}, one.geometry)
        for number, one in enumerate(areas, 1)
    ]
