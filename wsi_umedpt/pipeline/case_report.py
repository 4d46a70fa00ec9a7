"""Report of a case: one HTML page of what is known of one slide, to be read and kept without any program.

Pictures, regions and what was counted in them, hotspots, heatmaps, what a slide classifier said, and what made all of
it. Numbers are those of `wsi-umedpt export`; the page makes no request and runs nothing.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsi_umedpt.annotations.annotation import Annotation
from wsi_umedpt.errors import OptionError
from wsi_umedpt.heatmaps.raster import fitting_scaling
from wsi_umedpt.heatmaps.stored import heatmap
from wsi_umedpt.plotting.heatmap import draw_heatmap
from wsi_umedpt.plotting.objects import object_sheet
from wsi_umedpt.plotting.regions import region_picture
from wsi_umedpt.plotting.web_page import NOTHING, write_webpage
from wsi_umedpt.segmentation.hotspots import hotspot_rows
from wsi_umedpt.segmentation.region_counts import region_rows
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.store.objects import Objects
from wsi_umedpt.store.objects_io import found_names
from wsi_umedpt.store.scores_io import Classified, read_classified, score_attrs, score_ids
from wsi_umedpt.store.slide_store import SlideStore

_SIDE, _HEAT_SIDE = 800, 640
_QUALITY = 88
_MOST_HEATMAPS = 8
"""Columns of scores that nobody named."""
_HEADINGS = {
    "region": "number", "region_name": "name", "region_class": "class", "objects_count": "objects",
    "objects_per_mm2": "objects per mm2",
}  # fmt: skip
"""Headings of columns, where their names are not these very words."""
_UNIT = re.compile(r"_(um2|um|mm2|mm|px)$")
_UNSAID = {"sha256", "contents", "unreadable", "columns", "grid_id"}
"""Facts of what made something that a reader of the page has no use for."""


@dataclass(frozen=True, kw_only=True)
class CaseContents:
    """Contents of a report beside the slide itself."""

    drawn: Sequence[Annotation] = ()
    """Annotations, level-0 px; areas are regions."""
    objects: str | None = None
    """Kind of objects to count; may be left out where there is one."""
    scores: str | None = None
    """Scores that give objects their classes."""
    heatmaps: Sequence[str] | None = None
    """Names of tile scores to draw; None draws all, up to eight columns."""
    positive: Sequence[str] = ()
    """Classes whose share of all objects is asked for."""
    verdict: str = ""
    """Answer of a slide classifier, in lines."""
    pictures: Sequence[tuple[str, Image.Image]] = ()
    """Further pictures, as of a window, with their words."""
    slide: Slide | None = None
    """The slide, for close-ups of objects; results hold no pixels."""


def write_case_report(path: Path, store: SlideStore, contents: CaseContents | None = None) -> None:
    """Write a report of one slide.

    Parameters
    ----------
    path
        ``.html``; whole or absent.
    store
        The slide's results.
    contents
        Contents beside the slide.

    Raises
    ------
    OptionError
        If the file's name has another suffix, or a class called positive is none.
    StoreError
        If objects or scores that were named are not there, or are damaged.
    PictureError
        If the slide is not that of the results.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"a report is an HTML file; {path.name} does not end in .html")
    what = contents or CaseContents()
    of, counted = store.attrs["slide"], _objects(store, what)
    objects = None if counted is None else counted.objects
    figures = [(words, _source(image)) for words, image in what.pictures]
    if counted is not None:
        sheet = object_sheet(store, counted.made_by.get("head", what.objects), what.slide, scores=what.scores)
        figures.append((f"{len(counted.objects):,} objects, outlined in the colours of their classes", _source(sheet)))
    spots = [] if objects is None else hotspot_rows(objects, of["mpp"])
    width, height = of["size"]
    content = {
        "title": f"Case report: {store.slide_id}",
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "lead": [
            ("px", f"{width:,} x {height:,}"),
            ("um per px", f"{of['mpp']:g}"),
            ("mm2 of tissue", f"{store.tissue().area_mm2(of['mpp']):.2f}"),
            *([("objects", f"{len(objects):,}")] if objects is not None else []),
        ],
        "verdict": [line.strip() for line in what.verdict.splitlines() if line.strip()],
        "picture": _source(region_picture(store, what.drawn, _SIDE)),
        "figures": figures,
        "regions": _table(region_rows(what.drawn, of["mpp"], objects, what.positive), objects),
        "hotspots": _table(spots, objects),
        "heatmaps": _heatmaps(store, what.heatmaps),
        "made_by": _made_by(store, counted),
    }
    write_webpage(path, "wsi_umedpt.pipeline", "case_report", content)


