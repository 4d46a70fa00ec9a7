"""Slides that other processes have: a stopped holder is taken over, and who waits is told for whom."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support import bad_slides
from wsi_umedpt.batch.coordination import leases
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.leases import Claims, holder_of, machine
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.executors.slide_queue import SlideQueue
from wsi_umedpt.batch.run import run_slides
from wsi_umedpt.cli.progress import Bars
from wsi_umedpt.store.write_lock import lock_where_possible

HOLDER = """
import sys, time
from pathlib import Path
from wsi_umedpt.batch.coordination.leases import Claims
out = Path(sys.argv[1])
claim = Claims(out, lease_s=float(sys.argv[2])).take("s0", out / "s0.zarr")
print("mine", flush=True)
while claim.is_ours():
    time.sleep(0.1)
try:
    claim.check()
except BlockingIOError as error:
    print(error, flush=True)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has claimed a slide, and renews its claim."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def until_stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)


class Noting(Watcher):
    """Notes whom a run waits for."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def slide_waits(self, job, holder):
        """Note."""
        self.told.append(f"{job.slide_id} {holder}")


def test_a_stopped_holder_is_taken_over_and_who_waits_is_told(holder, jobs, calm, tmp_path):
    """Its lock lives, yet the slide is embedded once a lease is over; it wakes up late and harms nothing."""
    until_stopped(holder.pid)
    noting = Noting()
    began = time.monotonic()
    [outcome] = run_slides(jobs[:1], *bad_slides.plan(tmp_path, rules=Rules(lease_s=3)), noting)
    assert outcome.status == "done"
    assert time.monotonic() - began > 3
    (told,) = noting.told
    assert told.startswith(f"s0 process {holder.pid} on ")
    assert f"which is stopped (Ctrl-Z, SIGSTOP): kill -CONT {holder.pid} lets it go on" in told
    os.kill(holder.pid, signal.SIGCONT)
    assert (
        holder.stdout.read() == f"another process took over {tmp_path}/s0.zarr, as this one was silent for too long\n"
    )
    assert bad_slides.contents(tmp_path / "s0.zarr") == calm["s0"]


def test_a_holder_that_works_is_waited_for(holder, jobs, tmp_path, monkeypatch):
    """However long: it renews its claim; who waits is told its process, once."""
    now = [0.0]
    for name in ("clock", "awake_clock"):
        monkeypatch.setattr(leases, name, lambda: now[0])
    claim = tmp_path / ".runs" / "s0.claim"
    noting = Noting()
    queue = SlideQueue(jobs[:1], noting, tmp_path)
    mine = Claims(tmp_path, lease_s=1)
    for _ in range(4):  # nearly a lease goes by between two renewals
        assert mine.take("s0", tmp_path / "s0.zarr") is None
        queue.settle(jobs[0], None)
        renewed = claim.stat().st_mtime_ns
        while claim.stat().st_mtime_ns == renewed:
            time.sleep(0.02)
        now[0] += 0.9
    (told,) = noting.told
    assert told.startswith(f"s0 process {holder.pid} on ")
    assert "stopped" not in told


def test_one_who_only_adds_to_a_store_is_never_taken_over(tmp_path, monkeypatch):
    """It has the lock and no claim; also where a claim lies there that a dead process left."""
    now = [0.0]
    monkeypatch.setattr(leases, "clock", lambda: now[0])
    monkeypatch.setattr(leases, "awake_clock", lambda: now[0])
    store = tmp_path / "s0.zarr"
    lock = lock_where_possible(store)
    assert lock is not None
    mine = Claims(tmp_path)
    for left in (None, {"token": "a", "machine": machine(), "locked": True, "pid": 2**22 + 1, "host": "h"}):
        if left:
            (tmp_path / ".runs" / "s0.claim").write_text(json.dumps(left))
        for _ in range(4):
            assert mine.take("s0", store) is None
            now[0] += 100
    lock.release()
    claim = mine.take("s0", store)
    assert claim is not None
    claim.end()


def test_while_the_machine_slept_nobody_was_silent(tmp_path, monkeypatch):
    """Both wake up together; the holder's lock shows that it is there."""
    now, awake = [0.0], [0.0]
    monkeypatch.setattr(leases, "clock", lambda: now[0])
    monkeypatch.setattr(leases, "awake_clock", lambda: awake[0])
    store = tmp_path / "s0.zarr"
    theirs = Claims(tmp_path).take("s0", store)
    assert theirs is not None
    mine = Claims(tmp_path)
    assert mine.take("s0", store) is None
    now[0] += 10_000
    awake[0] += 5
    assert mine.take("s0", store) is None
    awake[0] += 200
    taken = mine.take("s0", store)
    assert taken is not None
    assert taken.lock is None
    assert taken.work != theirs.work
    taken.end()


def test_holders_are_named_as_far_as_they_are_known(tmp_path):
    """A job of a cluster; a claim without a name, damaged, or gone."""
    path = tmp_path / ".runs" / "s0.claim"
    path.parent.mkdir()
    assert holder_of(tmp_path, "s0") == ""
    path.write_text(json.dumps({"token": "a", "machine": "other", "pid": 7, "host": "node7", "job": "12"}))
    assert holder_of(tmp_path, "s0") == "process 7 on node7, job 12"
    for text in ("", "[]", '{"token": "a", "pid": "7"}'):
        path.write_text(text)
        assert holder_of(tmp_path, "s0") == "a process that left no name"


def test_the_user_reads_whom_the_run_waits_for(jobs, capsys):
    """One line, that no claim's content can forge."""
    Bars(1).slide_waits(jobs[0], "process 7 on node\x1b[2J7")
    assert capsys.readouterr().err == "s0: waits for process 7 on node\ufffd[2J7\n"
