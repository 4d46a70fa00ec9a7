"""Figures of weighted cases are scikit-learn's, for ties, weights of 0 and classes that are missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from wsi_umedpt.mil.evaluation import metrics as weighted


def cases(classes=3, least=4):
    """Truth, scores with many ties, and whole weights of some cases."""
    one = st.tuples(st.integers(0, classes - 1), st.integers(0, 4), st.integers(0, classes - 1), st.integers(0, 3))
    return st.lists(one, min_size=least, max_size=20).map(lambda rows: np.array(rows).T)


@given(cases(2))
def test_order_of_two_classes_is_scikit_learns(drawn):
    """ROC AUC and average precision, with ties and weights; nan where one class is missing."""
    truth, score, _, weight = drawn
    w, fold = weight[None].astype(float), np.zeros(len(truth), int)
    ours = weighted.roc_auc(truth == 1, score.astype(float), w, fold)[0]
    precision = weighted.average_precision(truth == 1, score.astype(float), w)[0]
    left = truth[weight > 0]
    if len({*left}) == 2:
        assert ours == pytest.approx(sklearn_metrics.roc_auc_score(truth, score, sample_weight=weight))
    else:
        assert np.isnan(ours)
    if (left == 1).any():
        assert precision == pytest.approx(sklearn_metrics.average_precision_score(truth, score, sample_weight=weight))
    else:
        assert np.isnan(precision)


@given(cases(2), st.integers(0, 2**32 - 1))
def test_auc_compares_cases_of_one_fold(drawn, seed):
    """It is the mean of the folds' own, weighed by pairs."""
    truth, score, _, weight = drawn
    fold = np.random.default_rng(seed).integers(0, 3, len(truth))
    area = pairs = 0.0
    for one in range(3):
        mine = (fold == one) & (weight > 0)
        if len({*truth[mine]}) == 2:
            n = weight[mine & (truth == 1)].sum() * weight[mine & (truth == 0)].sum()
            area += n * sklearn_metrics.roc_auc_score(truth[mine], score[mine], sample_weight=weight[mine])
            pairs += n
    found = weighted.roc_auc(truth == 1, score.astype(float), weight[None].astype(float), fold)[0]
    assert found == pytest.approx(area / pairs if pairs else np.nan, nan_ok=True)


@given(cases())
def test_decisions_are_measured_as_scikit_learn_does(drawn):
    """Confusion, recall, precision, F1 and kappa, weighted."""
    truth, _, decided, weight = drawn
    if not weight.any():
        return
    counts = weighted.confusion(truth, decided, 3, weight[None].astype(float))
    of = {"labels": [0, 1, 2], "sample_weight": weight}
    np.testing.assert_allclose(counts[0], sklearn_metrics.confusion_matrix(truth, decided, **of))
    for ours, theirs in (
        (weighted.recall, sklearn_metrics.recall_score),
        (weighted.precision, sklearn_metrics.precision_score),
        (weighted.f1, sklearn_metrics.f1_score),
    ):
        found = theirs(truth, decided, average=None, zero_division=np.nan, **of)
        np.testing.assert_allclose(ours(counts)[0], found)
    if len({*truth[weight > 0], *decided[weight > 0]}) > 1:
        kappa = sklearn_metrics.cohen_kappa_score(truth, decided, weights="quadratic", **of)
        assert weighted.quadratic_kappa(counts)[0] == pytest.approx(kappa)


@given(st.integers(0, 2**32 - 1), st.integers(5, 40))
def test_values_are_measured_as_scikit_learn_and_scipy_do(seed, n):
    """R2 weighted; Spearman with ties, of cases repeated by their weight."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, n) + 1e6
    predicted = truth + rng.integers(-3, 4, n)
    w = rng.integers(0, 3, n)
    if np.ptp(truth[w > 0], axis=0) if (w > 0).any() else 0:
        expected = sklearn_metrics.r2_score(truth, predicted, sample_weight=w)
        assert weighted.r2(truth, predicted, w[None].astype(float))[0] == pytest.approx(expected, rel=1e-6)
        rows = np.repeat(np.arange(n), w)
        if np.ptp(predicted[rows]):
            expected = stats.spearmanr(truth[rows], predicted[rows]).statistic
            found = weighted.spearman(truth, predicted.astype(float), w[None].astype(float), np.zeros(n, int))
            assert found[0] == pytest.approx(expected, abs=1e-9)
    else:
        assert np.isnan(weighted.r2(truth, predicted, w[None].astype(float))[0])


def test_chances_are_measured_as_scikit_learn_does(rng):
    """Log loss and Brier score; calibration error of a table that can be counted by hand."""
    predicted = rng.dirichlet([1, 1, 1], 50)
    truth, w = rng.integers(0, 3, 50), np.ones((1, 50))
    loss = weighted.mean(weighted.surprise(predicted[np.arange(50), truth]), w)[0]
    assert loss == pytest.approx(sklearn_metrics.log_loss(truth, predicted))
    binary = np.array([0, 1] * 25)
    ours = weighted.mean(weighted.squared_error(binary, np.column_stack([1 - predicted[:, 0], predicted[:, 0]])), w)
    assert ours[0] / 2 == pytest.approx(sklearn_metrics.brier_score_loss(binary, predicted[:, 0]))
    chance = np.array([0.05, 0.05, 0.15, 0.15, 1.0])
    came = np.array([False, True, False, False, True])
    expected = (2 * abs(0.5 - 0.05) + 2 * abs(0 - 0.15) + 0) / 5
    assert weighted.calibration_error(chance, came, np.ones((1, 5)))[0] == pytest.approx(expected)
