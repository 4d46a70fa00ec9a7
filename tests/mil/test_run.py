"""A whole study: every case predicted once a seed, gone on with where it stopped, and nobody else's."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.mil_cohorts import (
    AGE,
    BINARY,
    COX,
    DISCRETE,
    MARKERS,
    QUICK,
    STAGE,
    THREE,
    Bank,
    cohort_of,
    same,
    tensors_of,
)
from wsi_umedpt.errors import MilError, StoreBusyError
from wsi_umedpt.mil import run
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.evaluation.validation import check_study
from wsi_umedpt.mil.run import run_study
from wsi_umedpt.mil.settings import StudySettings
from wsi_umedpt.mil.training import baselines, ensemble, nested_cv
from wsi_umedpt.mil.training.baselines import GUESS, LINEAR
from wsi_umedpt.mil.training.compute import Compute
from wsi_umedpt.mil.training.nested_cv import MODEL, cross_validate, splits_of
from wsi_umedpt.mil.training.parallel import in_parallel
from wsi_umedpt.store.write_lock import locked

STUDY = StudySettings(folds=3, inner_folds=2, seeds=(0, 4))
ONE_SEED = replace(STUDY, seeds=(0,))


def arrays_of(studies):
    """All numbers of all studies, by name."""
    found = {}
    for study in studies:
        found |= {f"{study.target.name}/truth": study.truth, f"{study.target.name}/fold": study.fold}
        for arm in study.arms:
            for what in ("predicted", "decided", "sets", "unlike"):
                if (values := getattr(arm, what)) is not None:
                    found[f"{study.target.name}/{arm.arm}/{what}"] = values
    return found


@pytest.fixture
def one_penalty(monkeypatch):
    """Baselines choose none, to save time."""
    monkeypatch.setattr(baselines, "_PENALTIES", (0.03,))


@pytest.fixture
def folds_run(monkeypatch, one_penalty):
    """Counts the folds that are developed."""
    done = []

    def counted(*arguments):
        done.append(arguments)
        return original(*arguments)

    original = nested_cv.run_fold
    monkeypatch.setattr(nested_cv, "run_fold", counted)
    return done


class StopError(Exception):
    """The power goes."""


def stopping(after):
    def told(done, _):
        if done == after:
            raise StopError

    return told


# ------------------------------------------------------------------ a study


@pytest.mark.usefixtures("one_penalty")
@pytest.mark.parametrize(
    ("unit", "targets"),
    [("slide", (BINARY, THREE, AGE)), ("union", (STAGE, MARKERS)), ("late", (COX, replace(DISCRETE, name="pfs")))],
)
def test_every_case_is_predicted_once_a_seed(tmp_path, unit, targets):
    """By three arms, for every kind of target: whole arrays that can be measured, also where labels are missing."""
    slides = 1 if unit == "slide" else 2
    cohort, banks = cohort_of(*targets, cases=45, slides=slides, unit=unit, signal=2)
    cohort.truth[-1][:3] = np.nan
    studies = cross_validate(cohort, BagReader(banks), [QUICK], STUDY, tmp_path)
    assert [s.target.name for s in studies] == [t.name for t in targets]
    for study in studies:
        check_study(study)
        assert [arm.arm for arm in study.arms] == [MODEL, LINEAR, GUESS]
        assert study.seeds == (0, 4)
        for folds in study.fold:
            assert {*np.bincount(folds).tolist()} == {15}
        for arm in study.arms:
            assert np.isfinite(arm.predicted).all()
            assert (arm.arm == MODEL) == (arm.unlike is not None)
            assert (arm.arm == MODEL and study.target == AGE) == (arm.intervals is not None)
            if arm.intervals is not None:  # around what was predicted, as wide as its own fold learned
                np.testing.assert_allclose(arm.intervals.mean(-1), arm.predicted[..., 0])
                widths = np.round(np.diff(arm.intervals)[..., 0], 9)
                of_fold = [{*widths[k, f == n]} for k, f in enumerate(study.fold) for n in np.unique(f)]
                assert [len(each) for each in of_fold] == [1] * len(of_fold)
            if study.target.kind in ("binary", "multiclass", "ordinal", "discrete"):
                assert (arm.predicted.min() >= -1e-9, arm.predicted.max() <= 1 + 1e-9) == (True, True)
        assert study.tiles.tolist() == [sum(banks[s].tiles for s in c.slides) for c in cohort.cases]
        assert study.slides.tolist() == [slides] * 45
    assert studies[-1].notes == (f"3 cases have no label of {targets[-1].name}",)
    assert not np.array_equal(studies[0].arms[0].predicted[0], studies[0].arms[0].predicted[1])


def test_survival_is_compared_at_the_same_moments():
    """Between the edges of the fold's own labels, and where none is beyond, survival rises no more."""
    ours = replace(DISCRETE, edges=(4.0, 10.0, 90.0))
    theirs = replace(DISCRETE, edges=(2.0, 6.0))
    found = nested_cv._on_grid(ours, theirs, np.array([0.8, 0.4]))
    np.testing.assert_allclose(found, [0.6, 0.4, 0.4])
    np.testing.assert_array_equal(nested_cv._on_grid(AGE, AGE, np.array([3.0])), [3.0])


