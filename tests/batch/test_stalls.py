"""Slides that make no progress: each fails with a reason, the run goes on, and stops when asked to."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from tests.support import bad_slides
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.records import read_record
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.batch.executors.slide_queue import run_queue
from wsi_umedpt.batch.run import Batch, run_slides
from wsi_umedpt.errors import OptionError, StalledError
from wsi_umedpt.io.stalls import Task, left_behind, watched
from wsi_umedpt.pipeline.segment import SegmentTask
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.tiling import TileSpec

WAYS = ["sleep-in-open", "sleep-in-tissue", "sleep-in-tiles", "spin"]


@pytest.fixture(autouse=True)
def misbehaving(monkeypatch):
    """Slides that hang in this process; what they hold is let go at the end."""
    from wsi_umedpt.pipeline import prepare

    monkeypatch.setattr(prepare, "open_slide", bad_slides.misbehaving(prepare.open_slide))
    bad_slides.LET_GO.clear()
    yield
    bad_slides.LET_GO.set()
    until = time.monotonic() + 200
    while left_behind():  # what comes back after all frees what it holds
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("ways", "readers"), [(WAYS, 1), (["sleep-in-tiles"], 0)], ids=["threads", "no-threads"])
def test_slides_that_make_no_progress_fail_and_the_run_goes_on(ways, readers, bad_job, jobs, calm, tmp_path):
    """In the main process, wherever they hang; slides around them are as in a calm run; records say where they were."""
    out = tmp_path / "out"
    task = bad_slides.task(stall_s=3.0, readers=readers)
    outcomes = run_slides([jobs[0], *map(bad_job, ways), jobs[1]], task, Batch(out=out))
    assert [o.status for o in outcomes] == ["done", *["failed"] * len(ways), "done"]
    for way, outcome in zip(ways, outcomes[1:], strict=False):
        assert "made no progress for 3 s" in outcome.reason
        place = {"sleep-in-tissue": "read_thumbnail", "sleep-in-tiles": "slides/tile_"}.get(way, "bad_slides.py")
        assert place in outcome.traceback, outcome.traceback
        record = read_record(out, way)
        assert record is not None
        assert (record.status, record.failures) == ("failed", 1)
    for job in jobs[:2]:
        assert bad_slides.contents(out / f"{job.slide_id}.zarr") == calm[job.slide_id]
    assert not list(out.glob(".runs/*.claim"))


def test_a_loop_that_is_broken_off_does_not_hand_its_slide_back(bad_job, tmp_path, monkeypatch):
    """However soon its thread ends: the slide failed, and that is recorded."""
    leave = Task.leave

    def leave_and_wait(task, grace_s=0.0):
        left = leave(task, grace_s)
        task._thread.join(20)
        return left

    monkeypatch.setattr(Task, "leave", leave_and_wait)
    [outcome] = run_slides([bad_job("spin")], bad_slides.task(stall_s=0.5), Batch(out=tmp_path / "out"))
    assert outcome.status == "failed"
    record = read_record(tmp_path / "out", "spin")
    assert record is not None
    assert (record.status, record.failures) == ("failed", 1)


def test_segment_gives_up_a_slide_that_hangs(bad_job, tmp_path):
    """As embedding does."""
    model = SimpleNamespace(heads=[], maps=())
    task = SegmentTask(
        model=model, spec=TileSpec(size_px=64), made_by={"model": "none"}, settings=RunSettings(stall_s=1.0)
    )
    [outcome] = run_slides([bad_job("sleep-in-tissue")], task, Batch(out=tmp_path / "out"))
    assert outcome.status == "failed"
    assert "made no progress" in outcome.reason


def test_a_child_that_hangs_is_watched_too(bad_job, jobs, calm, tmp_path):
    """Without a --slide-timeout; the next slide has a child of its own."""
    out = tmp_path / "out"
    load = partial(bad_slides.load, out, attempts=1, stall_s=3.0)
    isolated = Isolated(load, out, Limits(), Rules(attempts=1))
    outcomes = run_queue([bad_job("sleep-in-tiles"), jobs[0]], isolated, Watcher())
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert "made no progress for 3 s" in outcomes[0].reason
    assert bad_slides.contents(out / "s0.zarr") == calm["s0"]


RUN = """
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from tests.support import bad_slides
from wsi_umedpt import cli
from wsi_umedpt.batch.run import run_slides
from wsi_umedpt.pipeline import prepare
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.batch.executors.slide_queue import run_queue
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.shutdown import EXIT_CODE, Terminated, raise_on_sigterm

