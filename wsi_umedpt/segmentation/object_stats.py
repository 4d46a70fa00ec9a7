"""Counts and densities of objects: a row a slide, or a row a tile."""

from typing import Any

import numpy as np
import shapely

from wsi_umedpt.slides.tiling import TileGrid
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.scores_io import read_classified
from wsi_umedpt.store.slide_store import SlideStore

Columns = dict[str, Any]
"""Names of columns and their values, in order."""


def slide_row(store: SlideStore, name: str | None = None, scores: str | None = None) -> Columns:
    """One row: tissue area, and of each class the count, the density per mm2 of tissue, and the medians of measures.

    Classes are those of the head, or those that `scores` give the objects.
    """
    objects, _, about = read_classified(store, name, scores)
    mm2 = store.tissue().area_mm2(store.attrs["slide"]["mpp"])
    row: Columns = {
        "slide_id": store.slide_id, "objects": about.get("head", name or ""), "tissue_mm2": mm2,
        "unreadable_windows": len(about.get("unreadable", [])),
    }  # fmt: skip
    for k, kind in enumerate(objects.classes):
        mine = objects.class_index == k
        row[f"{kind}_count"] = int(mine.sum())
        row[f"{kind}_per_mm2"] = float(mine.sum() / mm2) if mm2 else float("nan")
        for i, measure in enumerate(MEASURES):
            values = objects.measures[mine, i]
            values = values[np.isfinite(values)]
            row[f"{kind}_median_{measure}"] = float(np.median(values)) if len(values) else float("nan")
    return row


def tile_columns(
    store: SlideStore, name: str | None = None, grid_id: str | None = None, scores: str | None = None
) -> Columns:
    """A row for each tile of a grid: place, tissue, and of each class the count and the density per mm2 of the tile.

    An object counts where its centroid lies; tiles that overlap count it more than once. Classes: see `slide_row`.
    """
    objects, grid = read_classified(store, name, scores).objects, store.grid(grid_id)
    mm2 = (grid.side * store.attrs["slide"]["mpp"] / 1000) ** 2
    columns: Columns = {
        "slide_id": [store.slide_id] * len(grid), "tile": np.arange(len(grid)), "x": grid.xy[:, 0], "y": grid.xy[:, 1],
        "side": np.full(len(grid), grid.side), "tissue": grid.tissue,
    }  # fmt: skip
    counts = tile_counts(objects, grid)
    for k, kind in enumerate(objects.classes):
        columns[f"{kind}_count"], columns[f"{kind}_per_mm2"] = counts[:, k], counts[:, k] / mm2
    return columns


def tile_counts(objects: Objects, grid: TileGrid) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Objects of each class in each tile, int64 (tile, class)."""
    tree = shapely.STRtree(shapely.points(objects.centroid.astype(np.float64)))
    low = grid.xy.astype(np.float64)
    tile, row = tree.query(shapely.box(low[:, 0], low[:, 1], low[:, 0] + grid.side, low[:, 1] + grid.side))
    offset = objects.centroid[row] - low[tile]
    inside = ((offset >= 0) & (offset < grid.side)).all(axis=1)  # half open: no tile shares its edge
    classes = len(objects.classes)
    flat = tile[inside] * classes + objects.class_index[row[inside]]
    return np.bincount(flat, minlength=len(grid) * classes).reshape(len(grid), classes)