def test_a_candidate_is_chosen_by_its_inner_loss():
    """The least of them; a candidate that has not learned is not kept, wherever it stands."""
    cohort, banks = cohort_of(cases=30, signal=3, tiles=(10, 11))
    idle, good = replace(QUICK, lr=1e-9), replace(QUICK, epochs=10, lr=0.05)
    for options in ([idle, good], [good, idle]):
        model = ensemble.develop(cohort, BagReader(banks), options, STUDY, (0,))
        losses = [tried["inner_loss"] for tried in model.about["tried"]]
        assert losses[options.index(good)] == min(losses)
        assert model.about["settings"]["lr"] == good.lr


CURVES = st.lists(st.lists(st.floats(0, 3), min_size=1, max_size=6), min_size=2, max_size=5)


@given(CURVES, st.lists(st.floats(0, 3), min_size=1, max_size=6), st.integers(1, 9))
def test_a_fold_is_answered_at_an_epoch_it_did_not_choose(curves, other, size):
    """Another stopping loss of its own moves the epoch only where its training ended before it."""
    sizes = [size, *range(1, len(curves))]
    found = ensemble.epoch_of_others(curves, sizes, 0)
    again = ensemble.epoch_of_others([other, *curves[1:]], sizes, 0)
    assert min(found, len(other) - 1) == min(again, len(curves[0]) - 1)


@pytest.mark.parametrize(
    ("curves", "sizes", "epoch"),
    [
        pytest.param([[1, 1, 1], [3, 2, 1], [1, 2, 2]], [5, 1, 1], 2, id="mean"),
        pytest.param([[1, 1, 1], [3, 2, 1], [1, 2, 4]], [5, 1, 9], 0, id="by-cases"),
        pytest.param([[1, 1], [3, 2, 1]], [5, 1], 1, id="ended-before"),
        pytest.param([[1, 1, 1], [0, 0, 0]], [5, 1], 2, id="nothing-known"),
        pytest.param([[1, 1, 1], [3, 1], [3, 1, 1]], [5, 1, 1], 2, id="the-last-of-equals"),
    ],
)
def test_the_epoch_of_the_other_folds(curves, sizes, epoch):
    """Where they lose least together; the last loss of one that ended early stands for the rest."""
    assert ensemble.epoch_of_others(curves, sizes, 0) == epoch


