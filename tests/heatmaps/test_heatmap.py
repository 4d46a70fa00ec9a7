"""Heatmaps: what a tile scored is where the tile is, in the raster, the picture and the files."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsi_umedpt.errors import HeatmapError
from wsi_umedpt.heatmaps.raster import SCALINGS, Heatmap, fitting_scaling, scaled
from wsi_umedpt.slides.tiling import TileSpec, lay_grid

SCALES = st.one_of(st.sampled_from([1.0, 2.0, 1.0137, 1.9786, 3.97]), st.floats(1, 8))
SCORES = st.floats(-1e6, 1e6, width=32)


@st.composite
def some_grids(draw, overlap=False):
    """Tiles of a grid as `lay_grid` lays them, some left out, in any order, and a value for each."""
    size_px = draw(st.sampled_from([48, 96, 240] if overlap else [16, 64, 224]))
    parts = draw(st.integers(2, 4)) if overlap else 1
    spec = TileSpec(size_px=size_px, mpp=draw(SCALES), stride_px=size_px // parts)
    scale = lay_grid((10, 10), 1.0, spec).scale
    cols, rows = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    size = tuple(int(np.ceil(((n - 1) * spec.stride + size_px) * scale)) + 1 for n in (cols, rows))
    grid = lay_grid(size, 1.0, spec)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = rng.permutation(len(grid))[: draw(st.integers(1, len(grid)))]
    return grid.xy[kept], grid.side, rng.normal(0, 3, len(kept)).astype(np.float32)


def centres(xy, side):
    return xy + side / 2


@given(some_grids())
def test_a_tiles_centre_has_its_own_value(tiles):
    """Bit for bit, whatever the scale, and whichever other tiles there are."""
    xy, side, values = tiles
    heat = Heatmap.from_tiles(xy, side, values)
    np.testing.assert_array_equal(heat.at(centres(xy, side)), values)
    assert np.isfinite(heat.values).sum() == len(xy)
    assert heat.step == side


@given(some_grids())
def test_a_cell_lies_on_its_tile_to_half_a_px(tiles):
    """All over the slide: starts are rounded one by one, and no error adds up."""
    xy, side, values = tiles
    heat = Heatmap.from_tiles(xy, side, values)
    cell = np.round((xy - heat.origin_xy) / heat.step)
    assert np.abs(cell * heat.step + heat.origin_xy - xy).max() <= 0.5 + 1e-6


def test_a_fractional_stride_does_not_drift():
    """224 px tiles at a scale of 1.0137, a thousand of them in a row."""
    xs = np.round(np.arange(1000) * 224 * 1.0137).astype(int)
    xy = np.stack([xs, np.zeros_like(xs)], axis=1)
    heat = Heatmap.from_tiles(xy, 224 * 1.0137, np.arange(1000))
    assert (heat.values.shape, heat.origin_xy, heat.step) == ((1, 1000), (0, 0), 224 * 1.0137)
    np.testing.assert_array_equal(heat.values[0], np.arange(1000, dtype=np.float32))


@pytest.mark.parametrize("scale", [1.0137, 1.0031, 2.49])
def test_a_side_that_was_rounded_is_measured_from_the_starts(scale):
    """Other tools state a tile's side in whole px; a thousand tiles further that is hundreds of px."""
    stride = 224 * scale
    xs = np.round(np.arange(1000) * stride).astype(int)[[*range(40), *range(60, 400, 7), 999]]
    xy = np.stack([xs, xs[::-1]], axis=1)
    heat = Heatmap.from_tiles(xy, round(stride), np.arange(len(xs)))
    assert heat.step == pytest.approx(stride, abs=2e-3)
    np.testing.assert_array_equal(heat.at(centres(xy, round(stride))), np.arange(len(xs), dtype=np.float32))


