"""Counts in drawn regions: laws against one object at a time, and outlines as hands draw them."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.annotations.annotation import Annotation, area_of
from wsi_umedpt.errors import OptionError
from wsi_umedpt.segmentation.region_counts import count_in_region, region_rows
from wsi_umedpt.store.objects import MEASURES, Objects

MPP = 0.5
SIDE = 4000.0
EIGHT = area_of([[np.array([[0.0, 0], [2000, 2000], [2000, 0], [0, 2000]])]])
"""Its signed halves cancel each other."""


def scattered(count: int, seed: int = 0) -> Objects:
    """Points of two classes, with measures of which some do not apply."""
    rng = np.random.default_rng(seed)
    centroid = (rng.random((count, 2)) * SIDE).astype(np.float32)
    measures = rng.random((count, len(MEASURES))).astype(np.float32)
    measures[::7, 3] = np.nan
    corners = np.repeat(centroid, 3, axis=0) + np.tile(np.float32([[-1, -1], [1, -1], [0, 1]]), (count, 1))
    starts = np.arange(count + 1, dtype=np.int64) * 3
    kinds = rng.integers(0, 2, count).astype(np.uint8)
    return Objects(("negative", "positive"), kinds, np.ones(count, np.float32), centroid, measures, starts, corners)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), corners=st.integers(3, 30))
def test_counts_and_means_are_those_of_one_object_after_the_other(seed, corners):
    """Of any outline with a hole: what lies in it is what shapely finds, and means leave out what does not apply."""
    rng = np.random.default_rng(seed)
    objects = scattered(400, seed)
    angle = np.sort(rng.random(corners)) * 2 * np.pi
    outer = 2000 + np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(300, 1900, corners)[:, None]
    area = area_of([[outer, np.array([[1900.0, 1900], [2200, 1900], [2000, 2300]])]])
    found = count_in_region(area, MPP, objects, positive={"positive"})
    truth = shapely.make_valid(shapely.Polygon(outer)).difference(
        shapely.Polygon([[1900, 1900], [2200, 1900], [2000, 2300]])
    )
    inside = [n for n in range(len(objects)) if truth.contains(shapely.Point(objects.centroid[n].astype(float)))]
    kinds = [objects.classes[objects.class_index[n]] for n in inside]
    assert found.counts == {name: kinds.count(name) for name in objects.classes}
    assert found.total == len(inside)
    for k, name in enumerate(MEASURES):
        values = [float(objects.measures[n, k]) for n in inside if math.isfinite(objects.measures[n, k])]
        assert found.means[""][name] == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True)
    share = kinds.count("positive") / len(inside) if inside else np.nan
    assert found.positive_share == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize(
    ("area", "mm2", "mm"),
    [
        pytest.param(shapely.box(0, 0, 2000, 4000), 2.0, 6.0, id="rectangle"),
        pytest.param(shapely.box(0, 0, 2000, 2000) - shapely.box(500, 500, 1500, 1500), 0.75, 6.0, id="hole"),
        pytest.param(EIGHT, 0.5, 2 + 2 * math.sqrt(2), id="crosses-itself"),
        pytest.param(area_of([[np.array([[0.0, 0], [10, 0], [5, 0]])]]), 0.0, 0.01, id="line"),
    ],
)
def test_sizes_are_those_of_what_is_filled(area, mm2, mm):
    """In mm, without holes, whatever way the outline turns; the outline of a hole is part of the perimeter."""
    found = count_in_region(area, MPP)
    assert found.area_mm2 == pytest.approx(mm2, rel=2e-3)
    assert found.perimeter_mm == pytest.approx(mm)
    assert found.row() == {"area_mm2": found.area_mm2, "perimeter_mm": found.perimeter_mm}


def test_rows_are_of_areas_alone_in_their_order():
    """Lines and points have no objects; names and classes are the file's, and columns have units."""
    drawn = [
        Annotation(shapely.LineString([[0, 0], [9, 9]])),
        Annotation(shapely.box(0, 0, SIDE, SIDE), "Tumor", "front"),
        Annotation(shapely.box(-20, -20, -10, -10), "Stroma"),
    ]
    objects = scattered(100)
    whole, empty = region_rows(drawn, MPP, objects)
    assert (whole["region"], whole["region_name"], whole["region_class"]) == (1, "front", "Tumor")
    assert whole["area_mm2"] == pytest.approx(4.0)
    assert whole["objects_count"] == 100
    assert whole["objects_per_mm2"] == pytest.approx(25)
    assert whole["positive_count"] == int(objects.class_index.sum())
    assert whole["positive_mean_area_um2"] == pytest.approx(objects.measures[objects.class_index == 1, 0].mean())
    assert "positive_share" not in whole
    assert (empty["region"], empty["objects_count"], empty["objects_per_mm2"]) == (2, 0, 0)
    assert math.isnan(empty["mean_eosin"])


def test_a_class_that_is_none_is_refused():
    """With those that there are."""
    with pytest.raises(OptionError, match=r"'Ki67' is no class of these objects\. Their classes: negative, positive"):
        count_in_region(EIGHT, MPP, scattered(3), positive={"Ki67"})
