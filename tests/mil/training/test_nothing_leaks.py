"""What is held out is not seen, stopped on, chosen by, calibrated with or standardised by; and these tests can fail."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.mil_cohorts import (
    AGE,
    BINARY,
    COX,
    DISCRETE,
    MARKERS,
    QUICK,
    STAGE,
    STUDY,
    THREE,
    Bank,
    cohort_of,
    same,
)
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.labels_csv import read_cohort
from wsi_umedpt.mil.data.targets import asked
from wsi_umedpt.mil.training import baselines, nested_cv
from wsi_umedpt.mil.training.baselines import LINEAR, develop_baselines
from wsi_umedpt.mil.training.nested_cv import MODEL, Fold, run_fold

OPTIONS = [replace(QUICK, model="attention", dropout=0.2), replace(QUICK, model="mean-mlp", lr=0.003)]
EVERYTHING = (BINARY, THREE, STAGE, AGE, MARKERS, COX, replace(DISCRETE, name="pfs"))
HELD = np.arange(0, 30, 3)


def scrambled(cohort, rows, seed=9):
    """The same cases with other labels in some rows, of any size that a label can be."""
    rng, truth = np.random.default_rng(seed), [values.copy() for values in cohort.truth]
    for target, values in zip(cohort.targets, truth, strict=True):
        for row in rows:
            other = values[rng.integers(len(values))]
            values[row] = other * 100 + 7 if target.kind == "regression" else other
            if target.kind in ("cox", "discrete"):
                values[row, 0] = rng.random() * 1e4 + 1
    return replace(cohort, truth=tuple(truth))


def replaced(cohort, banks, rows):
    """The same slides with other features in some cases, far from all others."""
    rng, made = np.random.default_rng(8), dict(banks)
    for row in rows:
        for slide in cohort.cases[row].slides:
            made[slide] = Bank(slide, (rng.normal(size=banks[slide].features.shape) * 1e6).astype(np.float32))
    return made


@pytest.fixture
def one_penalty(monkeypatch):
    """Baselines choose none, to save time."""
    monkeypatch.setattr(baselines, "_PENALTIES", (0.03,))


@pytest.fixture
def developed(tmp_path, monkeypatch):
    """Run a fold, and give all that was learned for it: the model's files byte for byte, and the baselines."""
    kept, count = [], iter(range(1000))

    def keep(*arguments):
        kept.append(develop_baselines(*arguments))
        return kept[-1]

    monkeypatch.setattr(nested_cv, "develop_baselines", keep)

    def run(cohort, banks, held=HELD, options=OPTIONS):
        folder = tmp_path / f"run{next(count)}"
        predicted = run_fold(cohort, BagReader(banks), Fold(0, held), options, STUDY, folder / "model.json")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert len(files) == 2
        linear = {
            f"{b.name}/{n}": [b.centre, b.scale, p.weight, p.bias, p.calibration.temperature, p.calibration.thresholds]
            for b in kept[-1]
            for n, p in enumerate(b.parts)
        }
        return files, linear, predicted

    return run


def test_held_out_labels_and_features_change_nothing_that_is_learned(developed):
    """Seven targets at once, to the last byte.

    Networks, which candidate was chosen, temperatures, thresholds, conformal scores, scales, intervals, what is
    typical, and both baselines.
    """
    cohort, banks = cohort_of(*EVERYTHING, cases=30, signal=2)
    files, linear, predicted = developed(cohort, banks)
    for other, others in (
        (scrambled(cohort, HELD), banks),
        (scrambled(cohort, HELD, 3), replaced(cohort, banks, HELD)),
    ):
        again, again_linear, again_predicted = developed(other, others)
        assert again == files
        assert repr(again_linear) == repr(linear)
        assert same(again_predicted, predicted) == (others is banks)


def test_one_label_that_is_trained_on_changes_what_is_learned(developed):
    """Else the test above would prove nothing. The linear models of other targets stay where they are."""
    cohort, banks = cohort_of(BINARY, AGE, DISCRETE, cases=30, signal=2)
    files, linear, _ = developed(cohort, banks)
    for number in range(3):
        truth = [values.copy() for values in cohort.truth]
        first, middle = truth[number][1, 0], np.median(truth[number][:, 0])
        truth[number][1, 0] = 1 - first if number == 0 else 2 * middle if first < middle else middle / 9
        again, again_linear, _ = developed(replace(cohort, truth=tuple(truth)), banks)
        assert again != files
        moved = {name.rpartition("/")[2] for name in linear if repr(linear[name]) != repr(again_linear[name])}
        assert str(number) in moved
        assert len(moved) == 1 or number == 0  # by the first, inner folds are dealt for all


