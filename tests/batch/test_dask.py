"""Many workers: the same bytes as one process gives, whoever vanishes, and every slide that is bad listed."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.support import bad_slides
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.records import read_record
from wsi_umedpt.batch.coordination.result import Watcher
from wsi_umedpt.batch.executors.child_process import Limits
from wsi_umedpt.batch.executors.dask import Cluster, _bytes, spread_slides
from wsi_umedpt.batch.executors.slide_queue import SlideQueue
from wsi_umedpt.batch.run import run_slides
from wsi_umedpt.errors import EncoderError, OptionError
from wsi_umedpt.slides.slide_job import SlideJob


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("local", Cluster("local"), id="local"),
        pytest.param("local:3", Cluster("local", workers=3), id="local-3"),
        pytest.param("tcp://head:8786", Cluster("address", "tcp://head:8786"), id="scheduler"),
        pytest.param("slurm:16", Cluster("slurm", workers=16), id="slurm"),
        pytest.param("pbs:2", Cluster("pbs", workers=2), id="pbs"),
    ],
)
def test_a_cluster_is_named_by_a_word(text, expected):
    """As docs/how-to/cluster.md writes them."""
    assert Cluster.parse(text) == expected


@pytest.mark.parametrize("text", ["", "local:0", "local:-1", "slurm", "head:8786", "tcp://", "spark:4", "local:x"])
def test_what_is_no_cluster_is_refused(text):
    """With all that could have been meant."""
    with pytest.raises(OptionError, match=r"`dask` is local, local:N, tcp://HOST:PORT, slurm:N or pbs:N"):
        Cluster.parse(text)


def spread(jobs, out, *, load=bad_slides.load, watcher=None, attempts=2, cluster="local:2", **options):
    if load is bad_slides.load:
        options["attempts"] = attempts
    return spread_slides(
        jobs, partial(load, out, **options), out, Cluster.parse(cluster),
        limits=Limits(slide_s=600), rules=Rules(attempts=attempts), watcher=watcher,
    )  # fmt: skip


def test_workers_that_are_killed_lose_nothing(jobs, bad_job, calm, tmp_path):
    """Children are killed as they work, a slide crashes its own: others are as in a calm run, the bad one is listed."""
    out = tmp_path / "out"
    killed: list[int] = []

    class Killer(Watcher):
        def slide_ended(self, outcome) -> None:
            if len(killed) < 2:
                running = [r for job in jobs if (r := read_record(out, job.slide_id)) and r.status == "running"]
                for record in running[:1]:
                    os.kill(record.pid, signal.SIGKILL)
                    killed.append(record.pid)

    outcomes = spread([*jobs, bad_job("crash")], out, watcher=Killer(), attempts=4, delay=0.05)
    assert killed
    assert [o.status for o in outcomes] == ["done"] * len(jobs) + ["failed"]
    assert "SIGSEGV" in outcomes[-1].reason
    for job in jobs:
        assert bad_slides.contents(out / f"{job.slide_id}.zarr") == calm[job.slide_id]
    assert read_record(out, "crash").status == "quarantined"
    assert {p.suffix for p in out.glob(".runs/*")} == {".json"}


def test_chosen_channels_travel_to_the_workers(dark_jobs, calm_dark, tmp_path):
    """With the slides that they are of: the same bytes as one process gives; which one lacks is said."""
    outcomes = spread(dark_jobs, tmp_path, attempts=1)
    assert [o.status for o in outcomes] == ["done", "done", "failed"]
    assert "its channels are 0 DAPI, 1 CD3" in outcomes[2].reason
    for name, expected in calm_dark.items():
        assert bad_slides.contents(tmp_path / f"{name}.zarr") == expected


def test_what_cannot_be_loaded_ends_the_run(jobs, tmp_path):
    """Not once for every slide."""
    with pytest.raises(EncoderError, match="no such encoder"):
        spread(jobs, tmp_path, load=bad_slides.load_and_refuse)


def test_several_runs_share_the_slides(jobs, calm, tmp_path):
    """Two serial runs and one over workers at once: each slide is made once, all end, and all list all of them."""
    results = {}

    def serial(name: str) -> None:
        results[name] = run_slides(jobs, *bad_slides.plan(tmp_path, delay=0.02))

    threads = [threading.Thread(target=serial, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    results["c"] = spread(jobs, tmp_path, delay=0.02)
    for thread in threads:
        thread.join()
    for n, job in enumerate(jobs):
        assert sorted(results[name][n].status for name in "abc") == ["already", "already", "done"]
        assert bad_slides.contents(tmp_path / f"{job.slide_id}.zarr") == calm[job.slide_id]
        assert read_record(tmp_path, job.slide_id).attempts == 1


def dask(*words: str, at: Path) -> subprocess.Popen:
    """A process of a cluster, started in some folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=at,
    )  # fmt: skip


def test_the_largest_slides_come_first(tmp_path):
    """Here and elsewhere; those of unknown size come last."""
    (tmp_path / "here.svs").write_bytes(bytes(50))
    elsewhere = [SlideJob(Path(f"{n}"), f"s{n}", url=f"s3://b/{n}.svs", url_bytes=n) for n in (0, 70, 20)]
    queue = SlideQueue([*elsewhere, SlideJob(tmp_path / "here.svs", "here")], Watcher())
    queue.sort(_bytes)
    assert [job.slide_id for job in iter(queue.next, None)] == ["s70", "here", "s20", "s0"]


def test_a_scheduler_and_its_workers_may_come_back(jobs, calm, tmp_path, unused_port, monkeypatch):
    """All of a cluster is killed while it works, and started anew: the run goes on by itself, to the same bytes.

    Its processes were started elsewhere: paths are those of who asks.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    out, port = Path("out"), str(unused_port)
    address = f"tcp://127.0.0.1:{port}"
    head = ("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    hand = ("worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
    running = [dask(*words, at=tmp_path / "home") for words in (head, hand)]
    ended = threading.Event()

    class Noting(Watcher):
        def slide_ended(self, outcome) -> None:
            ended.set()

    def accident() -> None:
        ended.wait(60)
        for process in running:
            process.kill()
        for process in running:
            process.wait()
        running[:] = [dask(*words, at=tmp_path / "home") for words in (head, hand)]

    thread = threading.Thread(target=accident)
    thread.start()
    try:
        outcomes = spread(jobs, out, watcher=Noting(), cluster=address, delay=0.1)
    finally:
        ended.set()
        thread.join()
        for process in running:
            process.kill()
            process.wait()
    assert {o.status for o in outcomes} <= {"done", "already"}
    for job in jobs:
        assert bad_slides.contents(out / f"{job.slide_id}.zarr") == calm[job.slide_id]
