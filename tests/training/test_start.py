"""A run that begins with an earlier one's release begins with all of it."""

from dataclasses import replace

import pytest
import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.bundle import load_grouper, load_release
from wsi_umedpt.models.grouper import GrouperSpec
from wsi_umedpt.models.weights import load_network
from wsi_umedpt.tasks import load_heads
from wsi_umedpt.training.release import config_dict, fingerprint
from wsi_umedpt.training.run import pretrain
from wsi_umedpt.training.start import initial_heads, initial_model, kept_near


@pytest.fixture
def begun(config, reference):
    """The config of all tasks, begun from the release of an earlier run of it."""
    return replace(config(), initial=f"umedpt:{reference / 'small.v1.json'}")


def test_a_release_gives_decoders_and_heads(begun, reference):
    """Not the encoder alone: all weights of the shared model and of each head are those of the release."""
    release = load_release(reference / "small.v1.json")
    found, heads = initial_model(begun).state_dict(), initial_heads(begun)
    assert all(torch.equal(value, found[key]) for key, value in release.shared.state_dict().items())
    assert {*heads} == {*load_heads(release)}
    for name, head in load_heads(release).items():
        assert all(torch.equal(value, heads[name].state_dict()[key]) for key, value in head.state_dict().items())


def test_a_run_goes_on_from_a_release(begun, reference, tmp_path):
    """With a rate of nearly 0 the heads of the new release are those of the old one, to half precision."""
    written = pretrain(replace(begun, training=replace(begun.training, steps=1, lr=1e-12)), tmp_path, device="cpu")
    before, after = (load_release(path) for path in (reference / "small.v1.json", written))
    assert after.head_weights.keys() == before.head_weights.keys()
    for key, value in before.head_weights.items():
        assert torch.allclose(after.head_weights[key], value, atol=1e-3)


def test_a_head_of_other_classes_begins_anew(begun):
    """A task of the same name with other classes takes nothing from the release; neither does one of another name."""
    others = [replace(t, classes=("a", "b")) if t.name == "grade" else t for t in begun.task]
    others = [replace(t, name="cells_here") if t.name == "cells" else t for t in others]
    assert {*initial_heads(replace(begun, task=tuple(others)))} == {t.name for t in begun.task} - {"grade", "cells"}


def test_a_release_carries_the_grouper(begun, reference):
    """Apart from what makes embeddings; a run that wants another, or none, takes all the rest."""
    path = reference / "small.v1.json"
    release, grouper = load_release(path), load_grouper(path)
    assert grouper.spec == GrouperSpec(dim=32, attention=8)
    assert {head.name for head in release.heads if head.bags} == {"slides", "time"}
    own = release.shared.state_dict()
    assert all(torch.equal(value, own[f"grouper.{key}"]) for key, value in grouper.state_dict().items())
    begin = initial_model(replace(begun, initial="")).grouper
    moved = {k: float((v - begin.state_dict()[k]).abs().max()) for k, v in grouper.state_dict().items()}
    assert moved["gates.weight"] > 1e-3, "it was trained"
    _, card = load_network(f"umedpt:{path}")
    assert "grouper" not in card.model
    for width, tasks in ((5, begun.task), (0, tuple(t for t in begun.task if not t.bags))):
        other = replace(begun, model=replace(begun.model, grouper=width), task=tasks)
        found = initial_model(other).state_dict()
        assert all(torch.equal(value, found[key]) for key, value in own.items() if not key.startswith("grouper"))
        assert {*initial_heads(other)} == {task.name for task in tasks}


def test_another_description_takes_the_encoder_alone(begun, reference):
    """Where the embedding is another, decoders and heads begin anew."""
    other = replace(begun, model=replace(begun.model, vector="maps"))
    release = load_release(reference / "small.v1.json")
    found = initial_model(other)
    for key, value in release.shared.encoder.state_dict().items():
        assert torch.equal(value, found.encoder.state_dict()[key])
    assert not initial_heads(other)


def test_maps_are_held_near_another_encoder(begun, config, reference, tmp_path):
    """`distil_from` names it; the name is part of the fingerprint, its folder is not written."""
    first = pretrain(replace(config(), training=replace(config().training, seed=5)), tmp_path, device="cpu")
    asked = replace(begun, training=replace(begun.training, distil=1.0, distil_from=f"umedpt:{first}"))
    near = kept_near(asked, initial_model(asked)).state_dict()
    assert all(torch.equal(value, near[key]) for key, value in load_release(first).shared.encoder.state_dict().items())
    assert fingerprint(asked) != fingerprint(begun)
    assert config_dict(asked)["training"]["distil_from"] == f"umedpt:{first.name}"


def test_an_encoder_of_another_backbone_is_refused(begun):
    """In words that name both."""
    asked = replace(begun, training=replace(begun.training, distil=1.0, distil_from="timm:resnet10t@random"))
    with pytest.raises(EncoderError, match=r"resnet10t.*is no encoder for backbone test_convnext"):
        kept_near(asked, initial_model(asked))
