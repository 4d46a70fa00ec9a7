"""Slides in a child process: whatever one does to it, the run loses that slide and nothing else."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import bad_slides
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.records import read_record
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.executors import child_process, slide_child
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.batch.executors.slide_queue import run_queue
from wsi_umedpt.errors import EncoderError, SpreadError
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.store.slide_store import SlideStore

LIMITS = Limits(slide_s=3000, memory_gb=1.5)


@pytest.fixture(autouse=True)
def an_hour_passes(monkeypatch, tmp_path):
    """For who watches a slide that hangs or spins, once it does: a busy machine fails no slide that is sound."""

    def monotonic() -> float:
        stuck = any((tmp_path / f"{way}{bad_slides.BEGUN}").exists() for way in ("hang", "spin"))
        return time.monotonic() + 3600 * stuck

    monkeypatch.setattr(child_process, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))


def isolated(out: Path, *, load=bad_slides.load, attempts=1, **options) -> Isolated:
    if load is bad_slides.load:
        options["attempts"] = attempts
    return Isolated(partial(load, out, **options), out, LIMITS, Rules(attempts=attempts))


@pytest.mark.parametrize(
    ("way", "reason", "frame"),
    [
        pytest.param("crash", "ended by SIGSEGV", "string_at", id="segmentation-fault"),
        pytest.param("hang", "longer than 3000 s", "", id="native-code-that-never-returns"),
        pytest.param("spin", "longer than 3000 s", "misbehave", id="endless-loop"),
        pytest.param("swell", "more than 1.5 GB", "misbehave", id="memory-balloon"),
    ],
)
def test_a_slide_that_misbehaves_costs_itself(way, reason, frame, bad_job, jobs, calm, tmp_path):
    """It is given up with its reason and the place in its record; the slides around it are as in a calm run."""
    out = tmp_path / "out"
    outcomes = run_queue([*jobs[:2], bad_job(way), jobs[2]], isolated(out), Watcher())
    assert [o.status for o in outcomes] == ["done", "done", "failed", "done"]
    assert reason in outcomes[2].reason
    record = read_record(out, way)
    assert record is not None
    assert (record.status, record.attempts, record.failures) == ("quarantined", 1, 1)
    assert reason in (record.error or "")
    assert frame in (record.traceback or "")
    for job in jobs[:3]:
        assert bad_slides.contents(out / f"{job.slide_id}.zarr") == calm[job.slide_id]
    assert not (out / f"{way}.zarr").exists()
    assert not list(out.glob(".runs/*.claim"))


def test_chosen_channels_are_seen_in_the_child_too(dark_jobs, calm_dark, tmp_path):
    """Percentiles and windows, recorded alike; a slide that lacks a channel fails alone, and says which it has."""
    out = tmp_path / "out"
    outcomes = run_queue(dark_jobs, isolated(out), Watcher())
    assert [o.status for o in outcomes] == ["done", "done", "failed"]
    assert "its channels are 0 DAPI, 1 CD3" in outcomes[2].reason
    for name, expected in calm_dark.items():
        assert bad_slides.contents(out / f"{name}.zarr") == expected
    assert [one.name for one in SlideStore.open(out / "three.zarr").channels] == ["CD8", "DAPI", "PanCK"]


def test_a_slide_is_tried_again_and_then_given_up(bad_job, jobs, tmp_path):
    """As often as was asked, the others first; a later run leaves it alone, and says why."""
    out, crash = tmp_path / "out", bad_job("crash")
    told = []

    class Noting(Watcher):
        def slide_ended(self, outcome):
            told.append(outcome.job.slide_id)

        def slide_again(self, outcome):
            told.append(f"{outcome.job.slide_id} again")

    run_queue([crash, jobs[0]], isolated(out, attempts=2), Noting())
    assert told == ["crash again", "s0", "crash"]
    [outcome] = run_queue([crash], isolated(out, attempts=2), Watcher())
    assert outcome.status == "failed"
    assert "given up, as 2 attempts failed, the last one: its process was ended by SIGSEGV" in outcome.reason
    assert "`retry_failed`" in outcome.reason
    assert read_record(out, "crash").attempts == 2


def test_what_cannot_be_loaded_ends_the_run(jobs, tmp_path):
    """The reason is the encoder's own, and no slide is blamed."""
    with pytest.raises(EncoderError, match="no such encoder"):
        run_queue(jobs, isolated(tmp_path, load=bad_slides.load_and_refuse), Watcher())
    with pytest.raises(EncoderError, match="could not load what it needs: its process was ended by SIGKILL"):
        run_queue(jobs, isolated(tmp_path, load=bad_slides.load_and_die), Watcher())
    assert not (tmp_path / ".runs").exists()


