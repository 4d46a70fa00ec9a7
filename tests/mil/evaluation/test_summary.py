"""Figures of a study are scikit-learn's, means over the seeds; what is not defined is None, and said."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from tests.support.mil_studies import simulated
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.evaluation.metric_table import FIGURES, HEADLINE
from wsi_umedpt.mil.evaluation.summary import Figure, measure, plain

KINDS = ["binary", "multiclass", "ordinal", "multilabel", "regression", "cox", "discrete"]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal"])
def test_figures_of_classes_are_means_over_seeds_of_scikit_learns(kind):
    """Every figure of a study with one fold, where pairs of one fold are all pairs."""
    study = simulated(kind, 90, seeds=3, folds=1, skill=0.6, unknown=4)
    known = ~np.isnan(study.truth[:, 0])
    truth, model = study.truth[known, 0].astype(int), study.arms[0]

    def each(figure):
        return np.mean([figure(model.predicted[k, known], model.decided[k, known, 0].astype(int)) for k in range(3)])

    if kind == "binary":
        expected = {
            "roc_auc": each(lambda p, d: metrics.roc_auc_score(truth, p[:, 1])),
            "average_precision": each(lambda p, d: metrics.average_precision_score(truth, p[:, 1])),
            "sensitivity": each(lambda p, d: metrics.recall_score(truth, d)),
            "specificity": each(lambda p, d: metrics.recall_score(truth, d, pos_label=0)),
            "brier": each(lambda p, d: metrics.brier_score_loss(truth, p[:, 1])),
        }
    else:
        one_hot = np.eye(len(study.target.classes))[truth]
        expected = {
            "roc_auc": each(lambda p, d: metrics.roc_auc_score(truth, p, multi_class="ovr")),
            "average_precision": each(lambda p, d: metrics.average_precision_score(one_hot, p)),
            "brier": each(lambda p, d: ((p - one_hot) ** 2).sum(axis=1).mean()),
        }
    expected |= {
        "accuracy": each(lambda p, d: metrics.accuracy_score(truth, d)),
        "balanced_accuracy": each(lambda p, d: metrics.balanced_accuracy_score(truth, d)),
        "macro_f1": each(lambda p, d: metrics.f1_score(truth, d, average="macro")),
        "log_loss": each(lambda p, d: metrics.log_loss(truth, p)),
        "coverage": np.mean(model.sets[:, known][:, np.arange(known.sum()), truth]),
    }
    if kind == "ordinal":
        expected["quadratic_kappa"] = each(lambda p, d: metrics.cohen_kappa_score(truth, d, weights="quadratic"))
    found = measure(study, resamples=20)
    assert found.cases == 86
    for name, value in expected.items():
        assert found.model.figures[name].value == pytest.approx(value), name
        assert np.mean(found.model.figures[name].by_seed) == pytest.approx(value)
    assert found.model.figures["roc_auc_pooled"].value == pytest.approx(found.model.figures["roc_auc"].value)
    of_class = [metrics.recall_score(truth, model.decided[k, known, 0], average=None) for k in range(3)]
    ours = [c.figures["sensitivity"].value for c in found.model.classes]
    np.testing.assert_allclose(ours, np.mean(of_class, axis=0))
    np.testing.assert_allclose(np.sum(found.model.confusion, axis=1), np.bincount(truth))


def test_labels_are_measured_each_on_the_cases_that_have_them():
    """A label that is unknown of a case does not take the case from the other labels."""
    study = simulated("multilabel", 80, seeds=1, folds=1, skill=0.5)
    study.truth[:10, 0] = np.nan
    study.truth[5:9, 2] = np.nan
    found = measure(study, resamples=20)
    areas = []
    for k, one in enumerate(found.model.classes):
        known = ~np.isnan(study.truth[:, k])
        areas.append(metrics.roc_auc_score(study.truth[known, k], study.arms[0].predicted[0, known, k]))
        assert one.figures["roc_auc"].value == pytest.approx(areas[-1])
        assert one.cases == np.nansum(study.truth[:, k])
    assert found.model.figures["roc_auc"].value == pytest.approx(np.mean(areas))
    assert found.cases == 80


def test_intervals_of_a_value_are_measured():
    """How often they hold the truth, and how wide they are; baselines make none."""
    study = simulated("regression", 60, seeds=2, unknown=4)
    known = ~np.isnan(study.truth[:, 0])
    truth, intervals = study.truth[known, 0], study.arms[0].intervals[:, known]
    intervals[1, :, 1] += 3
    study.arms[0].intervals[:, known] = intervals
    found = measure(study, resamples=20)
    held = (intervals[..., 0] <= truth) & (truth <= intervals[..., 1])
    assert 0.05 < held.mean() < 0.95
    assert found.model.figures["coverage"].value == pytest.approx(held.mean())
    assert found.model.figures["interval_width"].value == pytest.approx(21.5)
    assert not {"coverage", "interval_width"} & {*found.arms[1].figures}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_goes_to_json_and_says_no_nan(kind):
    """For every kind of target; the headline figure stands there with an interval around it."""
    found = measure(simulated(kind, 60, unknown=3), resamples=200)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(found.model.figures) <= set(FIGURES)
    one = told["arms"][0]["figures"][HEADLINE[kind]]
    assert one["low"] <= one["value"] <= one["high"]
    assert told["target"]["kind"] == kind
    assert {d["baseline"] for d in told["differences"]} == {"mean + logistic regression", "majority"}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_figures(kind):
    """To the last bit."""
    study = simulated(kind, 40)
    first, second = (measure(study, resamples=50, seed=3).to_dict() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["binary", "multiclass", "cox"])
def test_the_order_of_cases_does_not_matter(kind):
    """Figures are of cases, not of rows."""
    study = simulated(kind, 50, seeds=2)
    order = np.random.default_rng(1).permutation(50)
    turned = replace(
        study,
        case_ids=tuple(study.case_ids[i] for i in order),
        patients=tuple(study.patients[i] for i in order),
        truth=study.truth[order],
        fold=study.fold[:, order],
        arms=tuple(
            replace(a, predicted=a.predicted[:, order], decided=a.decided[:, order], sets=None, unlike=None)
            for a in study.arms
        ),
    )
    values = measure(study, resamples=20).model.figures
    for name, figure in measure(turned, resamples=20).model.figures.items():
        assert figure.value == pytest.approx(values[name].value), name


@pytest.mark.parametrize(
    ("skill", "expected"),
    [
        pytest.param("perfect", {"roc_auc": 1, "average_precision": 1, "accuracy": 1, "macro_f1": 1}, id="perfect"),
        pytest.param("reversed", {"roc_auc": 0, "accuracy": 0, "sensitivity": 0, "specificity": 0}, id="reversed"),
        pytest.param("constant", {"roc_auc": 0.5, "balanced_accuracy": 0.5, "roc_auc_pooled": 0.5}, id="constant"),
    ],
)
def test_predictions_of_known_worth(skill, expected):
    """Perfect, exactly wrong, and the same for all."""
    study = simulated("binary", 40, seeds=1)
    truth = study.truth[:, 0]
    chance = {"perfect": truth, "reversed": 1 - truth, "constant": np.full(40, 0.3)}[skill]
    arm = replace(
        study.arms[0],
        predicted=np.stack([1 - chance, chance], axis=-1)[None],
        decided=(chance >= 0.5).astype(float)[None, :, None],
        sets=None,
    )
    figures = measure(replace(study, arms=(arm,)), resamples=20).model.figures
    assert {name: figures[name].value for name in expected} == expected
    assert np.isfinite(figures["log_loss"].value)


def test_a_predictor_that_knows_nothing_but_the_share_of_its_training_cases_is_at_chance():
    """Pooled, it would be below: a fold with more positives has fewer of them outside it."""
    study = simulated("binary", 100, seeds=1, folds=5)
    chance = np.empty(100)
    for fold in range(5):
        chance[study.fold[0] == fold] = study.truth[study.fold[0] != fold, 0].mean()
    arm = replace(study.arms[2], predicted=np.stack([1 - chance, chance], axis=-1)[None])
    figures = measure(replace(study, arms=(arm,)), resamples=20).model.figures
    assert figures["roc_auc"].value == 0.5
    assert figures["roc_auc_pooled"].value < 0.5


def test_folds_of_one_class_do_not_break_what_is_measured():
    """They add no pair; where all folds are of one class, order is not defined and the rest still is."""
    study = simulated("binary", 60, seeds=1)
    study.fold[0] = np.where(study.truth[:, 0] == 1, 0, np.arange(60) % 2)
    some = measure(study, resamples=100).model.figures
    assert 0 <= some["roc_auc"].value <= 1
    study.fold[0] = study.truth[:, 0]
    none = measure(study, resamples=100).model.figures
    assert none["roc_auc"].value is None
    assert none["roc_auc"].undefined == 100
    assert none["roc_auc_pooled"].value is not None
    assert none["accuracy"].low is not None


def test_a_class_that_no_case_has_is_left_out_and_resamples_without_a_class_are_counted():
    """A mean over classes is over those that occur; a resample that lacks one is not averaged over fewer."""
    study = simulated("multiclass", 60, seeds=1, skill=0.8, classes=("a", "b", "never", "rare"))
    truth = study.truth[:, 0]
    truth[truth == 2] = 0
    truth[truth == 3] = 1
    truth[:2] = 3
    found = measure(study, resamples=1000)
    one = found.model.figures["balanced_accuracy"]
    assert 0.08 < one.undefined / 1000 < 0.2  # (1 - 2/60)^60 = 0.13
    assert one.low is not None
    assert found.model.classes[2].figures["sensitivity"].value is None
    assert found.model.classes[2].cases == 0
    present = [found.model.classes[k].figures["sensitivity"].value for k in (0, 1, 3)]
    assert one.value == pytest.approx(np.mean(present))


def test_a_study_draws_patients_too():
    """Through `measure`: the same cases with and without the knowledge whose they are."""
    study = simulated("binary", 120, slides_a_patient=4, skill=0.8, seeds=1)
    known = measure(study, resamples=400).model.figures["roc_auc"]
    unknown = measure(replace(study, patients=study.case_ids), resamples=400).model.figures["roc_auc"]
    assert known.value == unknown.value
    assert known.high - known.low > 1.3 * (unknown.high - unknown.low)


def test_an_arm_is_not_better_than_itself():
    """A difference of 0 in every resample, and a p of 1."""
    study = simulated("binary", 40)
    copy = replace(study.arms[0], arm="copy")
    found = measure(replace(study, arms=(study.arms[0], copy)), resamples=100)
    one = found.difference("copy", "roc_auc")
    assert (one.value, one.low, one.high, one.p) == (0, 0, 0, 1)


def test_a_difference_is_of_the_same_patients():
    """Two arms that err alike differ by a narrow interval, though each of their own is wide."""
    study = simulated("binary", 60, skill=0.6, seeds=1)
    model = study.arms[0]
    jitter = np.clip(model.predicted[..., 1] + np.random.default_rng(0).normal(0, 0.01, (1, 60)), 0, 1)
    twin = replace(model, arm="twin", predicted=np.stack([1 - jitter, jitter], axis=-1))
    found = measure(replace(study, arms=(model, twin)), resamples=400)
    one, own = found.difference("twin", "roc_auc"), found.model.figures["roc_auc"]
    assert one.high - one.low < 0.3 * (own.high - own.low)
    assert one.low <= 0 <= one.high


def test_calibration_error_has_no_interval():
    """Drawn twice, cases look worse calibrated than they are."""
    figures = measure(simulated("binary", 60), resamples=50).model.figures
    assert figures["calibration_error"].value is not None
    assert figures["calibration_error"].low is None


def test_sites_sets_and_what_is_unlike():
    """Each site has its own figure; coverage and the share that is unlike are shares of cases."""
    study = simulated("binary", 100, seeds=2)
    study.arms[0].unlike[:] = np.where(np.arange(100) < 10, 0.01, 0.5)
    found = measure(study, resamples=200)
    assert [(s.site, s.cases) for s in found.sites] == [("North", 50), ("South", 50)]
    assert found.unlike.value == pytest.approx(0.1)
    assert found.unlike.low < 0.1 < found.unlike.high
    sets = study.arms[0].sets
    assert found.model.figures["set_size"].value == pytest.approx(sets.sum(axis=2).mean())
    assert found.difference("majority", "coverage") is None
    assert measure(replace(study, sites=("",) * 100), resamples=20).sites == ()


def test_patients_in_several_folds_are_counted():
    """They were not unseen; the report says so."""
    study = simulated("binary", 40, slides_a_patient=2, seeds=2)
    assert measure(study, resamples=20).patients_in_several_folds == 0
    study.fold[1, 0] = (study.fold[1, 1] + 1) % 5
    assert measure(study, resamples=20).patients_in_several_folds == 1


@pytest.mark.parametrize("kind", ["cox", "discrete"])
def test_higher_and_lower_risk_are_patients(kind):
    """Cases of a patient are one in the curves and their test; risk is ranked within the fold."""
    study = simulated(kind, 120, slides_a_patient=2)
    found = measure(study, resamples=20)
    assert found.patients == 60
    assert found.events == study.truth[::2, 1].sum()
    assert found.logrank.p < 0.01
    if kind == "cox":
        shifted = replace(study.arms[0], predicted=study.arms[0].predicted + 100 * study.fold[..., None])
        moved = measure(replace(study, arms=(shifted,)), resamples=20)
        assert moved.logrank == found.logrank
        assert moved.model.figures["c_index"] == found.model.figures["c_index"]


def test_survival_without_an_event_is_measured_as_not_defined():
    """No figure, no test of groups, no failure."""
    study = simulated("cox", 30)
    study.truth[:, 1] = 0
    found = measure(study, resamples=50)
    assert found.model.figures["c_index"].value is None
    assert found.logrank is None
    assert found.events == 0


def test_five_hundred_cases_of_three_seeds_take_seconds():
    """2,000 resamples of three arms."""
    study = simulated("binary", 500, seeds=3)
    start = time.process_time()
    measure(study)
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda s: replace(s, truth=s.truth * np.nan), "none of its 30 cases has a", id="truth"),
        pytest.param(lambda s: replace(s, truth=s.truth + 5), "truth holds other than 0 to 1", id="index"),
        pytest.param(lambda s: replace(s, fold=s.fold[:1]), r"fold has shape \(1, 30\), expected \(2, 30\)", id="fold"),
        pytest.param(lambda s: replace(s, arms=()), "arms are one or more", id="no-arm"),
        pytest.param(lambda s: replace(s, arms=s.arms[:1] * 2), "arms are one or more of different", id="twice"),
        pytest.param(
            lambda s: replace(s, arms=(replace(s.arms[0], predicted=s.arms[0].predicted * np.nan),)),
            "gated attention predicted nothing",
            id="nan",
        ),
        pytest.param(
            lambda s: replace(s, arms=(replace(s.arms[0], predicted=s.arms[0].predicted * 7),)),
            "outside 0 to 1",
            id="chance",
        ),
        pytest.param(
            lambda s: replace(s, arms=(replace(s.arms[0], decided=s.arms[0].decided + 0.5),)),
            "decided other than",
            id="decided",
        ),
    ],
)  # fmt: skip
def test_a_study_that_does_not_hold_together_is_refused(change, said):
    """With what was found and what was expected."""
    with pytest.raises(MilError, match=said):
        measure(change(simulated("binary", 30)))


def test_survival_of_negative_times_is_refused():
    """A date before the diagnosis is an error of the table."""
    study = simulated("cox", 30)
    study.truth[3, 0] = -2
    with pytest.raises(MilError, match="negative times"):
        measure(study)


def test_plain_values():
    """What JSON cannot hold becomes None or text."""
    figure = Figure(value=1.0, low=None, high=float("inf"), undefined=0, by_seed=(np.nan,))
    told = plain({"f": figure, "a": np.array([1.0, np.nan]), "n": np.int64(3), "p": KINDS[:1], "t": Target})
    assert told["f"] == {"value": 1.0, "low": None, "high": None, "undefined": 0, "by_seed": [None]}
    assert told["a"] == [1.0, None]
    assert told["n"] == 3
    assert isinstance(told["t"], str)
