"""`wsi-umedpt encoders`: what there is, what is known of one, and whether its weights are here."""

import json
import sys

import pytest
import safetensors.torch
from huggingface_hub import constants

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.building import build_network, inner
from wsi_umedpt.models.cards import all_cards, find_card
from wsi_umedpt.models.encoder import load_encoder


def names(out):
    return {line.split(":")[0].split(" ")[0] for line in out.splitlines()}


def test_all_that_have_a_card_are_listed(say):
    """And the forms of names that need none."""
    code, out, _ = say("encoders")
    assert code == 0
    assert {*all_cards(), "umedpt_lite0.v2", "timm", "umedpt", "torchscript"} <= names(out)
    assert "umedpt_lite0.v2 (default)" in out


@pytest.mark.parametrize(
    ("flags", "there", "absent"),
    [
        (("--open",), {"phikon", "mean", "umedpt_lite0.v2"}, {"uni", "virchow"}),
        (("--gated",), {"uni", "virchow", "titan"}, {"phikon", "mean", "umedpt_lite0.v2"}),
        (("--kind", "slide"), {"mean", "titan"}, {"uni", "umedpt_lite0.v2", "timm"}),
        (("--kind", "tile", "--gated"), {"uni"}, {"titan", "phikon"}),
    ],
    ids=["open", "gated", "slides", "gated-tiles"],
)
def test_the_list_is_filtered(say, flags, there, absent):
    """By gate and kind."""
    found = names(say("encoders", *flags)[1])
    assert there <= found
    assert not absent & found


def test_the_list_is_also_for_machines(say):
    """JSON, with all that the cards say."""
    listed = {card["name"]: card for card in json.loads(say("encoders", "--json")[1])}
    assert listed["uni2-h"]["arguments"]["reg_tokens"] == 8
    assert {*all_cards()} <= {*listed}


def test_one_is_shown_with_the_way_to_its_weights(say):
    """With what it was compared, and what nothing confirms is marked; the page and the command are printed."""
    code, out, _ = say("encoders", "show", "UNI2")
    assert code == 0
    assert "uni2-h (uni2, uni_v2, uni-v2)" in out
    assert "compared_with: https://" in out
    assert "unconfirmed" not in out
    assert "asked for on its page: https://huggingface.co/MahmoodLab/UNI2-h" in out
    assert "hf auth login" in out
    assert "-m uni2-h@weights.safetensors" in out
    assert json.loads(say("encoders", "show", "uni2-h", "--json")[1])["dim"] == 1536


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("musk", "This project does not build it: "), ("conch-v1.5", "add --trust-remote-code"),
        ("phikon", "pip install 'wsi-umedpt[transformers]'"), ("retccl", "-m retccl@FILE"),
        ("retccl", "mpp: 1.0 (unconfirmed)"),
        ("mean", "It needs no download"), ("umedpt_lite0.v2", "--heads nuclei"),
    ],
)  # fmt: skip
def test_each_says_what_it_takes(say, name, said):
    """A package, a file of one's own, consent, or nothing."""
    assert said in say("encoders", "show", name)[1]


def test_weights_that_are_not_here_are_said(say, monkeypatch, tmp_path):
    """Exit code 1, at once, and nothing is asked for."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, _ = say("encoders", "check", "uni2-h")
    assert code == 1
    assert "its weights are not here" in out
    assert "https://huggingface.co/MahmoodLab/UNI2-h" in out


def test_weights_of_a_file_are_read_and_compared(say, tmp_path):
    """Right ones are said to be; those of another network are refused with what differs."""
    network = inner(build_network(find_card("lunit-vits16")))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    code, out, _ = say("encoders", "check", f"lunit-vits16@{tmp_path / 'w.safetensors'}")
    assert (code, "its weights are here and right; 384 numbers" in out) == (0, True)
    code, _, err = say("encoders", "check", f"lunit-vits8@{tmp_path / 'w.safetensors'}")
    assert code == 1
    assert "are of another network" in err


def test_a_name_that_is_none_is_answered_at_once(say, monkeypatch):
    """With the nearest ones: before torch, which takes seconds, is imported, and before slides are looked for."""
    monkeypatch.setitem(sys.modules, "torch", None)  # to import it fails
    code, _, err = say("embed", "nowhere.svs", "-o", "out", "-m", "virchow3")
    assert code == 1
    assert "Did you mean virchow, virchow2?" in err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mean", "mean as the slide encoder"),
        ("titan", "encoder of tiles (conch-v1.5)"),
        ("musk", "cannot be built here"),
    ],
)
def test_what_embeds_no_tiles_is_answered_at_once(say, monkeypatch, name, said):
    """With what to do; also before torch is imported."""
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = say("embed", "nowhere.svs", "-o", "out", "-m", name)
    assert code == 1
    assert said in err


def test_offline_weights_that_are_not_here_are_missed_at_once(say, monkeypatch):
    """The page that has them is named, and the form that takes a file; a dry run needs none."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = say("embed", "nowhere.svs", "-o", "out", "-m", "uni2-h")
    assert code == 1
    assert "from https://huggingface.co/MahmoodLab/UNI2-h" in err
    assert "uni2-h@FILE" in err


def test_a_list_imports_no_torch(say, monkeypatch):
    """It is data; what gates mean is said below it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, _ = say("encoders", "--gated")
    assert code == 0
    assert "    request: weights to be asked for on its page" in out
    assert "--heads nuclei" in say("encoders", "--open")[1]
    assert say("encoders", "check", "mean")[0] == 0


def test_what_is_not_built_here_is_not_converted():
    """OpenVINO takes networks that cards describe."""
    name = "module:tests.support.given_networks:means?size=32&mean=0,0,0&std=1,1,1"
    with pytest.raises(EncoderError, match="engine openvino converts networks that are built here"):
        load_encoder(name, device="cpu", engine="openvino")