def work(arguments, **_):
    job, out = SlideJob(Path({slide!r}), "bad"), Path({out!r})
    try:
        with raise_on_sigterm():
            if {isolated}:
                run_queue([job], Isolated(partial(bad_slides.load, out), out, Limits(), Rules()), Watcher())
            else:
                prepare.open_slide = bad_slides.misbehaving(prepare.open_slide)
                run_slides([job], *bad_slides.plan(out))
    except Terminated:
        return EXIT_CODE

if __name__ == "__main__":
    cli.app = SimpleNamespace(meta=work)
    sys.argv.append("work")
    cli.main()
"""


@pytest.mark.parametrize(("way", "isolated"), [("sleep-in-tissue", False), ("sleep-in-tissue", True)], ids=str)
def test_sigterm_acts_within_seconds_on_a_run_that_hangs(way, isolated, bad_job, tmp_path):
    """The exit code is that of SIGTERM, the claim is given back, and the attempt does not count; in a child too.

    What hangs would do so for ten minutes.
    """
    out = tmp_path / "out"
    script = tmp_path / "run.py"
    slide = bad_job(way).path
    script.write_text(RUN.format(slide=str(slide), out=str(out), isolated=isolated))
    with subprocess.Popen([sys.executable, str(script)]) as run:
        while not ((out / ".runs" / "bad.json").exists() and slide.with_suffix(bad_slides.BEGUN).exists()):
            assert run.poll() is None
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGTERM)
        try:
            code = run.wait(200)
        finally:
            run.kill()
    assert code == 143
    record = read_record(out, "bad")
    assert record is not None
    assert (record.status, record.attempts) == ("stopped", 0)
    assert not list(out.glob(".runs/*.claim"))


def test_work_that_is_slow_but_advances_is_waited_for():
    """Each sign of progress gives it the whole time anew."""

    def work(pulse):
        for _ in range(6):
            time.sleep(0.5)
            pulse()
        return "whole"

    assert watched(work, stall_s=2.5) == "whole"


def test_what_comes_too_late_is_freed_and_a_loop_is_broken_off():
    """Whoever left it never hears of it; nothing goes on in the background."""
    freed = []

    def late(pulse):
        time.sleep(0.8)
        return "late"

    task = Task(late, stall_s=0.3, discard=freed.append)
    with pytest.raises(StalledError, match=r"no progress for 0\.3 s .*`stall_s`"):
        task.result()

    def loop(pulse):
        while True:
            pass

    with pytest.raises(StalledError) as stalled:
        watched(loop, stall_s=0.3)
    assert "in loop" in stalled.value.__notes__[0]
    until = time.monotonic() + 100
    names = lambda: [t.name for t in __import__("threading").enumerate()]  # noqa: E731
    while "reading" in names() and time.monotonic() < until:
        time.sleep(0.05)
    assert "reading" not in names()
    assert freed in (["late"], [])  # broken off before it came, or freed


def test_a_time_without_progress_that_cannot_be_is_refused(tmp_path):
    """As other limits are."""
    with pytest.raises(OptionError, match=r"`stall_s`.* over 0 seconds, got 0"):
        RunSettings(stall_s=0)


def test_what_works_leaves_nothing_behind(jobs, tmp_path):
    """A calm run."""
    before = left_behind()
    run_slides(jobs[:1], *bad_slides.plan(tmp_path))
    assert left_behind() == before
