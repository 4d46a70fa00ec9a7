"""Every group of a store opens in xarray: axes have names, the same name for the same length."""

from pathlib import Path

import numpy as np
import pytest
import shapely
import xarray

from tests.support.encoders import mean_encoder
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import NewVectors, write_objects
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore

SPEC = TileSpec(size_px=64)
GROUPS = ("", f"grids/{SPEC.grid_id}", f"grids/{SPEC.grid_id}/features", f"grids/{SPEC.grid_id}/scores")


@pytest.fixture(scope="module")
def store(small_svs, tmp_path_factory) -> SlideStore:
    """Features of one encoder, and scores of two models with different numbers of columns."""
    path = tmp_path_factory.mktemp("stores") / "a.zarr"
    with open_slide(small_svs) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
        with SlideStore.create(path, slide, tissue, grid) as made:
            encode_slide(slide, made, (mean_encoder(),))
    made = SlideStore.open(path)
    for columns in (["a"], ["a", "b"]):
        scores = np.ones((len(grid), len(columns)), np.float32)
        write_scores(made, f"model{len(columns)}", scores, {"columns": columns}, SPEC.grid_id)
    return made


def opened(path: Path) -> xarray.Dataset:
    return xarray.open_zarr(path, consolidated=False, chunks=None)


def test_every_group_is_a_dataset(store):
    """With the arrays of the group, all whole."""
    names = [{*opened(store.path / group).data_vars} for group in GROUPS]
    assert names == [{"tissue", "thumbnail"}, {"xy", "tissue", "status"}, {"mean"}, {"model1", "model2"}]


def test_numbers_are_those_of_the_store(store):
    """Tiles share an axis over the groups of a grid."""
    grid, features, scores = (opened(store.path / group) for group in GROUPS[1:])
    assert np.array_equal(grid["xy"], store.grid().xy)
    assert np.array_equal(features["mean"], store.features("mean").features)
    assert grid.sizes["tile"] == features.sizes["tile"] == scores.sizes["tile"]
    assert features["mean"].dims == ("tile", "mean_feature")


def test_objects_are_a_dataset(tmp_path):
    """Objects and their corners are axes of their own."""
    outline = shapely.get_coordinates(shapely.box(0, 0, 4, 4))[:4].astype(np.float32)
    one = Objects(
        ("cell",), np.zeros(1, np.uint8), np.ones(1, np.float32), np.full((1, 2), 2, np.float32),
        np.zeros((1, len(MEASURES)), np.float32), np.array([0, 4]), outline,
    )  # fmt: skip
    write_objects(tmp_path / "cells", one, {}, NewVectors(3, [np.ones((1, 3), np.float16)], {}))
    found = opened(tmp_path / "cells")
    sizes = {"object": 1, "axis": 2, "measure": len(MEASURES), "boundary": 2, "corner": 4, "vector_feature": 3}
    assert dict(found.sizes) == sizes
    assert np.array_equal(found["outline"], outline)
