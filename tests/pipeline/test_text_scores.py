"""Tiles scored by texts: with the weights that embedded them, as transformers itself would, prompts recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models import cards as room
from wsi_umedpt.models.building import build_network, inner
from wsi_umedpt.models.cards import find_card
from wsi_umedpt.models.text_encoders import TextEncoder
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore

transformers = pytest.importorskip("transformers")
WORDS = ["!", *"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
TOKENS = [*WORDS, "<|startoftext|>", "<|endoftext|>"]
CARD = f"""
name = "tinyclip"
library = "transformers"
architecture = "CLIPModel"
pooling = "projection"
dim = 16
mpp = 0.5
size_px = 64
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
licence = "ours"
source = "our lab"
text = true

[arguments]
projection_dim = 16

[arguments.vision_config]
hidden_size = 32
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
image_size = 64
patch_size = 32

[arguments.text_config]
hidden_size = 32
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
vocab_size = {len(TOKENS)}
bos_token_id = {len(TOKENS) - 2}
eos_token_id = {len(TOKENS) - 1}
"""
TEXTS = ("tumour", "stroma with many cells")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    (path / "cards").mkdir()
    (path / "cards" / "tinyclip.toml").write_text(CARD)
    (path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(TOKENS)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    return path


@pytest.fixture
def weights(folder, monkeypatch):
    monkeypatch.setattr(room, "user_folder", lambda: folder / "cards")
    torch.manual_seed(0)
    network = inner(build_network(find_card("tinyclip")))
    network.save_pretrained(folder)
    return folder / "model.safetensors"


def expected(folder, texts):
    model = transformers.CLIPModel.from_pretrained(str(folder)).eval()
    words = transformers.CLIPTokenizer.from_pretrained(str(folder))(list(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        read = model.text_projection(model.text_model(**words).pooler_output)
    return torch.nn.functional.normalize(read, dim=-1).numpy()


def test_texts_are_embedded_as_transformers_does(folder, weights):
    """Unit vectors, that tell texts apart."""
    found = TextEncoder(f"tinyclip@{weights}").encode(TEXTS)
    np.testing.assert_allclose(found, expected(folder, TEXTS), atol=1e-6)
    assert abs(float(found[0] @ found[1])) < 0.999


def test_tiles_are_scored_by_texts(folder, weights, say, small_svs):
    """Cosines in the store, with the prompts; and in the file that was asked for."""
    name = f"tinyclip@{weights}"
    assert say("embed", small_svs, "-o", "out", "-m", name, "--device", "cpu")[0] == 0
    (path,) = Path("out").glob("*.zarr")
    texts = [part for text in TEXTS for part in ("--text", text)]
    code, out, err = say("heatmap", path, "-o", "heat.ome.tif", *texts, "--text-encoder", name)
    assert (code, err) == (0, "")
    store = SlideStore.open(path)
    bag = store.features()
    scores, about = read_scores(store, f"text.{bag.encoder_id}")
    tiles = bag.features.astype(np.float32)
    tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
    np.testing.assert_allclose(scores[bag.index], tiles @ expected(folder, TEXTS).T, atol=1e-5)
    assert (about["prompts"], about["columns"], about["score"]) == ([*TEXTS], [*TEXTS], "cosine")
    assert ", ".join(TEXTS) in out
    assert tifffile.imread("heat.ome.tif").shape[0] == len(TEXTS)
    code, _, err = say("heatmap", path, "-o", "h.ome.tif", "--text", " ", "--text-encoder", name)
    assert code == 1
    assert "texts are not empty" in err


def test_other_weights_are_refused(folder, weights, say, small_svs):
    """Texts of one network say nothing of another's tiles."""
    assert say("embed", small_svs, "-o", "out", "-m", f"tinyclip@{weights}", "--device", "cpu")[0] == 0
    (path,) = Path("out").glob("*.zarr")
    torch.manual_seed(1)
    inner(build_network(find_card("tinyclip"))).save_pretrained(folder)
    code, _, err = say("heatmap", path, "-o", "h.ome.tif", "--text", "a", "--text-encoder", f"tinyclip@{weights}")
    assert code == 1
    assert "with other weights than tinyclip" in err


def test_features_without_texts_are_refused(say, small_svs):
    """With the encoders that have them."""
    say("embed", small_svs, "-o", "out", "-m", "timm:resnet10t@random", "--device", "cpu")
    (path,) = Path("out").glob("*.zarr")
    code, _, err = say("heatmap", path, "-o", "h.ome.tif", "--text", "a")
    assert code == 1
    assert "no features of an encoder that also embeds texts (conch, musk, plip)" in err


def test_an_encoder_without_texts_is_refused(folder, weights, tmp_path):
    """And one whose tokenizer is not here."""
    with pytest.raises(EncoderError, match="uni embeds no texts; encoders that do: conch, musk, plip"):
        TextEncoder("uni")
    alone = tmp_path / "model.safetensors"
    alone.write_bytes(weights.read_bytes())
    with pytest.raises(EncoderError, match=r"needs vocab\.json and merges\.txt beside"):
        TextEncoder(f"tinyclip@{alone}")
