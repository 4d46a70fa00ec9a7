"""Cards: data that is checked, and networks that are their public recipes bit for bit."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.support.encoder_recipes import RECIPES
from wsi_umedpt.errors import ConfigError, EncoderError
from wsi_umedpt.models import cards as room
from wsi_umedpt.models.building import _TRANSFORMERS, build_network, inner
from wsi_umedpt.models.cards import all_cards, find_card, read_card
from wsi_umedpt.models.engines import Network, OpenVinoEngine, TorchEngine
from wsi_umedpt.models.preprocess import prepare_tiles

BUILT = [
    card
    for card in all_cards().values()
    if card.kind == "tile" and not card.why_not and card.library not in ("own", "remote")
]


def narrow(card, few):
    """A card of a few blocks."""
    return replace(card, arguments={**card.arguments, **few})


def pictures(count, side):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse]
    noise = rng.integers(0, 30, (count, side, side, 3), dtype=np.uint8)
    return np.stack(smooth) // 2 + noise


def test_every_card_has_a_recipe_to_be_compared_with():
    """But CTransPath, whose recipe is a fork of timm from 2021; its own test is below."""
    assert {card.name for card in BUILT} == {*RECIPES, "ctranspath"}


@pytest.mark.parametrize("card", BUILT, ids=lambda card: card.name)
def test_networks_have_the_weights_that_are_published(card):
    """Their number; nothing is allocated."""
    with torch.device("meta"):
        network = inner(build_network(card))
    count = sum(p.numel() for p in network.parameters())
    assert count == card.parameters
    if card.name in RECIPES:
        assert count / 1e6 == pytest.approx(RECIPES[card.name].millions, abs=0.051)


@pytest.mark.parametrize("card", [card for card in BUILT if card.name in RECIPES], ids=lambda card: card.name)
def test_features_are_those_of_the_recipe(card):
    """Bit for bit, on the same random weights of a narrow copy, and of the length that the card states."""
    recipe = RECIPES[card.name]
    torch.manual_seed(0)
    reference = recipe.network(**recipe.few).eval()
    ours = build_network(narrow(card, recipe.few)).eval()
    inner(ours).load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, card.input_px, card.input_px)
    with torch.inference_mode():
        expected, found = recipe.vector(reference, images), ours(images)
    assert torch.equal(found, expected)
    assert found.shape == (2, card.dim)
    assert found.std() > 0


@pytest.mark.parametrize("name", ["uni", "phikon", "hibou-b", "midnight-12k", "plip"])
def test_openvino_gives_the_numbers_of_torch(name, tmp_path, monkeypatch):
    """To 1e-5 of the largest at fp32: a ViT of timm, and each architecture of transformers, on narrow copies."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    card = replace(narrow(find_card(name), RECIPES[name].few), weights_sha256="0" * 64)
    torch.manual_seed(0)
    network, tiles = build_network(card).eval(), pictures(3, card.input_px)
    expected = TorchEngine(network, card, "cpu", "fp32").submit(tiles)()
    found = OpenVinoEngine(network, card, "fp32").submit(tiles)()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_every_architecture_of_transformers_is_converted_in_a_test():
    """So that a new one is not left out."""
    assert {find_card(name).architecture for name in ("phikon", "hibou-b", "midnight-12k", "plip")} == {*_TRANSFORMERS}


FEEDS = {
    (card.size_px, card.resize_px, card.crop_px, card.interpolation, card.mean): card
    for card in BUILT
    if card.name in RECIPES
}


@pytest.mark.parametrize("card", FEEDS.values(), ids=lambda card: card.name)
def test_pixels_are_those_of_the_recipe(card):
    """Of 100 tiles of the card's size, and of some of another where the recipe resizes; bit for bit."""
    network = Network(nn.Identity(), card)
    transform = RECIPES[card.name].transform
    sides = [(card.size_px, 100)] + ([(300, 5)] if card.resize_px else [])
    for side, count in sides:
        tiles = pictures(count, side)
        expected = torch.stack([transform(Image.fromarray(tile)) for tile in tiles])
        found = network.normalised(torch.from_numpy(prepare_tiles(tiles, card)))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("card", [card for card in BUILT if card.name in RECIPES], ids=lambda card: card.name)
def test_every_card_is_fed_as_its_recipe_says(card):
    """The same on two tiles of each."""
    tiles = pictures(2, card.size_px)
    expected = torch.stack([RECIPES[card.name].transform(Image.fromarray(tile)) for tile in tiles])
    assert torch.equal(Network(nn.Identity(), card).normalised(torch.from_numpy(prepare_tiles(tiles, card))), expected)


def test_ctranspath_is_a_swin_with_a_stem_of_convolutions():
    """Of the published names; and of the numbers that torchvision's layers give for its stem."""
    card = find_card("ctranspath")
    network = build_network(card).eval()
    names = {*network.state_dict()}
    assert {f"patch_embed.proj.{n}.weight" for n in (0, 1, 3, 4, 6)} | {"patch_embed.norm.weight", "norm.bias"} <= names
    images = torch.randn(1, 3, 224, 224)
    stem = network.patch_embed
    with torch.inference_mode():
        found = stem(images)
        expected = stem.norm(stem.proj(images).flatten(2).transpose(1, 2)).unflatten(1, (56, 56))
    torch.testing.assert_close(found, expected)
    assert network(images).shape == (1, 768)


