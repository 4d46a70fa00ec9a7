"""The densest circle: against every circle counted one by one."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.segmentation.test_region_counts import scattered
from wsi_umedpt.segmentation import hotspots
from wsi_umedpt.segmentation.hotspots import densest_circle, find_hotspots


def by_force(xy: np.ndarray, radius: float) -> tuple[int, int]:
    """Each circle, one after the other."""
    counts = [int((((xy - middle) ** 2).sum(axis=1) <= radius**2).sum()) for middle in xy]
    return int(np.argmax(counts)), max(counts)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6), count=st.integers(1, 300), radius=st.floats(0.5, 300), clustered=st.booleans(),
    most_cells=st.sampled_from([4, 1000, 1 << 23]),
)  # fmt: skip
def test_the_densest_circle_is_that_of_all_circles(seed, count, radius, clustered, most_cells):
    """Whatever the extent, the radius and the raster: the same count, and the first object that has it."""
    rng = np.random.default_rng(seed)
    xy = rng.normal(0, 40, (count, 2)) ** 3 / 500 if clustered else rng.random((count, 2)) * 200
    xy = np.round(xy)  # many as far apart as a radius may be
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hotspots, "_AT_ONCE", 7)
        patch.setattr(hotspots, "_MOST_CELLS", most_cells)
        assert densest_circle(xy, radius) == by_force(xy, radius)


def test_places_in_a_row_and_one_place_have_a_densest_circle():
    """A raster of one row, of one cell."""
    assert densest_circle(np.array([[5.0, 5.0]]), 1) == (0, 1)
    assert densest_circle(np.stack([np.arange(9.0), np.zeros(9)], axis=1), 2) == (2, 5)


def test_each_class_and_area_has_its_hotspot():
    """In mm2 and level-0 px; the circle is centred on an object of the class, and a larger one holds no fewer."""
    objects = scattered(500)
    found = find_hotspots(objects, 0.5, (0.1, 0.5))
    assert [(one.label, one.area_mm2) for one in found] == [
        ("negative", 0.1), ("negative", 0.5), ("positive", 0.1), ("positive", 0.5),
    ]  # fmt: skip
    for one in found:
        xy = objects.centroid[objects.class_index == objects.classes.index(one.label)].astype(float)
        assert [one.x, one.y] in xy.tolist()
        assert np.pi * (one.radius_px * 0.5 / 1000) ** 2 == pytest.approx(one.area_mm2)
        assert one.count == by_force(xy, one.radius_px)[1]
        assert one.row(0.5)["objects_per_mm2"] == pytest.approx(one.count / one.area_mm2)
    assert found[0].count <= found[1].count


def test_a_hotspot_within_a_region_is_of_its_objects_alone():
    """Neither its middle nor what it counts lies outside; a class without objects has none."""
    objects = scattered(500)
    box = shapely.box(0, 0, 1000, 1000)
    inside = objects.taken((objects.centroid < 1000).all(axis=1))
    assert find_hotspots(objects, 0.5, (0.1,), box) == find_hotspots(inside, 0.5, (0.1,))
    assert find_hotspots(objects, 0.5, (0.1,), shapely.box(-9, -9, -1, -1)) == []
    with pytest.raises(ValueError, match="asked for of 0 mm2"):
        find_hotspots(objects, 0.5, (0.0,))
