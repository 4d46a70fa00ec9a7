"""Tiles and their scores for QuPath, as squares of type "tile", and back.

QuPath draws them with Measure > Show measurement maps, each measurement by its name. Positions are
level-0 px; a score that is not finite is left out, as QuPath cannot read nan.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsi_umedpt.annotations.annotation import Corner
from wsi_umedpt.annotations.geojson_features import (
    CLASS_MEMBER,
    ORIGIN_MEMBER,
    as_dict,
    measurements_of,
    read_features,
    ring_of,
)
from wsi_umedpt.interop.geojson import check_geojson, feature_id, in_blocks, printed, write_features
from wsi_umedpt.interop.tables import check_tiles

Values = npt.NDArray[np.float32]

_HUNDREDTH = 0.0101
"""px: positions are written to a hundredth."""


class ScoredTiles(NamedTuple):
    """Squares of one size and what they scored; row i is tile i."""

    xy: npt.NDArray[np.float64]
    """(tile, 2) top left corners, level-0 px."""
    side: float
    """Level-0 px."""
    columns: dict[str, Values]
    """(tile,) by name; nan where a tile has no such score."""


def write_tiles(
    path: Path,
    xy: npt.NDArray[Any],
    side: float,
    columns: Mapping[str, npt.NDArray[Any]],
    *,
    slide_id: str,
    corner: Corner = (0, 0),
) -> None:
    """Write tiles as a FeatureCollection, a feature a line; the file is whole or absent.

    Parameters
    ----------
    path
        ``.geojson``, or ``.geojson.gz`` for gzip.
    xy : (tile, 2) top left corners, level-0 px
    side : level-0 px
    columns : each (tile,)
        Scores by the name that QuPath shows, written as float32s print.
    slide_id
        The same slide, row and square give the same id of the feature, in every file.
    corner
        That positions in the file count from, level-0 px: `SlideStore.corner` for QuPath, which crops slides to their
        bounds. The file says it.

    Raises
    ------
    InteropError
        If the suffix is another, or a column has not a value for each tile.
    """
    check_geojson(path)
    check_tiles(xy, columns)
    names = [*columns]
    corners = np.asarray(xy, np.float64)
    scores = np.stack([np.asarray(c, np.float32) for c in columns.values()], axis=1) if names else None

    def block(rows: slice) -> Iterator[dict[str, Any]]:
        low, high = (np.round(corners[rows] + by - corner, 2).tolist() for by in (0, side))
        measured = [[]] * len(low) if scores is None else printed(scores[rows])
        for number, (x, y), (right, bottom), values in zip(
            range(rows.start, rows.stop), low, high, measured, strict=True
        ):
            ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
            yield {
                "type": "Feature",
                "id": feature_id(f"{slide_id}/tile {number} at {x:.2f}, {y:.2f} to {right:.2f}, {bottom:.2f}"),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "tile",
                    "measurements": {
                        name: value for name, value in zip(names, values, strict=True) if value is not None
                    },
                },
            }

    write_features(
        path, len(corners), block, {CLASS_MEMBER: {"side": float(side), "columns": names, ORIGIN_MEMBER: [*corner]}}
    )


def read_tiles(path: Path, corner: Corner = (0, 0)) -> ScoredTiles:
    """Read tiles that `write_tiles` wrote, or QuPath.

    What QuPath saved of them has no columns without any value, and a side to a hundredth of a px.

    Parameters
    ----------
    corner
        That positions count from, level-0 px, if the file does not say it: that of the slide's bounds where QuPath
        wrote it.

    Raises
    ------
    InteropError
        If it cannot be read, is no GeoJSON, or an object is not a square as large as the others.
    """
    places, measured = [], []
    with read_features(path) as collection:
        for block in in_blocks(collection.objects(_square)):
            places += [place for place, _ in block]
            measured += [values for _, values in block]
        stated, said_names = _said(collection.members)
        squares = np.array(places, np.float64).reshape(-1, 3)  # x, y, side
        side = stated or (float(np.median(squares[:, 2])) if len(squares) else 0.0)
        if len(other := np.flatnonzero(np.abs(squares[:, 2] - side) > _HUNDREDTH)):
            raise ValueError(f"object {other[0] + 1} has a side of {squares[other[0], 2]:g} px, others of {side:g} px")
        names = dict.fromkeys([*said_names, *(name for values in measured for name in values)])
        by = np.asarray(collection.origin or corner, np.float64)
        return ScoredTiles(squares[:, :2] + by, side, {name: _column(measured, name) for name in names})


def _said(members: dict[str, Any]) -> tuple[float | None, list[str]]:
    """The side and the columns, where the collection says them."""
    said = as_dict(members.get(CLASS_MEMBER) or {}, f"its member {CLASS_MEMBER}")
    side, names = said.get("side"), said.get("columns") or []
    if not (side is None or isinstance(side, int | float)) or not isinstance(names, list):
        raise ValueError(f"its member {CLASS_MEMBER} is {said!r:.80}")
    return side, [str(name) for name in names]


def _column(measured: list[dict[str, float]], name: str) -> Values:
    values = np.array([one.get(name, np.nan) for one in measured], np.float64)
    values[~(np.abs(values) <= np.finfo(np.float32).max)] = np.nan
    return values.astype(np.float32)


def _square(feature: dict[str, Any]) -> tuple[tuple[float, float, float], dict[str, float]]:
    """Left, top and side; and the measurements that are numbers."""
    ring = ring_of(feature)
    (left, top), (right, bottom) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    at_corners = np.isin(ring[:, 0], (left, right)) & np.isin(ring[:, 1], (top, bottom))
    if len(ring) != 4 or not at_corners.all() or abs((right - left) - (bottom - top)) > 2 * _HUNDREDTH:
        raise ValueError(f"it is not a square (export the tiles alone): its corners are {ring.tolist()!r:.120}")
    values = {str(name): np.nan if value is None else float(value) for name, value in measurements_of(feature).items()}
    return (left, top, right - left), values
