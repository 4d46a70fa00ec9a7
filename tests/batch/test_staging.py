"""Slides elsewhere: the same bytes as from here, nothing fetched in vain or left lying, no credentials told."""

import contextlib
import glob
import multiprocessing.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import filelock
import fsspec
import pytest

from tests.support import bad_slides, web_server
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.records import read_record
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.coordination.shutdown import Terminated
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.batch.executors.dask import Cluster, spread_slides
from wsi_umedpt.batch.executors.slide_queue import run_queue
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.jobs.slide_files import files_of, fingerprint_at
from wsi_umedpt.batch.jobs.staging import Stage, StageRule
from wsi_umedpt.batch.run import SlideRunner, run_slides
from wsi_umedpt.errors import RemoteError, SlideError
from wsi_umedpt.io.remote import Remote
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.testing import tissue_image, write_dicom


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path_factory) -> Iterator[Path]:
    """The system's temporary folder, empty; those of multiprocessing and pytest, which all tests share, stay."""
    multiprocessing.util.get_temp_dir()
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield Path(folder)


@pytest.fixture
def put(bucket, slides) -> list[SlideJob]:
    """The slides in a bucket."""
    for path in slides:
        Remote(f"{bucket}/slides").put(path.name, path.read_bytes())
    jobs, failures = list_slides([f"{bucket}/slides/"])
    assert not failures
    return jobs


def lies_in(folder: Path) -> list[str]:
    """Files, but for locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock" and p.name != ".lock")


def plan(out: Path, rules: Rules | None = None, **rule):
    return bad_slides.plan(out, stage=StageRule(**rule), rules=rules or Rules())


@pytest.mark.parametrize("how", ["here", "isolated", "workers"])
def test_slides_elsewhere_give_the_same_stores(how, put, calm, tmp_path, temporary):
    """In this process, in one beside it and through Dask; a second run says already; nothing is left of the copies."""
    out = tmp_path / "out"

    def run():
        if how == "here":
            return run_slides(put, *plan(out))
        load = partial(bad_slides.load, out, stage=StageRule())
        if how == "isolated":
            return run_queue(put, Isolated(load, out, Limits(), Rules()), Watcher())
        return spread_slides(put, load, out, Cluster.parse("local:2"))

    assert [(o.status, o.reason) for o in run()] == [("done", "")] * 5
    for job in put:
        assert bad_slides.contents(out / f"{job.slide_id}.zarr") == calm[job.slide_id]
    assert [o.status for o in run()] == ["already"] * 5
    assert lies_in(temporary / f"wsi-umedpt-stage-{os.getuid()}") == []


def test_a_whole_slide_is_not_downloaded_again(slides, tmp_path):
    """To know that it is the same, 16 blocks are enough."""
    (tmp_path / "served").mkdir()
    big = tmp_path / "served" / "big.svs"
    big.write_bytes(slides[0].read_bytes() + bytes(6_000_000))  # a TIFF may end in anything
    with web_server.web(tmp_path / "served") as server:
        jobs, _ = list_slides([f"{server.url}/big.svs"])
        assert fingerprint_at(jobs[0]) == fingerprint(big)
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert outcome.status == "done", outcome.reason
        server.sent.clear()
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert outcome.status == "already"
        assert 0 < server.sent["big.svs"] <= 16 * 65536 + 1, "a byte, to see that it gives parts"
        big.write_bytes(slides[1].read_bytes() + bytes(6_000_000))
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert "is of another slide" in outcome.reason


def test_a_server_without_ranges_serves_slides_all_the_same(slides, tmp_path):
    """Whether a slide is still the same is then only known by a download, which changes nothing."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "big.svs").write_bytes(slides[0].read_bytes() + bytes(2_000_000))
    with web_server.web(tmp_path / "served") as server:
        server.ranges = False
        jobs, _ = list_slides([f"{server.url}/big.svs"])
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert outcome.status == "done", outcome.reason
        assert outcome.fresh
        server.asked = 0
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert (outcome.status, outcome.fresh) == ("done", 0), outcome.reason
        assert server.asked == 3, "a look whether it gives parts before and after the claim, and the download"


