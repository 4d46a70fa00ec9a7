"""The indices that say how well instances agree equal their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_umedpt.tasks.instances import aggregated_jaccard, panoptic_quality


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


@given(true=labels, found=labels)
@settings(max_examples=200)
def test_panoptic_quality_equals_its_definition(true, found):
    """Matches are pairs of IoU over a half; missed and wrong instances count half each."""
    trues = [true == i for i in range(1, true.max() + 1)]
    founds = [found == j for j in range(1, found.max() + 1)]
    ious = [iou for t in trues for f in founds if (iou := (t & f).sum() / (t | f).sum()) > 0.5]
    quality = panoptic_quality(true, found)
    if not trues and not founds:
        assert np.isnan(quality).all()
        return
    wrong = (len(trues) - len(ious) + len(founds) - len(ious)) / 2
    assert quality.quality == pytest.approx(sum(ious) / (len(ious) + wrong))
    assert quality.quality == pytest.approx(quality.detection * quality.segmentation)