def test_scores_and_inner_loss_are_of_that_epoch(monkeypatch):
    """Of the logits that each case got while it was held out there."""
    kept = []

    def keep(*arguments, **more):
        kept.append((arguments, original(*arguments, **more)))
        return kept[-1][1]

    original = ensemble.fit
    monkeypatch.setattr(ensemble, "fit", keep)
    cohort, banks = cohort_of(cases=24, signal=1)
    model = ensemble.develop(
        cohort, BagReader(banks), [replace(QUICK, epochs=9, lr=0.05)], replace(STUDY, inner_folds=3), (0,)
    )
    curves, sizes = [[b for _, b in made.history] for _, made in kept], [len(stop) for (_, stop, *_), _ in kept]
    epochs = [ensemble.epoch_of_others(curves, sizes, k) for k in range(3)]
    logits = np.concatenate([made.answers[e][:, 0] for e, (_, made) in zip(epochs, kept, strict=True)])
    truth = np.concatenate([stop.truth[0][:, 0] for (_, stop, *_), _ in kept])
    chance = 1 / (1 + np.exp(-logits / model.calibrations[0].temperature))
    np.testing.assert_allclose(model.calibrations[0].nonconformity, np.sort(np.where(truth == 1, 1 - chance, chance)))
    expected = np.average([c[e] for c, e in zip(curves, epochs, strict=True)], weights=sizes)
    assert model.about["tried"][0]["inner_loss"] == pytest.approx(expected)


def test_the_ensemble_has_a_network_an_inner_fold_and_seed():
    """Each of its own random numbers; the calibration has each case once."""
    cohort, banks = cohort_of(cases=24)
    model = ensemble.develop(cohort, BagReader(banks), [QUICK], replace(STUDY, inner_folds=3), (0, 4))
    assert len(model.networks) == 6
    assert len({str(n.state_dict()) for n in model.networks}) == 6
    assert len(model.calibrations[0].nonconformity) == 24
    assert model.about["trained_on"] == {
        "cases": 24, "patients": 24, "slides": 24, "unit": "slide", "cohort_sha256": cohort.fingerprint,
    }  # fmt: skip


# ------------------------------------------------------------------ stopped and gone on with


def test_a_study_that_was_stopped_goes_on(tmp_path, folds_run):
    """Equal bit for bit to one that was not, and what was finished is not done again."""
    cohort, banks = cohort_of(BINARY, AGE, cases=24, signal=2)
    whole = run_study(cohort, BagReader(banks), [QUICK], STUDY, tmp_path / "whole")
    assert len(folds_run) == 6
    for after in (2, 5):
        with pytest.raises(StopError):
            run_study(
                cohort,
                BagReader(banks),
                [QUICK],
                STUDY,
                tmp_path / "stopped",
                compute=Compute(fold_done=stopping(after)),
            )
    assert len(folds_run) == 6 + 5
    told = []
    again = run_study(
        cohort,
        BagReader(banks),
        [QUICK],
        STUDY,
        tmp_path / "stopped",
        compute=Compute(fold_done=lambda *a: told.append(a)),
    )
    assert len(folds_run) == 6 + 6
    assert told == [(n, 7) for n in range(1, 8)]
    assert same(arrays_of(again.studies), arrays_of(whole.studies))
    assert same(tensors_of(again.model), tensors_of(whole.model))
    files = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole").rglob("*.json")}
    assert len(files) == 6 + 2
    for name, content in files.items():
        assert (tmp_path / "stopped" / name).read_bytes() == content


def test_a_finished_study_is_only_read(tmp_path, folds_run, monkeypatch):
    """Nothing is trained once more, the model to use neither."""
    cohort, banks = cohort_of(cases=24)
    first = run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "run", notes=["so it is"])
    monkeypatch.setattr(run, "develop", lambda *_, **__: pytest.fail("the model is trained again"))
    again = run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "run", notes=["so it is"])
    assert len(folds_run) == 3
    assert same(arrays_of(again.studies), arrays_of(first.studies))
    assert again.about["notes"] == ["so it is"]


