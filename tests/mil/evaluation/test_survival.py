"""Survival is measured as the books define it: published numbers, brute force over pairs, and laws."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wsi_umedpt.mil.evaluation.survival import brier, censoring, concordance, kaplan_meier, logrank, misordered

# Remission of leukaemia in weeks (Freireich et al. 1963), the data of most textbooks: 6-MP, then placebo.
TREATED = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], float)
RELAPSED = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], float)
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], float)


def cohorts(max_size=12):
    """Small cohorts with many ties: times, events, risks."""
    one = st.tuples(st.integers(1, 5), st.integers(0, 1), st.integers(-2, 2))
    return st.lists(one, min_size=2, max_size=max_size).map(lambda rows: np.array(rows, float).T)


def test_the_leukaemia_curve_is_the_published_one():
    """Survival at relapses as in Kalbfleisch and Prentice; the log-log interval as R's survfit prints it."""
    curve = kaplan_meier(TREATED, RELAPSED)
    relapses = curve.events > 0
    assert curve.time[relapses].tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert curve.at_risk[relapses].tolist() == [21, 17, 15, 12, 11, 7, 6]
    np.testing.assert_allclose(curve.survival[relapses], [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], atol=0.0006)
    np.testing.assert_allclose([curve.low[0], curve.high[0]], [0.620, 0.952], atol=0.0006)
    last = np.flatnonzero(curve.time == 23)[0]
    np.testing.assert_allclose([curve.low[last], curve.high[last]], [0.188, 0.680], atol=0.0006)
    assert curve.median == 23
    assert kaplan_meier(PLACEBO, np.ones(21)).median == 8
    assert curve.still_at_risk([0, 6, 6.5, 10, 35, 36]).tolist() == [21, 21, 17, 15, 1, 0]


def test_the_leukaemia_log_rank_is_the_published_one():
    """Chi-squared 16.79 on one degree of freedom."""
    found = logrank(
        np.concatenate([TREATED, PLACEBO]), np.concatenate([RELAPSED, np.ones(21)]), np.repeat(["6-MP", "placebo"], 21)
    )
    assert found.statistic == pytest.approx(16.79, abs=0.005)
    assert found.p == pytest.approx(4.17e-5, rel=0.01)


@given(cohorts())
def test_the_curve_is_what_scipy_estimates(cohort):
    """Survival and log-log interval, ties and all."""
    time, event, _ = cohort
    curve = kaplan_meier(time, event)
    theirs = stats.ecdf(stats.CensoredData(uncensored=time[event == 1], right=time[event == 0])).sf
    np.testing.assert_allclose(curve.survival, theirs.probabilities, atol=1e-12)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, of intervals that are not defined
        ends = theirs.confidence_interval(method="log-log")
    inside = (curve.survival > 0) & (curve.survival < 1)
    np.testing.assert_allclose(curve.low[inside], ends.low.probabilities[inside], atol=1e-9)
    np.testing.assert_allclose(curve.high[inside], ends.high.probabilities[inside], atol=1e-9)
    assert np.isnan(curve.low[~inside]).all()


@given(cohorts(20), st.integers(0, 2**32 - 1))
def test_two_groups_are_compared_as_scipy_does(cohort, seed):
    """The statistic is the square of scipy's z."""
    time, event, _ = cohort
    group = np.random.default_rng(seed).integers(0, 2, len(time))
    found = logrank(time, event, group)
    if len({*group}) < 2 or found is None:
        return
    sides = [
        stats.CensoredData(
            uncensored=time[(group == k) & (event == 1)], right=time[(group == k) & (event == 0)]
        )
        for k in (0, 1)
    ]  # fmt: skip
    assert found.statistic == pytest.approx(stats.logrank(*sides).statistic ** 2, abs=1e-9)


