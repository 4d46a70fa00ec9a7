"""Words and tables of the dock Measure: lengths of rulers, and sizes and counts of drawn regions. No Qt.

Numbers are those of `wsi_umedpt.segmentation`, so that the window, Python and the command line say the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
from wsi_umedpt.annotations import Annotation as Region
from wsi_umedpt.interop import as_columns, write_table
from wsi_umedpt.segmentation import RegionCounts, count_in_region, hotspot_rows, region_rows
from wsi_umedpt.store import Objects

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.logic.annotations import FOUND_KINDS, Annotation, layer_annotations

_UM_PER_MM = 1000.0
_CORNERS = 3
_UNITS = {"area_um2": ("area", "um2"), "perimeter_um": ("perimeter", "um"), "circularity": ("circularity", "")}
"""Words and unit of measures; others are optical densities."""


class Counted(NamedTuple):
    """Objects that are counted in regions, and how."""

    objects: Objects | None
    """None where there are none: regions are only measured."""
    mpp: float
    """um per level-0 px."""
    positive: str = ""
    """Class whose share of all objects is asked for; empty for none."""
    head: str = ""
    """Name of the objects in their store."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Those called positive, as counting takes them."""
        return (self.positive,) if self.positive else ()


class RegionTable:
    """Counts of regions, each made once for as long as neither the region nor the objects change."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int, str], RegionCounts] = {}

    def count(self, regions: Sequence[Region], what: Counted) -> list[RegionCounts]:
        """Count in each region, in their order."""
        known, self._known = self._known, {}
        for region in regions:
            key = shapely.to_wkb(region.geometry), id(what.objects), what.positive
            if key not in self._known:
                found = known.get(key) or count_in_region(region.geometry, what.mpp, what.objects, what.classes)
                self._known[key] = found
        return [self._known[shapely.to_wkb(one.geometry), id(what.objects), what.positive] for one in regions]


def layer_regions(data: Sequence[Any], meta: Mapping[str, Any], place: Place, *, drawing: bool = False) -> list[Region]:
    """Regions that are drawn in a layer; what a program found, lines and points are left out.

    Parameters
    ----------
    data, meta
        As `napari_wsi_umedpt.logic.annotations.layer_annotations` takes them.
    drawing
        The last shape is a polygon that is still being drawn, which napari has as a path.
    """
    kinds, features = list(meta["shape_type"]), meta["features"]
    if drawing and kinds:
        kinds[-1] = "polygon"
    found = list(features["kind"]) if "kind" in features else []
    rows = [
        n for n, corners in enumerate(data)
        if len(corners) >= _CORNERS and not (n < len(found) and found[n] in FOUND_KINDS)
    ]  # fmt: skip
    kept = {
        **meta,
        "shape_type": [kinds[n] for n in rows],
        "features": features.iloc[[n for n in rows if n < len(features)]].reset_index(drop=True),
        "edge_color": np.zeros((len(rows), 4)),
    }
    if len(kept["features"]) < len(rows):  # the row of what is being drawn comes with its end
        kept["features"] = kept["features"].reindex(range(len(rows)))
    return [region for one in layer_annotations([data[n] for n in rows], kept, place) if (region := _region(one))]


def _region(one: Annotation) -> Region | None:
    if one.shape != "area":
        return None
    polygons = [shapely.Polygon(part[0], part[1:]) for part in one.parts]
    area = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
    return Region(area, one.name, one.title, id=one.id)


# ---- words ----


def length_words(um: float) -> str:
    """A length as a person reads it.

    Examples
    --------
    >>> length_words(12.345), length_words(1234.5)
    ('12.3 um', '1.234 mm')
    """
    return f"{um:.1f} um" if um < _UM_PER_MM else f"{um / _UM_PER_MM:.3f} mm"


def length_um(corners: npt.NDArray[Any]) -> float:
    """Length of a line, of corners in um."""
    return float(np.linalg.norm(np.diff(np.asarray(corners, np.float64), axis=0), axis=1).sum())


def row_words(number: int, region: Region, counts: RegionCounts) -> tuple[str, str, str, str]:
    """Cells of a row: what the region is called, mm2, objects and objects per mm2."""
    name = ", ".join(part for part in (region.name, region.title) if part) or f"region {number}"
    if not counts.counts:
        return name, f"{counts.area_mm2:.3f}", "", ""
    density = counts.per_mm2()
    return name, f"{counts.area_mm2:.3f}", f"{counts.total:,}", f"{density:,.0f}" if np.isfinite(density) else ""


def details(counts: RegionCounts, what: Counted) -> str:
    """All that is known of a region, as rich text."""
    lines = [f"{counts.area_mm2:.4f} mm2, perimeter {counts.perimeter_mm:.3f} mm"]
    if not counts.counts:
        return f"{lines[0]}<br>No objects are shown that could be counted."
    if counts.positive_share is not None and np.isfinite(counts.positive_share):
        lines.append(f"<b>{counts.positive_share:.1%}</b> of {counts.total:,} are {escape(what.positive)}")
    rows = [
        f"<tr><td>{escape(label)}&nbsp;</td><td align=right>{count:,}&nbsp;</td>"
        f"<td align=right>{_number(counts.per_mm2(label))} per mm2</td></tr>"
        for label, count in counts.counts.items()
    ]
    means = [_mean_words(name, value) for name, value in counts.means[""].items() if np.isfinite(value)]
    mean = f"mean {', '.join(means)}" if means else ""
    return f"{'<br>'.join(lines)}<table>{''.join(rows)}</table>{mean}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "0"


def _mean_words(name: str, value: float) -> str:
    words, unit = _UNITS.get(name, (name, "OD"))
    return f"{words} {value:.3g} {unit}".rstrip()


# ---- tables ----


def save_tables(path: Path, slide_id: str, regions: Sequence[Region], what: Counted) -> list[Path]:
    """Write what ``wsi-umedpt export --regions`` and ``--hotspots`` would; the second beside the first.

    Parameters
    ----------
    path
        ``.csv`` or ``.parquet``, of the regions; that of the hotspots has ``.hotspots`` before it.

    Returns
    -------
    list of Path
        Those of which there was anything to write.
    """
    whose = {"slide_id": slide_id, **({"objects": what.head} if what.objects is not None else {})}
    spots = [] if what.objects is None else hotspot_rows(what.objects, what.mpp)
    tables = {
        path: region_rows(regions, what.mpp, what.objects, what.classes),
        path.with_name(f"{path.stem}.hotspots{path.suffix}"): spots,
    }
    return [_written(target, [whose | row for row in rows]) for target, rows in tables.items() if rows]


def _written(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    write_table(path, as_columns(rows))
    return path
