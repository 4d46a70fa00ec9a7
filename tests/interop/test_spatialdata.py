"""SpatialData of stores: what its own package makes of it, where that is installed."""

import sys

import numpy as np
import pytest

from wsi_umedpt.errors import InteropError
from wsi_umedpt.store.contents import seal
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import write_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import write_group

pytestmark = pytest.mark.filterwarnings("ignore")
"""The package, and what it stands on, warn of themselves."""


@pytest.fixture
def package():
    """The package, which is large and no part of the test environment."""
    return pytest.importorskip("spatialdata", reason="spatialdata is not installed (the extra spatialdata)")


@pytest.fixture
def with_objects(store) -> SlideStore:
    """The store, and two triangles of one class."""
    corners = np.array([[0, 0], [30, 0], [0, 40], [100, 100], [160, 100], [100, 180]], np.float32)
    triangles = Objects(
        ("nucleus",), np.zeros(2, np.uint8), np.array([0.5, 0.75], np.float32), corners.reshape(2, 3, 2).mean(1),
        np.full((2, len(MEASURES)), np.nan, np.float32), np.array([0, 3, 6], np.int64), corners,
    )  # fmt: skip
    write_group(store.path / "detections", {})
    write_objects(store.path / "detections" / "nuclei", triangles, {"model": "m"})
    seal(store.path)
    return SlideStore.open(store.path)


def test_tiles_are_squares_that_their_features_annotate(package, with_objects):
    """In level-0 px, numbered as the rows of the grid; unreadable tiles are left out."""
    data, bag, side = with_objects.to_spatialdata(), with_objects.features(), with_objects.grid().side
    squares, table = data.shapes["tiles"], data.tables["tile_features"]
    assert squares.index.tolist() == bag.index.tolist() == [0, 1, 3, 4]
    np.testing.assert_allclose(squares.bounds, np.hstack([bag.xy, bag.xy + side]))
    matched, rows = package.join_spatialelement_table(
        spatial_element_names="tiles", spatial_elements=squares, table=table, how="inner"
    )
    assert matched["tiles"].index.tolist() == rows.obs["row"].tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(rows.X, bag.features.astype(np.float32))


def test_objects_are_polygons_that_survive_a_file(package, with_objects, tmp_path):
    """Their outlines, classes and scores; written and read by the package itself."""
    with_objects.to_spatialdata().write(tmp_path / "slide.sd.zarr")
    found = package.read_zarr(tmp_path / "slide.sd.zarr").shapes["nuclei"]
    expected = with_objects.objects("nuclei")
    assert found.geometry.area.tolist() == [600, 2400]
    assert found.geometry.geom_equals(expected.geometry).all()
    assert found["class"].tolist() == ["nucleus", "nucleus"]
    assert found["score"].tolist() == [0.5, 0.75]


def test_without_the_package_the_error_says_what_to_install(store, monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(InteropError, match=r"pip install 'wsi-umedpt\[spatialdata\]'"):
        store.to_spatialdata()