def test_the_log_rank_p_is_uniform_where_groups_do_not_differ(rng):
    """Of three groups: 5 % of the tests of nothing come out below 0.05."""
    ps = []
    for _ in range(1000):
        time, limit = rng.exponential(1, 90), rng.uniform(0.3, 3, 90)
        ps.append(logrank(np.minimum(time, limit), (time <= limit).astype(float), np.arange(90) % 3).p)
    assert 0.03 < np.mean(np.array(ps) < 0.05) < 0.07
    assert stats.kstest(ps, "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    ("time", "event", "group"),
    [
        pytest.param([1, 2, 3], [1, 1, 1], [0, 0, 0], id="one-group"),
        pytest.param([1, 2, 3], [0, 0, 0], [0, 1, 1], id="no-event"),
        pytest.param([1, 1, 2, 3], [0, 0, 1, 1], [0, 0, 1, 1], id="one-group-left-before-the-first-event"),
    ],
)
def test_there_is_no_log_rank_without_anything_to_compare(time, event, group):
    """None, not a p of 1."""
    assert logrank(np.array(time, float), np.array(event, float), group) is None


def brute(time, event, risk, weight=None, fold=None, power=0, reached=None):
    """Concordance pair by pair."""
    n = len(time)
    weight = np.ones(n) if weight is None else weight
    right = pairs = 0.0
    for i in range(n):
        for j in range(n):
            outlived = time[i] < time[j] or (time[i] == time[j] and event[j] == 0)
            if i == j or not event[i] or not outlived or (fold is not None and fold[i] != fold[j]):
                continue
            w = weight[i] * weight[j] * (1 if reached is None else reached[i] ** power)
            pairs += w
            right += w * (1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0)
    return right / pairs if pairs else np.nan


@given(cohorts(), st.integers(0, 2**32 - 1))
def test_concordance_is_counted_pair_by_pair(cohort, seed):
    """With ties of times and risks, weights, and folds that are not compared."""
    time, event, risk = cohort
    draw = np.random.default_rng(seed)
    fold, weights = draw.integers(0, 2, len(time)), draw.integers(0, 3, (3, len(time))).astype(float)
    np.testing.assert_allclose(concordance(time, event, risk), brute(time, event, risk))
    found = concordance(time, event, risk, weights=weights, fold=fold)
    np.testing.assert_allclose(found, [brute(time, event, risk, w, fold) for w in weights])


@given(cohorts(), st.integers(0, 2**32 - 1))
def test_a_weight_is_so_many_copies_of_a_case(cohort, seed):
    """For both concordances and the Brier score: a resample as weights, and as rows."""
    time, event, risk = cohort
    times = np.random.default_rng(seed).integers(0, 3, len(time))
    if not times.any():
        return
    rows, w = np.repeat(np.arange(len(time)), times), times[None].astype(float)
    survival, edges = np.abs(risk[:, None]) / 3 * np.array([1, 0.5]), np.array([2.0, 3.5])
    for ipcw in (False, True):
        copied = concordance(time[rows], event[rows], risk[rows], ipcw=ipcw)
        np.testing.assert_allclose(concordance(time, event, risk, weights=w, ipcw=ipcw), copied)
    np.testing.assert_allclose(
        brier(time, event, survival, edges, w), brier(time[rows], event[rows], survival[rows], edges)
    )


def test_blocks_of_pairs_give_the_same(monkeypatch, rng):
    """However many cases a block holds."""
    time, event, risk = rng.integers(1, 20, 50).astype(float), rng.integers(0, 2, 50), rng.normal(size=50)
    fold = rng.integers(0, 3, 50)
    whole = concordance(time, event, risk, fold=fold, ipcw=True), misordered(time, event, risk, fold)
    monkeypatch.setattr("wsi_umedpt.mil.evaluation.survival._ROWS", 7)
    np.testing.assert_allclose(concordance(time, event, risk, fold=fold, ipcw=True), whole[0])
    np.testing.assert_allclose(misordered(time, event, risk, fold), whole[1])


def test_without_censoring_both_concordances_are_one(rng):
    """Nothing is to be made independent of."""
    time, event, risk = rng.exponential(size=40), np.ones(40), rng.normal(size=40)
    np.testing.assert_allclose(concordance(time, event, risk), concordance(time, event, risk, ipcw=True))


