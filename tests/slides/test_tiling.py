"""Laws of the grid."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.errors import OptionError, SlideError
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((448, 224), [(0, 0), (224, 0)], id="two-across"),
        pytest.param((500, 224), [(0, 0), (224, 0)], id="ragged-edge-dropped"),
        pytest.param((223, 223), [], id="slide-smaller-than-a-tile"),
        pytest.param((448, 448), [(0, 0), (224, 0), (0, 224), (224, 224)], id="reading-order"),
    ],
)
def test_tiles_at_the_slides_own_mpp(size, expected):
    """At the slide's own resolution, a tile is size_px level-0 pixels wide."""
    grid = lay_grid(size, slide_mpp=0.5, spec=TileSpec())
    assert [tuple(xy) for xy in grid.xy.tolist()] == expected


SPECS = st.builds(
    TileSpec,
    size_px=st.integers(32, 512),
    mpp=st.floats(0.25, 4),
    stride_px=st.none() | st.integers(16, 600),
)


@given(width=st.integers(1, 9000), height=st.integers(1, 9000), slide_mpp=st.floats(0.1, 0.25), spec=SPECS)
def test_no_tile_leaves_the_slide_and_none_repeats(width, height, slide_mpp, spec):
    """For any slide and any spec."""
    grid = lay_grid((width, height), slide_mpp, spec)
    assert (grid.xy >= 0).all()
    assert (grid.xy + grid.side <= [width + 1e-6, height + 1e-6]).all()
    assert len(np.unique(grid.xy, axis=0)) == len(grid)


@given(slide_mpp=st.floats(0.1, 0.5), spec=SPECS)
def test_the_footprint_is_what_was_asked_for(slide_mpp, spec):
    """A tile covers size_px * mpp microns; whole-number scales may be off by under half a tile pixel."""
    if slide_mpp > spec.mpp:
        return
    grid = lay_grid((20_000, 20_000), slide_mpp, spec)
    assert abs(grid.side * slide_mpp / spec.mpp - spec.size_px) < 0.5 + 1e-6


def test_starts_do_not_drift():
    """Tile k starts within half a pixel of k * stride, also for a stride that is no whole number."""
    grid = lay_grid((100_000, 1000), slide_mpp=0.2527, spec=TileSpec(mpp=0.5))
    stride = 224 * 0.5 / 0.2527
    assert np.abs(grid.xy[:, 0] - np.arange(len(grid.xy)) % 225 * stride).max() <= 0.5 or len(grid) > 225
    first_row = grid.xy[grid.xy[:, 1] == 0, 0]
    assert np.abs(first_row - np.arange(len(first_row)) * stride).max() <= 0.5


def test_the_grid_does_not_follow_the_tissue():
    """Tissue chooses among tiles; it never moves them."""
    spec = TileSpec()
    everything = {tuple(xy) for xy in lay_grid((4000, 4000), 0.5, spec).xy.tolist()}
    mask = TissueMask(np.zeros((125, 125), bool), step=32)
    mask.mask[31:77, 13:90] = True
    chosen = lay_grid((4000, 4000), 0.5, spec, within=mask)
    assert 0 < len(chosen) < len(everything)
    assert {tuple(xy) for xy in chosen.xy.tolist()} <= everything
    assert (chosen.tissue >= spec.min_tissue).all()


def test_a_slide_too_coarse_is_refused():
    """With what to ask for instead."""
    with pytest.raises(SlideError, match=r"`tile_mpp` 1 or more.*`upsample`"):
        lay_grid((1000, 1000), 1.0, TileSpec())
    assert lay_grid((1000, 1000), 1.0, TileSpec(upsample=True)).side == 112


def test_equal_specs_have_one_name_and_others_another():
    """The grid's name stands for all fields of the spec."""
    assert TileSpec().grid_id == TileSpec(stride_px=224).grid_id
    ids = {TileSpec().grid_id, TileSpec(stride_px=112).grid_id, TileSpec(min_tissue=0.5).grid_id}
    assert len(ids | {TileSpec(resampling="dct").grid_id, TileSpec(upsample=True).grid_id}) == 5
    assert TileSpec.from_dict(TileSpec(mpp=0.7).to_dict()) == TileSpec(mpp=0.7, stride_px=224)


@pytest.mark.parametrize(
    ("fields", "setting"),
    [
        pytest.param({"size_px": 0}, "size_px", id="size"),
        pytest.param({"mpp": -1.0}, "tile_mpp", id="mpp"),
        pytest.param({"mpp": float("nan")}, "tile_mpp", id="mpp-not-a-number"),
        pytest.param({"stride_px": 0}, "stride_px", id="stride"),
        pytest.param({"min_tissue": 1.5}, "min_tissue", id="tissue"),
        pytest.param({"resampling": "cubic"}, "resampling", id="resampling"),
        pytest.param({"edge": "mirror"}, "edge", id="edge"),
    ],
)
def test_a_bad_spec_is_refused(fields, setting):
    """At the door, naming the setting; it is a ValueError too."""
    with pytest.raises(OptionError, match=rf"\(`{setting}`\)") as refused:
        TileSpec(**fields)
    assert isinstance(refused.value, ValueError)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), slide_mpp=st.floats(0.1, 0.25), spec=SPECS)
def test_padded_tiles_cover_the_slide_and_dropped_ones_are_counted(width, height, slide_mpp, spec):
    """Where tiles do not lie apart every pixel is in one; the whole ones are the grid that drops the others."""
    dropped = lay_grid((width, height), slide_mpp, spec)
    padded = lay_grid((width, height), slide_mpp, replace(spec, edge="pad"))
    assert padded.left_out == 0
    assert dropped.left_out == len(padded) - len(dropped)
    assert {tuple(xy) for xy in dropped.xy.tolist()} <= {tuple(xy) for xy in padded.xy.tolist()}
    assert (padded.xy < [width, height]).all()
    if spec.stride <= spec.size_px:
        assert (padded.xy.max(axis=0) + padded.side >= np.array([width, height]) - 1).all()


def test_only_tiles_with_enough_tissue_count_as_left_out():
    """Glass at the edge is no loss; of a tile across the edge its part on the slide decides."""
    mask = TissueMask(np.zeros((10, 10), bool), step=50)
    assert lay_grid((500, 448), 0.5, TileSpec(), within=mask).left_out == 0
    mask.mask[:, 9:] = True  # the slide's last 50 px, of which 448 to 500 is a tile's part
    grid = lay_grid((500, 448), 0.5, TileSpec(), within=mask)
    assert (len(grid), grid.left_out) == (0, 2)
    padded = lay_grid((500, 448), 0.5, TileSpec(edge="pad"), within=mask)
    assert padded.xy.tolist() == [[448, 0], [448, 224]]


def test_grids_are_named_as_before_where_the_edge_is_dropped():
    """So that stores of earlier versions are gone on with; padded ones are others."""
    assert "edge" not in TileSpec().to_dict()
    assert TileSpec().grid_id == "224px_0.5mpp_3d5f2ade"
    padded = TileSpec(edge="pad")
    assert padded.grid_id != TileSpec().grid_id
    assert TileSpec.from_dict(padded.to_dict()) == replace(padded, stride_px=224)
