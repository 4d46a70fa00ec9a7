"""A finished slide classifier: saved and loaded to the last bit, refused if it is anything else, and true to itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.mil_cohorts import (
    AGE,
    BINARY,
    COX,
    DISCRETE,
    KIND,
    MARKERS,
    QUICK,
    STAGE,
    STUDY,
    THREE,
    cohort_of,
    same,
    tensors_of,
)
from wsi_umedpt.errors import CheckpointError, MilError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.targets import spans
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.training.calibration import Calibration
from wsi_umedpt.mil.training.ensemble import develop

EVERYTHING = (BINARY, THREE, STAGE, AGE, MARKERS, COX, replace(DISCRETE, name="pfs"))


def developed(*targets, model="attention", **options):
    cohort, banks = cohort_of(*targets, signal=2, **options)
    return develop(cohort, BagReader(banks), [replace(QUICK, model=model)], STUDY, (0, 1))


@pytest.fixture(scope="module")
def model():
    """One of seven targets, one of each kind, and four networks."""
    return developed(*EVERYTHING, cases=30)


def bags(count=3, seed=5):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n + 2, 6)).astype(np.float32) for n in range(count)]


def told(model, bag):
    """All that a model says of a bag."""
    shares = model.explain(bag)
    return {
        "forecasts": [
            [f.predicted, f.decided, f.spread, f.conformal, f.interval, f.answer] for f in model.forecast([bag])
        ],
        "attention": shares.attention,
        "contribution": shares.contribution,
        "without": model.without_each(bag),
        "unlike": model.unlike([bag]),
    }


def test_what_was_saved_is_what_is_loaded(model, tmp_path):
    """Every number that it learned, and everything that it says, bit for bit; twice over."""
    model.save(tmp_path / "a.json")
    again = SlideModel.load(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    for loaded in (again, SlideModel.load(tmp_path / "b.json")):
        assert same(tensors_of(loaded), tensors_of(model))
        assert (loaded.targets, loaded.kind, loaded.coverage) == (model.targets, model.kind, model.coverage)
        for bag in bags():
            found, expected = told(loaded, bag), told(model, bag)
            assert repr(found.pop("forecasts")) == repr(expected.pop("forecasts"))
            assert same(found, expected)


def test_files_hold_tensors_and_json(model, tmp_path):
    """And no pickle, which could run programs."""
    model.save(tmp_path / "m.json")
    (tensors,) = (path for path in tmp_path.iterdir() if path.suffix != ".json")
    assert tensors.suffix == ".safetensors"
    header = int.from_bytes(tensors.read_bytes()[:8], "little")
    assert json.loads(tensors.read_bytes()[8 : 8 + header])
    assert json.loads((tmp_path / "m.json").read_bytes())["artifact"] == "slide classifier"


def test_damaged_files_are_refused(model, tmp_path):
    """A byte of either, or either missing."""
    path = tmp_path / "m.json"
    model.save(path)
    (tensors,) = tmp_path.glob("*.safetensors")
    for file in (tensors, path):
        whole = file.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        for content in (bytes(changed), whole[:-40], b"", b"\x80\x04pickle"):
            file.write_bytes(content)
            with pytest.raises(CheckpointError):
                SlideModel.load(path)
        file.unlink()
        with pytest.raises(CheckpointError):
            SlideModel.load(path)
        file.write_bytes(whole)
    assert SlideModel.load(path).targets == model.targets


EDITS = {
    "another-artifact": {"artifact": "probe"},
    "a-later-schema": {"schema": 2},
    "no-networks": {"networks": 0},
    "more-networks": {"networks": 9},
    "networks-in-words": {"networks": "four"},
    "other-network": {"network": {"model": "mean"}},
    "wider-network": {"network": {"hidden": 4096}},
    "no-such-network": {"network": {"model": "sorcery"}},
    "network-is-a-list": {"network": [1]},
    "network-of-gigabytes": {"network": {"hidden": 10**9}},
    "hidden-in-words": {"network": {"hidden": "128"}},
    "a-billion-networks": {"networks": 10**9},
    "networks-true": {"networks": True},
    "dim-of-gigabytes": {"features": {"dim": 10**9}},
    "mpp-in-words": {"features": {"mpp": "0.5"}},
    "mpp-nan": {"features": {"mpp": float("nan")}},
    "temperature-nan": {"temperatures": [float("nan")] * 7},
    "temperature-0": {"temperatures": [0] * 7},
    "temperature-negative": {"temperatures": [-1] * 7},
    "threshold-nan": {"thresholds": [[float("nan")], [], [], [], [0.5] * 3, [], []]},
    "coverage-nan": {"coverage": float("nan")},
    "no-targets": {"targets": []},
    "targets-are-text": {"targets": "grade"},
    "target-without-kind": {"targets": [{"name": "a"}]},
    "target-of-another-kind": {"targets": [{"name": "a", "kind": "magic", "columns": ["a"]}]},
    "features-are-none": {"features": None},
    "other-dim": {"features": {"dim": 3}},
    "no-temperatures": {"temperatures": []},
    "temperature-is-text": {"temperatures": ["warm"] * 7},
    "no-thresholds": {"thresholds": [[]] * 7},
    "coverage-is-text": {"coverage": "most"},
    "coverage-of-all": {"coverage": 1.5},
    "nobody-trained-it": {"trained_on": None},
    "trained-on-what": {"trained_on": {"unit": "planet"}},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_what_is_no_slide_classifier_is_refused(model, tmp_path, edit):
    """Whole by its checksums, but edited by somebody who made these anew: a line, not a trace."""
    path = tmp_path / "m.json"
    model.save(path)
    tensors, about = checkpoint.load(path)
    for name, value in edit.items():
        about[name] = {**about[name], **value} if isinstance(value, dict) and name != "targets" else value
    checkpoint.save(path, tensors, {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")})
    with pytest.raises(MilError, match="is no slide classifier that this version reads"):
        SlideModel.load(path)


TENSORS = {
    "nan-in-a-network": ("network1.out.weight", lambda t: t * float("nan")),
    "infinite-mean": ("network0.mean", lambda t: t + float("inf")),
    "whole-numbers": ("network0.out.weight", lambda t: t.int()),
    "nan-among-the-typical": ("typical.known", lambda t: t * float("nan")),
    "typical-of-another-width": ("typical.centre", lambda t: t[:-1].clone()),
    "typical-that-does-not-fit": ("typical.known", lambda t: t[:-1].clone()),
    "nan-in-the-calibration": ("nonconformity0", lambda t: t * float("nan")),
    "calibration-in-a-table": ("nonconformity0", lambda t: t[:, None].clone()),
}


@pytest.mark.parametrize(("name", "change"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_not_the_classifiers_are_refused(model, tmp_path, name, change):
    """NaN, other shapes, other kinds of numbers: not a prediction of NaN."""
    path = tmp_path / "m.json"
    model.save(path)
    tensors, about = checkpoint.load(path)
    tensors[name] = change(tensors[name])
    checkpoint.save(path, tensors, {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")})
    with pytest.raises(MilError, match="is no slide classifier that this version reads"):
        SlideModel.load(path)


def test_features_of_another_kind_are_refused_with_what_differs(model):
    """Encoder, weights, resolution, width."""
    model.check(replace(KIND, format="CLAM"), "x")  # where they lie is no difference
    other = replace(KIND, encoder="uni", dim=8, mpp=0.25)
    with pytest.raises(MilError, match=r"S7 has .* encoder uni instead of toy; mpp 0.25 instead of not stated; dim 8"):
        model.check(other, "S7")


def test_networks_that_agree_have_no_spread(model):
    """And those that do not have the standard deviation of what each predicts alone."""
    one = replace(model, networks=model.networks[:1] * 3)
    for forecast in one.forecast(bags(1)):
        np.testing.assert_allclose(forecast.spread, 0, atol=1e-7)
    for n, forecast in enumerate(model.forecast(bags(1))):
        each = [replace(model, networks=(network,)).forecast(bags(1))[n].predicted for network in model.networks]
        np.testing.assert_allclose(forecast.spread, np.std(each, axis=0), atol=1e-7)


@pytest.mark.parametrize("kind", ["mean", "max", "top-k", "attention", "clam-sb", "clam-mb", "additive"])
def test_contributions_of_the_ensemble_add_up_to_its_logits(kind):
    """Mean contributions to the mean logits; each network's attention is a share, and so is their mean."""
    model = developed(model=kind)
    assert model.exact
    for bag in bags():
        with torch.no_grad():
            logits = torch.stack([n(join([torch.from_numpy(bag)]))[0] for n in model.networks]).mean(0)
        shares = model.explain(bag)
        np.testing.assert_allclose(shares.contribution.sum(0), logits, atol=1e-5)
        assert shares.attention.sum() == pytest.approx(1, abs=1e-5)
        assert shares.attention.min() >= 0


