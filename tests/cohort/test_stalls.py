"""Slides that make no progress: each fails with a reason, the run goes on, and who is told to stop stops."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import bad_slides
import pytest

from wsi_umedpt.cohort.isolate import Isolated, Limits
from wsi_umedpt.cohort.line import run_line
from wsi_umedpt.cohort.objects import ObjectPlan, segment_slides
from wsi_umedpt.cohort.outcome import Watcher
from wsi_umedpt.cohort.records import read_record
from wsi_umedpt.cohort.run import embed_slides
from wsi_umedpt.cohort.turns import Rules
from wsi_umedpt.errors import OptionError, StalledError
from wsi_umedpt.stalls import Task, left_behind, watched
from wsi_umedpt.tiling import TileSpec

WAYS = ["sleep-in-open", "sleep-in-tissue", "sleep-in-tiles", "spin"]


@pytest.fixture(autouse=True)
def misbehaving(monkeypatch):
    """Slides that hang in this process; what they hold is let go at the end."""
    from wsi_umedpt.cohort import run

    monkeypatch.setattr(run, "open_slide", bad_slides.misbehaving(run.open_slide))
    bad_slides.LET_GO.clear()
    yield
    bad_slides.LET_GO.set()
    until = time.monotonic() + 20
    while left_behind():  # what comes back after all frees what it holds
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("way", "threads"), [*((way, 1) for way in WAYS), ("sleep-in-tiles", 0), ("sleep-in-tiles", 3)]
)
def test_a_slide_that_makes_no_progress_fails_and_the_run_goes_on(way, threads, bad_job, jobs, calm, tmp_path):
    """In the main process, wherever it hangs; slides around it are as in a calm run; the record says where it was."""
    out, bad = tmp_path / "out", bad_job(way)
    plan = replace(bad_slides.plan(out), stall_s=1.5, threads=threads)
    began = time.monotonic()
    outcomes = embed_slides([jobs[0], bad, jobs[1]], plan)
    assert time.monotonic() - began < 30
    assert [o.status for o in outcomes] == ["done", "failed", "done"]
    assert "made no progress for 1.5 s" in outcomes[1].reason
    place = {"sleep-in-tissue": "read_thumbnail", "sleep-in-tiles": "_decode_row"}.get(way, "bad_slides.py")
    assert place in outcomes[1].traceback
    record = read_record(out, way)
    assert record is not None
    assert (record.status, record.failures) == ("failed", 1)
    for job in jobs[:2]:
        assert bad_slides.contents(out / f"{job.slide_id}.zarr") == calm[job.slide_id]
    assert not list(out.glob(".runs/*.claim"))


def test_segment_gives_up_a_slide_that_hangs(bad_job, tmp_path):
    """As embedding does."""
    model = SimpleNamespace(heads=[])
    objects = ObjectPlan(model=model, spec=TileSpec(size_px=64), made_by={"model": "none"})
    plan = replace(bad_slides.plan(tmp_path / "out"), encoders=[], specs=[], stall_s=1.0)
    [outcome] = segment_slides([bad_job("sleep-in-tissue")], plan, objects)
    assert outcome.status == "failed"
    assert "made no progress" in outcome.reason


def test_a_child_that_hangs_is_watched_too(bad_job, jobs, calm, tmp_path):
    """Without a --slide-timeout; the next slide has a child of its own."""
    out = tmp_path / "out"
    load = partial(bad_slides.load, out, attempts=1, stall_s=1.5)
    isolated = Isolated(load, out, Limits(), Rules(attempts=1))
    outcomes = run_line([bad_job("sleep-in-tiles"), jobs[0]], isolated, Watcher())
    assert [o.status for o in outcomes] == ["failed", "done"]
    assert "made no progress for 1.5 s" in outcomes[0].reason
    assert bad_slides.contents(out / "s0.zarr") == calm["s0"]


RUN = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
import bad_slides
from wsi_umedpt import cli
from wsi_umedpt.cohort import run
from wsi_umedpt.cohort.isolate import Isolated, Limits
from wsi_umedpt.cohort.line import run_line
from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.outcome import Watcher
from wsi_umedpt.cohort.turns import Rules
from wsi_umedpt.cohort.stopping import EXIT_CODE, Stopped, stoppable

def work(arguments, **_):
    job, out = SlideJob(Path({slide!r}), "bad"), Path({out!r})
    try:
        with stoppable():
            if {isolated}:
                run_line([job], Isolated(partial(bad_slides.load, out), out, Limits(), Rules()), Watcher())
            else:
                run.open_slide = bad_slides.misbehaving(run.open_slide)
                run.embed_slides([job], bad_slides.plan(out))
    except Stopped:
        return EXIT_CODE

if __name__ == "__main__":
    cli.app = work
    cli.main()
"""


