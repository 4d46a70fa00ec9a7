"""How much a command says: usual lines, errors alone, every step; or one JSON document."""

import json
import logging
import re
import shutil

import pytest

from tests.support.command_line import run_here
from wsi_umedpt.batch.coordination.result import Logged, Outcome, Watcher
from wsi_umedpt.slides.slide_job import SlideJob

FAST = ["-m", "timm:resnet10t@random", "--device", "cpu", "--readers", "1"]
LOG_LINE = r"^\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ wsi_umedpt[\w.]*: "


@pytest.fixture(scope="module")
def out(small_svs, tmp_path_factory):
    """Stores of one slide, and of one that is none, embedded with --quiet; all that was printed."""
    slides, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    shutil.copy(small_svs, slides / "good.svs")
    (slides / "bad.svs").write_bytes(b"no slide")
    return out, run_here("embed", slides, "-o", out, *FAST, "--attempts", "1", "--quiet")


def test_quiet_prints_errors_alone(out):
    """Nothing on stdout; on stderr the slide that failed, and why."""
    folder, done = out
    assert (done.returncode, done.stdout) == (1, "")
    assert "bad" in done.stderr
    assert "good" not in done.stderr
    assert (folder / "good.zarr").is_dir()


def test_verbose_prints_what_the_library_logs(out, small_svs, tmp_path):
    """With time and module; the next command, without it, prints none of it."""
    words = ("embed", small_svs, "-o", tmp_path, *FAST)
    lines = re.findall(LOG_LINE + "(.*)$", run_here(*words, "-v").stderr, re.MULTILINE)
    assert any(re.fullmatch(r"slide small: done, \d+ tiles \(\d+ in this run\) in [\d.]+ s", line) for line in lines)
    assert any(line.startswith("encoder timm_resnet10t.random: loaded") for line in lines)
    assert not re.search(LOG_LINE, run_here(*words).stderr, re.MULTILINE)


def test_quiet_and_verbose_contradict_each_other():
    """And are refused together."""
    assert "give one" in run_here("doctor", "-q", "-v").stderr


def test_info_as_json_says_what_its_lines_say(out, small_svs):
    """Of slides and stores; what cannot be opened has an error."""
    slide, store, none = json.loads(run_here("info", small_svs, out[0] / "good.zarr", "none", "--json").stdout)
    assert (slide["kind"], slide["size_px"], slide["mpp"], slide["mpp_source"]) == (
        "slide",
        [1500, 1100],
        0.5,
        "vendor",
    )
    assert store["slide"]["fingerprint"] == slide["fingerprint"]
    (grid,) = store["grids"]
    assert f"{grid['name']}: {grid['tiles']} tiles" in run_here("info", out[0] / "good.zarr").stdout
    assert grid["features"][0]["name"] == "timm_resnet10t.random"
    assert none == {"path": "none", "error": "there is no slide at none"}


def test_verify_as_json_names_whole_and_damaged_stores(out, tmp_path):
    """Its exit code is as without; --quiet leaves damage to be seen."""
    shutil.copytree(out[0] / "good.zarr", tmp_path / "cut.zarr")
    next((tmp_path / "cut.zarr").glob("grids/*/xy/c/*/*")).write_bytes(b"")
    done = run_here("verify", out[0] / "good.zarr", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(store["whole"], bool(store["problems"])) for store in found["stores"]] == [(True, False), (False, True)]
    assert found["stores"][1]["problems"][0] in run_here("verify", tmp_path, "-q").stdout


def test_status_as_json_counts_slides(out):
    """Each with its status, and why it failed."""
    found = json.loads(run_here("status", out[0], "--json").stdout)
    statuses = {slide["slide_id"]: (slide["status"], bool(slide["reason"])) for slide in found["slides"]}
    assert statuses["good"] == ("whole", False)
    assert statuses["bad"][1]
    assert sum(found["counts"].values()) == len(statuses) == 2
    assert (found["not_begun"], [run["slides"] for run in found["runs"]]) == ([], [2])


def test_a_run_is_logged_whoever_watches(caplog, tmp_path):
    """Slides that end are information, retries warnings, failures errors; the watcher hears of them too."""
    job, told = SlideJob(tmp_path / "a.svs", "a"), []

    class Telling(Watcher):
        def slide_ended(self, outcome):
            told.append(outcome.status)

    run = Logged(Telling())
    with caplog.at_level(logging.DEBUG, "wsi_umedpt"):
        run.slide_started(job, 7)
        run.slide_again(Outcome(job, "failed", reason="the disk is full", again_s=5))
        run.slide_ended(Outcome(job, "done", tiles=7))
        run.slide_ended(Outcome(job, "failed", reason="no slide"))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO", "ERROR"]
    assert "retry in 5 s: the disk is full" in caplog.text
    assert told == ["done", "failed"]