def test_a_server_that_is_down_is_told_from_a_slide_that_is_gone(tmp_path):
    """It is asked again, and its reason is named; a slide that is gone is asked for once."""
    with web_server.web(tmp_path) as server:
        with pytest.raises(RemoteError, match="there is nothing at"):
            Remote(f"{server.url}/gone.svs").size()
        server.down = True
        with pytest.raises(RemoteError, match=r"asked 4 times.*503"):
            Remote(f"{server.url}/gone.svs").size()
    with pytest.raises(RemoteError, match=r"asked 4 times.*Connect"):
        Remote(f"{server.url}/gone.svs").size()


def test_what_breaks_is_asked_for_again(slides, calm, tmp_path):
    """A refusal and a connection that ends half-way cost nothing; a server that stays so costs the slide."""
    shutil.copytree(slides[0].parent, tmp_path / "served")
    with web_server.web(tmp_path / "served") as server:
        jobs, _ = list_slides([f"{server.url}/s0.svs"])
        server.trouble, server.cut = 1, [False, True]
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert outcome.status == "done", outcome.reason
        assert bad_slides.contents(tmp_path / "out" / "s0.zarr") == calm["s0"]
        server.trouble = 1000
        [outcome] = run_slides([SlideJob(Path("x"), "s1", url=f"{server.url}/s1.svs")], *plan(tmp_path / "out"))
        assert outcome.status == "failed"
        assert "asked 4 times" in outcome.reason


def test_no_more_is_written_than_was_announced(slides, tmp_path, temporary):
    """Room was made for so many bytes."""
    with web_server.web(slides[0].parent) as server:
        server.more = 20_000_000
        jobs, _ = list_slides([f"{server.url}/s0.svs"])
        [outcome] = run_slides(jobs, *plan(tmp_path / "out"))
        assert outcome.status == "failed"
        assert "sends more than" in outcome.reason
        assert server.asked == 1, "trying again does not help"
    assert lies_in(temporary / f"wsi-umedpt-stage-{os.getuid()}") == []


def test_a_web_server_that_leads_on_for_ever_is_left(tmp_path, monkeypatch):
    """A folder in itself; what lies in few folders is found."""
    monkeypatch.setattr("wsi_umedpt.io.remote._FOLDERS", 5)
    (tmp_path / "few" / "a").mkdir(parents=True)
    (tmp_path / "few" / "a" / "x.svs").touch()
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless" / "again").symlink_to(tmp_path / "endless")
    with web_server.web(tmp_path) as server:
        jobs, failures = list_slides([f"{server.url}/few/", f"{server.url}/endless/"])
    assert [job.slide_id for job in jobs] == ["x"]
    assert "more than 5 folders" in failures[0].reason


def test_a_web_server_is_asked_how_large_the_files_of_a_slide_are(tmp_path):
    """Its lists do not say."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p.mrxs").write_bytes(b"1")
    (tmp_path / "p" / "Data0001.dat").write_bytes(b"123")
    with web_server.web(tmp_path) as server:
        [job], _ = list_slides([f"{server.url}/"])
        assert {file.name: file.size for file in files_of(job).files} == {"p.mrxs": 1, "p/Data0001.dat": 3}


def test_credentials_are_told_to_nobody(slides, tmp_path):
    """Not in reasons, tracebacks or records; nor is the slide's folder or name, which its id replaces."""
    secret = "X-Amz-Signature=5ECRET&X-Amz-Credential=WH0"  # noqa: S105
    table = tmp_path / "cohort.csv"
    with web_server.web(tmp_path) as server:
        for address in (
            f"http://us3r:pa55@127.0.0.1:{server.server_port}/Smith^John/gone-file.svs?{secret}",
            f"https://us3r:pa55@127.0.0.1:1/Smith^John/gone-file.svs?{secret}#5ECRET",
        ):
            table.write_text(f"slide,slide_id\n{address},p1\n")
            jobs, failures = list_slides([str(table)])
            assert not failures
            [outcome] = run_slides(jobs, *plan(tmp_path / "out", rules=Rules(retry_failed=True)))
            record = read_record(tmp_path / "out", "p1")
            told = f"{outcome.reason} {outcome.traceback} {jobs[0]} {jobs[0].name} {record}"
            assert outcome.status == record.status == "failed"
            for word in ("5ECRET", "WH0", "us3r", "pa55"):
                assert word not in told
            for word in ("Smith", "gone-file"):
                assert word not in str(record)


