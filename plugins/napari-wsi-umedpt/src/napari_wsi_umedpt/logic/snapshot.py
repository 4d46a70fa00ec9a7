"""Pictures of the field with a legend, and reports of what is shown. No Qt, no viewer.

Read top to bottom: `legend_of` (layers), `save_snapshot`, `save_report`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from napari.layers import Shapes
from wsi_umedpt.annotations import Annotation
from wsi_umedpt.errors import OptionError
from wsi_umedpt.plotting import LegendGroup, with_legend
from wsi_umedpt.slides import Slide
from wsi_umedpt.store import SlideStore, found_names

from napari_wsi_umedpt.layers.build import Colour, shown_by
from napari_wsi_umedpt.layers.shapes import PASSING
from napari_wsi_umedpt.logic.legend import Legend, has_legend
from napari_wsi_umedpt.logic.measuring import Counted

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".png", ".tif", ".tiff")
_NO_CLASS = "no class"


def legend_of(layers: Iterable[Any]) -> list[LegendGroup]:
    """Meaning of the colours of visible layers, the uppermost first."""
    groups = []
    for layer in reversed(list(layers)):
        shown = shown_by(layer)
        if shown is None or not layer.visible:
            continue
        if shown.kind == "annotations" and isinstance(layer, Shapes) and not layer.metadata.get(PASSING):
            if classes := _drawn_classes(layer):
                groups.append(LegendGroup(layer.name, classes))
        elif has_legend(layer):
            entries = [entry for entry in Legend(layer).entries() if entry.shown]
            words = [(one.colour, f"{one.name}  {one.numbers}".rstrip()) for one in entries]
            groups.append(LegendGroup(layer.name, words))
    return groups


def _drawn_classes(layer: Shapes) -> list[tuple[Colour, str]]:
    found: dict[str, Colour] = {}
    names = list(layer.features.get("class", []))
    for name, colour in zip(names, np.asarray(layer.edge_color), strict=False):
        red, green, blue = (round(float(part) * 255) for part in colour[:3])
        found.setdefault(name if isinstance(name, str) and name else _NO_CLASS, (red, green, blue))
    return [(colour, name) for name, colour in found.items()]


def check_picture(path: Path) -> None:
    """Refuse a name that is no picture's."""
    if path.suffix.lower() not in _SUFFIXES:
        raise OptionError(f"a picture is saved as PNG or TIFF; {path.name} is neither")


def save_snapshot(path: Path, pixels: npt.NDArray[np.uint8], groups: Sequence[LegendGroup], title: str) -> None:
    """Save a picture of the canvas with a legend beside it and a title above."""
    with_legend(pixels, groups, title=title).save(path)


class Seen(NamedTuple):
    """Content of the window that a report shows."""

    store: Path
    drawn: Sequence[Annotation]
    counted: Counted
    verdict: str
    """Answer of the slide classifier, in lines; empty where there is none."""
    picture: "Image"
    """View with its legend."""
    slide: Slide | None


def save_report(path: Path, seen: Seen) -> Path:
    """Write a report of the case that is shown; see `wsi_umedpt.pipeline.write_case_report`."""
    from wsi_umedpt.pipeline import CaseContents, write_case_report  # matplotlib with it

    store, head = SlideStore.open(seen.store), seen.counted.head
    contents = CaseContents(
        drawn=seen.drawn,
        objects=head if head in found_names(store) else None,
        positive=seen.counted.classes,
        verdict=seen.verdict,
        pictures=[("The view when the report was made", seen.picture)],
        slide=seen.slide,
    )
    write_case_report(path, store, contents)
    return path
