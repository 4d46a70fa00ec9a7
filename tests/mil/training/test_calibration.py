"""Temperature, thresholds and conformal sets keep what they promise, on data whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from tests.support.mil_cohorts import AGE, BINARY, COX, DISCRETE, MARKERS, STAGE, THREE
from wsi_umedpt.mil.training.calibration import Calibration, best_threshold, calibrate
from wsi_umedpt.mil.training.losses import predicted_of


def drawn(target, count, rng, spread=2.0):
    """Logits, and labels drawn with just the chances that they say."""
    logits = rng.normal(0, spread, (count, target.outputs))
    chances = predicted_of(target, logits)
    if target.kind == "multilabel":
        return logits, (rng.random(chances.shape) < chances).astype(float)
    return logits, (rng.random((count, 1)) > np.cumsum(chances, 1)[:, :-1]).sum(1, keepdims=True).astype(float)


@pytest.mark.parametrize("target", [BINARY, THREE, STAGE, MARKERS], ids=lambda t: t.kind)
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_temperature_undoes_being_too_sure(target, factor):
    """Of logits that are so many times too large it is that many, to a tenth; unlabelled cases change nothing."""
    logits, truth = drawn(target, 4000, np.random.default_rng(0))
    found = calibrate(target, logits * factor, truth).temperature
    assert found == pytest.approx(factor, rel=0.1)
    logits, truth = np.concatenate([logits, logits * 50]), np.concatenate([truth, truth * np.nan])
    assert calibrate(target, logits * factor, truth).temperature == found


@pytest.mark.parametrize("target", [BINARY, THREE, STAGE, MARKERS], ids=lambda t: t.kind)
def test_a_perfect_model_is_not_made_surer_than_ten_times(target):
    """And a single case, or one class alone, gives numbers all the same."""
    logits, truth = drawn(target, 30, np.random.default_rng(0), 20)
    for rows in (slice(None), slice(1), np.flatnonzero((truth == truth[0]).all(1))):
        found = calibrate(target, logits[rows], truth[rows])
        assert 0.099 < found.temperature < 10.01
        assert np.isfinite([*found.thresholds, *found.nonconformity]).all()
    assert calibrate(target, logits * 0, truth).temperature > 0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=2, max_size=30))
def test_a_threshold_is_the_share_of_the_class_or_better(drawn):
    """Never worse by sensitivity plus specificity than any other by more than a standard error can be."""
    chance, truth = (np.array(values, np.float64) for values in zip(*drawn, strict=True))
    chance /= 8
    found = best_threshold(chance, truth)
    if len({*truth.tolist()}) < 2:
        assert found == 0.5
        return

    def score(cut):
        chosen = chance >= cut
        return chosen[truth == 1].mean() + (~chosen[truth == 0]).mean()

    best = max(score(c) for c in np.linspace(-0.01, 1.01, 103))
    assert score(found) >= best - math.sqrt(0.25 / truth.sum() + 0.25 / (1 - truth).sum()) - 1e-12
    if score(truth.mean()) >= best - 1e-12:
        assert found == truth.mean()
    assert best_threshold(np.append(chance, 0.3), np.append(truth, np.nan)) == found


def test_a_threshold_is_not_moved_by_luck(rng):
    """On calibrated probabilities of forty cases it stays at the share of the class, and decides as well on others."""
    lost = []
    for _ in range(200):
        chance = rng.beta(1, 1, 2040)
        truth = (rng.random(2040) < chance).astype(float)
        found = best_threshold(chance[:40], truth[:40])
        lost.append(((chance[40:] >= 0.5) == truth[40:]).mean() - ((chance[40:] >= found) == truth[40:]).mean())
    assert np.mean(lost) < 0.009  # the very best of forty cases loses 0.014


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_a_threshold_follows_probabilities_that_are_off(shift, rng):
    """Where all are too low or too high by far, the share of the class would choose one class only."""
    logits = rng.normal(size=400) * 2
    truth = (rng.random(400) < expit(logits)).astype(float)
    found = best_threshold(expit(logits + shift), truth)
    assert abs(np.log(found / (1 - found)) - shift) < 0.8


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [1, 4, 9, 10, 19, 20, 33])
def test_reach_covers_what_it_promises(count, coverage):
    """Of exchangeable scores the next lies within reach as often as promised, and at most one rank oftener."""
    rng = np.random.default_rng(count)
    scores = np.sort(rng.random((4000, count)), axis=1)
    reach = np.array([Calibration(1.0, (), row).reach(coverage) for row in scores])
    if coverage > count / (count + 1):
        assert np.isinf(reach).all()  # so few cases cannot promise it
        return
    held = (rng.random(4000) <= reach).mean()
    tolerance = 4 * math.sqrt(coverage * (1 - coverage) / 4000)
    assert coverage - tolerance <= held <= coverage + 1 / (count + 1) + tolerance


@pytest.mark.parametrize("target", [BINARY, THREE, STAGE], ids=lambda t: t.kind)
def test_sets_hold_the_truth_as_often_as_promised(target):
    """Over 300 calibrations of 40 cases each, temperature and all; and are no larger than they must be."""
    rng, held, sizes = np.random.default_rng(1), [], []
    for _ in range(300):
        logits, truth = drawn(target, 60, rng)
        fixed = calibrate(target, logits[:40], truth[:40])
        sets = fixed.sets(target, predicted_of(target, logits[40:], fixed.temperature), 0.8)
        held.append(sets[np.arange(20), truth[40:, 0].astype(int)].mean())
        sizes.append(sets.sum(1).mean())
    tolerance = 4 * np.std(held) / math.sqrt(300)
    assert 0.8 - tolerance <= np.mean(held) <= 0.8 + 1 / 41 + tolerance
    assert np.mean(sizes) < len(target.classes) - 0.5


def test_intervals_hold_the_value_as_often_as_promised():
    """Of a quantity too, whatever the noise."""
    rng, held = np.random.default_rng(2), []
    target = AGE
    for _ in range(1000):
        logits = rng.normal(size=(40, 1))
        truth = logits + rng.standard_t(3, size=(40, 1))
        fixed = calibrate(target, logits[:30], truth[:30])
        low, high = fixed.interval(target, predicted_of(target, logits[30:]), 0.9).T
        held.append(((low <= truth[30:, 0]) & (truth[30:, 0] <= high)).mean())
    tolerance = 4 * np.std(held) / math.sqrt(1000)
    assert 0.9 - tolerance <= np.mean(held) <= 0.9 + 1 / 31 + tolerance


def test_too_few_cases_rule_nothing_out():
    """Eight cannot promise 90 %: the set holds every class, the interval every value."""
    logits, truth = drawn(THREE, 8, np.random.default_rng(3))
    fixed = calibrate(THREE, logits, truth)
    assert fixed.sets(THREE, predicted_of(THREE, logits * 50), 0.9).all()
    fixed = calibrate(AGE, logits[:, :1], logits[:, :1])
    np.testing.assert_array_equal(fixed.interval(AGE, np.zeros((1, 1)), 0.9), [[-math.inf, math.inf]])


def test_what_has_no_classes_has_no_sets():
    """Nor temperature, threshold or interval, where none applies."""
    truth = np.array([[5.0, 1.0], [3.0, 0.0]])
    for target in (COX, DISCRETE):
        fixed = calibrate(target, np.ones((2, target.outputs)), truth)
        assert (fixed.temperature, fixed.thresholds, len(fixed.nonconformity)) == (1.0, (), 0)
        predicted = predicted_of(target, np.ones((2, target.outputs)))
        assert fixed.sets(target, predicted, 0.9) is None
        assert fixed.interval(target, predicted, 0.9) is None
        assert np.isnan(fixed.decide(target, predicted)).all()
    logits, truth = drawn(MARKERS, 20, np.random.default_rng(0))
    assert calibrate(MARKERS, logits, truth).sets(MARKERS, expit(logits), 0.9) is None


def test_labels_that_are_missing_leave_the_others_their_thresholds():
    """Each label has its own, of the cases that know it."""
    logits, truth = drawn(MARKERS, 200, np.random.default_rng(4))
    whole = calibrate(MARKERS, logits, truth)
    truth[:50, 1] = np.nan
    part = calibrate(MARKERS, logits, truth)
    assert part.thresholds[1] == best_threshold(predicted_of(MARKERS, logits, part.temperature)[50:, 1], truth[50:, 1])
    assert abs(part.thresholds[0] - whole.thresholds[0]) < 0.1


@pytest.mark.parametrize(
    ("target", "thresholds", "predicted", "decided"),
    [
        pytest.param(BINARY, (0.3,), [[0.71, 0.29], [0.7, 0.3], [0.2, 0.8]], [[0], [1], [1]], id="binary"),
        pytest.param(MARKERS, (0.3, 0.9), [[0.3, 0.8], [0.1, 0.9]], [[1, 0], [0, 1]], id="multilabel"),
        pytest.param(THREE, (), [[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]], [[1], [0]], id="multiclass"),
        pytest.param(STAGE, (), [[0.4, 0.2, 0.4], [0.5, 0.0, 0.5], [0.1, 0.1, 0.8]], [[1], [0], [2]], id="median"),
        pytest.param(AGE, (), [[61.5]], [[61.5]], id="value"),
    ],
)
def test_decisions(target, thresholds, predicted, decided):
    """By threshold, the likeliest, the median class, the value itself."""
    found = Calibration(1.0, thresholds, np.empty(0)).decide(target, np.array(predicted))
    np.testing.assert_array_equal(found, decided)


def test_chances_of_many_classes_are_those_of_softmax():
    """A temperature divides logits, not chances."""
    logits = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(predicted_of(THREE, logits, 2.5), softmax(logits / 2.5, axis=1))
