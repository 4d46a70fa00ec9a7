"""What may be typed for an encoder: cards with files and options, timm models with arguments, networks of one's own."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from tests.support import given_networks
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models import cards as room
from wsi_umedpt.models.building import build_network, inner
from wsi_umedpt.models.cards import find_card
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.names import parse_name
from wsi_umedpt.models.weights import load_network

FED = "size=32&mpp=0.5&mean=0.5,0.5,0.5&std=0.25,0.25,0.25"
TILES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
PIXELS = (torch.from_numpy(TILES).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


@pytest.fixture
def small(monkeypatch):
    """A card by its name, made narrow."""

    def make(name, **few):
        card = find_card(name)
        made = replace(card, arguments={**card.arguments, **few})
        monkeypatch.setattr("wsi_umedpt.models.weights.find_card", lambda _: made)
        torch.manual_seed(0)
        network = build_network(made).eval()
        return made, network

    return make


def saved(path, state):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_cards_weights_come_from_a_file(small, tmp_path, suffix):
    """As it is published; no bit of them changes, nor of the features."""
    card, network = small("lunit-vits16", depth=1)
    path = saved(tmp_path / f"w.{suffix}", inner(network).state_dict())
    loaded, found = load_network(f"lunit-vits16@{path}")
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(loaded(x), network(x))
    assert found.name == f"lunit-vits16.{found.weights_sha256[:8]}"
    assert (found.source, found.dim) == (f"file w.{suffix}", card.dim)


def test_wrappers_of_training_are_taken_off(small, tmp_path):
    """GPFM's: a teacher with a backbone in chunks, heads beside it; by the card's rules, and no others."""
    _, network = small("gpfm", depth=1)
    state = {f"backbone.{k.replace('blocks.0.', 'blocks.0.0.')}": v for k, v in inner(network).state_dict().items()}
    more = {"dino_head.mlp.weight": torch.zeros(2, 2), "backbone.mask_token": torch.zeros(1, 1024)}
    path = saved(tmp_path / "GPFM.pth", {"teacher": state | more, "student": {"x": torch.zeros(1)}})
    loaded, _ = load_network(f"gpfm@{path}")
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(loaded(x), network(x))
    saved(path, {"teacher": state | more | {"backbone.adapter.weight": torch.zeros(3)}})
    with pytest.raises(EncoderError, match=r"another network: 1 unknown: adapter\.weight"):
        load_network(f"gpfm@{path}")


def test_the_names_of_an_old_swin_are_understood(small, tmp_path):
    """CTransPath's: mergings at the end of a stage, tables that are computed now, a classifier."""
    card, network = small("ctranspath")
    state = {}
    for key, value in inner(network).state_dict().items():
        for n in (1, 2, 3):
            key = key.replace(f"layers.{n}.downsample", f"layers.{n - 1}.downsample_")
        state[key.replace("downsample_", "downsample")] = value
    tables = {"layers.0.blocks.1.attn_mask": torch.zeros(2), "head.weight": torch.zeros(1000, 768)}
    tables["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(2)
    path = saved(tmp_path / "ctranspath.pth", {"model": state | tables})
    loaded, _ = load_network(f"ctranspath@{path}")
    x = torch.randn(1, 3, card.input_px, card.input_px)
    assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize(("name", "few"), [("phikon", 1), ("hibou-b", 1), ("midnight-12k", 1)])
def test_networks_of_transformers_are_read_under_their_published_names(small, tmp_path, name, few):
    """As transformers saves them; more or less than these is refused by name."""
    _, network = small(name, num_hidden_layers=few, **({} if name != "midnight-12k" else {"hidden_size": 96}))
    inner(network).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    loaded, found = load_network(f"{name}@{path}")
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(loaded(x), network(x))
    state = safetensors.torch.load_file(path)
    gone = next(key for key in state if key.startswith("encoder.layer.0"))
    saved(path, {**{k: v for k, v in state.items() if k != gone}, "other.weight": torch.zeros(2)})
    with pytest.raises(EncoderError, match=r"another network: 1 missing: .*; 1 unexpected: other\.weight"):
        load_network(f"{name}@{path}")
    assert len(found.weights_sha256) == 64


def test_another_pooling_is_another_encoder(small, tmp_path):
    """Of the same weights: other numbers, another length, another name."""
    card, network = small("virchow2", depth=1, embed_dim=96, num_heads=6)
    path = saved(tmp_path / "w.safetensors", inner(network).state_dict())
    tokens = inner(network).forward_features(x := torch.randn(1, 3, 224, 224))
    for pooling, expected, dim in (
        ("class", tokens[:, 0], card.dim // 2), ("mean", tokens[:, 5:].mean(1), card.dim // 2),
    ):  # fmt: skip
        loaded, found = load_network(f"virchow2?pooling={pooling}@{path}")
        assert torch.equal(loaded(x), expected)
        assert (found.dim, found.pooling) == (dim, pooling)
        assert found.name.startswith(f"virchow2.{pooling}.")
    with pytest.raises(EncoderError, match=r"pooled by class\+mean, and not otherwise"):
        load_network(f"virchow2?pooling=map@{path}")


def test_weights_in_half_stay_half_where_they_are_wanted_so(small, tmp_path):
    """What a network runs in is what lies in memory; the sha256 is of the values, not of how they are held."""
    _, network = small("lunit-vits16", depth=1)
    state = {k: v.half() for k, v in inner(network).state_dict().items()}
    path = saved(tmp_path / "w.safetensors", state)
    half, one = load_network(f"lunit-vits16@{path}", torch.float16)
    full, other = load_network(f"lunit-vits16@{path}")
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert one.weights_sha256 == other.weights_sha256
    assert torch.equal(inner(half).cls_token.float(), inner(full).cls_token)


def test_a_timm_model_is_built_with_arguments(tmp_path):
    """Weights of a network with LayerScale and registers, from a file; another way to build it is another encoder."""
    torch.manual_seed(0)
    few = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3}
    reference = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, init_values=1e-5, reg_tokens=2, mlp_layer=timm.layers.SwiGLUPacked,
        act_layer=nn.SiLU, **few,
    ).eval()  # fmt: skip
    path = saved(tmp_path / "w.safetensors", reference.state_dict())
    said = "&".join(f"{k}={v}" for k, v in few.items()) + "&init_values=1e-5&reg_tokens=2"
    name = f"timm:vit_tiny_patch16_224?{said}&mlp_layer=SwiGLUPacked&act_layer=SiLU"
    one = load_encoder(f"{name}&mpp=0.25&mean=0.5,0.5,0.5&std=0.25,0.25,0.25@{path}", device="cpu")
    torch.testing.assert_close(torch.from_numpy(one.encode(TILES)), reference(PIXELS).detach(), atol=1e-5, rtol=1e-5)
    assert (one.card.mpp, one.card.size_px, one.card.mean) == (0.25, 32, (0.5, 0.5, 0.5))
    other = load_encoder(f"{name}&pooling=class%mean@{path}".replace("%", "+"), device="cpu")
    assert other.dim == 2 * one.dim
    assert other.name != one.name
    with pytest.raises(EncoderError, match=r"another network: .*of another shape: blocks\.0\.mlp"):
        load_network(f"timm:vit_tiny_patch16_224?{said}@{path}")