def test_without_a_tile_the_logits_fall_by_what_is_said(model):
    """Logits of all tiles less those of the others; nan for a bag of one."""
    bag = bags()[2]
    rest = [np.delete(bag, row, axis=0) for row in range(len(bag))]

    def logits(features):
        return np.mean([n(join([torch.from_numpy(features)]))[0].numpy() for n in model.networks], axis=0)

    expected = logits(bag) - np.stack([logits(r) for r in rest])
    np.testing.assert_allclose(model.without_each(bag), expected, atol=1e-5)
    assert np.isnan(model.without_each(bag[:1])).all()


def test_outputs_are_named_as_contributions_speak(model):
    """One name a logit."""
    assert model.outputs[:6] == ("grade:high", "type:a", "type:b", "type:c", "stage:above_I", "stage:above_II")
    assert model.outputs[6:10] == ("age:value", "markers:er", "markers:pr", "os:log_hazard_ratio")
    assert model.outputs[10:] == ("pfs:hazard_0", "pfs:hazard_1", "pfs:hazard_2")
    assert len(model.outputs) == spans(model.targets)[-1].stop


def test_several_bags_are_averaged_on_the_scale_of_logits(model):
    """In whatever order; the same bag twice is the bag."""
    first, second, _ = bags()
    one, other = model.forecast([first, second]), model.forecast([second, first])
    for a, b, same_bag, alone in zip(one, other, model.forecast([first, first]), model.forecast([first]), strict=True):
        np.testing.assert_allclose(a.predicted, b.predicted, rtol=1e-12)
        np.testing.assert_allclose(same_bag.predicted, alone.predicted, rtol=1e-12)


def test_a_case_of_many_slides_is_not_unlike_for_having_many(model):
    """The least of k p-values counts k times (Bonferroni): of cases like those of training few are called unlike."""
    found = bags(6)
    alone = [model.unlike([bag]) for bag in found]
    assert model.unlike(found) == min(1, 6 * min(alone))
    assert model.unlike(found[:1]) == alone[0]


def test_answers_in_words(model):
    """Of survival there is none: a hazard is no decision."""
    answers = {f.target.name: f.answer for f in model.forecast(bags(1))}
    assert answers["grade"] in BINARY.classes
    assert answers["type"] in THREE.classes
    assert answers["stage"] in STAGE.classes
    assert float(answers["age"]) == pytest.approx(60, abs=15)
    assert answers["markers"] in ("", "er", "pr", "er+pr")
    assert (answers["os"], answers["pfs"]) == ("", "")


def test_a_threshold_is_at_work(model):
    """What is chosen follows it, and nothing else does."""
    for threshold, answer in ((0.0, "high"), (1.0, "low")):
        strict = replace(model, calibrations=(Calibration(1.0, (threshold,), np.array([0.5])), *model.calibrations[1:]))
        assert strict.forecast(bags(1))[0].answer == answer
