"""Slides that look alike lie near each other on the map of a report."""

import numpy as np
import pytest

from tests.support.drawn_stores import ENCODER, draw_store
from wsi_umedpt.batch.reporting.catalog import refresh
from wsi_umedpt.batch.reporting.outliers import sampled_means
from wsi_umedpt.batch.reporting.slide_map import FEWEST, MOST, map_slides
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.slide_vectors import write_slide_vector


@pytest.fixture
def out(tmp_path):
    """Three slides of one look and three of another."""
    for n in range(6):
        draw_store(tmp_path / f"s{n}.zarr", seed=n, tiles=30, shift=4.0 * (n >= 3))
    return tmp_path


def map_of(folder):
    rows = refresh(folder)
    return map_slides(folder, rows, sampled_means(folder, rows))


def test_slides_alike_lie_together(out):
    """By the means of tiles' features: the first axis parts the two looks, and the plane says how much it shows."""
    found = map_of(out)
    assert found.made_of.startswith(f"means of the features of {ENCODER}")
    first = found.xy[np.argsort(found.slide_ids), 0]
    assert abs(first[:3].mean() - first[3:].mean()) > 0.8
    assert 0.5 < found.explained <= 1
    assert found.xy.min() == 0
    assert found.xy.max() == 1


def test_vectors_of_slides_come_first(out):
    """Where slides have vectors of an encoder of slides, those make the map; a damaged one is left out."""
    for n in range(6):
        store = SlideStore.open(out / f"s{n}.zarr")
        [grid] = store.grid_ids
        vector = np.array([n % 2, 0.01 * n, 1.0], np.float32)
        write_slide_vector(store, f"mean.{ENCODER}", vector, {"tiles": ENCODER}, grid)
    found = map_of(out)
    assert found.made_of == f"vectors of mean.{ENCODER}"
    first = dict(zip(found.slide_ids, found.xy[:, 0], strict=True))
    assert {round(first[f"s{n}"]) for n in (0, 2, 4)} != {round(first[f"s{n}"]) for n in (1, 3, 5)}
    [chunk] = (out / "s5.zarr").glob("grids/*/slide_features/*/c/*/*")
    chunk.write_bytes(b"no numbers")
    assert {*map_of(out).slide_ids} == {f"s{n}" for n in range(5)}


def test_a_few_slides_are_no_map(tmp_path):
    """Below the fewest there is none; nor of slides that are all the same; nor of an empty folder."""
    assert map_of(tmp_path) is None
    for n in range(FEWEST - 1):
        draw_store(tmp_path / f"s{n}.zarr", seed=n)
    assert map_of(tmp_path) is None
    for n in range(FEWEST):
        draw_store(tmp_path / "equal" / f"s{n}.zarr", seed=7)
    assert map_of(tmp_path / "equal") is None


def test_a_large_folder_is_sampled(out, monkeypatch):
    """Of more slides than the map holds, some spread evenly over the list are on it."""
    monkeypatch.setattr("wsi_umedpt.batch.reporting.slide_map.MOST", 4)
    assert map_of(out).slide_ids == ("s0", "s1", "s3", "s4")
    assert MOST >= 1000
