"""Drawn regions of a slide as the file that keeps them: layers of annotations in, GeoJSON out, and back. No Qt.

One file holds all layers, so that it can be dragged onto the slide in QuPath; which annotation is of which
layer stands beside them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from wsi_umedpt.errors import AnnotationError

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.shapes import Drawing
from napari_wsi_umedpt.logic.annotations import Annotation, collection_of, layer_annotations, read_annotations
from napari_wsi_umedpt.logic.autosave_place import ABOUT, Home, Kept, about

FIRST = "annotations"
"""Layer of annotations that a file says nothing of, as another program has drawn them."""


class Sheet(NamedTuple):
    """One layer at one moment."""

    name: str
    drawing: Drawing
    meta: dict[str, Any]
    """See `Drawing.meta`."""


def now() -> str:
    """The time in UTC, as it is written into files."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_sheets(kept: Kept, home: Home, sheets: Sequence[Sheet]) -> Path:
    """Write all that is drawn on a slide.

    Raises
    ------
    OSError, AnnotationError
        If it cannot be written.
    """
    found: list[Annotation] = []
    layers: dict[str, list[str]] = {}
    for sheet in sheets:
        some = layer_annotations(sheet.drawing.shapes, sheet.meta, home.place)
        layers.setdefault(sheet.name, []).extend(one.id for one in some)
        found += some
    content = collection_of(found, home.place.corner)
    return kept.write(home, {**content, ABOUT: {**content[ABOUT], "layers": layers}}, now())


def read_sheets(kept: Kept, home: Home) -> tuple[dict[str, list[Annotation]], list[Exception]]:
    """Read what was drawn on a slide, as far as it was not read yet.

    Returns
    -------
    found : annotations of each layer
    refused : why files were not read
    """
    contents, unreadable = kept.read(home)
    refused: list[Exception] = [*unreadable]
    found: dict[str, tuple[str, Annotation]] = {}
    for path, content in contents:
        try:
            read = [one for one in read_annotations(path, home.place.corner) if _is_on(one, home.place)]
            some = [one if one.id else replace(one, id=str(uuid.uuid4())) for one in read]
        except (AnnotationError, OSError) as error:
            kept.known.pop(path, None)  # never written over
            refused.append(error)
            continue
        stated = about(content).get("layers", {})
        of = {id_: str(name) for name, ids in stated.items() for id_ in ids} if isinstance(stated, dict) else {}
        # What was saved last counts where two files hold the same.
        found |= {one.id: (of.get(one.id, FIRST), one) for one in some}
    layers: dict[str, list[Annotation]] = {}
    for name, one in found.values():
        layers.setdefault(name, []).append(one)
    return layers, refused


def _is_on(one: Annotation, place: Place) -> bool:
    corners = [corner for part in one.parts for corner in part[0]]
    return any(0 <= x <= place.size[0] and 0 <= y <= place.size[1] for x, y in corners)
