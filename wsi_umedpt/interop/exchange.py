"""Parts that every format shares: checks of outlines, and outlines from polygons."""

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_umedpt.errors import InteropError
from wsi_umedpt.store.objects import Objects

CLASSLESS = "object"
"""Class of an object for which a file states none."""
MAX_CLASSES = 256
"""Most classes that an `Objects.class_index` can tell apart."""


def check_outlines(objects: Objects) -> None:
    """Refuse outlines that no reader would take for polygons.

    Raises
    ------
    InteropError
        If one has fewer than three corners, or a corner that is nowhere.
    """
    corners = np.diff(objects.starts)
    if len(short := np.flatnonzero(corners < 3)):
        raise InteropError(f"object {short[0]} has an outline of {corners[short[0]]} corners; a polygon needs three")
    if not np.isfinite(objects.outline).all():
        point = np.flatnonzero(~np.isfinite(objects.outline).all(axis=1))[0]
        number = np.searchsorted(objects.starts, point, side="right") - 1
        raise InteropError(f"object {number} has a corner at {objects.outline[point].tolist()}, which is no position")


def objects_of(
    polygons: npt.NDArray[np.object_],
    class_index: npt.NDArray[Any],
    score: npt.NDArray[Any],
    measures: npt.NDArray[Any],
) -> Objects:
    """Objects whose outlines are the outer rings of polygons, and whose centroids are those of the outlines.

    Their classes are not named yet: `Objects.joined` does it.

    Parameters
    ----------
    polygons : (object,) shapely polygons, level-0 px
    class_index : (object,)
    score : (object,)
    measures : (object, measure)
    """
    rings = shapely.get_exterior_ring(polygons)
    points = shapely.get_coordinates(rings)
    ends = np.cumsum(shapely.get_num_coordinates(rings))
    return Objects(
        (),
        class_index.astype(np.uint8),
        score.astype(np.float32),
        shapely.get_coordinates(shapely.centroid(shapely.polygons(rings))).astype(np.float32),
        measures.astype(np.float32),
        # Each ring loses its last point, which repeats the first.
        np.concatenate([[0], ends - np.arange(1, len(ends) + 1)]).astype(np.int64),
        np.delete(points, ends - 1, axis=0).astype(np.float32),
    )
