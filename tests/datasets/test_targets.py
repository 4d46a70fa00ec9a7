"""Labels taken from a mask are true of the part that is in view."""

import numpy as np
import pytest

from wsi_umedpt.datasets.samples import Sample
from wsi_umedpt.datasets.targets import class_mask, label_of
from wsi_umedpt.errors import DataError

TOUCHING = np.int32(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 2, 2, 2, 2, 0],
        [0, 1, 1, 1, 1, 2, 2, 2, 2, 0],
        [0, 1, 1, 1, 1, 2, 2, 2, 2, 0],
        [0, 1, 1, 1, 1, 2, 2, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
)


def test_masks_of_classes_are_themselves():
    """Classes, and -1, stay as they are."""
    mask = np.int32([[0, 1, 2], [-1, 5, 300]])
    found = class_mask(mask, ("a", "b"), instances=False)
    assert found.dtype == np.int64
    assert np.array_equal(found, mask)


def test_instances_become_one_class():
    """Any instance is class 1; 0 and -1 stay."""
    found = class_mask(np.int32([[0, 7, 70_000], [-1, 1, 0]]), ("background", "nucleus"), instances=True)
    assert found.tolist() == [[0, 1, 1], [-1, 1, 0]]


def test_borders_part_instances_that_touch():
    """With a class 'border', the outline inside each instance is that class, also between two that touch."""
    found = class_mask(TOUCHING, ("background", "nucleus", "border"), instances=True)
    expected = np.where(TOUCHING > 0, 2, 0)
    expected[2:4, 2:4] = expected[2:4, 6:8] = 1
    assert np.array_equal(found, expected)
    assert (class_mask(TOUCHING, ("background", "nucleus"), instances=True) == (TOUCHING > 0)).all()


def test_the_end_of_the_picture_is_no_border():
    """An instance that the picture cuts has no outline along the cut."""
    found = class_mask(TOUCHING[2:4, 2:], ("background", "nucleus", "border"), instances=True)
    assert found.tolist() == [[1, 1, 2, 2, 1, 1, 2, 0]] * 2


def test_the_end_of_what_is_labelled_is_no_border():
    """Nor along the edge of an image that a view leaves: the instance may go on there."""
    mask = np.pad(TOUCHING[2:4, 2:], ((1, 2), (3, 0)), constant_values=-1)
    found = class_mask(mask, ("background", "nucleus", "border"), instances=True)
    assert found[1:3, 3:].tolist() == [[1, 1, 2, 2, 1, 1, 2, 0]] * 2
    assert (found[mask == -1] == -1).all()


@pytest.mark.parametrize(
    ("kind", "classes", "mask", "expected"),
    [
        pytest.param("multilabel", ("a", "b", "c"), [[0, 1, 3], [-1, 0, 1]], [1, 0, 1], id="classes-in-view"),
        pytest.param("regression", ("area_fraction",), [[0, 4, 4], [-1, -1, 9]], [0.75], id="share-of-what-is-known"),
        pytest.param("regression", ("count",), [[0, 4, 4], [-1, -1, 9]], [2 * 1e4 / 4], id="instances-per-area"),
        pytest.param("regression", ("count", "area_fraction"), [[-1, -1]], [np.nan, np.nan], id="nothing-known"),
        pytest.param("regression", ("count", "area_fraction"), [[0, 0]], [0, 0], id="nothing-there"),
    ],
)
def test_labels_from_masks(kind, classes, mask, expected):
    """Which classes are there, what share is covered, how many instances: of the pixels that are labelled."""
    sample = Sample(image=np.zeros((2, 3, 3), np.uint8), mask=np.int32(mask))
    assert np.array_equal(label_of(sample, kind, classes), np.float32(expected), equal_nan=True)


def test_a_label_of_its_own_goes_before_the_mask():
    """What the record says of the whole image is what it is."""
    sample = Sample(image=np.zeros((1, 1, 3), np.uint8), label=np.float32([3]), mask=np.int32([[1]]))
    assert label_of(sample, "regression", ("count",)).tolist() == [3]


@pytest.mark.parametrize(("kind", "classes"), [("classification", ("a",)), ("regression", ("length",))])
def test_what_a_mask_cannot_tell_is_refused(kind, classes):
    """A mask has no class of the whole image, and no other measure than those it knows."""
    with pytest.raises(DataError):
        label_of(Sample(image=np.zeros((1, 1, 3), np.uint8), mask=np.int32([[1]])), kind, classes)