# ------------------------------------------------------------------ cards are data


def test_reading_cards_imports_neither_torch_nor_timm():
    """So that a name is checked in an instant."""
    code = (
        "import sys; from wsi_umedpt.models.names import parse_name; parse_name('uni2-h?pooling=class');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("card", all_cards().values(), ids=lambda card: card.name)
def test_every_card_says_where_it_comes_from(card):
    """Source, licence, gate, and a way to the weights or why there is none."""
    assert card.source
    assert card.licence
    assert card.about
    assert card.citation or card.gate == "none" or card.library == "own"
    assert card.why_not or card.library == "own" or card.repository or card.source
    assert type(card).from_dict(card.to_dict(), "again") == card


@pytest.mark.parametrize(
    ("typed", "name"), [("UNI2", "uni2-h"), ("gigapath", "prov-gigapath"), ("clam", "resnet50.imagenet")]
)
def test_aliases_are_found_in_any_case(typed, name):
    """As people type them."""
    assert find_card(typed).name == name


def test_a_name_that_is_none_is_answered_with_the_nearest():
    """And how to list them."""
    with pytest.raises(EncoderError, match=r"no encoder 'virchow3'\. Did you mean virchow, virchow2\?.*encoders`"):
        find_card("virchow3")


MINE = """
name = "mine"
aliases = ["ours"]
architecture = "vit_tiny_patch16_224"
pooling = "class"
dim = 192
mpp = 0.5
size_px = 224
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
licence = "ours"
source = "our lab"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "user_folder", lambda: tmp_path)
    return tmp_path


def test_a_user_adds_a_card(folder):
    """A file in their folder; it may take the place of one that ships."""
    (folder / "mine.toml").write_text(MINE)
    (folder / "uni.toml").write_text(MINE.replace('"mine"', '"uni"').replace('"ours"]', '"own"]'))
    assert find_card("OURS").dim == 192
    assert find_card("uni").dim == 192


def test_a_card_names_what_confirms_it():
    """Addresses that can be opened; what nothing confirms is marked, or was not looked for."""
    cards = all_cards().values()
    assert all(address.startswith("https://") for card in cards for address in card.compared_with)
    assert {card.name for card in cards if not card.compared_with and not card.unverified} <= OURS


OURS = {"efficientnet_lite0.imagenet", "mean"}

WRONG = {
    "key": (("dim", "dimm"), r"no key 'dimm'; did you mean 'dim'"),
    "type": (("dim = 192", 'dim = "192"'), "dim is a whole number"),
    "pooling": (('"class"', '"attention"'), "pooling is one of network, class"),
    "library": (("dim =", 'library = "keras"\ndim ='), "library is one of timm"),
    "missing": (('licence = "ours"', ""), "missing licence"),
    "no-scaling": (("mean = [0.5, 0.5, 0.5]", ""), "missing mean, std"),
    "no-toml": (("dim", "dim dim"), "cannot be read as TOML"),
    "other-name": (('"mine"', '"theirs"'), "its file is called theirs.toml"),
    "std": (("std = [0.5", "std = [0.0"), "std is over 0"),
    "unverified": (("dim =", 'unverified = ["dims"]\ndim ='), "unverified names 'dims'"),
    "crop": (("dim =", "crop_px = 256\ndim ="), "crop_px 256 is over"),
    "model": (("dim =", "model = {}\ndim ="), "model is of UMedPT releases"),
}


@pytest.mark.parametrize(("change", "reason"), WRONG.values(), ids=WRONG)
def test_a_card_that_is_wrong_is_refused_with_what_is(tmp_path, change, reason):
    """By its file, key and value."""
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(*change, 1))
    with pytest.raises(ConfigError, match=reason):
        read_card(path)


def test_two_cards_of_one_name_are_refused(folder):
    """In any case of letters."""
    (folder / "mine.toml").write_text(MINE)
    (folder / "yours.toml").write_text(MINE.replace('"mine"', '"yours"').replace('"ours"', '"OURS"'))
    with pytest.raises(ConfigError, match="both claim the name 'OURS'"):
        all_cards()


@pytest.mark.parametrize("layer", ["torch.nn.SiLU", "eval", "__import__"])
def test_a_card_names_no_code(layer):
    """Of layers, a few by their names; nothing else is looked up."""
    card = narrow(find_card("uni"), {"act_layer": layer})
    with pytest.raises(EncoderError, match="act_layer is one of"):
        build_network(card)


def test_arguments_that_a_network_does_not_take_are_said():
    """With what timm says of them."""
    with pytest.raises(EncoderError, match=r"timm cannot build vit_large_patch16_224 with the arguments.*wings=2"):
        build_network(narrow(find_card("uni"), {"wings": 2}))


@pytest.mark.parametrize("name", [card.name for card in all_cards().values() if card.why_not])
def test_what_is_not_built_says_why(name):
    """And what to do instead."""
    with pytest.raises(EncoderError, match=f"{name} cannot be built here: "):
        build_network(find_card(name))