@pytest.mark.parametrize("damage", ["cut", "emptied", "no-archive", "flipped", "no-model"])
def test_a_damaged_fold_is_done_again(tmp_path, folds_run, damage):
    """And gives what it gave; so is the model to use."""
    cohort, banks = cohort_of(cases=24)
    first = run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "run")
    path = tmp_path / "run" / "folds" / "seed0_fold1.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    if damage == "no-model":
        path.with_suffix(".json").unlink()
    else:
        path.write_bytes({"cut": content[:-60], "emptied": b"", "no-archive": b"x" * 99, "flipped": content}[damage])
    (tmp_path / "run" / "model.json").write_text("{}")
    again = run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "run")
    assert len(folds_run) == 4
    assert same(arrays_of(again.studies), arrays_of(first.studies))
    assert same(tensors_of(again.model), tensors_of(first.model))


@pytest.mark.parametrize(
    "change", ["settings", "label", "coverage", "features", "tiles", "patient", "splits", "nothing", "other-seeds"]
)
def test_folds_of_another_study_are_not_taken(tmp_path, folds_run, change):
    """Whatever is different; the same folds of the same cases are not done again for another number of seeds."""
    cohort, banks = cohort_of(cases=24)
    options, study = [QUICK], ONE_SEED
    cross_validate(cohort, BagReader(banks), options, study, tmp_path)
    first = cohort.cases[0]
    match change:
        case "settings":
            options = [replace(QUICK, dropout=0.01)]
        case "label":
            truth = cohort.truth[0].copy()
            truth[5] = 1 - truth[5]
            cohort = replace(cohort, truth=(truth,))
        case "coverage":
            study = replace(study, coverage=0.8)
        case "features":
            cohort = replace(cohort, kind=replace(cohort.kind, weights_sha256="ab"))
        case "tiles":
            banks["c0s0"] = Bank("c0s0", np.zeros((99, 6), np.float32))
        case "patient":
            cohort = replace(cohort, cases=(replace(first, patient="q"), *cohort.cases[1:]))
        case "splits":
            cohort = replace(cohort, cases=tuple(replace(c, fold=f"{n % 3}") for n, c in enumerate(cohort.cases)))
        case "other-seeds":
            study = replace(study, seeds=(0, 1))
    cross_validate(cohort, BagReader(banks), options, study, tmp_path)
    assert len(folds_run) - 3 == {"nothing": 0}.get(change, 3)


def test_two_processes_predict_what_one_does(tmp_path):
    """To 1e-5; and a fold that was done by either is taken by the other."""
    cohort, banks = cohort_of(BINARY, AGE, cases=24, signal=2)
    told = []
    one = run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "one")
    two = run_study(
        cohort,
        BagReader(banks),
        [QUICK],
        ONE_SEED,
        tmp_path / "two",
        compute=Compute(jobs=2, fold_done=lambda *a: told.append(a)),
    )
    ours, theirs = arrays_of(one.studies), arrays_of(two.studies)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(theirs[name].astype(float), values.astype(float), atol=1e-5)
    assert told == [(n, 4) for n in range(1, 5)]
    for forecast, other in zip(*(r.model.forecast([banks["c0s0"].features]) for r in (one, two)), strict=True):
        np.testing.assert_allclose(forecast.predicted, other.predicted, atol=1e-5)


# ------------------------------------------------------------------ the folder


