"""Weights by name from a hub: a small one on loopback speaks its protocol; each failure is a sentence of its own."""

import errno
import os
import subprocess
import sys

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from tests.support.hub_server import TOKEN, Repository, serve
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models import cards as room
from wsi_umedpt.models import hub as fetching
from wsi_umedpt.models.building import build_network
from wsi_umedpt.models.cards import find_card
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.weights import load_network

FIRST, SECOND = "1" * 40, "2" * 40
MINE = """
name = "mine"
architecture = "vit_tiny_patch16_224"
pooling = "class"
dim = 48
mpp = 0.5
size_px = 32
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
licence = "ours"
gate = "click"
source = "our lab"
repository = "lab/mine"
file = "model.safetensors"

[arguments]
img_size = 32
embed_dim = 48
depth = 1
num_heads = 3
"""


def weights(seed):
    torch.manual_seed(seed)
    return safetensors.torch.save(build_network(find_card("mine")).network.state_dict())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.toml").write_text(MINE)
    monkeypatch.setattr(room, "user_folder", lambda: tmp_path / "cards")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        served.repositories["lab/mine"] = Repository({FIRST: {"model.safetensors": weights(1)}})
        yield served


@pytest.fixture
def token(tmp_path):
    def save(text):
        (tmp_path / "token").write_text(text)

    return save


def test_an_open_encoder_is_loaded_by_its_name(hub):
    """Its commit and its file's sha256 are recorded; what was downloaded is used again without the network."""
    network, card = load_network("mine")
    assert (card.revision, len(card.sha256)) == (FIRST, 64)
    assert card.name == f"mine.{card.weights_sha256[:8]}"
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 48)
    downloads = [line for line in hub.asked if line.startswith("GET /lab/mine")]
    hub.asked.clear()
    with fetching.without_network():
        assert load_network("mine")[1] == card
    assert not hub.asked
    assert len(downloads) == 1


def test_two_revisions_are_two_encoders(hub):
    """The newest by default; another commit by its name; features of one are never taken for the other's."""
    first = load_encoder("mine", device="cpu")
    hub.repositories["lab/mine"].commits[SECOND] = {"model.safetensors": weights(2)}
    second, again = load_encoder("mine", device="cpu"), load_encoder(f"mine?revision={FIRST}", device="cpu")
    assert (first.made_by["card"]["revision"], second.made_by["card"]["revision"]) == (FIRST, SECOND)
    assert first.name == again.name != second.name
    assert first.made_by["weights_sha256"] != second.made_by["weights_sha256"]
    assert {"arguments", "pooling", "mean", "std", "sha256", "size_px"} <= {*first.made_by["card"]}


def test_a_pinned_commit_that_is_here_asks_nobody(hub):
    """Even where there is a network."""
    load_network(f"mine?revision={FIRST}")
    hub.asked.clear()
    load_network(f"mine?revision={FIRST}")
    assert not hub.asked


def test_a_changed_file_is_noticed(hub, tmp_path):
    """Where the card knows the file's sha256."""
    (tmp_path / "cards" / "mine.toml").write_text(
        MINE.replace("\n[arguments]", f'sha256 = "{"0" * 64}"\n\n[arguments]')
    )
    with pytest.raises(EncoderError, match=r"the weights were changed\. Pin the old ones"):
        load_network("mine")


FAILURES = {
    "gated-without-a-token": ({"gate": "terms"}, "", r"is gated, and there is no token.*lab/mine.*hf auth login"),
    "gated-and-not-let-in": ({"gate": "terms"}, "hf_other", r"your token is of an account that has not been let in"),
    "closed": ({"gate": "closed"}, TOKEN, r"your token is of an account that has not been let in"),
    "a-wrong-token": ({}, "hf_wrong", r"refuses your token.*hf auth login"),
    "moved-file": (
        {"commits": {FIRST: {"other.safetensors": b"x"}}},
        "",
        r"has no file model.safetensors: it was moved",
    ),
}


@pytest.mark.parametrize(("change", "typed", "reason"), FAILURES.values(), ids=FAILURES)
def test_each_reason_is_a_sentence_of_its_own(hub, token, change, typed, reason):
    """With the page to visit and the command to type."""
    for key, value in change.items():
        setattr(hub.repositories["lab/mine"], key, value)
    if typed:
        token(typed)
    with pytest.raises(EncoderError, match=reason):
        load_network("mine")


def test_who_was_let_in_is_served(hub, token):
    """With the token where the hub's own client keeps it."""
    hub.repositories["lab/mine"].gate = "terms"
    token(TOKEN)
    assert load_network("mine")[1].revision == FIRST


def test_a_revision_that_is_not_there_is_said(hub):
    """As after a repository was written anew."""
    with pytest.raises(EncoderError, match=f"lab/mine has no revision '{SECOND}'"):
        load_network(f"mine?revision={SECOND}")


def test_a_repository_that_is_gone_is_said(hub):
    """Moved, renamed or private."""
    hub.repositories.clear()
    with pytest.raises(EncoderError, match="the hub has no repository lab/mine, or it is private"):
        load_network("mine")


def test_a_download_that_is_cut_is_no_encoder(hub):
    """It says so, and the next try has it."""
    hub.repositories["lab/mine"].cut_after = 1 << 16
    with pytest.raises(EncoderError, match="the download of lab/mine broke off"):
        load_network("mine")
    hub.repositories["lab/mine"].cut_after = None
    assert load_network("mine")[1].revision == FIRST


def test_a_full_disk_is_said(hub, monkeypatch):
    """With the folder that is full."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    with pytest.raises(EncoderError, match=r"disk of the hub's cache .* is full"):
        load_network("mine")


def test_a_damaged_file_is_refused(hub):
    """Whatever the hub sent."""
    hub.repositories["lab/mine"].commits = {FIRST: {"model.safetensors": b"\0" * 100}}
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        load_network("mine")


def test_a_slow_hub_is_waited_for(hub):
    """A download takes as long as it takes."""
    hub.repositories["lab/mine"].pause_s = 0.05
    assert load_network("mine")[1].revision == FIRST


def test_a_repository_of_timm_is_loaded_by_its_name(hub):
    """Architecture, arguments and scaling are those of its config.json; options win."""
    config = (
        '{"architecture": "vit_tiny_patch16_224", "global_pool": "token", "model_args": {"img_size": 32, '
        '"embed_dim": 48, "depth": 1, "num_heads": 3}, '
        '"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "license": "mit",'
        ' "input_size": [3, 32, 32]}}'
    )
    hub.repositories["lab/mine"].commits[FIRST]["config.json"] = config.encode()
    _, card = load_network("timm:hf-hub:lab/mine")
    assert (card.mean, card.size_px, card.dim, card.revision) == ((0.1, 0.2, 0.3), 32, 48, FIRST)
    assert card.name.startswith("timm_lab_mine.")
    assert load_network("timm:hf-hub:lab/mine?pooling=class%2Bmean".replace("%2B", "+"))[1].dim == 96


@pytest.mark.slow
def test_a_second_run_needs_no_network(hub, tmp_path):
    """Processes of their own, by the hub's own variables: the first downloads, the second finds the hub gone."""
    code = (
        "import sys; from pathlib import Path; from wsi_umedpt.models import cards; "
        f"cards.user_folder = lambda: Path({str(tmp_path / 'cards')!r}); "
        "from wsi_umedpt.models.weights import load_network; print(load_network('mine')[1].revision)"
    )
    home = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    for address in (hub.address, "http://127.0.0.1:9"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**home, "HF_ENDPOINT": address},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == FIRST, done.stderr
