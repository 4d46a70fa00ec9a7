"""Vectors of objects: means of maps over outlines, each pixel looked up in the window whose middle is nearest."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.segmentation import window_maps
from wsi_umedpt.segmentation.window_layout import WindowLayout
from wsi_umedpt.segmentation.window_maps import WindowMaps, pixels_within
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.store.objects import MEASURES, Objects

CHANNELS = {8: 3, 32: 2}


def objects_of(rings: list[np.ndarray]) -> Objects:
    """Objects with these outlines, px."""
    n, lengths = len(rings), [len(ring) for ring in rings]
    centres = np.array([ring.mean(0) for ring in rings], np.float32).reshape(-1, 2)
    return Objects(
        ("a",), np.zeros(n, np.uint8), np.ones(n, np.float32), centres, np.zeros((n, len(MEASURES)), np.float32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.empty((0, 2)), *rings]).astype(np.float32),
    )  # fmt: skip


def layout_of(size: tuple[int, int] = (300, 260), stride: int = 64, scale: float = 1.0) -> WindowLayout:
    """Windows of 96 px over a slide."""
    spec = TileSpec(size_px=96, stride_px=stride, mpp=0.5)
    width, height = size
    return WindowLayout(lay_grid((round(width * scale), round(height * scale)), 0.5 / scale, spec, whole=False), size)


def filled(layout: WindowLayout, missing: tuple[int, ...] = (), seed: int = 0) -> tuple[WindowMaps, dict[int, tuple]]:
    """Random maps of all windows but some."""
    rng = np.random.default_rng(seed)
    maps = {
        w: tuple(rng.normal(size=(96 // s, 96 // s, c)).astype(np.float16) for s, c in CHANNELS.items())
        for w in range(len(layout.xy))
        if w not in missing
    }
    made = WindowMaps(layout, CHANNELS)
    for window, given_maps in maps.items():
        made.add(window, given_maps)
    return made, maps


def by_hand(ring: np.ndarray, layout: WindowLayout, maps: dict[int, tuple]) -> np.ndarray:
    """Mean over the pixels of an outline, each of the window whose middle is nearest of those that hold it."""
    left, top = np.floor(ring.min(0)).astype(int) - 1
    right, bottom = np.ceil(ring.max(0)).astype(int) + 1
    shape, rows = shapely.Polygon(ring), []
    for y in range(top, bottom):
        for x in range(left, right):
            holding = [w for w in maps if ((layout.xy[w] <= (x, y)) & ((x, y) < layout.xy[w] + 96)).all()]
            if holding and shape.contains(shapely.Point(x + 0.5, y + 0.5)):
                middle = min(holding, key=lambda w: np.abs(layout.xy[w] + 47.5 - (x, y)).max())
                dx, dy = (x, y) - layout.xy[middle]
                rows.append(np.concatenate([m[dy // s, dx // s] for m, s in zip(maps[middle], CHANNELS, strict=True)]))
    return np.mean(rows, axis=0, dtype=np.float64)


def disk(x: float, y: float, radius: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False) + 0.1
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 4))
def test_pixels_of_outlines_are_those_whose_middles_lie_within(seed, count):
    """Of any outlines, such that cross themselves too, filled by the even-odd rule; in order."""
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-3, 12, (rng.integers(3, 8), 2)) for _ in range(count)]
    objects = objects_of(rings)
    owner, x, y = pixels_within(objects.outline.astype(float), objects.starts)
    assert (np.lexsort((x, y, owner)) == np.arange(len(x))).all()
    for k in range(count):
        ring = objects.outline[objects.starts[k] : objects.starts[k + 1]].astype(float)
        after = np.roll(ring, -1, axis=0)
        expected = set()
        for row in range(-4, 13):
            low, high = np.minimum(ring[:, 1], after[:, 1]), np.maximum(ring[:, 1], after[:, 1])
            crossed = (low <= row + 0.5) & (row + 0.5 < high)
            at = ring[crossed, 0] + (row + 0.5 - ring[crossed, 1]) * (
                (after[crossed, 0] - ring[crossed, 0]) / (after[crossed, 1] - ring[crossed, 1])
            )
            expected |= {(c, row) for c in range(-4, 13) if (at <= c + 0.5).sum() % 2}
        assert set(zip(x[owner == k].tolist(), y[owner == k].tolist(), strict=True)) == expected


@pytest.mark.parametrize("stride", [96, 64, 32])
@pytest.mark.parametrize("missing", [(), (4,)], ids=["all-windows", "one-is-missing"])
def test_a_vector_is_the_mean_over_the_outline(stride, missing):
    """On lines where windows meet, in corners, and where the nearest window could not be read."""
    layout = layout_of(stride=stride)
    made, maps = filled(layout, missing)
    places = [(20, 20), (80, 30), (80, 80), (96, 96), (112, 112), (128, 64), (200, 150), (299, 259)]
    rings = [disk(x, y, r) for (x, y), r in zip(places, (6, 9, 12, 7, 5, 10, 40, 8), strict=True)]
    kept = [r for r in rings if by_hand_possible(r, layout, maps)]
    found = made.vectors(objects_of(kept))
    assert found.dtype == np.float16
    if stride == 96 or not missing:  # elsewhere two windows may be as near
        for ring, vector in zip(kept, found, strict=True):
            np.testing.assert_allclose(vector, by_hand(ring, layout, maps), atol=2e-3)
    assert np.isfinite(found).all()


def by_hand_possible(ring: np.ndarray, layout: WindowLayout, maps: dict[int, tuple]) -> bool:
    """Whether any window whose maps are kept reaches an outline."""
    low, high = ring.min(0), ring.max(0)
    return any((layout.xy[w] < high).all() and (low < layout.xy[w] + 96).all() for w in maps)


def test_vectors_do_not_depend_on_what_is_asked_together(monkeypatch):
    """Bit for bit: one by one, all at once, in any blocks, and of maps that were saved and read again."""
    layout = layout_of()
    made, _ = filled(layout)
    rng = np.random.default_rng(1)
    objects = objects_of([disk(*rng.uniform(15, 240, 2), rng.uniform(3, 14)) for _ in range(30)])
    expected = made.vectors(objects)
    alone = np.concatenate([made.vectors(objects.taken(np.array([k]))) for k in range(len(objects))])
    monkeypatch.setattr(window_maps, "_AT_ONCE_PX", 1000)
    again = WindowMaps(layout, CHANNELS)
    again.restore(made.state())
    assert np.array_equal(expected, alone)
    assert np.array_equal(expected, made.vectors(objects))
    assert np.array_equal(expected, again.vectors(objects))


def test_positions_are_level_0_pixels():
    """On a slide that is finer than its windows, outlines are brought to their scale."""
    plain, fine = layout_of(), layout_of(scale=2.0)
    ring = disk(100, 90, 11)
    assert np.array_equal(
        filled(plain)[0].vectors(objects_of([ring])), filled(fine)[0].vectors(objects_of([ring * fine.scale]))
    )


def test_windows_that_end_above_are_forgotten_and_no_others():
    """Objects below need none of them; what is kept is a few rows of windows, however high the slide is."""
    layout = layout_of((200, 600))
    made, _ = filled(layout)
    ring = objects_of([disk(100, 300, 20)])
    expected = made.vectors(ring)
    made.drop_above(280)
    kept = made.state()["windows"]
    assert set(kept.tolist()) == set(np.flatnonzero(layout.xy[:, 1] + 96 > 280).tolist())
    assert np.array_equal(made.vectors(ring), expected)


@pytest.mark.parametrize("ring", [
    pytest.param(np.array([[50.1, 40.6], [50.2, 40.9], [50.3, 40.6]]), id="between-the-middles-of-pixels"),
    pytest.param(np.array([[400.0, 50], [410, 50], [410, 60]]), id="beside-all-windows"),
])  # fmt: skip
def test_an_object_without_a_pixel_has_the_vector_of_the_nearest(ring):
    """Every object has a vector, and it is finite."""
    made, maps = filled(layout_of())
    [vector] = made.vectors(objects_of([ring]))
    rows = {
        tuple(np.concatenate([a, b])) for m in maps.values() for a in m[0].reshape(-1, 3) for b in m[1].reshape(-1, 2)
    }
    assert tuple(vector) in rows


def test_maps_of_another_network_are_refused():
    """Rather than read as what they are not."""
    made = WindowMaps(layout_of(), CHANNELS)
    with pytest.raises(ValueError, match="channels by stride"):
        made.add(0, (np.zeros((12, 12, 4), np.float16), np.zeros((3, 3, 2), np.float16)))
