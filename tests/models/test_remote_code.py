"""Code beside weights: never run unless the user says so; then its network is an encoder as any other."""

import json

import pytest
import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models import cards as room
from wsi_umedpt.models.cards import all_cards, find_card
from wsi_umedpt.models.names import parse_name, trusting
from wsi_umedpt.models.weights import load_network

pytest.importorskip("transformers")
CODE = """
from pathlib import Path
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

Path({mark!r}).touch()


class TheirConfig(PretrainedConfig):
    model_type = "theirs"


class Theirs(PreTrainedModel):
    config_class = TheirConfig

    def __init__(self, config):
        super().__init__(config)
        self.net = nn.Conv2d(3, 5, 4)
        self.post_init()

    def forward(self, x):
        return self.net(x).mean((2, 3))

    def return_part(self):
        return nn.Sequential(self.net, nn.AdaptiveAvgPool2d(1), nn.Flatten()), "a transform"
"""
CARD = """
name = "theirs"
library = "remote"
architecture = "{architecture}"
dim = {dim}
mpp = 0.5
size_px = 32
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
licence = "theirs"
gate = "click"
source = "their lab"
"""


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A copy of a repository with code in it, and what tells that it ran."""
    folder, mark = tmp_path / "repository", tmp_path / "ran"
    folder.mkdir()
    (folder / "modeling_theirs.py").write_text(CODE.replace("{mark!r}", repr(str(mark))))
    auto = {"AutoConfig": "modeling_theirs.TheirConfig", "AutoModel": "modeling_theirs.Theirs"}
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": auto}))
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 5, 4)
    torch.save({f"net.{k}": v for k, v in net.state_dict().items()}, folder / "pytorch_model.bin")
    (tmp_path / "cards").mkdir()
    monkeypatch.setattr(room, "user_folder", lambda: tmp_path / "cards")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))

    def write(architecture="AutoModel", dim=5):
        (tmp_path / "cards" / "theirs.toml").write_text(CARD.format(architecture=architecture, dim=dim))
        return f"theirs@{folder}", mark, net

    return write


def test_nothing_of_it_runs_unless_the_user_says_so(remote):
    """The refusal says what would run, where it lies, and what to add."""
    name, mark, _ = remote()
    with pytest.raises(EncoderError, match=r"code beside its weights.*with your rights.*say `trust_remote_code`"):
        load_network(name)
    assert not mark.exists()


@pytest.mark.parametrize("architecture", ["AutoModel", "AutoModel.return_part"])
def test_with_consent_it_is_an_encoder_as_others_are(remote, architecture):
    """Its numbers, under its weights' sha256; a model, or what a method of it returns."""
    name, mark, net = remote(architecture)
    network, card = load_network(trusting(name))
    assert mark.exists()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), net(x).mean((2, 3)))
    assert card.name == f"theirs.{card.weights_sha256[:8]}"


def test_a_network_that_is_not_as_its_card_says_is_refused(remote):
    """The length of its vectors."""
    name, _, _ = remote(dim=7)
    with pytest.raises(EncoderError, match=r"gives \(1, 5\) for one tile, and its card says \(1, 7\)"):
        load_network(trusting(name))


def test_consent_goes_to_those_that_need_it_alone(remote):
    """Other names stay what they are, and no card is trusted by default."""
    name, _, _ = remote()
    assert parse_name(trusting(name)).options == {"trust_remote_code": True}
    assert trusting("uni?pooling=class") == "uni?pooling=class"
    assert trusting("timm:resnet18@random") == "timm:resnet18@random"
    for card in all_cards().values():
        assert "trust" not in card.to_dict()
    assert find_card("conch-v1.5").library == "remote"