@pytest.mark.parametrize(("way", "isolated"), [("sleep-in-tissue", False), ("sleep-in-tissue", True)], ids=str)
def test_sigterm_acts_within_seconds_on_a_run_that_hangs(way, isolated, bad_job, tmp_path):
    """The exit code is that of SIGTERM, the claim is given back, and the attempt does not count; in a child too."""
    out = tmp_path / "out"
    script = tmp_path / "run.py"
    slide = str(bad_job(way).path)
    script.write_text(RUN.format(tests=str(Path(__file__).parent), slide=slide, out=str(out), isolated=isolated))
    with subprocess.Popen([sys.executable, str(script)]) as run:
        while not (out / ".runs" / "bad.json").exists():
            assert run.poll() is None
            time.sleep(0.05)
        time.sleep(1.0)
        began = time.monotonic()
        os.kill(run.pid, signal.SIGTERM)
        try:
            code = run.wait(20)
        finally:
            run.kill()
    assert code == 143
    assert time.monotonic() - began < 15
    record = read_record(out, "bad")
    assert record is not None
    assert (record.status, record.attempts) == ("stopped", 0)
    assert not list(out.glob(".runs/*.claim"))


def test_work_that_is_slow_but_advances_is_waited_for():
    """Each sign of progress gives it the whole time anew."""

    def work(pulse):
        for _ in range(6):
            time.sleep(0.2)
            pulse()
        return "whole"

    assert watched(work, stall_s=1.0) == "whole"


def test_what_comes_too_late_is_freed_and_a_loop_is_broken_off():
    """Whoever left it never hears of it; nothing goes on in the background."""
    freed = []

    def late(pulse):
        time.sleep(0.8)
        return "late"

    task = Task(late, stall_s=0.3, discard=freed.append)
    with pytest.raises(StalledError, match=r"no progress for 0\.3 s .*--stall-timeout"):
        task.result()

    def loop(pulse):
        while True:
            pass

    with pytest.raises(StalledError) as stalled:
        watched(loop, stall_s=0.3)
    assert "in loop" in stalled.value.__notes__[0]
    until = time.monotonic() + 5
    while "late" not in freed and time.monotonic() < until:
        time.sleep(0.05)
    assert freed in (["late"], [])  # broken off before it came, or freed
    names = lambda: [t.name for t in __import__("threading").enumerate()]  # noqa: E731
    while "reading" in names() and time.monotonic() < until:
        time.sleep(0.05)
    assert "reading" not in names()


def test_a_time_without_progress_that_cannot_be_is_refused(tmp_path):
    """As other limits are."""
    with pytest.raises(OptionError, match=r"--stall-timeout.* over 0 seconds, got 0"):
        replace(bad_slides.plan(tmp_path), stall_s=0)


def test_what_works_leaves_nothing_behind(jobs, tmp_path):
    """A calm run."""
    before = left_behind()
    embed_slides(jobs[:1], bad_slides.plan(tmp_path))
    assert left_behind() == before
