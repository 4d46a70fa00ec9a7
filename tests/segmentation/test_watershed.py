"""Fronts become objects: one each, or several where centres or inner parts say so."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsi_umedpt.segmentation.watershed import LIKELY, separate

SURE = 230


def disks(*circles: tuple[int, int, int], side: int = 60) -> np.ndarray:
    """uint8 (side, side) chance of disks (x, y, radius)."""
    picture = np.zeros((side, side), np.uint8)
    for x, y, r in circles:
        cv2.circle(picture, (x, y), r, SURE, -1)
    return picture


TWO = disks((22, 30, 12), (38, 30, 12))
TWO_INNER = disks((22, 30, 7), (38, 30, 7))
ONE_INNER = disks((22, 30, 9), (38, 30, 9))
"""Of both disks, connected."""


@pytest.mark.parametrize(
    ("inner", "centres", "expected"),
    [
        pytest.param(ONE_INNER, [(22.5, 30.5), (38.5, 30.5)], 2, id="two-centres"),
        pytest.param(ONE_INNER, [(30.5, 30.5)], 1, id="one-centre"),
        pytest.param(ONE_INNER, None, 1, id="one-inner-part"),
        pytest.param(TWO_INNER, None, 2, id="two-inner-parts"),
        pytest.param(TWO_INNER, [(22.5, 30.5)], 2, id="an-inner-part-without-a-centre-of-its-own"),
        pytest.param(TWO_INNER, [(22.5, 30.5), (38.5, 30.5)], 2, id="centres-and-inner-parts-of-the-same"),
        pytest.param(TWO * 0, None, 1, id="no-inner-part"),
        pytest.param(ONE_INNER, [(5, 5), (-3, 30), (30, 60), (59.9, 0)], 1, id="centres-outside-mark-nothing"),
        pytest.param(ONE_INNER, [], 1, id="no-centres"),
    ],
)
def test_how_many_objects_two_overlapping_disks_are(inner, centres, expected):
    """As many as there are centres, and inner parts without one; all of the front is given out."""
    given_centres = None if centres is None else np.array(centres, np.float32).reshape(-1, 2)
    labels = separate(TWO, inner, given_centres)
    assert len(np.unique(labels[labels > 0])) == expected
    assert np.array_equal(labels > 0, TWO > 0)


def test_two_disks_are_cut_between_them():
    """The cut lies where the disks meet, to two pixels."""
    labels = separate(TWO, TWO_INNER, np.array([[22.5, 30.5], [38.5, 30.5]]))
    left, right = labels[30, 22], labels[30, 38]
    assert (labels[:, :28][TWO[:, :28] > 0] == left).all()
    assert (labels[:, 33:][TWO[:, 33:] > 0] == right).all()


@pytest.mark.parametrize("centre", [(0.0, 0.0), (19.999, 10), (10, 19.999), (20.0, 10), (10, 20.0)], ids=str)
def test_a_centre_on_the_very_border_is_no_error(centre):
    """The picture's last pixel is its own; what lies on the far border is outside."""
    labels = separate(np.full((20, 20), SURE, np.uint8), np.zeros((20, 20), np.uint8), np.array([centre]))
    assert (labels == 1).all()


def test_a_centre_marks_its_own_front_only():
    """A nucleus a pixel away from another's centre is not cut by it."""
    front = np.zeros((30, 30), np.uint8)
    front[5:25, 4:14] = front[5:25, 15:27] = SURE
    labels = separate(front, front, np.array([[13.5, 15.0], [20.0, 15.0]]))
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert (labels[:, 15:27] == labels[10, 20])[front[:, 15:27] > 0].all()


def test_what_hangs_on_by_a_corner_is_no_object_of_several_fronts():
    """Pixels that touch their front by a corner go with it, and never with those of another front."""
    front = np.zeros((30, 64), np.uint8)
    for left in (2, 34):
        front[4:16, left : left + 24] = SURE
        front[16:20, left + 24 : left + 28] = SURE
    inner = np.zeros_like(front)
    for left in (2, 34):
        inner[8:12, left + 3 : left + 8] = inner[8:12, left + 16 : left + 21] = SURE
    labels = separate(front, inner)
    assert np.array_equal(labels > 0, front > 0)
    for number in np.unique(labels[labels > 0]):
        assert cv2.connectedComponents((labels == number).astype(np.uint8), connectivity=8)[0] == 2


def test_small_objects_are_dropped():
    """Those of fewer pixels than asked for, and no others."""
    front = np.zeros((20, 20), np.uint8)
    front[2:5, 2:5] = front[10:13, 10:14] = SURE
    assert (separate(front, front, min_px=10) > 0).sum() == 12
    assert (separate(front, front, min_px=9) > 0).sum() == 21
    assert separate(front, front, min_px=13).max() == 0


@given(seed=st.integers(0, 10_000), smooth=st.sampled_from([0.8, 1.5, 3.0]), count=st.integers(0, 12))
@example(seed=532, smooth=0.8, count=10)  # a centre whose marker the next front's centre lay upon
@settings(max_examples=40)
def test_a_front_is_cut_as_if_it_were_alone(seed, smooth, count):
    """Numbers aside, what lies beside a front does not change its objects, which are connected and cover it."""
    rng = np.random.default_rng(seed)
    picture = cv2.GaussianBlur(rng.normal(0, 1, (60, 80)), (0, 0), smooth)
    front = np.where(picture > np.quantile(picture, 0.6), SURE, 0).astype(np.uint8)
    inner = np.where(picture > np.quantile(picture, 0.8), SURE, 0).astype(np.uint8)
    centres = rng.uniform(0, (80, 60), (count, 2))
    labels = separate(front, inner, centres, min_px=1)
    assert np.array_equal(labels > 0, front > 0)
    parts_count, parts = cv2.connectedComponents((front > 0).astype(np.uint8), connectivity=8)
    for n in range(1, parts_count):
        mine = parts == n
        row, column = np.floor(centres).astype(int).T[::-1]
        own = centres[mine[row, column]]
        alone = separate(np.where(mine, front, 0), np.where(mine, inner, 0), own, min_px=1)
        pairs = np.unique(np.stack([labels[mine], alone[mine]], 1), axis=0)
        assert len(pairs) == len({*pairs[:, 0]}) == len({*pairs[:, 1]})


@pytest.mark.parametrize(
    ("chance", "centres", "there"),
    [
        pytest.param(LIKELY, None, True, id="likely"),
        pytest.param(LIKELY - 1, None, False, id="unlikely"),
        pytest.param(LIKELY - 1, [(10.5, 10.5)], True, id="unlikely-with-a-box"),
        pytest.param(LIKELY - 1, [(1.5, 1.5), (-1, 99)], False, id="boxes-elsewhere"),
        pytest.param(0, [], False, id="no-inner-part"),
    ],
)
def test_an_object_needs_something_that_vouches_for_it(chance, centres, there):
    """A box's centre, or a likely inner part of a quarter of the least size; else it needs nothing."""
    front = np.zeros((30, 30), np.uint8)
    front[5:17, 5:17] = SURE
    inner = np.zeros_like(front)
    inner[8:11, 8:11] = chance  # 9 px: just the quarter
    given_centres = None if centres is None else np.array(centres, np.float32).reshape(-1, 2)
    assert (separate(front, inner, given_centres, min_px=36, vouched=True).max() > 0) == there
    assert (separate(front, inner, given_centres, min_px=40, vouched=True).max() > 0) == bool(there and centres)
    assert separate(front, inner, given_centres, min_px=36).max() == 1
