"""Instances from class maps, and the index that says how well they agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_umedpt.datasets.targets import class_mask
from wsi_umedpt.tasks.instances import aggregated_jaccard, instances_of


def brute_aji(true, found):
    """Kumar et al. 2017, algorithm 1, in plain sets."""
    trues = [set(zip(*np.nonzero(true == i), strict=True)) for i in range(1, true.max() + 1)]
    founds = [set(zip(*np.nonzero(found == j), strict=True)) for j in range(1, found.max() + 1)]
    overlap, area, used = 0, 0, set()
    for t in trues:
        scores = [len(t & f) / len(t | f) for f in founds]
        if not scores or max(scores) == 0:
            area += len(t)
            continue
        best = int(np.argmax(scores))
        overlap, area = overlap + len(t & founds[best]), area + len(t | founds[best])
        used.add(best)
    area += sum(len(f) for j, f in enumerate(founds) if j not in used)
    return overlap / area if area else float("nan")


def dense(labels):
    """The same instances numbered without gaps."""
    return np.unique(np.append(labels.ravel(), 0), return_inverse=True)[1][:-1].reshape(labels.shape).astype(np.int32)


labels = hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 4)).map(dense)


@given(true=labels, found=labels)
@settings(max_examples=200)
def test_the_index_equals_its_definition(true, found):
    """On any two label maps."""
    assert aggregated_jaccard(true, found) == pytest.approx(brute_aji(true, found), nan_ok=True)


@given(true=labels)
def test_agreement_is_one(true):
    """Of a map with itself, unless there is nothing."""
    assert aggregated_jaccard(true, true) == pytest.approx(1.0 if true.any() else float("nan"), nan_ok=True)


def test_touching_instances_are_told_apart_and_come_back_whole():
    """Class map and back: discs that touch keep their number, size and place."""
    y, x = np.mgrid[:60, :90]
    truth = np.zeros((60, 90), np.int32)
    for i, (cy, cx, r) in enumerate([(20, 20, 12), (20, 43, 11), (45, 60, 10), (40, 20, 9)], start=1):
        truth[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = i
    found = instances_of(class_mask(truth, ("background", "nucleus", "border"), instances=True))
    assert found.max() == 4
    assert aggregated_jaccard(truth, found) > 0.97


def test_an_instance_without_inner_part_is_one_all_the_same():
    """A sliver of border pixels counts; a speck does not."""
    classes = np.zeros((30, 30), int)
    classes[5, 3:20] = 2
    classes[20, 20:23] = 2
    found = instances_of(classes, min_pixels=10)
    assert found.max() == 1
    assert (found > 0).sum() == 17


def test_a_border_never_joins_an_instance_across_the_background():
    """The nearest inner part may be another nucleus's; a gap parts them."""
    classes = np.zeros((5, 30), int)
    classes[1:4, 2:4], classes[1:4, 4:12] = 1, 2
    classes[1:4, 14:22] = 1
    found = instances_of(classes, min_pixels=1)
    assert found.max() == 2
    assert {*found[1:4, 2:12].ravel()} == {1}


def test_nothing_gives_nothing():
    """An empty map has no instance."""
    assert instances_of(np.zeros((8, 8), int)).max() == 0
