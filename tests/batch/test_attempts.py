"""Records of slides: attempts are counted, hopeless slides are left alone, and nothing names a patient."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT, bad_slides
from wsi_umedpt.batch.coordination.attempts import Rules, will_pass
from wsi_umedpt.batch.coordination.leases import machine
from wsi_umedpt.batch.coordination.records import read_record, record_path, without_paths
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.coordination.shutdown import Terminated, raise_on_sigterm
from wsi_umedpt.batch.run import run_slides
from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides.slide_job import SlideJob


def embed(job: SlideJob, out: Path, watcher: Watcher | None = None, **rules):
    [outcome] = run_slides([job], *bad_slides.plan(out, rules=Rules(**rules)), watcher)
    return outcome


def test_a_record_says_what_docs_say(jobs, tmp_path):
    """Its fields are those of the table in docs/reference/run-records.md."""
    table = (ROOT / "docs" / "reference" / "run-records.md").read_text().split("\n\n")
    rows = next(part for part in table if part.startswith("| field"))
    named = {name for row in rows.splitlines()[2:] for name in row.split("|")[1].replace("`", "").strip().split(", ")}
    outcome = embed(jobs[0], tmp_path)
    found = json.loads(record_path(tmp_path, "s0").read_text())
    assert found.keys() == named
    assert (found["status"], found["attempts"], found["failures"], found["error"]) == ("done", 1, 0, None)
    assert found["tiles"] == outcome.tiles
    assert found["ended"] >= found["started"]


def test_a_slide_that_fails_is_given_up_and_why(tmp_path):
    """After as many failures as asked; not where it is asked to try again, or the file was replaced."""
    job = SlideJob(tmp_path / "DOE-JANE 1931" / "doe.svs", "s")
    job.path.parent.mkdir()
    job.path.write_bytes(b"no slide")
    for n in (1, 2):
        assert "given up" not in embed(job, tmp_path, attempts=2).reason
        record = read_record(tmp_path, "s")
        assert (record.attempts, record.failures) == (n, n)
        assert record.status == ("failed" if n == 1 else "quarantined")
    outcome = embed(job, tmp_path, attempts=2)
    assert outcome.reason.startswith("given up, as 2 attempts failed, the last one: no reader opens <slide>")
    assert "given up" not in embed(job, tmp_path, attempts=2, retry_failed=True).reason
    assert "given up" not in embed(job, tmp_path, attempts=2).reason
    assert "given up" in embed(job, tmp_path, attempts=2).reason
    job.path.write_bytes(b"another file")
    assert "given up" not in embed(job, tmp_path, attempts=2).reason
    text = record_path(tmp_path, "s").read_text()
    assert "Traceback" in text
    for secret in ("DOE", "JANE", "doe.svs", str(tmp_path)):
        assert secret not in text


def test_a_slide_is_named_by_its_id_alone():
    """Wherever its path stands in a text; words that merely hold its name stay."""
    job = SlideJob(Path("/data/DOE/jane.svs"), "s1")
    text = without_paths("/data/DOE/jane.svs: in /data/DOE, jane.svs is bad; janet is not; s1", job)
    assert text == "<slide>: in <slide>, <slide> is bad; janet is not; s1"


def test_a_full_disk_is_not_the_slides_fault(jobs, calm, tmp_path, monkeypatch):
    """However often it fails for it, it is not given up, and goes on when there is room."""

    def refuse(*_: object) -> None:
        raise RuntimeError("as zarr may wrap it") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(
            "wsi_umedpt.batch.coordination.leases.Claims.take", refuse
        )  # nothing can be written, no claim either
        outcome = embed(jobs[0], tmp_path, attempts=1)
        assert (outcome.status, outcome.passing, outcome.again_s) == ("failed", True, 10)
    with monkeypatch.context() as full:
        full.setattr("wsi_umedpt.store.partial.FeatureWriter._flush", refuse)
        for _ in range(3):
            outcome = embed(jobs[0], tmp_path, attempts=1)
            assert (outcome.status, outcome.passing, outcome.again_s) == ("failed", True, 10)
            record = read_record(tmp_path, "s0")
            assert (record.status, record.attempts, record.failures) == ("failed", 0, 0)
    assert embed(jobs[0], tmp_path, attempts=1).status == "done"
    assert bad_slides.contents(tmp_path / "s0.zarr") == calm["s0"]
    assert not will_pass(OSError(errno.EIO, "-"))


def test_ctrl_c_does_not_count(jobs, tmp_path):
    """Neither for the slide under way nor for the next, which was open already; both can be taken at once."""

    class Interrupted(Watcher):
        def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_slides(jobs[:2], *bad_slides.plan(tmp_path, rules=Rules(attempts=1)), Interrupted())
    for name in ("s0", "s1"):
        record = read_record(tmp_path, name)
        assert (record.status, record.attempts) == ("stopped", 0)
    assert not list(tmp_path.glob(".runs/*.claim"))
    assert [o.status for o in run_slides(jobs[:2], *bad_slides.plan(tmp_path))] == ["done", "done"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_a_record_that_cannot_be_read_stops_nothing(jobs, tmp_path, text):
    """It is taken for none, and replaced."""
    record_path(tmp_path, "s0").parent.mkdir()
    record_path(tmp_path, "s0").write_text(text)
    assert embed(jobs[0], tmp_path).status == "done"
    assert read_record(tmp_path, "s0").status == "done"


def test_what_a_killed_run_left_of_a_whole_store_is_tidied(jobs, tmp_path):
    """Its claim and its record, where it died between the commit and the end."""
    embed(jobs[0], tmp_path)
    path = record_path(tmp_path, "s0")
    path.write_text(path.read_text().replace('"done"', '"running"'))
    (tmp_path / ".runs" / "s0.claim").write_text(json.dumps({"token": "a", "machine": machine(), "locked": True}))
    assert embed(jobs[0], tmp_path).status == "already"
    assert read_record(tmp_path, "s0").status == "done"
    assert not list(tmp_path.glob(".runs/*.claim"))


def test_an_attempt_is_made_at_least_once():
    """None at all is refused."""
    with pytest.raises(OptionError, match="`attempts`"):
        Rules(attempts=0)


COMMAND = [sys.executable, "-m", "wsi_umedpt", "embed", "--tile-mpp", "0.5", "--batch-size", "1"]


class _Finalised:
    """Told to stop while Python runs its finaliser."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # the handler runs before this ends
            time.sleep(0)


def test_sigterm_is_not_lost_in_a_finaliser():
    """Python drops what is raised there: it is raised again outside."""

    def work() -> None:
        _Finalised()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(0.01)

    with pytest.raises(Terminated), raise_on_sigterm():
        work()


@pytest.mark.parametrize("flags", [[], ["--dask", "local:1"]], ids=["serial", "dask"])
def test_sigterm_hands_back(slides, tmp_path, flags):
    """Exit code 143, no claim left, the slide marked as stopped, and what to do next said."""
    command = [*COMMAND, str(slides[0].parent), "-o", str(tmp_path), "--stride", "24", "--force", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        until = time.monotonic() + 300
        while not list(tmp_path.glob("*.partial/growing/*/*/zarr.json")):
            assert run.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=300)
    assert run.returncode == 143, said
    assert "stopped by SIGTERM" in said
    assert "Run the same command again to resume" in said
    assert not list(tmp_path.glob(".runs/*.claim"))
    states = [read_record(tmp_path, path.stem) for path in slides]
    assert {record.status for record in states if record} <= {"done", "stopped"}
    assert "stopped" in {record.status for record in states if record}
