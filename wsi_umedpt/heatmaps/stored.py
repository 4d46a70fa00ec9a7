"""Scores of a store as heatmaps."""

from wsi_umedpt.errors import HeatmapError
from wsi_umedpt.heatmaps.raster import Heatmap
from wsi_umedpt.messages import counted
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore


def heatmap(store: SlideStore, name: str, column: str | None = None, grid_id: str | None = None) -> Heatmap:
    """Lay one column of a store's scores out as a raster over the slide.

    Parameters
    ----------
    store
        The slide's results.
    name
        Name of the scores: a probe's or slide model's.
    column
        May be left out where there is one; of two columns of probabilities the second, the positive class.
    grid_id
        May be left out where one grid has scores of this name.

    Returns
    -------
    Heatmap
        Float32 values, nan where no tile has one.

    Raises
    ------
    StoreError
        If there are no such scores.
    HeatmapError
        If there is no such column, or several and none is named.
    """
    values, made_by = read_scores(store, name, grid_id)
    columns = list(made_by["columns"])
    if column is None and len(columns) <= 2:
        column = columns[-1]
    if column not in columns:
        asked = f"no column {column!r}" if column else counted(len(columns), "column")
        raise HeatmapError(f"scores {name!r} have {asked}; name one of {', '.join(columns)}")
    grid = store.grid(made_by["grid_id"])
    return Heatmap.from_tiles(grid.xy, grid.side, values[:, columns.index(column)])
