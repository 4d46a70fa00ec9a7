"""Boxes of neighbouring windows: what two of them see is one object, wherever each puts it."""

import numpy as np
import pytest

from wsi_umedpt.errors import OptionError
from wsi_umedpt.segmentation.object_writer import Kind, ObjectMap
from wsi_umedpt.segmentation.window_layout import WindowLayout
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.store.objects import TileBoxes

SPEC = TileSpec(size_px=64, stride_px=32, mpp=0.5)
ACROSS, DOWN = (96, 64), (64, 96)
"""Slides of two windows, beside and below each other; the line between them is at 48 px."""


def boxes_over(folder, size: tuple[int, int], boxes: list[tuple[int, float, float, float]]):
    """Centroids of the objects of boxes (window, x, y, score) of 12 px, px of the slide."""
    layout = WindowLayout(lay_grid(size, 0.5, SPEC, whole=False), size)
    kind = Kind(name="cells", classes=("cell",), pixels=False)
    grown = ObjectMap(folder, kind, layout, mpp=0.5, made_by={}, made_of={})
    for index, corner in enumerate(layout.xy):
        mine = np.array([b[1:] for b in boxes if b[0] == index], np.float32).reshape(-1, 3)
        centre = mine[:, :2] - corner
        found = TileBoxes(
            np.concatenate([centre - 6, centre + 6], 1).astype(np.float32), np.zeros(len(mine), np.int64), mine[:, 2]
        )
        grown.add(index, np.zeros((64, 64, 3), np.uint8), None, found)
    return sorted(map(tuple, grown.finish().centroid.tolist()))


def swapped(place: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """The same place where the windows lie below each other."""
    return place if size == ACROSS else place[::-1]


@pytest.mark.parametrize("size", [ACROSS, DOWN], ids=["beside", "below"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(47, 49, id="each-in-its-own-part"),
        pytest.param(49, 47, id="each-in-the-others-part"),
        pytest.param(48, 48, id="on-the-line"),
        pytest.param(46, 47, id="both-in-the-first"),
        pytest.param(50, 49, id="both-in-the-second"),
    ],
)
def test_a_box_on_either_side_of_the_line_is_one(tmp_path, size, first, second):
    """Two windows may put the centre of an object a pixel or two apart: the better box is kept, once."""
    a, b = swapped((first, 30), size), swapped((second, 30), size)
    assert boxes_over(tmp_path / "a", size, [(0, *a, 0.9), (1, *b, 0.8)]) == [a]
    assert boxes_over(tmp_path / "b", size, [(0, *a, 0.8), (1, *b, 0.9)]) == [b]


@pytest.mark.parametrize("size", [ACROSS, DOWN], ids=["beside", "below"])
def test_a_box_far_from_the_line_is_its_own_windows(tmp_path, size):
    """What the other window says of it does not count; two objects beside each other are two."""
    near, far, beside = (swapped(p, size) for p in ((36, 30), (60, 30), (47, 50)))
    said = [(0, *near, 0.5), (1, *near, 0.9), (0, *far, 0.9), (1, *far, 0.5), (0, *beside, 0.6)]
    assert boxes_over(tmp_path / "a", size, said) == sorted([near, far, beside])


def test_unlikely_boxes_are_left_out(tmp_path):
    """Those of a score below the kind's."""
    assert boxes_over(tmp_path / "a", ACROSS, [(0, 20, 20, 0.29), (0, 20, 44, 0.31)]) == [(20, 44)]


def test_windows_lie_where_the_grid_has_them():
    """At a scale that is no whole number too, windows are whole strides apart and cover the slide."""
    spec = TileSpec(size_px=64, stride_px=32, mpp=0.5)
    grid = lay_grid((701, 503), 0.23, spec, whole=False)
    layout = WindowLayout(grid, (701, 503))
    assert not (layout.xy % 32).any()
    assert np.abs(layout.xy * layout.scale - grid.xy).max() <= 0.5
    assert (layout.xy.max(0) + 64 >= (layout.width, layout.height)).all()
    assert layout.canvas_width >= layout.width
    assert (layout.width - 1) * layout.scale < 701 <= layout.width * layout.scale + 1e-6


def test_gaps_between_windows_are_refused():
    """A head would see nothing there."""
    grid = lay_grid((400, 400), 0.5, TileSpec(size_px=64, stride_px=96), whole=False)
    with pytest.raises(OptionError, match="no more than the side"):
        WindowLayout(grid, (400, 400))
