"""The command line as a user meets it."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command_line import run_alone, run_here
from wsi_umedpt.batch.coordination.result import Outcome
from wsi_umedpt.cli.doctor import complaints
from wsi_umedpt.cli.embed import summary
from wsi_umedpt.cli.tissue import doubts
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_pyramid

FAST = ["-m", "timm:resnet10t@random", "--device", "cpu", "--readers", "1"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory, small_svs) -> Path:
    """A folder of two good slides in two folders, one broken file and one without a scale."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "a").mkdir()
    shutil.copy(small_svs, folder / "a" / "one.svs")
    image, _ = tissue_image(800, 700, seed=3)
    write_pyramid(folder / "two.svs", image)
    (folder / "broken.svs").write_bytes(small_svs.read_bytes()[:5000])
    Image.fromarray(image).save(folder / "flat.png")
    return folder


@pytest.fixture(scope="module")
def embedded(slides, tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("out")
    return run_alone("embed", slides, "-o", out, *FAST), out


def test_a_batch_attempts_every_slide_and_lists_failures(embedded):
    """Good slides are embedded, bad ones listed with their reasons, and the exit code says so."""
    done, out = embedded
    assert done.returncode == 1
    assert "2 embedded" in done.stdout
    assert "2 failed:" in done.stderr
    for reason in ("flat.png states no physical pixel size", "no reader opens broken.svs"):
        assert (done.stdout + done.stderr).count(reason) == 1
    assert sorted(p.name for p in out.glob("*.zarr")) == ["one.zarr", "two.zarr"]
    assert not list(out.glob("*.partial"))
    assert "Traceback" not in done.stderr


def test_the_same_command_again_does_only_what_is_missing(embedded, slides):
    """And succeeds once the trouble is mended."""
    _, out = embedded
    again = run_here("embed", slides / "a", slides / "two.svs", slides / "flat.png", "--mpp", "0.5", "-o", out, *FAST)
    assert again.returncode == 0, again.stderr
    assert "1 embedded" in again.stdout
    assert "2 already there" in again.stdout


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(slides, tmp_path):
    """Exit code 130; the rows that were durable are not embedded again."""
    tiles = ["--size", "64", "--force", "--stride", "28", "--min-tissue", "0"]  # 1,976: a block, and most of another
    command = ["embed", slides / "a" / "one.svs", "-o", tmp_path, *tiles, *FAST]
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_umedpt", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    while not list(tmp_path.glob("*.partial/growing/*/*/progress.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopped by Ctrl-C. 0 of 1 slide has a whole store." in said
    assert "is kept in" in said
    assert "Run the same command again to resume." in said
    assert "Traceback" not in said
    checked = run_here("verify", tmp_path).stdout
    assert "one.zarr.partial: work of a run with timm_resnet10t.random that was interrupted" in checked
    again = run_here(*command)
    assert again.returncode == 0, again.stderr
    kept = re.search(r"1 embedded \(1,976 tiles, ([\d,]+) of them in an earlier run", again.stdout)
    assert kept, again.stdout
    assert 0 < int(kept[1].replace(",", "")) <= 1976


def test_speed_is_that_of_this_run(slides, capsys):
    """Tiles of an earlier run count as tiles, never as speed."""
    job = SlideJob(slides / "two.svs", "two")
    plan = EmbedTask(encoders=[], tile_specs=[])
    assert summary([Outcome(job, "done", tiles=5000, fresh=100, seconds=10.0)], [], plan) == 0
    assert "1 embedded (5,000 tiles, 4,900 of them in an earlier run, 10 tiles/s)" in capsys.readouterr().out
    assert summary([Outcome(job, "done", tiles=5000, fresh=5000, seconds=10.0)], [], plan) == 0
    assert "1 embedded (5,000 tiles, 500 tiles/s)" in capsys.readouterr().out


def test_verify_finds_whole_stores_and_damaged_ones(embedded, tmp_path):
    """Exit code 1 for damage, and the array is named."""
    _, out = embedded
    good = run_here("verify", out)
    assert good.returncode == 0
    assert "stores are whole and undamaged" in good.stdout
    copy = tmp_path / "one.zarr"
    shutil.copytree(out / "one.zarr", copy)
    chunk = next(copy.glob("grids/*/features/*/c/0/0"))
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    bad = run_here("verify", copy)
    assert bad.returncode == 1
    assert "sha256 differs" in bad.stdout


@pytest.mark.parametrize("named", ["folder", "store"])
def test_verify_notes_unfinished_work(embedded, tmp_path, named):
    """What it is and how to go on; a whole store beside it is no less whole for it."""
    _, out = embedded
    shutil.copytree(out / "one.zarr", tmp_path / "one.zarr")
    (tmp_path / "one.zarr.partial" / "growing").mkdir(parents=True)
    done = run_here("verify", tmp_path if named == "folder" else tmp_path / "one.zarr")
    assert done.returncode == 0
    [note] = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert "one.zarr.partial: work of a run that was interrupted" in note
    assert "The same command resumes it" in note
    assert "1 of 1 store is whole and undamaged" in done.stdout


def test_info_and_picture_of_a_store(embedded, tmp_path):
    """What is in it, in words and as a picture that is not blank."""
    _, out = embedded
    done = run_here("info", out / "one.zarr")
    assert "timm_resnet10t.random" in done.stdout
    done = run_here("picture", out / "one.zarr", "-o", tmp_path / "new" / "one.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "new" / "one.png") as image:
        assert image.width > 2 * image.height
        assert np.asarray(image).std() > 20


def test_info_of_a_slide(slides):
    """Size, scale and who states it; without a scale all but that, and what to do."""
    done = run_here("info", slides / "two.svs", slides / "flat.png")
    assert "800 x 700 px, 0.40 x 0.35 mm" in done.stdout
    assert "0.5 um/px, from vendor" in done.stdout
    assert "size        800 x 700 px\n" in done.stdout
    assert (
        "scale       UNKNOWN: flat.png states no physical pixel size (mpp). Give the true value: --mpp 0.25"
        in done.stdout
    )
    assert done.returncode == 1
    done = run_here("info", slides / "flat.png", "--mpp", "0.25")
    assert "0.25 um/px, from user" in done.stdout
    assert done.returncode == 0


def test_dry_run_prints_the_plan_and_does_nothing(slides, tmp_path):
    """Encoder, grid, slides, tiles, and what would fail."""
    done = run_here("embed", slides, "-o", tmp_path / "out", "--dry-run", *FAST)
    assert done.returncode == 1
    assert "one.zarr: 1500 x 1100 px, 0.5 um/px (vendor), read by tiff" in done.stdout
    assert "no reader opens broken.svs" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_csv_gives_ids_scales_and_masks(slides, tmp_path):
    """Paths are relative to it; a bad line stops nothing else."""
    mask = np.zeros((70, 80), np.uint8)
    mask[20:60, 20:60] = 255
    Image.fromarray(mask).save(slides / "mask.png")
    table = slides / "cohort.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "slide_id", "mpp", "mask"])
        writer.writerow(["flat.png", "case-1", "0.5", "mask.png"])
        writer.writerow(["two.svs", "case-2", "", ""])
        writer.writerow(["two.svs", "../evil", "", ""])
        writer.writerow(["two.svs", "case-3", "thick", ""])
    done = run_here("embed", table, "-o", tmp_path / "out", *FAST)
    assert done.returncode == 1
    assert "2 embedded" in done.stdout
    assert "row 4: slide_id '../evil' is empty, or begins" in done.stderr
    assert "row 5: mpp 'thick' is no number" in done.stderr
    store = SlideStore.open(tmp_path / "out" / "case-1.zarr")
    assert store.attrs["slide"]["mpp_source"] == "user"
    assert store.tissue().method == "png"
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_tissue_draws_a_sheet_outliers_first(slides, tmp_path):
    """An empty slide is framed red."""
    Image.fromarray(np.full((700, 800, 3), 240, np.uint8)).save(tmp_path / "empty.png")
    done = run_here(
        "tissue", slides / "a", slides / "two.svs", tmp_path / "empty.png", "--mpp", "0.5", "-o", tmp_path / "s.png"
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "s.png") as image:
        pixels = np.asarray(image)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 30)
    assert red[:, : pixels.shape[1] // 3].any()
    assert not red[:, pixels.shape[1] // 3 + 20 :].any()


def test_doubtful_slides_are_those_far_from_the_cohort():
    """By share of tissue, extremes always."""
    scores = doubts({**{f"s{i}": 0.3 + i / 100 for i in range(20)}, "none": 0.0, "thin": 0.01, "all": 0.99})
    assert {name for name, score in scores.items() if score > 1} == {"none", "thin", "all"}


@pytest.mark.parametrize(
    "words", [[], ["embed"], ["info"], ["tissue"], ["verify"], ["doctor"]], ids=lambda w: "-".join(w) or "root"
)
def test_help_shows_examples_and_imports_nothing_heavy(words):
    """So that it answers at once; benchmarks/speed/embedding.py measures how soon."""
    done = run_alone(*words, "--help")
    assert done.returncode == 0
    if words not in ([], ["doctor"]):
        assert f"wsi-umedpt {words[0]} " in done.stdout
    traced = [sys.executable, "-X", "importtime", "-m", "wsi_umedpt", *words, "--help"]
    loaded = subprocess.run(traced, capture_output=True, text=True, check=True).stderr
    assert " cyclopts\n" in loaded
    for heavy in ("torch", "zarr", "cv2", "openslide", "tifffile"):
        assert f" {heavy}\n" not in loaded


def test_the_list_of_commands_says_what_each_does():
    """By the first line of its docstring, though none is imported until it is asked for."""
    listed = re.findall(r"^│ ([a-z]+)  +(\w.*?) *│$", run_here("--help").stdout, re.MULTILINE)
    assert {"embed", "segment", "mil", "encoders", "doctor"} <= {name for name, _ in listed}


def test_shells_can_complete_commands(tmp_path, monkeypatch):
    """The script that is installed knows every command."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_here("--install-completion", "--shell", "bash").returncode == 0
    (script,) = tmp_path.rglob("completions/wsi-umedpt")
    assert all(word in script.read_text() for word in ("embed", "segment", "--stage-gb"))


def test_a_mistyped_flag_is_refused(slides, tmp_path):
    """With a word on what was meant."""
    done = run_here("embed", slides, "-o", tmp_path, "--presicion", "bf16")
    assert done.returncode != 0
    assert "presicion" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_tiles_that_do_not_fit_the_encoder_are_refused(slides, tmp_path):
    """Unless insisted on."""
    done = run_here("embed", slides / "two.svs", "-o", tmp_path, "--tile-mpp", "1.0", "--device", "cpu")
    assert done.returncode == 1
    assert "is for tiles of 224 px at 0.5 um/px, asked for 224 px at 1 um/px" in done.stderr
    done = run_here("embed", slides / "two.svs", "-o", tmp_path, "--size", "128", *FAST)
    assert done.returncode == 1
    assert "is for tiles of 176 px, asked for 128 px" in done.stderr
    assert run_here("embed", slides / "two.svs", "-o", tmp_path, "--size", "128", "--force", *FAST).returncode == 0


def test_nothing_given_is_said(tmp_path):
    """A folder without slides is a failure, not a silent success."""
    done = run_here("embed", tmp_path, "-o", tmp_path / "out", *FAST)
    assert done.returncode == 1
    assert "no slide found there" in done.stderr


def test_doctor_knows_bad_versions():
    """Each rule fires on an old version and not on a good one."""
    assert complaints({"openslide library": "4.0.1", "torch": "2.14.1+cu130", "zarr": "3.1.6"}) == []
    found = complaints({"openslide library": "4.0.0", "torch": "2.5.1", "zarr": "3.0.1"})
    assert len(found) == 3
    assert run_here("doctor").returncode == 0


def test_a_mask_of_ones_own_replaces_ours(slides, tmp_path):
    """For one slide by a flag; for several it must be a CSV."""
    mask = np.zeros((70, 80), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    done = run_here("embed", slides / "two.svs", "-o", tmp_path / "out", "--mask", tmp_path / "mask.png", *FAST)
    assert done.returncode == 0, done.stderr
    store = SlideStore.open(tmp_path / "out" / "two.zarr")
    assert (store.features().xy[:, 0] + 176 > 400).all()
    assert store.tissue().thumbnail is not None
    done = run_here("embed", slides, "-o", tmp_path / "out", "--mask", tmp_path / "mask.png", *FAST)
    assert "--mask is for one slide" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(
            ["embed", "SLIDE", "-o", "FILE", *FAST], "output folder .* cannot be made: a file has", id="out-is-a-file"
        ),
        pytest.param(["verify", "NOWHERE"], "no store", id="nothing-to-verify"),
        pytest.param(["tissue", "SLIDE", "-o", "FILE"], "does not end in .png", id="not-a-png"),
        pytest.param(["picture", "NOWHERE", "-o", "x.png"], "there is no store", id="no-store"),
        pytest.param(["embed", "SLIDE", "-o", "NOWHERE", "-m", "unit"], "no encoder 'unit'", id="unknown-encoder"),
        pytest.param(["embed", "SLIDE", "-o", "NOWHERE", "-m", "resnet50"], "name it timm:resnet50", id="no-timm"),
    ],
)
def test_likely_mistakes_are_answered_in_a_line(slides, tmp_path, words, reason):
    """Exit code 1 and words, never a traceback."""
    (tmp_path / "file").write_text("")
    names = {"SLIDE": slides / "two.svs", "FILE": tmp_path / "file", "NOWHERE": tmp_path / "nowhere"}
    done = run_here(*(names.get(word, word) for word in words))
    assert done.returncode == 1
    assert re.search(reason, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


def test_another_mask_or_setting_is_not_taken_for_done(slides, tmp_path):
    """A run that asks for other tissue than the store holds is refused, never "already there"."""
    out = tmp_path / "out"
    assert run_here("embed", slides / "two.svs", "-o", out, *FAST).returncode == 0
    mask = np.zeros((70, 80), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for change in (["--mask", tmp_path / "mask.png"], ["--cell-um", "32"]):
        done = run_here("embed", slides / "two.svs", "-o", out, *change, *FAST)
        assert done.returncode == 1, change
        assert "holds another tissue mask" in done.stderr


def test_a_mask_in_microns_is_refused(slides, tmp_path):
    """A mask that misses the slide fails it, with where the polygons lie; it is not a slide of no tiles."""
    ring = [[5000, 100], [9000, 100], [9000, 400], [5000, 100]]
    (tmp_path / "roi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    done = run_here("embed", slides / "two.svs", "-o", tmp_path / "out", "--mask", tmp_path / "roi.geojson", *FAST)
    assert done.returncode == 1
    assert "span x 5000 to 9000 and y 100 to 400, the slide is 800 x 700 px" in done.stderr
    assert not list((tmp_path / "out").glob("[!.]*.zarr*"))


def test_a_scale_that_is_left_out_is_not_taken_for_the_same(slides, tmp_path):
    """A store made with --mpp is not what a run without it asks for; another mpp is another store."""
    assert run_here("embed", slides / "two.svs", "-o", tmp_path, "--mpp", "0.4", *FAST).returncode == 0
    done = run_here("embed", slides / "two.svs", "-o", tmp_path, *FAST)
    assert done.returncode == 1
    assert "made at 0.4 um/px (user), the slide now has 0.5 (vendor). Give --mpp 0.4" in done.stderr
    assert "1 already there" in run_here("embed", slides / "two.svs", "-o", tmp_path, "--mpp", "0.4", *FAST).stdout


def test_stores_are_not_taken_for_slides(slides, tmp_path):
    """Output inside the slides' folder is no input of the next run."""
    shutil.copy(slides / "two.svs", tmp_path / "two.svs")
    for words in ("1 embedded", "1 already there"):
        done = run_here("embed", tmp_path, "-o", tmp_path, *FAST)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
