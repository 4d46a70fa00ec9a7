"""What `embed` says before it works: which encoder sees which tiles, and where."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import write_pyramid

TEN, EIGHTEEN = ("-m", "timm:resnet10t@random"), ("-m", "timm:resnet18@random")
FAST = (*TEN, "--device", "cpu", "--readers", "1")


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
    assert "umedpt_lite0.v2: tiles of 224 px at 0.5 um/px, openvino fp32 on cpu\n" in out
    assert "states no um/px" not in out


@pytest.mark.parametrize(
    ("device", "words"),
    [
        pytest.param("cpu", "fp32 on cpu\n", id="cpu"),
        pytest.param("cuda:99", "fp32 on cuda:99, which is not on this machine", id="another-machines-gpu"),
        pytest.param("cuda", "fp32 on cuda", id="all-gpus"),
    ],
)
def test_a_dry_run_needs_no_device(say, small_svs, device, words):
    """It says which would be used: plans are made where the GPUs are not."""
    code, out, err = say("embed", small_svs, "-o", "out", "--dry-run", *TEN, "--device", device)
    assert (code, err) == (0, "")
    assert re.search(words, out)
    assert not Path("out").exists()


def test_a_dry_run_needs_no_weights(say, small_svs, monkeypatch, tmp_path):
    """An encoder's card says what it wants of a slide: a gated one that nobody downloaded is planned all the same."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code, out, err = say("embed", small_svs, "-o", "out", "-m", "virchow2", "--device", "cpu", "--dry-run")
    assert (code, err) == (0, "")
    assert "virchow2: tiles of 224 px at 0.5 um/px" in out
    assert " tiles\n" in out


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
            assert all(len(store.features(name).xy) == int(count) for name, count, _ in found)


def test_encoders_that_share_tiles_are_not_warned_of(say, small_svs):
    """One grid, one number."""
    code, out, err = say("embed", small_svs, "-o", "out", *FAST, *EIGHTEEN, "--size", "176", "--force", "--dry-run")
    assert (code, err) == (0, "")
    assert out.count("tiles of 176 px at 0.5 um/px") == 2
    assert "grid" not in out


@pytest.fixture
def ragged(tmp_path) -> Path:
    """A folder of a slide all of tissue that ends within tiles, under two names, and another one."""
    image = np.random.default_rng(3).integers(90, 200, (300, 520, 3), np.uint8)
    image[..., 1] //= 2  # as eosin is
    folder = tmp_path / "ragged"
    folder.mkdir()
    write_pyramid(folder / "one.svs", image, tile=128)
    shutil.copyfile(folder / "one.svs", folder / "two.svs")
    write_pyramid(folder / "other.svs", image[:, ::-1].copy(), tile=128)
    return folder


def test_one_slide_under_two_names_is_said(say, ragged):
    """By a plan and by a run, also when all is there already; it is no failure."""
    for words in (["--dry-run"], [], []):
        code, _, err = say("embed", ragged, "-o", "out", *FAST, *words)
        assert code == 0
        (line,) = [line for line in err.splitlines() if "same slide" in line]
        assert line.startswith("warning: one, two are the same slide under 2 names")
        assert "other" not in line


def test_tiles_that_cross_the_edge_are_counted_or_embedded(say, ragged):
    """520 x 300 px hold 2 tiles of 176, and 4 more that begin in it; `--edge pad` embeds these, on white."""
    slide = ragged / "other.svs"
    for words in (["--dry-run"], []):
        code, out, _ = say("embed", slide, "-o", "out", *FAST, *words)
        assert code == 0
        assert "4 tiles with tissue that cross the right or lower edge of 1 slide are left out; --edge pad" in out
    code, out, _ = say("embed", slide, "-o", "padded", *FAST, "--edge", "pad")
    assert code == 0
    assert "are left out" not in out
    store = SlideStore.open("padded/other.zarr")
    assert store.grid().xy.tolist() == [[0, 0], [176, 0], [352, 0], [0, 176], [176, 176], [352, 176]]
    assert store.grid().spec.edge == "pad"
    whole = SlideStore.open("out/other.zarr").features().features.astype(np.float32)
    assert np.allclose(store.features().features.astype(np.float32)[:2], whole, atol=0.02)


def test_ink_may_be_kept(say, small_svs):
    """The flag that turns a setting off is there, and reaches the mask."""
    code, _, _ = say("embed", small_svs, "-o", "out", "-m", "timm:resnet10t@random", "--no-reject-ink")
    assert code == 0
    assert SlideStore.open("out/small.zarr").tissue_made()[1]["reject_ink"] is False