def test_a_torchscript_file_is_an_encoder(tmp_path):
    """With what it says of its tiles; a changed file is another."""
    path = tmp_path / "net.pt"
    with warnings.catch_warnings(action="ignore"):  # torch would rather have it exported
        torch.jit.trace(given_networks.means(), torch.zeros(1, 3, 32, 32)).save(path)
    found = load_encoder(f"torchscript:{path}?{FED}", device="cpu")
    np.testing.assert_allclose(found.encode(TILES), PIXELS.mean((2, 3)).numpy(), atol=1e-5)
    assert (found.card.mpp, found.card.size_px, found.dim) == (0.5, 32, 3)
    path.write_bytes(b"no network")
    with pytest.raises(EncoderError, match="cannot be read as TorchScript"):
        load_network(f"torchscript:{path}?{FED}")


def test_an_onnx_file_is_an_encoder(tmp_path):
    """Run by OpenVINO; a file that is none is refused."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)], "means",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    found = load_encoder(f"onnx:{path}?{FED}", device="cpu")
    np.testing.assert_allclose(found.encode(TILES), PIXELS.mean((2, 3)).numpy(), atol=1e-4)
    path.write_bytes(b"no network")
    with pytest.raises(EncoderError, match="cannot be read as ONNX"):
        load_network(f"onnx:{path}?{FED}")


def test_a_function_of_ones_own_gives_an_encoder():
    """By its package and name."""
    found = load_encoder(f"module:tests.support.given_networks:means?{FED}", device="cpu")
    np.testing.assert_allclose(found.encode(TILES), PIXELS.mean((2, 3)).numpy(), atol=1e-5)


NAMES = {
    "no-vector": (f"module:tests.support.given_networks:maps?{FED}", r"gives \(1, 3, 32, 32\) for one tile, not one"),
    "no-network": (f"module:tests.support.given_networks:tensor?{FED}", "returned a Tensor, not a torch module"),
    "failing": (f"module:tests.support.given_networks:fails?{FED}", "failed: RuntimeError: no weights here"),
    "no-such-function": (f"module:tests.support.given_networks:nothing?{FED}", "failed: AttributeError"),
}


@pytest.mark.parametrize(("name", "reason"), NAMES.values(), ids=NAMES)
def test_a_network_that_is_none_is_refused(name, reason):
    """With what it gave."""
    with pytest.raises(EncoderError, match=reason):
        load_network(name)


WRONG = {
    "no-package": (f"module:no_such_package:f?{FED}", "there is no package 'no_such_package'"),
    "no-function": (f"module:tests?{FED}", "is followed by PACKAGE:FUNCTION"),
    "no-size": ("onnx:net.onnx?mpp=0.5", "must say size and mean and std"),
    "no-file": (f"torchscript:nowhere.pt?{FED}", "there is no file nowhere.pt"),
    "option": (f"onnx:net.onnx?{FED}&colour=red", "there is no option 'colour'"),
    "mean": ("timm:resnet18?mean=0.5", "mean is three numbers"),
    "size": ("timm:resnet18?size=-3", "size is a number over 0"),
    "equals": ("timm:resnet18?img_size", "options are written name=value"),
    "of-a-card": ("uni?img_size=224", "a card takes the options pooling, revision, trust_remote_code, not 'img_size'"),
    "pooling": ("uni?pooling=best", "pooling is one of"),
    "of-a-card-no-file": ("uni@nowhere.bin", "no weights file at nowhere.bin"),
    "shipped": ("umedpt_lite0.v2@x.bin", "ships with its weights"),
    "nothing": ("timm:", "followed by the name of a model"),
    "unknown": ("univ", "Did you mean uni"),
}


@pytest.mark.parametrize(("name", "reason"), WRONG.values(), ids=WRONG)
def test_a_name_is_checked_before_anything_is_loaded(name, reason):
    """Each mistake with what is right."""
    with pytest.raises(EncoderError, match=reason):
        parse_name(name)


def test_a_gateless_encoder_of_a_file_says_where_to_get_it(monkeypatch):
    """RetCCL lies on no hub."""
    with pytest.raises(EncoderError, match=r"lie on no hub: get them from https://github\.com/.*retccl@FILE"):
        load_network("retccl")
    assert room.find_card("retccl").repository == ""
