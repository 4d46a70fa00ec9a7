"""Objects and labels are those of the whole picture, however its rows come in strips."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.segmentation import row_stream
from wsi_umedpt.segmentation.blending import Rows
from wsi_umedpt.segmentation.row_stream import Stitcher
from wsi_umedpt.store.objects import Objects

CLASSES = ("a", "b")


@st.composite
def pictures(draw):
    """Chances of two classes and a border, pixels, and centres of boxes."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    height, width = draw(st.integers(1, 90)), 2 * draw(st.integers(1, 40))
    smooth = draw(st.sampled_from([1.0, 2.0, 4.0]))
    picture = cv2.GaussianBlur(rng.normal(0, smooth, (height, width)), (0, 0), smooth)
    kind = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 4.0) > 0
    front = np.clip(128 + 400 * (picture - 0.1), 0, 255)
    inner = np.clip(front - 40, 0, 255)
    chances = np.stack([inner * kind, inner * ~kind, front - inner]).astype(np.uint8)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    centres = rng.uniform(0, (width, height), (draw(st.integers(0, 8)), 2)).astype(np.float32)
    return chances, image, centres


def stitcher(width: int, **options) -> Stitcher:
    return Stitcher(width, CLASSES, border=True, scale=2.0, mpp=0.5, **{"min_um2": 1.0, **options})


def stitched(chances, image, centres, cuts, using: Stitcher | None = None) -> tuple[Objects, np.ndarray]:
    """Objects, sorted by place, and label rows, of rows that come in strips cut at `cuts`."""
    using = using or stitcher(image.shape[1])
    found = []
    for start, end in pairwise([0, *sorted(cuts), len(image)]):
        here = centres[(centres[:, 1] >= start) & (centres[:, 1] < end)]
        rows = Rows(start, chances[:, start:end], image[start:end])
        found.append(using.add(rows, here))
    found.append(using.add(Rows(len(image), chances[:, :0], image[:0]), centres[:0], last=True))
    objects = Objects.joined([f.objects for f in found], CLASSES)
    order = np.lexsort([*objects.centroid.T, objects.measure("area_um2")])
    return objects.taken(order), np.concatenate([f.labels for f in found])


def assert_same(a: Objects, b: Objects) -> None:
    """The same objects, bit for bit."""
    for name in ("class_index", "score", "centroid", "measures", "starts", "outline"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@given(pictures(), st.data())
@settings(max_examples=60)
def test_strips_change_nothing(picture, data):
    """Strips of any heights, none and one row included: the objects and label rows of the whole picture."""
    chances, image, centres = picture
    cuts = data.draw(st.lists(st.integers(0, len(image)), max_size=8), label="cuts")
    whole, labels = stitched(chances, image, centres, [])
    objects, rows = stitched(chances, image, centres, cuts)
    assert np.array_equal(rows, labels)
    assert_same(objects, whole)


@given(pictures())
@settings(max_examples=20)
def test_row_by_row_is_the_same(picture):
    """The smallest strips there are."""
    chances, image, centres = picture
    whole, labels = stitched(chances, image, centres, [])
    objects, rows = stitched(chances, image, centres, range(1, len(image)))
    assert np.array_equal(rows, labels)
    assert_same(objects, whole)


@given(pictures(), st.data())
@settings(max_examples=30)
def test_a_stitcher_goes_on_from_its_state(picture, data):
    """Stopped after any row, another stitcher gives what the first one would have given, bit for bit."""
    chances, image, centres = picture
    stop = data.draw(st.integers(0, len(image)), label="stop")
    parts = []
    first, second = stitcher(image.shape[1]), stitcher(image.shape[1])
    for using in (first, second):
        above = centres[centres[:, 1] < stop]
        parts.append([using.add(Rows(0, chances[:, :stop], image[:stop]), above)])
    third = stitcher(image.shape[1])
    third.restore({k: v.copy() for k, v in second.state().items()})
    for using, found in zip((first, third), parts, strict=True):
        rest = Rows(stop, chances[:, stop:], image[stop:])
        found.append(using.add(rest, centres[centres[:, 1] >= stop], last=True))
    for one, other in zip(*parts, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.objects.outline, other.objects.outline)
        assert np.array_equal(one.objects.measures, other.objects.measures)


def test_every_front_is_found_once():
    """Squares that begin and end anywhere among strips of seven rows."""
    chances = np.zeros((3, 100, 60), np.uint8)
    corners = [(y, x) for y in range(1, 90, 11) for x in range(2, 55, 9)]
    for y, x in corners:
        chances[0, y : y + 6, x : x + 6] = 255
    objects, labels = stitched(chances, np.zeros((100, 60, 3), np.uint8), np.zeros((0, 2)), range(7, 100, 7))
    assert len(objects) == len(corners)
    assert set(objects.measure("area_um2").tolist()) == {9.0}
    assert np.array_equal(labels, (chances[0] > 0).astype(np.uint8))
    expected = sorted((2 * (x + 3.0), 2 * (y + 3.0)) for y, x in corners)
    assert sorted(map(tuple, objects.centroid.tolist())) == expected


def test_a_front_without_end_is_cut_and_memory_stays_bounded(monkeypatch):
    """A bar over the whole height is cut at every `MAX_ROWS`; small fronts beside it are not."""
    monkeypatch.setattr(row_stream, "MAX_ROWS", 32)
    chances = np.zeros((3, 400, 40), np.uint8)
    chances[0, :, 4:8] = 255
    for y in range(3, 390, 9):
        chances[1, y : y + 6, 20:26] = 255
    using = stitcher(40)
    found, held = [], []
    for start in range(0, 400, 5):
        rows = Rows(start, chances[:, start : start + 5], np.zeros((5, 40, 3), np.uint8))
        found.append(using.add(rows, np.zeros((0, 2), np.float32), last=start == 395))
        held.append(using.state()["image"].shape[0])
    assert max(held) < 32 + 5
    objects = Objects.joined([f.objects for f in found], CLASSES)
    bars, squares = (objects.taken(objects.class_index == k) for k in (0, 1))
    assert bars.measure("area_um2").sum() == 400
    assert len(bars) == pytest.approx(400 / 35, abs=2)
    assert len(squares) == len(range(3, 390, 9))
    assert set(squares.measure("area_um2").tolist()) == {9.0}
    labels = np.concatenate([f.labels for f in found])
    assert np.array_equal(labels > 0, chances.max(0) > 0)


def test_a_seam_parts_objects_that_touch():
    """In the label rows, two objects of one front are two pieces."""
    chances = np.zeros((3, 30, 60), np.uint8)
    for x in (20, 38):
        picture = np.zeros((30, 60), np.uint8)
        cv2.circle(picture, (x, 15), 11, 255, -1)
        chances[0] = np.maximum(chances[0], picture)
    centres = np.array([[20.5, 15.5], [38.5, 15.5]], np.float32)
    objects, labels = stitched(chances, np.zeros((30, 60, 3), np.uint8), centres, [9, 14])
    assert len(objects) == 2
    assert cv2.connectedComponents(labels, connectivity=8)[0] == 3


def test_rows_that_do_not_follow_are_refused():
    """Rows come from top to bottom, each once."""
    using = stitcher(4)
    using.add(Rows(0, np.zeros((3, 2, 4), np.uint8), np.zeros((2, 4, 3), np.uint8)), np.zeros((0, 2), np.float32))
    with pytest.raises(ValueError, match="do not follow those until 2"):
        using.add(Rows(1, np.zeros((3, 2, 4), np.uint8), np.zeros((2, 4, 3), np.uint8)), np.zeros((0, 2), np.float32))
