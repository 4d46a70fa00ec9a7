"""Slide classifiers that start from a grouper: at first they weigh tiles as it does."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.support.mil_cohorts import BINARY, cohort_of
from wsi_umedpt.errors import MilError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.run import run_study
from wsi_umedpt.mil.settings import STARTED, FitSettings, StudySettings, to_dict
from wsi_umedpt.mil.training.fit import fit
from wsi_umedpt.mil.training.start import check_starts, start_from
from wsi_umedpt.models.grouper import Grouper, GrouperSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT

DIM, WIDTH = 6, 4
SPEC = ModelSpec(backbone="convnext_atto", dim=DIM)


@pytest.fixture(scope="module")
def shared():
    torch.manual_seed(0)
    return UMedPT(SPEC).eval()


@pytest.fixture
def release(tmp_path, shared):
    def save(seed=1):
        torch.manual_seed(seed)
        grouper = Grouper(GrouperSpec(dim=DIM, attention=WIDTH))
        for parameter in grouper.parameters():
            torch.nn.init.normal_(parameter)
        tensors = {f"shared.{k}": v for k, v in shared.state_dict().items()}
        tensors |= {f"grouper.{k}": v for k, v in grouper.state_dict().items()}
        about = {"schema": 1, "kind": "umedpt", "name": "a", "model": SPEC.to_dict(), "grouper": {
            "dim": DIM, "attention": WIDTH}}  # fmt: skip
        checkpoint.save(tmp_path / "a.json", tensors, about)
        return tmp_path / "a.json", grouper

    return save


def read_cohort():
    cohort, banks = cohort_of(BINARY, dim=DIM)
    return cohort, BagReader(banks)


def settings_of(path, **more):
    return FitSettings(start_from=str(path), **{"hidden": DIM, "attention": WIDTH, "epochs": 2, **more})


@pytest.mark.parametrize("model", STARTED)
def test_a_network_begins_with_the_groupers_weights(release, model):
    """Of embeddings as a squeezer gives them, standardised by any cohort, in which a number may never vary."""
    path, grouper = release()
    settings = settings_of(path, model=model)
    embeddings = F.gelu(torch.randn(7, DIM) * 2)
    embeddings[:, 2] = 0.3
    network = build_network(DIM, 2, settings, [2]).eval()
    network.standardise(embeddings.mean(0), embeddings.std(0))
    start_from(network, settings)
    torch.testing.assert_close(network.explain(embeddings).attention, grouper(embeddings), atol=1e-5, rtol=1e-4)


def test_training_starts_there(release):
    """At no rate to speak of, the network that was fitted is the one that it started from."""
    path, grouper = release()
    cohort, reader = read_cohort()
    fitted = fit(cohort, cohort, reader, settings_of(path, lr=1e-12), 0).network
    torch.testing.assert_close(fitted.score.weight, grouper.score.weight)
    assert not torch.allclose(
        fit(cohort, cohort, reader, settings_of("", lr=1e-12), 0).network.score.weight, grouper.score.weight
    )


def test_a_study_is_of_one_grouper(release, tmp_path):
    """A file of the same name with other weights is another study."""
    cohort, reader = read_cohort()
    study = StudySettings(folds=2, inner_folds=2, seeds=(0,))
    path, _ = release()
    run_study(cohort, reader, [settings_of(path)], study, tmp_path / "run")
    run_study(cohort, reader, [settings_of(path)], study, tmp_path / "run")
    release(seed=2)
    with pytest.raises(MilError, match="the grouper that networks start from"):
        run_study(cohort, reader, [settings_of(path)], study, tmp_path / "run")


def test_what_does_not_fit_is_refused_with_what_would(release):
    """Before anything is trained."""
    path, _ = release()
    kind = cohort_of(BINARY, dim=DIM)[0].kind
    with pytest.raises(MilError, match="needs `hidden` 6 `attention` 4, got 128 and 64"):
        check_starts([FitSettings(start_from=str(path))], kind)
    with pytest.raises(MilError, match="weighs embeddings of 6 numbers, and the features have 7"):
        check_starts([settings_of(path)], replace(kind, dim=7))
    with pytest.raises(MilError, match=r"embeddings of a.*, and the features are those of toy"):
        check_starts([settings_of(path)], replace(kind, weights_sha256="0" * 64))
    with pytest.raises(MilError, match="transformer has no gated attention"):
        settings_of(path, model="transformer", hidden=8)


def test_studies_without_a_start_say_what_they_always_did():
    """So that those that older versions began go on."""
    assert "start_from" not in to_dict(FitSettings())
