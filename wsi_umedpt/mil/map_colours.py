"""Names and values of the points of a map: labels of a table, scores in stores.

Read top to bottom: `labels_of_points`, `scores_of_points`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_umedpt.annotations.labels import read_points
from wsi_umedpt.errors import MilError
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.io.spreadsheet import read_table
from wsi_umedpt.mil.feature_map import FeatureMap
from wsi_umedpt.slides.slide_id import by_slide, match_slides
from wsi_umedpt.store.features import BagSource
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore


def labels_of_points(made: FeatureMap, table: Path) -> list[str]:
    """Labels of a table: of slides by their names, of tiles by places that they hold.

    Parameters
    ----------
    made
        A map.
    table
        Columns slide_id and label, and of a map of tiles x and y, level-0 px.

    Returns
    -------
    list
        A label a point, empty where there is none. The last of several is taken.

    Raises
    ------
    AnnotationError
        If the table cannot be read.
    MilError
        If it labels nothing on the map.
    """
    found = [""] * len(made)
    if made.of_slides:
        rows = read_table(table, needed=[("slide_id", "slide"), ("label", "class")], error=MilError).rows.values()
        named = {row.get("slide_id") or row.get("slide", ""): row.get("label") or row.get("class", "") for row in rows}
        of_slides = by_slide(named, made.slide_ids, MilError)
        found = [of_slides.get(slide_id, "") for slide_id in made.slide_ids]
    else:
        points = read_points(table)
        ours = match_slides({point.slide_id for point in points}, made.slide_ids, MilError)
        of_slide = {slide_id: np.flatnonzero(made.slide == n) for n, slide_id in enumerate(made.slide_ids)}
        for point in points:
            if point.slide_id not in ours:
                continue
            mine = of_slide[ours[point.slide_id]]
            side = made.sides[made.slide[mine]][:, None]
            at = np.array([point.x, point.y])
            for n in mine[((made.xy[mine] <= at) & (at < made.xy[mine] + side)).all(axis=1)].tolist():
                found[n] = point.label
    if not any(found):
        raise MilError(f"{table} labels nothing that is on the map")
    return found


def scores_of_points(
    made: FeatureMap, sources: Mapping[str, BagSource], name: str, column: str | None = None
) -> tuple[npt.NDArray[np.float32], str]:
    """Scores of the tiles on a map.

    Parameters
    ----------
    made
        A map of tiles.
    sources
        Features that it was made of, by slide.
    name
        Name of the scores.
    column
        One of their columns; may be left out where there is one.

    Returns
    -------
    values : float32 (point,)
        nan where a tile has none.
    column

    Raises
    ------
    StoreError
        If a store has no such scores.
    MilError
        If there are several columns and none is named, or none of this name.
    """
    values = np.full(len(made), np.nan, np.float32)
    for number, slide_id in enumerate(made.slide_ids):
        source = sources[slide_id]
        if not isinstance(source, StoreSource):
            raise MilError(f"{slide_id} is a file of features, and no store: it has no scores")
        scores, about = read_scores(SlideStore.open(source.path), name, source.grid_id)
        known = list(about["columns"])
        if column is None and len(known) == 1:
            (column,) = known
        if column not in known:
            raise MilError(f"the scores {name} of {slide_id} have the columns {', '.join(known)}; name one (`column`)")
        mine = made.slide == number
        values[mine] = scores[made.rows[mine], known.index(column)]
    return values, str(column)