@given(some_grids(overlap=True), st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_translation_moves_the_origin_alone(tiles, dx, dy):
    """Tiles elsewhere on the slide give the same cells, elsewhere."""
    xy, side, values = tiles
    here, there = Heatmap.from_tiles(xy, side, values), Heatmap.from_tiles(np.add(xy, (dx, dy)), side, values)
    np.testing.assert_array_equal(here.values, there.values)
    assert here.step == there.step
    # Which half px the starts were rounded by may be told otherwise there.
    np.testing.assert_allclose(np.subtract(there.origin_xy, here.origin_xy), (dx, dy), rtol=0, atol=1 + 1e-6)


@given(some_grids(overlap=True), st.integers(0, 2**32 - 1))
def test_the_order_of_tiles_means_nothing(tiles, seed):
    """A raster is of a set of tiles."""
    xy, side, values = tiles
    order = np.random.default_rng(seed).permutation(len(xy))
    a, b = Heatmap.from_tiles(xy, side, values), Heatmap.from_tiles(xy[order], side, values[order])
    np.testing.assert_allclose(a.values, b.values, rtol=1e-6, atol=1e-6)
    assert (a.origin_xy, a.step) == (b.origin_xy, b.step)


@given(some_grids(overlap=True))
def test_where_tiles_overlap_is_their_mean(tiles):
    """Against a loop over cells: the mean of the tiles in which the cell's middle lies, nan where none is."""
    xy, side, values = tiles
    heat = Heatmap.from_tiles(xy, side, values)
    for r, c in np.ndindex(*heat.values.shape):
        middle = np.array(heat.origin_xy) + (np.array([c, r]) + 0.5) * heat.step
        over = ((xy <= middle) & (middle < xy + side)).all(axis=1)
        expected = values[over].astype(np.float64).mean() if over.any() else np.nan
        np.testing.assert_allclose(heat.values[r, c], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stride_px", "parts"),
    [
        pytest.param(224, 1, id="none"),
        pytest.param(112, 2, id="half"),
        pytest.param(168, 4, id="a-quarter"),
        pytest.param(336, 2, id="gaps-of-half-a-tile"),
        pytest.param(448, 1, id="gaps-of-a-tile"),
        pytest.param(100, 8, id="no-part-of-a-tile"),
    ],
)
def test_the_step_is_the_largest_part_of_a_tile_that_fits(stride_px, parts):
    """So that tiles cover cells wholly or not at all, where there is such a part down to an eighth."""
    grid = lay_grid((6000, 5000), 0.5, TileSpec(stride_px=stride_px))
    heat = Heatmap.from_tiles(grid.xy, grid.side, np.zeros(len(grid)))
    assert heat.step == grid.side / parts
    left, top, right, bottom = heat.extent
    assert (left, top) == (0, 0)
    np.testing.assert_allclose((right, bottom), grid.xy.max(axis=0) + grid.side, rtol=0, atol=heat.step)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_tiles_of_a_grid_a_contour_keep_their_centres(seed, contours):
    """CLAM lays a grid over each contour: together they fit no lattice, and each still shows its own value."""
    rng = np.random.default_rng(seed)
    parts = [
        np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * 256
        + (k * 2000 + rng.integers(0, 256), rng.integers(0, 5000))
        for k in range(contours)
    ]
    xy, values = np.concatenate(parts), rng.normal(size=12 * contours).astype(np.float32)
    heat = Heatmap.from_tiles(xy, 256, values)
    np.testing.assert_array_equal(heat.at(centres(xy, 256)), values)
    assert np.isnan(heat.at(xy - 20)[:: len(parts[0])]).all()


@given(st.integers(1, 500), st.floats(1, 1e5), st.integers(0, 10**6), st.integers(0, 10**6), SCORES)
def test_a_single_tile_is_a_single_cell(repeat, side, x, y, value):
    """Also where it is there several times."""
    heat = Heatmap.from_tiles(np.tile([[x, y]], (repeat, 1)), side, np.full(repeat, value))
    assert (heat.values.shape, heat.step) == ((1, 1), side)
    assert heat.values[0, 0] == pytest.approx(np.float32(value))
    assert np.abs(np.subtract(heat.origin_xy, (x, y))).max() <= 0.5 + 1e-6


def test_no_tiles_are_no_cells():
    """A slide without tissue has a heatmap too."""
    heat = Heatmap.from_tiles(np.empty((0, 2), np.int32), 448, np.empty(0, np.float32))
    assert (heat.values.shape, heat.step, heat.extent) == ((0, 0), 448, (0, 0, 0, 0))
    assert np.isnan(heat.at(np.array([[3, 4]]))).all()


@given(some_grids(overlap=True), st.integers(0, 2**32 - 1))
def test_a_tile_without_a_value_takes_part_in_no_mean(tiles, seed):
    """The raster reaches as far, and holds what the others give."""
    xy, side, values = tiles
    lost = np.random.default_rng(seed).random(len(xy)) < 0.3
    assume(not lost.all())
    heat = Heatmap.from_tiles(xy, side, np.where(lost, np.nan, values))
    whole = Heatmap.from_tiles(xy, side, values)
    assert (heat.values.shape, heat.origin_xy, heat.step) == (whole.values.shape, whole.origin_xy, whole.step)
    alone = Heatmap.from_tiles(xy[~lost], side, values[~lost], step=heat.step)
    middles = np.argwhere(np.isfinite(alone.values))[:, ::-1] * alone.step + alone.origin_xy + alone.step / 2
    np.testing.assert_allclose(heat.at(middles), alone.at(middles), rtol=1e-6)
    assert np.isfinite(heat.values).sum() == np.isfinite(alone.values).sum()


@pytest.mark.parametrize("step", [50.0, 100.0, 224.0, 448.0, 1000.0])
def test_a_step_that_was_asked_for_is_kept(step):
    """Finer than a tile or coarser; equal tiles stay what they are, and every tile shows."""
    grid = lay_grid((6000, 5000), 0.5, TileSpec())
    heat = Heatmap.from_tiles(grid.xy, grid.side, np.full(len(grid), 0.7), step=step)
    assert heat.step == step
    np.testing.assert_array_equal(heat.values[np.isfinite(heat.values)], np.float32(0.7))
    assert np.isfinite(heat.at(centres(grid.xy, grid.side))).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"values": [1.0]}, r"\(tile, 2\) and as many values", id="a-value-is-missing"),
        pytest.param({"xy": [[0, 0, 1], [1, 1, 1]]}, r"got \(2, 3\) and \(2,\)", id="three-numbers-a-place"),
        pytest.param({"side": 0}, "side of a tile is over 0", id="no-side"),
        pytest.param({"step": -3.0}, "step of a raster is over 0", id="no-step"),
        pytest.param({"values": [1, np.inf]}, "tile 1 has an infinite value", id="infinite"),
        pytest.param({"values": [1, 1e300]}, "tile 1 has an infinite value", id="no-float32"),
        pytest.param({"xy": [[0, np.nan], [1, 1]]}, "tile 0 lies nowhere", id="nowhere"),
        pytest.param({"xy": [[0, 0], [2**31, 2**31]]}, "Are all positions level-0 px", id="beyond-any-slide"),
        pytest.param({"step": 0.01}, "is the step in level-0 px too", id="a-step-in-mm"),
    ],
)
def test_what_is_no_heatmap_is_refused(change, says):
    """With what was found, before memory is asked for."""
    given = {"xy": [[0, 0], [200, 0]], "side": 100.0, "values": [0.0, 1.0]} | change
    step = given.pop("step", None)
    with pytest.raises(HeatmapError, match=says):
        Heatmap.from_tiles(np.array(given["xy"]), given["side"], np.array(given["values"]), step=step)