def test_another_studys_folder_is_refused_with_what_differs(tmp_path):
    """And left as it is."""
    cohort, banks = cohort_of(cases=24)
    with pytest.raises(StopError):
        run_study(cohort, BagReader(banks), [QUICK], STUDY, tmp_path / "run", compute=Compute(fold_done=stopping(1)))
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    other = replace(cohort, truth=(1 - cohort.truth[0],))
    for arguments, why in (
        ((other, BagReader(banks), [QUICK], STUDY), "labels, or slides of a case: of the same cases"),
        ((cohort, BagReader(banks), [replace(QUICK, lr=0.5)], STUDY), "`lr`: 0.01, 0.5"),
        ((cohort, BagReader(banks), [QUICK], replace(STUDY, coverage=0.7)), "`coverage`: 0.9, 0.7"),
        (
            (cohort, BagReader({**banks, "c0s0": Bank("c0s0", np.zeros((50, 6)))}), [QUICK], STUDY),
            "tiles in all: [0-9]+, [0-9]+",
        ),
        (
            (cohort.only(range(22)), BagReader(banks), [QUICK], STUDY),
            "tiles in all: .*\n  2 cases are there and not now: c22, c23",
        ),
    ):
        with pytest.raises(
            MilError, match=rf"holds another study \(there, and now\):\n  {why}\nChoose another folder with `out`"
        ):
            run_study(*arguments, tmp_path / "run")
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param({"notes.txt": "mine"}, "is not empty, and is no run of `mil train`", id="somebodys-folder"),
        pytest.param({"run.json": "{"}, "run.json cannot be read", id="half-a-file"),
        pytest.param({"run.json": "[1]"}, "is no record of a run", id="a-list"),
        pytest.param(
            {"run.json": '{"version": "0"}'},
            r"holds another study(.|\n)*version of wsi-umedpt: 0, ",
            id="another-version",
        ),
        pytest.param(None, "is a file; name a folder with `out`", id="a-file"),
    ],
)
def test_what_is_no_run_is_not_written_into(tmp_path, content, why):
    """Whatever lies there stays."""
    folder = tmp_path / "run"
    if content is None:
        folder.write_text("mine")
    else:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    cohort, banks = cohort_of(cases=24)
    with pytest.raises(MilError, match=why):
        run_study(cohort, BagReader(banks), [QUICK], STUDY, folder)
    assert content is None or [p.name for p in folder.iterdir()] == [*content]


def test_two_runs_at_once_are_refused(tmp_path):
    """The second, at once; it goes on when the first is done."""
    cohort, banks = cohort_of(cases=24)
    with locked(tmp_path / "run"), pytest.raises(StoreBusyError, match=r"another process is writing .*run"):
        run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "run")
    assert run_study(cohort, BagReader(banks), [QUICK], ONE_SEED, tmp_path / "run").folder == tmp_path / "run"


def test_the_folds_are_written_down(tmp_path):
    """A row a case; what a spreadsheet would take for a formula is text."""
    cohort, banks = cohort_of(cases=24, sites=["=1+1", "Örebro"] * 12)
    made = run_study(cohort, BagReader(banks), [QUICK], STUDY, tmp_path / "run")
    with (tmp_path / "run" / "splits.csv").open(newline="", encoding="utf-8") as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["case_id", "patient", "site", "fold_of_seed_0", "fold_of_seed_4"]
    assert rows[1][:3] == ["c0", "p0", "'=1+1"]
    np.testing.assert_array_equal(np.array([row[3:] for row in rows[1:]], int).T, made.studies[0].fold)
    assert {s: f.tolist() for s, f in splits_of(cohort, STUDY).items()} == dict(
        zip((0, 4), made.studies[0].fold.tolist(), strict=True)
    )
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (about["cases"], about["patients"], about["slides"]) == (24, 24, 24)


# ------------------------------------------------------------------ processes


def squared(x):
    if x == 3:
        raise MilError("three is none")
    return x * x


def test_who_stops_listening_stops_the_work():
    """Without a warning; until then results come in the order of the parts."""
    results = in_parallel(2, [(squared, (n,)) for n in (5, 1, 0, 2)])
    assert (next(results), next(results)) == (25, 1)
    results.close()


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_come_through(jobs):
    """Also from another process, as they were raised there."""
    with pytest.raises(MilError, match="three is none"):
        [*in_parallel(jobs, [(squared, (n,)) for n in (1, 3, 5)])]
