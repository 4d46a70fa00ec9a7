"""What a model must beat is what scikit-learn gives, and a guess is what was seen of the labels."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from tests.support.mil_cohorts import AGE, BINARY, COX, DISCRETE, KIND, MARKERS, STAGE, STUDY, THREE, Bank, cohort_of
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.training import baselines
from wsi_umedpt.mil.training.baselines import GUESS, LINEAR, develop_baselines, mean_of_case


def linear_of(cohort, banks, monkeypatch, penalty=0.01):
    """The linear baseline at one penalty, and the standardised mean features that it sees."""
    monkeypatch.setattr(baselines, "_PENALTIES", (penalty,))
    linear, _ = develop_baselines(cohort, BagReader(banks), STUDY, 0)
    means = np.stack([mean_of_case([banks[s].features for s in case.slides]) for case in cohort.cases])
    x = (means - means.mean(0)) / means.std(0)
    np.testing.assert_allclose(x, (means - linear.centre) * linear.scale, atol=1e-9)
    return linear.parts, x


def logits(part, x):
    return x @ part.weight + part.bias


@pytest.mark.parametrize("dim", [6, 60], ids=["fewer-numbers-than-cases", "more-numbers-than-cases"])
@pytest.mark.parametrize("penalty", [3e-4, 0.03, 3.0])
def test_classes_are_told_apart_as_by_scikit_learn(dim, penalty, monkeypatch):
    """Logistic regression at the same penalty gives the same chances to 1e-3."""
    for target, bits in ((BINARY, np.log(2)), (THREE, np.log(3))):
        cohort, banks = cohort_of(target, cases=40, dim=dim, signal=1)
        (part,), x = linear_of(cohort, banks, monkeypatch, penalty)
        theirs = LogisticRegression(C=1 / (2 * 40 * bits * penalty), max_iter=5000, tol=1e-8)
        theirs.fit(x, cohort.truth[0][:, 0].astype(int))
        z = logits(part, x)
        ours = 1 / (1 + np.exp(-z)) if target is BINARY else np.exp(z) / np.exp(z).sum(1, keepdims=True)
        np.testing.assert_allclose(ours, theirs.predict_proba(x)[:, -ours.shape[1] :], atol=1e-3)


@pytest.mark.parametrize("dim", [6, 60])
def test_values_are_those_of_ridge_regression(dim, monkeypatch):
    """On the scale of the labels."""
    cohort, banks = cohort_of(AGE, cases=40, dim=dim, signal=0.1)
    (part,), x = linear_of(cohort, banks, monkeypatch)
    y = cohort.truth[0][:, 0]
    theirs = Ridge(alpha=40 * 0.01).fit(x, (y - y.mean()) / y.std()).predict(x) * y.std() + y.mean()
    assert (part.target.centre, part.target.scale) == pytest.approx((y.mean(), y.std()))
    np.testing.assert_allclose(logits(part, x)[:, 0] * y.std() + y.mean(), theirs, rtol=1e-3)


@pytest.mark.parametrize("target", [BINARY, THREE, STAGE, AGE, MARKERS, COX, DISCRETE], ids=lambda t: t.kind)
def test_no_other_weights_cost_less(target, monkeypatch):
    """The minimum is one: of its neighbours in a hundred directions none is better."""
    cohort, banks = cohort_of(target, cases=30, signal=0.1 if target is AGE else 1)
    (part,), x = linear_of(cohort, banks, monkeypatch)
    truth, rng = cohort.truth[0], np.random.default_rng(0)

    def cost(weight, bias):
        found = baselines.loss_of(part.target, *map(baselines.torch.from_numpy, (x @ weight + bias, truth)))
        return found.item() + 0.01 * (weight**2).sum()

    least = cost(part.weight, part.bias)
    for size in (1e-3, 0.1):
        for _ in range(50):
            away = (
                part.weight + size * rng.normal(size=part.weight.shape),
                part.bias + size * rng.normal(size=part.bias.shape),
            )
            assert cost(*away) > least - 1e-6


def test_a_guess_is_what_was_seen_of_the_labels():
    """Shares of the classes and labels, the mean, and the survival of those who were seen; whatever the features."""
    targets = (BINARY, THREE, MARKERS, AGE, STAGE, COX, replace(DISCRETE, name="pfs"))
    cohort, banks = cohort_of(*targets, cases=30)
    for values in cohort.truth:
        values[:4] = np.nan
    _, guess = develop_baselines(cohort, BagReader(banks), STUDY, 0)
    rng = np.random.default_rng(0)
    first, second = (guess.forecast([rng.normal(size=(4, 6)) * s]) for s in (1, 1e6))
    known = [truth[4:] for truth in cohort.truth]
    expected = {
        "binary": [(known[0] == k).mean() for k in range(2)],
        "multiclass": [(known[1] == k).mean() for k in range(3)],
        "multilabel": known[2].mean(0),
        "regression": [known[3].mean()],
        "ordinal": [(known[4] == k).mean() for k in range(3)],
    }
    for (target, predicted, decided), (_, again, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(predicted, again)
        if target.kind in expected:
            np.testing.assert_allclose(predicted, expected[target.kind], atol=1e-4)
        if target.kind == "multiclass":
            assert expected["multiclass"][int(decided[0])] == max(expected["multiclass"])
        if target.kind == "discrete":
            alive, chance = known[6], 1.0
            for low, high, told in zip((0, *target.edges), target.edges, predicted, strict=False):
                went = ((alive[:, 0] >= low) & (alive[:, 0] < high) & (alive[:, 1] > 0)).sum()
                chance *= 1 - went / (went + (alive[:, 0] >= high).sum())
                assert told == pytest.approx(chance, abs=1e-4)


def test_a_penalty_is_chosen_on_inner_folds():
    """Large where features say nothing, small where they say all."""
    found = {}
    for signal in (0.0, 6.0):
        cohort, banks = cohort_of(cases=60, signal=signal, tiles=(20, 21))
        linear, _ = develop_baselines(cohort, BagReader(banks), STUDY, 0)
        found[signal] = np.abs(linear.parts[0].weight).sum()
    assert found[6.0] > 5 * found[0.0]


def test_units_of_features_do_not_matter():
    """Nor does a number that never varies, or is huge."""
    cohort, banks = cohort_of(cases=30, signal=2)
    plain, _ = develop_baselines(cohort, BagReader(banks), STUDY, 0)
    scale, shift = np.array([1, 1e4, 1e-3, 1, 1e20, 1], np.float32), np.array([0, 0, 0, 50, 0, 0], np.float32)
    other = {slide: Bank(slide, bank.features * scale + shift) for slide, bank in banks.items()}
    again, _ = develop_baselines(cohort, BagReader(other), STUDY, 0)
    for slide in banks:
        one, two = plain.forecast([banks[slide].features])[0], again.forecast([other[slide].features])[0]
        np.testing.assert_allclose(one[1], two[1], atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 7.0, 3e38])
def test_features_that_are_all_equal_give_a_guess(value):
    """Without a warning on the way."""
    cohort, banks = cohort_of(cases=24)
    equal = {slide: Bank(slide, np.full_like(bank.features, value)) for slide, bank in banks.items()}
    linear, guess = develop_baselines(cohort, BagReader(equal), STUDY, 0)
    bag = [equal["c0s0"].features]
    np.testing.assert_allclose(linear.forecast(bag)[0][1], guess.forecast(bag)[0][1], atol=1e-6)
    assert (linear.name, guess.name) == (LINEAR, GUESS)


@pytest.mark.parametrize("unit", ["union", "late"])
def test_a_case_of_several_slides_is_one_mean(unit):
    """Of all its tiles where they are one bag, of its slides' means where they are averaged late."""
    cohort, banks = cohort_of(cases=24, slides=2, unit=unit)
    banks["c0s0"] = Bank("c0s0", np.ones((100, 6), np.float32))
    banks["c0s1"] = Bank("c0s1", np.zeros((1, 6), np.float32))
    linear, _ = develop_baselines(cohort.only(range(12)), BagReader(banks), STUDY, 0)
    means = [
        np.concatenate([banks[s].features for s in c.slides]).mean(0)
        if unit == "union"
        else np.mean([banks[s].features.mean(0) for s in c.slides], 0)
        for c in cohort.cases[:12]
    ]
    np.testing.assert_allclose(linear.centre, np.mean(means, 0), rtol=1e-5)


def test_sites_are_kept_together_as_for_the_networks():
    """Their inner folds are the same."""
    cohort, banks = cohort_of(cases=24, sites=["N", "S"] * 12)
    with pytest.raises(MilError, match="2 sites cannot be dealt to 3 folds"):
        develop_baselines(cohort, BagReader(banks), replace(STUDY, inner_folds=3, preserve_sites=True), 0)
    assert cohort.kind == KIND