# ---- scalings ----

VALUES = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(VALUES, st.sampled_from([*SCALINGS]), st.integers(0, 2**32 - 1))
def test_levels_keep_order_and_stay_within_0_and_1(values, scaling, seed):
    """Nan stays nan, and no greater value is lower."""
    lost = np.random.default_rng(seed).random(len(values)) < 0.2
    levels = scaled(np.where(lost, np.float32(np.nan), values), scaling)
    assert levels.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(levels), lost)
    shown = levels[~lost]
    assert ((shown >= 0) & (shown <= 1)).all()
    assert (np.diff(shown[np.argsort(values[~lost])]) >= 0).all()


@given(VALUES)
def test_minmax_reaches_both_ends_and_raw_neither_moves(values):
    """What each name promises."""
    stretched = scaled(values, "minmax")
    assert (stretched.min(), stretched.max()) == ((0, 1) if values.min() < values.max() else (0.5, 0.5))
    np.testing.assert_array_equal(scaled(values, "raw"), np.clip(values, 0, 1))


@given(VALUES)
def test_percentile_sees_order_alone(values):
    """Any rising function of the values has the same colours; the mean colour is in the middle."""
    levels = scaled(values, "percentile")
    np.testing.assert_array_equal(levels, scaled(values.astype(np.float64) ** 3, "percentile"))
    assert levels.mean() == pytest.approx(0.5, abs=1e-5)


@given(VALUES)
def test_signed_has_zero_in_the_middle(values):
    """Opposite values have opposite colours, whichever is the larger."""
    np.testing.assert_allclose(scaled(values, "signed"), 1 - scaled(-values, "signed"), atol=1e-6)
    assert scaled(np.append(values, np.float32(0)), "signed")[-1] == 0.5
    if values.any():
        assert np.abs(scaled(values, "signed") - 0.5).max() == 0.5


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        pytest.param([0.1, 0.8, np.nan], "tumour", "raw", id="probabilities"),
        pytest.param([0.9, 0.05, 0.05], "a", "percentile", id="sums-to-1"),
        pytest.param([0.1, 0.05, 0.05], "Attention", "percentile", id="attention-of-some-tiles"),
        pytest.param([-0.1, 0.3], "logit", "signed", id="negative"),
        pytest.param([0.1, 0.3], "contribution_tumour", "signed", id="contributions"),
        pytest.param([3.0, 400.0], "per mm2", "minmax", id="densities"),
        pytest.param([np.nan], "", "raw", id="none"),
    ],
)
def test_the_scaling_fits_what_is_shown(values, name, expected):
    """Where none is asked for."""
    assert fitting_scaling(np.array(values, np.float32), name) == expected


def test_a_scaling_that_there_is_not_is_refused():
    """By the names that there are."""
    with pytest.raises(HeatmapError, match="'log'; use one of raw, minmax, percentile, signed"):
        scaled(np.array([1.0, 2.0]), "log")