@pytest.mark.usefixtures("one_penalty")
def test_survival_intervals_of_a_table_are_those_of_the_training_labels(developed, tmp_path):
    """Also their number: times that tie among the held-out cases join no intervals of the others."""
    rng, files = np.random.default_rng(0), []
    _, banks = cohort_of(cases=30)
    times = rng.permutation(np.arange(1, 31))
    for change in (lambda t: t, lambda t: 3, lambda t: t * 1000):
        rows = [
            (f"c{n}s0", f"p{n}", change(t) if n in HELD else t, int(n % 5 > 0)) for n, t in enumerate(times.tolist())
        ]
        path = tmp_path / "labels.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("slide", "patient", "days", "died"), *rows])
        cohort, _ = read_cohort(path, banks, [asked("os:discrete(days,died,6)")])
        files.append(developed(cohort, banks, options=OPTIONS[:1])[0])
    assert files[0] == files[1] == files[2]


def test_held_out_slides_are_not_read_before_the_model_is_finished(tmp_path):
    """Their files could be missing until then."""
    model_file = tmp_path / "model.json"

    class Locked(Bank):
        def load(self):
            assert model_file.exists(), f"{self.slide_id} is read too early"
            return super().load()

    cohort, banks = cohort_of(cases=30, slides=2)
    held = {slide for row in HELD for slide in cohort.cases[row].slides}
    locked = {name: Locked(name, bank.features) if name in held else bank for name, bank in banks.items()}
    found = run_fold(cohort, BagReader(locked), Fold(0, HELD), OPTIONS, STUDY, model_file)
    assert len(found[f"0/{MODEL}/predicted"]) == len(HELD)
    model_file.unlink()
    with pytest.raises(AssertionError, match="is read too early"):
        run_fold(cohort, BagReader(locked), Fold(0, HELD + 1), OPTIONS, STUDY, model_file)


def test_a_prediction_is_of_its_case_alone(developed):
    """What else is held out with it, and how many, changes nothing."""
    cohort, banks = cohort_of(BINARY, AGE, cases=30, signal=2)
    _, _, predicted = developed(cohort, banks)
    _, _, again = developed(cohort, replaced(cohort, banks, HELD[1:]))
    for key, values in predicted.items():
        np.testing.assert_array_equal(again[key][0], values[0])
    assert not np.array_equal(again[f"0/{MODEL}/predicted"], predicted[f"0/{MODEL}/predicted"])


@pytest.mark.usefixtures("one_penalty")
def test_an_oracle_in_the_held_out_bags_alone_is_of_no_use():
    """A number that is the label, but only where it is held out: over sixteen draws the mean AUC is that of chance.

    For the model and for the linear baseline. Who develops on all cases finds it every time.
    """
    rows, settings = np.arange(30), [replace(QUICK, epochs=8, lr=0.02)]
    honest, linear, cheating = [], [], []
    for seed in range(16):
        cohort, banks = cohort_of(cases=30, tiles=(3, 6), seed=seed)
        label = cohort.truth[0][:, 0]
        for row in HELD:
            banks[cohort.cases[row].slides[0]].features[:, 1] = 4 * label[row] - 2
        found = run_fold(cohort, BagReader(banks), Fold(seed, HELD), settings, STUDY)
        honest.append(roc_auc_score(label[HELD], found[f"0/{MODEL}/predicted"][:, 1]))
        linear.append(roc_auc_score(label[HELD], found[f"0/{LINEAR}/predicted"][:, 1]))
        if seed < 3:  # the control: every case has it, and those that are held out are trained on
            for row in rows:
                banks[cohort.cases[row].slides[0]].features[:, 1] = 4 * label[row] - 2
            model = nested_cv.develop(cohort, BagReader(banks), settings, STUDY, (seed,))
            chance = [model.forecast([banks[cohort.cases[row].slides[0]].features])[0].predicted[1] for row in HELD]
            cheating.append(roc_auc_score(label[HELD], chance))
    for values in (honest, linear):
        assert abs(np.mean(values) - 0.5) < 3 * np.std(values) / np.sqrt(len(values)) + 0.05
        assert np.mean(values) < 0.8
    assert np.mean(cheating) > 0.95
    assert min(cheating) > 0.85


def test_a_patient_on_both_sides_is_refused():
    """Whoever dealt the folds."""
    cohort, banks = cohort_of(cases=30, patients=[f"p{n // 2}" for n in range(30)])
    with pytest.raises(MilError, match="patients would be trained on and reported: p0, "):
        run_fold(cohort, BagReader(banks), Fold(0, HELD), OPTIONS, STUDY)