def _objects(store: SlideStore, what: CaseContents) -> Classified | None:
    """Those that are counted; None where there are none and none were named."""
    if what.objects is None and what.scores is None and not found_names(store):
        return None
    return read_classified(store, what.objects, what.scores)


def _heatmaps(store: SlideStore, names: Sequence[str] | None) -> list[tuple[str, str]]:
    """Words and picture of each column."""
    wanted = [name for _, name in score_ids(store)] if names is None else [*names]
    found = [(name, column) for name in wanted for column in score_attrs(store, name)["columns"]]
    if names is None:
        found = found[:_MOST_HEATMAPS]
    made = []
    for name, column in found:
        heat, words = heatmap(store, name, column), f"{name}: {column}"
        scaling = fitting_scaling(heat.values, column)
        page = draw_heatmap(
            heat, scaling=scaling, tissue=store.tissue(), mpp=store.attrs["slide"]["mpp"], side=_HEAT_SIDE
        )
        made.append((words, _source(page)))
    return made


def _doubled(objects: Objects | None) -> str:
    """Beginning of columns that repeat those of all objects, where there is one class; else empty."""
    return f"{objects.classes[0]}_" if objects is not None and len(objects.classes) == 1 else ""


def _table(rows: Sequence[dict[str, Any]], objects: Objects | None) -> dict[str, list[Any]]:
    """Headings of columns, and cells as they are read; columns that repeat others are left out."""
    without, classes = _doubled(objects), () if objects is None else objects.classes
    names = list(dict.fromkeys(name for row in rows for name in row if not (without and name.startswith(without))))
    return {
        "names": [_heading(name, classes) for name in names],
        "rows": [[_cell(row.get(name)) for name in names] for row in rows],
    }


def _heading(name: str, classes: Sequence[str]) -> str:
    """Name of a column of `wsi-umedpt export`, in words.

    Examples
    --------
    >>> [_heading(name, ["cell_a"]) for name in ("region", "area_mm2", "objects_count", "cell_a_mean_area_um2")]
    ['number', 'area, mm2', 'objects', 'cell_a: mean area, um2']
    >>> [_heading(name, ["cell_a"]) for name in ("cell_a_count", "cell_a_per_mm2", "region_class", "mean_eosin")]
    ['cell_a', 'cell_a per mm2', 'class', 'mean eosin']
    """
    if name in _HEADINGS:
        return _HEADINGS[name]
    label = next((one for one in sorted(classes, key=len, reverse=True) if name.startswith(f"{one}_")), "")
    rest = name[len(label) :].lstrip("_")
    if rest in ("count", "per_mm2"):
        return f"{label} {rest.replace('_', ' ').removeprefix('count')}".strip()
    words = _UNIT.sub(r", \1", rest).replace("_", " ")
    return f"{label}: {words}" if label else words


def _cell(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, float) and not np.isfinite(value)):
        return NOTHING
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _made_by(store: SlideStore, counted: Classified | None) -> list[tuple[str, str]]:
    """Origin of the results: programs, objects, scores; in words."""
    said = [(f"version of {name}", str(version)) for name, version in store.attrs.get("software", {}).items()]
    said.append(("tissue", store.tissue_made()[0] or NOTHING))
    if counted is not None:
        said += [(f"objects: {name}", words) for name, words in _flat(counted.made_by)]
    for grid_id, name in score_ids(store):
        about = score_attrs(store, name, grid_id)
        said += [(f"scores {name}: {key}", words) for key, words in _flat(about)]
    return said


def _flat(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Short facts alone."""
    plain = {key: value for key, value in about.items() if key not in _UNSAID and isinstance(value, str | int | float)}
    return [(key.replace("_", " "), str(value)) for key, value in plain.items()]


def _source(image: Image.Image) -> str:
    """A picture as part of the page."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