def test_unos_concordance_weighs_by_the_curve_of_censoring(rng):
    """Pair by pair, with the Kaplan-Meier curve of censoring just before the event."""
    time = rng.exponential(size=30)
    event, risk = (rng.random(30) < 0.6).astype(float), rng.normal(size=30)
    flipped = kaplan_meier(time, 1 - event)  # no ties: the curve of censoring is that of flipped events
    before = np.append(1, flipped.survival)[np.searchsorted(flipped.time, time)]
    np.testing.assert_allclose(censoring(time, event, np.ones((1, 30)))[0], before)
    expected = brute(time, event, risk, power=-2, reached=before)
    np.testing.assert_allclose(concordance(time, event, risk, ipcw=True), expected)


def test_unos_concordance_does_not_depend_on_how_long_cases_were_followed(rng):
    """Under heavy censoring Harrell's drifts from that of everything; Uno's stays, where censoring is at random."""
    n = 4000
    hazard = rng.normal(size=n)
    time = rng.exponential(np.exp(-hazard))
    limit = rng.exponential(0.5, n)
    short, seen = np.minimum(time, limit), (time <= limit).astype(float)
    horizon = np.quantile(short, 0.97)
    seen_by_then = seen * (short <= horizon)
    truth = concordance(time, (time <= horizon).astype(float), hazard)[0]
    assert abs(concordance(short, seen_by_then, hazard, ipcw=True)[0] - truth) < 0.01
    assert concordance(short, seen_by_then, hazard)[0] > truth + 0.01


@pytest.mark.parametrize(
    ("risk", "expected"),
    [
        pytest.param([4, 3, 2, 1], 1.0, id="perfect"),
        pytest.param([1, 2, 3, 4], 0.0, id="reversed"),
        pytest.param([1, 1, 1, 1], 0.5, id="constant"),
    ],
)
def test_concordance_of_known_orders(risk, expected):
    """Higher risk is sooner."""
    assert concordance(np.arange(4.0), np.ones(4), np.array(risk, float)) == expected


def test_concordance_is_not_defined_without_a_pair():
    """None had the event, or only the last."""
    assert np.isnan(concordance(np.arange(4.0), np.zeros(4), np.arange(4.0))[0])
    assert np.isnan(concordance(np.arange(4.0), np.array([0, 0, 0, 1.0]), np.arange(4.0))[0])


@given(cohorts(), st.integers(0, 2**32 - 1))
def test_misordered_pairs_of_each_case(cohort, seed):
    """Counted pair by pair; over all cases they are what concordance lacks to 1."""
    time, event, risk = cohort
    fold = np.random.default_rng(seed).integers(0, 2, len(time))
    n = len(time)
    wrong, pairs = np.zeros((2, n))
    for i in range(n):
        for j in range(n):
            outlived = time[i] < time[j] or (time[i] == time[j] and event[j] == 0)
            if i != j and event[i] and outlived and fold[i] == fold[j]:
                cost = 0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 1
                wrong[[i, j]] += cost
                pairs[[i, j]] += 1
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(misordered(time, event, risk, fold), wrong / pairs)


def test_without_censoring_brier_is_a_mean_of_squares(rng):
    """Of predicted survival to the edge, and whether it came."""
    time, survival = rng.exponential(size=25), rng.random((25, 2))
    found = brier(time, np.ones(25), survival, np.array([0.5, 1.0]))
    expected = [np.mean((survival[:, k] - (time > edge)) ** 2) for k, edge in enumerate((0.5, 1.0))]
    np.testing.assert_allclose(found[0], expected)


def test_brier_leans_on_censoring_at_random(rng):
    """The true survival scores about the same with and without censoring, and better than any other."""
    n, edges = 6000, np.array([0.4, 0.9])
    rate = np.exp(rng.normal(size=n))
    time, limit = rng.exponential(1 / rate), rng.exponential(1.2, n)
    survival = np.exp(-rate[:, None] * edges)
    whole = brier(time, np.ones(n), survival, edges)[0]
    seen = np.minimum(time, limit), (time <= limit).astype(float)
    np.testing.assert_allclose(brier(*seen, survival, edges)[0], whole, atol=0.012)
    assert (brier(*seen, np.broadcast_to(survival.mean(axis=0), survival.shape), edges)[0] > whole + 0.01).all()


def test_brier_is_not_defined_where_nobody_was_followed_to_the_edge():
    """All censored before it."""
    assert np.isnan(brier(np.array([1.0, 2.0]), np.zeros(2), np.full((2, 1), 0.5), np.array([5.0]))[0, 0])
