"""What `embed` says before it works: which encoder sees which tiles, and where."""

import re
from pathlib import Path

import pytest

from wsi_umedpt.store import SlideStore

TEN, EIGHTEEN = ("-m", "timm:resnet10t@random"), ("-m", "timm:resnet18@random")
FAST = (*TEN, "--device", "cpu", "--threads", "1")


def test_an_encoder_that_states_no_scale_says_which_is_taken(say, small_svs):
    """Timm's networks saw photographs: 0.5 um/px is our choice, said to be one, and free to change."""
    code, out, _ = say("embed", small_svs, "-o", "out", *FAST)
    assert code == 0
    assert "timm_resnet10t.random states no um/px; tiles at 0.5 um/px, change with --tile-mpp" in out
    code, out, _ = say("embed", small_svs, "-o", "out", "--tile-mpp", "1.0", *FAST)
    assert code == 0
    assert "states no um/px" not in out
    assert {grid.split("_")[1] for grid in SlideStore.open("out/small.zarr").grid_ids} == {"0.5mpp", "1mpp"}


def test_the_card_decides_where_it_states_a_scale(say, small_svs):
    """Without a word on it."""
    code, out, _ = say("embed", small_svs, "-o", "out", "--device", "cpu", "--dry-run")
    assert code == 0
    assert "umedpt_lite0.v1: tiles of 224 px at 0.5 um/px, torch fp32 on cpu\n" in out
    assert "states no um/px" not in out


@pytest.mark.parametrize(
    ("device", "words"),
    [
        pytest.param("cpu", "fp32 on cpu\n", id="cpu"),
        pytest.param("cuda:99", "fp32 on cuda:99, which is not on this machine", id="another-machines-gpu"),
        pytest.param("cuda:all", "fp32 on (every CUDA device, of which|cuda:0.*one process each)", id="all-gpus"),
    ],
)
def test_a_dry_run_needs_no_device(say, small_svs, device, words):
    """It says which would be used: plans are made where the GPUs are not."""
    code, out, err = say("embed", small_svs, "-o", "out", "--dry-run", *TEN, "--device", device)
    assert (code, err) == (0, "")
    assert re.search(words, out)
    assert not Path("out").exists()


def test_a_mistaken_device_is_refused_in_a_dry_run_too(say, small_svs):
    """What is no device on any machine."""
    code, _, err = say("embed", small_svs, "-o", "out", "--dry-run", *TEN, "--device", "gpu")
    assert code == 1
    assert "device is 'auto', 'cpu', 'cuda'" in err


@pytest.mark.parametrize("dry", [("--dry-run",), ()], ids=["dry", "real"])
def test_encoders_that_share_no_tiles_are_told_apart(say, small_svs, dry):
    """Each with its own size, um/px and number of tiles, and a warning."""
    for _ in range(2):  # also when all is there already
        code, out, err = say("embed", small_svs, "-o", "out", *FAST, *EIGHTEEN, *dry)
        assert code == 0
        assert "do not share tiles" in err
        found = re.findall(r"  (\S+): (\d+) (tiles of \d+ px at \S+ um/px), grid", out)
        assert {name: words for name, _, words in found} == {
            "timm_resnet10t.random": "tiles of 176 px at 0.5 um/px",
            "timm_resnet18.random": "tiles of 224 px at 0.5 um/px",
        }
        if not dry:
            store = SlideStore.open("out/small.zarr")
            assert all(len(store.bag(name).xy) == int(count) for name, count, _ in found)


def test_encoders_that_share_tiles_are_not_warned_of(say, small_svs):
    """One grid, one number."""
    code, out, err = say("embed", small_svs, "-o", "out", *FAST, *EIGHTEEN, "--size", "176", "--force", "--dry-run")
    assert (code, err) == (0, "")
    assert out.count("tiles of 176 px at 0.5 um/px") == 2
    assert "grid" not in out
