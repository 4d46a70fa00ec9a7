"""What a user gets wrong is answered in a line that says what to do, never in a traceback."""

import os
import re
import sys
from pathlib import Path

import pytest

FAST = ["-m", "timm:resnet10t@random", "--device", "cpu"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["--size", "0"], r"side of a tile .*--size\) must be over 0", id="size"),
        pytest.param(["--stride", "-5"], r"--stride\) must be over 0", id="stride"),
        pytest.param(["--tile-mpp", "0"], r"--tile-mpp\) must be over 0", id="tile-mpp"),
        pytest.param(["--min-tissue", "25"], r"--min-tissue\) is from 0 to 1, got 25", id="min-tissue"),
        pytest.param(["--batch-size", "100"], r"--batch-size\) must divide 1024", id="batch-size"),
        pytest.param(["--readers", "-1"], r"--readers\) must be 0 .* or more, got -1", id="readers"),
        pytest.param(["--max-unreadable", "5"], r"--max-unreadable\) is from 0 to 1, got 5", id="max-unreadable"),
        pytest.param(["--cell-um", "0"], "--cell-um 0", id="cell-um"),
        pytest.param(["--cell-um", "1e9"], r"--cell-um 1e\+09", id="cell-um-larger-than-slides"),
        pytest.param(["--mpp", "0"], r"--mpp was given 0 um/px .*expected 0.02 to 50\.", id="mpp"),
        pytest.param(["--min-colour", "40"], "--min-colour 40, --max-colour 22", id="min-colour"),
    ],
)
def test_a_setting_out_of_range_is_refused_once_for_all_slides(say, small_svs, words, reason):
    """Before any slide is opened, by the flag's name and meaning."""
    code, out, err = say("embed", small_svs, "-o", "out", *FAST, *words)
    assert code == 1
    assert not Path("out").exists()
    assert err.count("\n") == 1
    assert re.search(reason, err)
    assert "embedded" not in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["--side", "0"], "(--side) must be at least 32 px, got 0", id="side"),
        pytest.param(["--limit", "0"], "(--limit) must hold at least 1 slide, got 0", id="limit"),
    ],
)
def test_an_impossible_sheet_is_refused(say, small_svs, words, reason):
    """Before tissue is looked for."""
    code, _, err = say("tissue", small_svs, "-o", "sheet.png", *words)
    assert code == 1
    assert reason in err


def test_errors_of_the_system_are_a_line(say, small_svs):
    """With the file that they are about."""
    Path("file").write_text("")
    code, _, err = say("tissue", small_svs, "-o", "file/sheet.png")
    assert code == 1
    assert err.startswith("wsi-umedpt: file: ")
    assert err.count("\n") == 1


def test_a_reader_that_has_read_enough_is_no_error(say, monkeypatch):
    """As `wsi-umedpt encoders | head -1` closes the pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        code, _, err = say("encoders")
    assert (code, err) == (1, "")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["info", "empty"], "empty: there is neither a slide nor a store in this folder", id="info-empty"),
        pytest.param(["info", "full"], "full/a.zarr: no reader opens a.zarr", id="info-stores"),
        pytest.param(["picture", "empty", "-o", "x.png"], "It holds none either", id="picture-empty"),
        pytest.param(
            ["picture", "full", "-o", "x.png"], "one of the stores in it, as full/a.zarr", id="picture-stores"
        ),
    ],
)
def test_a_folder_is_told_from_a_slide_and_a_store(say, words, reason):
    """With what to name instead; no error of the system is passed on."""
    Path("empty").mkdir()
    Path("full/a.zarr").mkdir(parents=True)
    code, out, err = say(*words)
    assert code == 1
    assert reason in out + err
    assert "Error" not in out + err


def test_a_picture_needs_a_store_that_is_there(say, small_svs):
    """A slide is no store."""
    for path, reason in (("nowhere", "there is no store at nowhere"), (small_svs, "small.svs is a file, not a store")):
        code, _, err = say("picture", path, "-o", "x.png")
        assert code == 1
        assert reason in err


def test_several_grids_are_chosen_from_by_flag(say, small_svs):
    """Without a choice the flag is named; an encoder that is in one grid alone is choice enough."""
    encoders = ["-m", "timm:resnet10t@random", "-m", "timm:resnet18@random", "--device", "cpu"]
    assert say("embed", small_svs, "-o", "out", *encoders)[0] == 0
    code, _, err = say("picture", "out/small.zarr", "-o", "x.png")
    assert code == 1
    assert re.search(r"holds 2 grids\. It holds: 176px\S+, 224px\S+\. Name one with --grid", err)
    grid = re.search(r"176px\w+\.\w+", err).group()
    assert say("picture", "out/small.zarr", "-o", "by-grid.png", "--grid", grid)[0] == 0
    assert say("picture", "out/small.zarr", "-o", "by-model.png", "-m", "timm_resnet18.random")[0] == 0
    code, _, err = say("picture", "out/small.zarr", "-o", "x.png", "-m", "uni")
    assert code == 1
    assert "holds no features of uni. It holds: timm_resnet10t.random, timm_resnet18.random. Name one with -m" in err


def test_tiles_finer_than_the_slide_name_both_ways_out(say, small_svs):
    """Coarser tiles, or a magnified slide."""
    words = ("embed", small_svs, "-o", "out", *FAST, "--tile-mpp", "0.1")
    code, _, err = say(*words)
    assert code == 1
    assert "--tile-mpp 0.5 or more" in err
    assert "(--upsample)" in err
    assert say(*words, "--upsample", "--dry-run")[0] == 0