def test_a_slide_is_handed_back_when_the_run_stops(jobs, calm, tmp_path):
    """Ctrl-C half way: the claim is given back, what is durable stays, and the attempt does not count."""

    class Stopping(Watcher):
        def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
            if done > bad_slides.CHUNK:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_queue(jobs[:1], isolated(tmp_path, delay=0.15), Stopping())
    record = read_record(tmp_path, "s0")
    assert record is not None
    assert (record.status, record.attempts, record.failures) == ("stopped", 0, 0)
    assert not list(tmp_path.glob(".runs/*.claim"))
    [outcome] = run_queue(jobs[:1], isolated(tmp_path), Watcher())
    assert (outcome.status, outcome.fresh < outcome.tiles) == ("done", True)
    assert bad_slides.contents(tmp_path / "s0.zarr") == calm["s0"]


PARENT = """
import sys
from functools import partial
from pathlib import Path
from tests.support import bad_slides
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.coordination.attempts import Rules
if __name__ == "__main__":
    out = Path({out!r})
    isolated = Isolated(partial(bad_slides.load, out), out, Limits(), Rules())
    isolated.start()
    print(isolated.pid, flush=True)
    isolated.attempt(SlideJob(Path({slide!r}), "spin"), Watcher())
"""


def test_a_child_does_not_outlive_its_parent(bad_job, jobs, tmp_path):
    """The parent is killed: so is the child, and another process has the slide at once."""
    script, slide = tmp_path / "parent.py", bad_job("spin")
    script.write_text(PARENT.format(out=str(tmp_path), slide=str(slide.path)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        while not (tmp_path / ".runs" / "spin.claim").exists():
            time.sleep(0.05)
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 300
    while bad_slides.is_alive(child):
        assert time.monotonic() < until
        time.sleep(0.05)
    [outcome] = run_queue([SlideJob(jobs[0].path, "spin")], isolated(tmp_path), Watcher())
    assert outcome.status == "done"


def test_a_machine_without_the_folder_of_the_run_says_so(tmp_path):
    """And does no work at other places that have the same names."""
    isolated = Isolated(partial(bad_slides.load, tmp_path), tmp_path, Limits(), Rules(), folder=tmp_path / "gone")
    with pytest.raises(SpreadError, match=r"has no folder .*gone .*where the command was started"):
        isolated.start()
    isolated.close()


def test_what_fails_ahead_of_its_turn_does_not_stop_the_words(monkeypatch):
    """A slide that cannot be made ready is attempted as any other."""

    class Work:
        def ahead(self, job):
            raise RuntimeError(job.slide_id)

    ours, theirs = multiprocessing.Pipe()
    first, second = (SlideJob(Path(f"{n}.svs"), n) for n in ("a", "b"))
    for word in (("attempt", first), ("ahead", second), ("attempt", second)):
        ours.send(word)
    ours.close()
    assert [*slide_child._jobs(theirs, Work())] == [first, second]


def test_where_no_process_can_be_started_that_is_said(tmp_path, monkeypatch):
    """It is an error, and not a slide that is put back for ever."""

    def refuse(*_, **__):
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(child_process._Child, "__init__", refuse)
    isolated = Isolated(partial(bad_slides.load, tmp_path), tmp_path, Limits(), Rules())
    with pytest.raises(EncoderError, match=r"no process for slides can be started .*path too long.*TMPDIR"):
        isolated.start()
