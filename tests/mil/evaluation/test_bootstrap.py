"""Intervals hold the truth as often as they say, patients are what is drawn, and p is what it claims to be."""

import numpy as np
import pytest
from scipy import stats

from wsi_umedpt.mil.evaluation import metrics
from wsi_umedpt.mil.evaluation.bootstrap import draw_patients, interval, number_patients, two_sided_p


def test_there_is_no_interval_where_most_resamples_have_no_figure():
    """The figure stands there alone."""
    values = np.array([0.7] + [0.6, 0.8] * 20 + [np.nan] * 60)
    found = interval(values)
    assert (found.value, found.low, found.undefined) == (0.7, None, 60)
    assert two_sided_p(values) is None


def test_draws_are_of_patients():
    """Every case of a patient is drawn as often as the patient; as many patients as there are."""
    patients = ["a", "a", "b", "c", "", "", "b"]
    assert number_patients(patients).tolist() == [0, 0, 1, 2, 3, 4, 1]
    rows = np.concatenate([*draw_patients(patients, 500, seed=1)])
    assert rows.shape == (501, 7)
    assert (rows[0] == 1).all()
    assert (rows[:, 0] == rows[:, 1]).all()
    assert (rows[:, 2] == rows[:, 6]).all()
    assert (rows[:, [0, 2, 3, 4, 5]].sum(axis=1) == 5).all()
    assert abs(rows[1:, 3].mean() - 1) < 0.1


def test_blocks_draw_as_many(monkeypatch):
    """However few weights a block holds."""
    monkeypatch.setattr("wsi_umedpt.mil.evaluation.bootstrap._NUMBERS", 50)
    blocks = [*draw_patients([str(k) for k in range(10)], 23, seed=0)]
    assert [len(b) for b in blocks] == [6, 5, 5, 5, 3]


def auc_of(rng, patients, slides, apart=1.0):
    """A little study with a known AUC: truth, score, patient of each slide."""
    truth = rng.integers(0, 2, patients).astype(bool)
    score = apart * truth + rng.normal(size=patients)
    return np.repeat(truth, slides), np.repeat(score, slides), [str(k) for k in np.repeat(np.arange(patients), slides)]


def of_draws(truth, score, patients, seed, resamples=400):
    """ROC AUC, then that of each resample."""
    fold = np.zeros(len(truth), int)
    return np.concatenate([metrics.roc_auc(truth, score, w, fold) for w in draw_patients(patients, resamples, seed)])


def test_intervals_hold_the_truth_as_often_as_they_say(rng):
    """About 95 of 100 intervals of AUC hold the AUC of everybody; for accuracy too."""
    true_auc = stats.norm.cdf(1 / np.sqrt(2))
    held = []
    for seed in range(400):
        found = interval(of_draws(*auc_of(rng, 80, 1), seed))
        held.append(found.low <= true_auc <= found.high)
    assert 0.91 < np.mean(held) < 0.98  # +- 3 standard errors of what percentile intervals reach at n = 80


def test_slides_of_one_patient_do_not_narrow_the_interval(rng):
    """Four copies of each patient give the interval of one; drawn slide by slide it is half as wide, and wrong."""
    truth, score, patients = auc_of(rng, 60, 4)
    once = interval(of_draws(truth[::4], score[::4], patients[::4], 5))
    by_patient = interval(of_draws(truth, score, patients, 5))
    by_slide = interval(of_draws(truth, score, [str(k) for k in range(240)], 5))
    assert (by_patient.low, by_patient.high) == pytest.approx((once.low, once.high))
    assert by_slide.high - by_slide.low < 0.6 * (by_patient.high - by_patient.low)


def paired(rng, gap, n=100, runs=300):
    """The p of runs of two arms whose true AUCs differ by a gap in their signal."""
    ps = []
    for seed in range(runs):
        truth = rng.integers(0, 2, n).astype(bool)
        shared = rng.normal(size=n)
        one = (0.8 + gap) * truth + 0.7 * shared + 0.7 * rng.normal(size=n)
        two = 0.8 * truth + 0.7 * shared + 0.7 * rng.normal(size=n)
        patients = [str(k) for k in range(n)]
        ps.append(two_sided_p(of_draws(truth, one, patients, seed, 300) - of_draws(truth, two, patients, seed, 300)))
    return np.array(ps)


def test_p_of_two_arms_that_are_equally_good_is_below_005_one_time_in_twenty(rng):
    """It claims no difference where there is none; and it is not so shy as to claim none ever."""
    ps = paired(rng, 0.0)
    assert 0.015 < np.mean(ps < 0.05) < 0.09
    assert 0.4 < np.mean(ps < 0.5) < 0.6


def test_p_finds_an_arm_that_is_better(rng):
    """Most of the time where the difference is large; never below what the draws can show."""
    ps = paired(rng, 0.9, runs=60)
    assert np.mean(ps < 0.05) > 0.9
    assert ps.min() >= 2 / 301