def test_no_more_than_the_bound_lies_there(put, slides, tmp_path):
    """Of two processes that share a folder; with room for one slide they take turns."""
    folder, most = tmp_path / "stage", 1.1 * max(p.stat().st_size for p in slides)
    held, over = [], threading.Event()
    folder.mkdir()

    def watch() -> None:
        while not over.is_set():
            size = 0
            with filelock.FileLock(folder / ".lock"):  # nothing new is begun meanwhile
                for path in glob.glob(f"{folder}/stage-*/*/*/*"):  # pathlib's ends at a folder that goes
                    with contextlib.suppress(OSError):
                        size += os.stat(path).st_size
            held.append(size)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rule = {"folder": folder, "most_gb": most / 1e9}
    halves = [put[:3], put[3:]]
    results: list = [None, None]

    def run(n: int) -> None:
        results[n] = run_slides(halves[n], *plan(tmp_path / f"out{n}", **rule))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        over.set()
        watcher.join()
    assert [o.status for part in results for o in part] == ["done"] * 5
    assert 0 < max(held) <= most
    assert lies_in(folder) == []


def test_a_slide_larger_than_the_bound_fails_alone(put, slides, tmp_path):
    """With a reason that names the flag."""
    most = (sorted(p.stat().st_size for p in slides)[-2] + 1) / 1e9
    outcomes = run_slides(put, *plan(tmp_path / "out", most_gb=most))
    failed = [o for o in outcomes if o.status == "failed"]
    assert len(failed) == 1
    assert "`most_gb`" in failed[0].reason
    with pytest.raises(SlideError, match="`most_gb`"), Stage(StageRule(most_gb=1e-6)).at_hand(put[0]):
        pass


def test_the_next_slide_is_copied_while_one_is_worked_on(put, tmp_path):
    """And no other one, and not one that is not wanted."""
    stage = Stage(StageRule(folder=tmp_path / "stage"))
    asked = []

    def wanted(slide_id: str) -> bool:
        asked.append(slide_id)
        return slide_id != "s2"

    stage.ahead(put[1], lambda: wanted("s1"))
    assert not asked  # not before what comes first
    with stage.at_hand(put[0]):
        wait_for(lambda: len(lies_whole(tmp_path)) == 2)
    assert lies_whole(tmp_path) == ["s1.svs"]
    with stage.at_hand(put[1]) as path:
        assert path.read_bytes() == Path(tmp_path / "stage").rglob("s1.svs").__next__().read_bytes()
        stage.ahead(put[2], lambda: wanted("s2"))
        wait_for(lambda: asked == ["s1", "s2"])
    with stage.at_hand(put[3]) as path:
        assert path.name == "s3.svs"
    stage.close()
    assert lies_in(tmp_path / "stage") == []


