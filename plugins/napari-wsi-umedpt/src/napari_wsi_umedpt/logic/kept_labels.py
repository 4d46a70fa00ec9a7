"""Labels of tiles or cells as the file that keeps them: classes in the order of their keys, and a point each. No Qt.

Points are level-0 px and mean the tile that holds them, or the cell that they lie on, so that they fit every grid of
the slide, and cells that are found anew; those that mean none at hand are kept with the others.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wsi_umedpt.annotations import Point
from wsi_umedpt.errors import DataError

from napari_wsi_umedpt.layers.kept_regions import now
from napari_wsi_umedpt.logic.autosave_place import Home, Kept

_MOST = 1_000_000


class KeptLabels(NamedTuple):
    """Labels of a slide's tiles, or cells."""

    classes: tuple[str, ...] = ()
    """Those that can be chosen; number 1 is the first."""
    points: tuple[Point, ...] = ()


def write_kept_labels(kept: Kept, home: Home, labels: KeptLabels) -> Path:
    """Write labels.

    Raises
    ------
    OSError
        If no place takes them.
    """
    points = [[round(point.x, 2), round(point.y, 2), point.label] for point in labels.points]
    return kept.write(home, {"classes": list(labels.classes), "points": points}, now())


def read_kept_labels(kept: Kept, home: Home) -> tuple[KeptLabels, list[DataError]]:
    """Read labels, as far as they were not read yet; of two files that name one place the later counts.

    Returns
    -------
    found : labels
    refused : why files were not read
    """
    contents, refused = kept.read(home)
    classes: dict[str, None] = {}
    points: dict[tuple[float, float], Point] = {}
    for path, content in contents:
        try:
            some = _labels_in(content, home.place.slide_id)
        except (ValueError, LookupError, TypeError) as error:
            kept.known.pop(path, None)  # never written over
            refused.append(DataError(f"{path} holds no labels, and is left as it is: {error}"))
            continue
        classes |= dict.fromkeys(some.classes)
        points |= {(point.x, point.y): point for point in some.points}
    return KeptLabels(tuple(classes), tuple(points.values())), refused


def _labels_in(content: dict[str, Any], slide_id: str) -> KeptLabels:
    rows: Sequence[Any] = content["points"]
    if len(rows) > _MOST:
        raise ValueError(f"{len(rows):,} points")
    points = []
    for x, y, label in rows:
        if not (math.isfinite(x) and math.isfinite(y) and isinstance(label, str) and label):
            raise ValueError(f"no label: {[x, y, label]}")
        points.append(Point(slide_id, float(x), float(y), label, ""))
    return KeptLabels(tuple(str(name) for name in content["classes"] if name), tuple(points))