@pytest.mark.parametrize("how", ["isolated", "workers"])
def test_children_are_told_what_comes_next(how, jobs, tmp_path):
    """While they work on another slide: by the parent, or by the Dask worker that has it in its queue."""
    load = partial(bad_slides.Noting, tmp_path)
    if how == "isolated":
        run_queue(jobs, Isolated(load, tmp_path, Limits(), Rules()), Watcher())
    else:
        spread_slides(jobs, load, tmp_path, Cluster.parse("local:1"))
    told = (tmp_path / "told").read_text().splitlines()
    attempts = [line for line in told if line.startswith("attempt")]
    assert len(attempts) == 5
    early = [
        f"ahead {line.split()[1]}" in told and told.index(f"ahead {line.split()[1]}") < told.index(line)
        for line in attempts
    ]
    assert not early[0]
    assert sum(early) >= 3  # the second may come too late to be told of


def lies_whole(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("stage/stage-*/*/slide/*"))


def wait_for(what) -> None:
    until = time.monotonic() + 200
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_a_killed_process_left_is_removed(put, slides, tmp_path):
    """By the next that stages there; what belongs to one that lives, or to nobody, stays."""
    folder = tmp_path / "stage"
    code = (
        "import sys, time; from pathlib import Path; from wsi_umedpt.batch.jobs.staging import *\n"
        "from wsi_umedpt.batch.jobs.manifest import SlideJob\n"
        f"with Stage(StageRule(folder=Path({str(folder)!r}))).at_hand(SlideJob(Path({str(slides[0])!r}), 'x')):\n"
        "    print('there', flush=True); time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"there\n"
        (folder / "mine.txt").write_text("not of a stage")
        with Stage(StageRule(folder=folder)).at_hand(put[0]):
            assert lies_whole(tmp_path) == ["s0.svs", "x.svs"]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        stage = Stage(StageRule(folder=folder))
        with stage.at_hand(put[0]):
            assert "x.svs" not in lies_whole(tmp_path)
        stage.close()
        assert (folder / "mine.txt").exists()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_slides_of_several_files_come_whole(tmp_path, bucket):
    """MRXS with its folder, a DICOM folder of one series, OME-Zarr; fingerprints are those of the files here."""
    image = tissue_image(640, 640)[0]
    here = tmp_path / "here"
    series = write_dicom(here / "series", image)
    (here / "m" / "Data").mkdir(parents=True)
    (here / "m" / "Data" / "x.dat").write_bytes(bytes(range(256)) * 9000)
    (here / "m.mrxs").write_bytes(b"m")
    (here / "z.zarr" / "0").mkdir(parents=True)
    (here / "z.zarr" / "zarr.json").write_text("{}")
    (here / "z.zarr" / "0" / "c").write_bytes(bytes(3_000_000))
    (here / "v").mkdir()
    (here / "v" / "v.vms").write_text("[a]\nImageFile=v.jpg\nOther=../../secret\n")
    (here / "v" / "v.jpg").write_bytes(b"picture")
    for path in here.rglob("*"):
        if path.is_file():
            Remote(bucket).put(path.relative_to(here).as_posix(), path.read_bytes())
    jobs, failures = list_slides([bucket + "/"])
    assert not failures
    assert [job.slide_id for job in jobs] == ["m", "series", "v", "z"]
    parts = ["m/**/*", "series/*", "v/*", "z.zarr/**/*"]
    sizes = [sum(path.stat().st_size for path in here.glob(part) if path.is_file()) for part in parts]
    assert [job.url_bytes for job in jobs] == [sizes[0] + 1, *sizes[1:]]
    for job, opened in zip(jobs, ("m.mrxs", f"series/{series[0].name}", "v/v.vms", "z.zarr"), strict=True):
        assert fingerprint_at(job) == fingerprint(here / opened)
        with Stage(StageRule()).at_hand(job) as path:
            assert fingerprint(path) == fingerprint(here / opened)
    Remote(f"{bucket}/series").put("other.dcm", write_dicom(tmp_path / "more", image, series="9.9")[0].read_bytes())
    with pytest.raises(RemoteError, match="2 series"), Stage(StageRule()).at_hand(jobs[1]):
        pass


def test_urls_name_one_slide_a_prefix_or_a_pattern(put, bucket, slides):
    """An id is the file's name, as of a file; what is not there is said, and how large what is listed is."""
    assert [job.slide_id for job in put] == ["s0", "s1", "s2", "s3", "s4"]
    assert [job.name for job in put[:1]] == [f"{bucket}/slides/s0.svs"]
    jobs, _ = list_slides([f"{bucket}/slides/s[12].svs", f"{bucket}/slides/s4.svs"])
    assert [job.slide_id for job in jobs] == ["s1", "s2", "s4"]
    sizes = [path.stat().st_size for path in slides]
    assert [job.url_bytes for job in put] == sizes
    assert [job.url_bytes for job in jobs] == [sizes[1], sizes[2], 0]
    jobs, failures = list_slides([f"{bucket}/nothing/", f"{bucket}/no*.svs", f"{bucket}/cohort.csv"])
    assert not jobs
    assert [f.name for f in failures] == [f"{bucket}/nothing/", f"{bucket}/no*.svs", f"{bucket}/cohort.csv"]


def test_slow_disks_are_staged_where_asked(jobs, calm, tmp_path):
    """Paths too, with --stage; the stores are the same."""
    outcomes = run_slides(jobs, *plan(tmp_path / "out", folder=tmp_path / "stage"))
    assert [o.status for o in outcomes] == ["done"] * 5
    for job in jobs:
        assert bad_slides.contents(tmp_path / "out" / f"{job.slide_id}.zarr") == calm[job.slide_id]
    assert lies_in(tmp_path / "stage") == []


def test_tries_are_not_multiplied_by_those_of_libraries(monkeypatch):
    """A bucket that does not answer would be waited for half an hour; other settings of a user's stay."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"s3": {"addressing_style": "path"}}})
    known = Remote("s3://bucket/x").fs.config_kwargs
    assert known == {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}}


def test_a_protocol_that_is_not_installed_is_named(monkeypatch):
    """With what to install."""
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(known, "s3", raising=False)
    [failure] = list_slides(["s3://bucket/slides/"])[1]
    assert "pip install 'wsi-umedpt[remote]'" in failure.reason
    [failure] = list_slides(["nosuch://bucket/slides/"])[1]
    assert "nosuch" in failure.reason


def test_who_is_told_to_stop_does_not_wait_for_a_silent_server(silence):
    """A question that may be answered in minutes is given up; the slide is handed back, and nothing is left."""
    work, job, out = silence
    ended: list[BaseException | object] = []

    def prepare() -> None:
        try:
            ended.append(work.begin(job).result())
        except Terminated as stopped:
            ended.append(stopped)

    asking = threading.Thread(target=prepare, daemon=True)
    asking.start()
    asking.join(1)
    assert asking.is_alive(), "the server is silent"
    work.stop()
    asking.join(10)
    assert not asking.is_alive()
    assert isinstance(ended[0], Terminated)
    work.close()
    assert read_record(out, job.slide_id).status == "stopped"


@pytest.fixture
def silence(tmp_path):
    """Work, a slide on a server that takes questions and never answers, and the folder of stores."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.svs"
        work = SlideRunner(*bad_slides.plan(tmp_path / "out"))
        yield work, SlideJob(Path("a.svs"), "a", url=url), tmp_path / "out"


def test_a_server_that_is_down_is_not_the_slides_fault(tmp_path, monkeypatch, unused_port):
    """It is not given up for that, and goes on when the server is back."""
    monkeypatch.setattr("wsi_umedpt.io.remote.PAUSE_S", 0.0)
    job = SlideJob(Path("a.svs"), "a", url=f"http://127.0.0.1:{unused_port}/a.svs")
    for _ in range(3):
        (outcome,) = run_slides([job], *bad_slides.plan(tmp_path, rules=Rules(attempts=1)))
        assert (outcome.status, outcome.passing, outcome.again_s) == ("failed", True, 10)
        assert "cannot be reached" in outcome.reason
        record = read_record(tmp_path, "a")
        assert (record.status, record.attempts, record.failures) == ("failed", 0, 0)
