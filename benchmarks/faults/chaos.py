"""A run over many slides while everything that can fail does; the last line is JSON with what was lost.

Slides are small and synthetic, one in ten damaged in one of the ways of `DAMAGE`. A calm
run of the good ones in one process gives the bytes that must come out. Then a storm: a
Dask scheduler and workers as processes of their own, a client that spreads the slides, and
meanwhile

- every few seconds, if a slide ended since, a worker, or the child in which it opens slides, gets SIGKILL, and
  workers that are gone are started again,
- the scheduler, and with it all workers, is killed and started again once,
- the disk is full for some seconds: the child processes' `open` for writing, and `mkdir`,
  fail with ENOSPC below the output folder for as long as a file called FULL lies beside it.

``lost``: good slides without a store, or whose store `verify` finds fault with. ``differ``:
good slides whose store is not, bit for bit, that of the calm run. ``unlisted_bad``: damaged
slides that the run did not list as failed with a reason and a record.

    python -m benchmarks.faults.chaos --quick    40 slides, 2 workers, under a minute on a free machine
    python -m benchmarks.faults.chaos            200 slides, 4 workers
"""

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ROOT
from tests.support import bad_slides
from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.records import read_record
from wsi_umedpt.batch.coordination.result import Outcome, Watcher
from wsi_umedpt.batch.executors.child_process import Limits
from wsi_umedpt.batch.executors.dask import Cluster, spread_slides
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.testing import tissue_image, write_pyramid


def load_in_storm(out: Path, delay: float) -> Any:
    """What a child loads: cheap encoders, crashing slides, and a disk that may be full."""
    warnings.simplefilter("ignore")
    folder, full = str(out), out.with_name("FULL")

    def audit(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "os.mkdir" or (event == "open" and isinstance(args[2], int) and args[2] & os.O_ACCMODE)
        if writes and isinstance(args[0], str | Path) and str(args[0]).startswith(folder) and full.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))

    sys.addaudithook(audit)
    return bad_slides.load(out, delay)


# ---- slides ----


def truncated(path: Path) -> None:
    """Half of the file is missing."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Nothing was copied."""
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    """Another kind of file under a slide's name."""
    path.write_bytes(random.Random(path.name).randbytes(50_000))  # noqa: S311


def crashing(path: Path) -> None:
    """It takes the process that opens it along; see `bad_slides`."""
    path.rename(path.with_name(f"crash-{path.name}"))


DAMAGE: tuple[Callable[[Path], None], ...] = (crashing, truncated, garbage, empty)


def make_slides(folder: Path, count: int) -> tuple[list[SlideJob], list[SlideJob]]:
    """Good and damaged slides; pictures repeat, files do not."""
    folder.mkdir()
    originals = [
        write_pyramid(folder / f"original{n}.svs", tissue_image(448 + 64 * n, 448, seed=n)[0], tile=128)
        for n in range(min(8, count))
    ]
    good, bad = [], []
    for n in range(count):
        path = Path(shutil.copyfile(originals[n % len(originals)], folder / f"s{n:03}.svs"))
        if n % 10 == 5:
            DAMAGE[n // 10 % len(DAMAGE)](path)
            bad.append(SlideJob(path if path.exists() else path.with_name(f"crash-{path.name}"), f"s{n:03}"))
        else:
            good.append(SlideJob(path, f"s{n:03}"))
    return good, bad


# ---- the storm ----


class Storm:
    """A Dask cluster of processes, and what befalls it until `calm`."""

    def __init__(self, workers: int, every_s: float, full_s: float, folder: Path) -> None:
        self._every_s, self._full_s, self._folder = every_s, full_s, folder
        self._rng = random.Random(20261122)  # noqa: S311
        self._over = threading.Event()
        self.ended = threading.Event()
        """A slide ended since the last strike. Strikes wait for it, or on a busy machine nothing ever gets done."""
        self.kills = self.restarts = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._head = self._scheduler()
        self._hands = [self._worker() for _ in range(workers)]
        self._thread = threading.Thread(target=self._rage)

    def __enter__(self) -> "Storm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._folder.with_name("FULL").unlink(missing_ok=True)
        for process in [*self._hands, self._head]:
            process.kill()
            process.wait()

    def _rage(self) -> None:
        full, restart = 2, 4  # which strikes these are
        strike = 0
        while not self._over.wait(self._every_s * self._rng.uniform(0.5, 1.5)):
            if not self.ended.is_set():
                continue
            self.ended.clear()
            strike += 1
            if strike == full:
                self._folder.with_name("FULL").touch()
                self._over.wait(self._full_s)
                self._folder.with_name("FULL").unlink()
            elif strike == restart:
                for process in [self._head, *self._hands]:
                    process.kill()
                    process.wait()
                self.restarts += 1
                self._head = self._scheduler()
                self._hands = [self._worker() for _ in self._hands]
            else:
                self._kill_one()
            for n, process in enumerate(self._hands):
                if process.poll() is not None:
                    self._hands[n] = self._worker()

    def _kill_one(self) -> None:
        victim = self._rng.choice(self._hands)
        with contextlib.suppress(psutil.Error):
            below = [p for p in psutil.Process(victim.pid).children(recursive=True) if not p.children()]
            if below and self._rng.random() < 0.6:
                self._rng.choice(below).kill()
            else:
                victim.kill()
                victim.wait()
            self.kills += 1

    def _scheduler(self) -> "subprocess.Popen[bytes]":
        return _dask("scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard")

    def _worker(self) -> "subprocess.Popen[bytes]":
        scratch = str(self._folder.with_name("scratch"))
        return _dask(
            "worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", scratch
        )


def _dask(name: str, *words: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{name}", *words],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


class Told(Watcher):
    """Prints what happens."""

    def __init__(self, total: int, storm: Storm) -> None:
        self._storm, self._total, self._ended, self._began = storm, total, 0, time.perf_counter()

    def slide_ended(self, outcome: Outcome) -> None:
        """Count."""
        self._storm.ended.set()
        self._ended += 1
        if outcome.status == "failed" or self._ended % 10 == 0:
            what = outcome.reason.splitlines()[0][:90] if outcome.reason else ""
            seconds = time.perf_counter() - self._began
            print(
                f"{seconds:6.1f} s  {self._ended}/{self._total}  {outcome.job.slide_id} {outcome.status} {what}",
                flush=True,
            )

    def slide_again(self, outcome: Outcome) -> None:
        """Say so."""
        print(f"{'':10}{outcome.job.slide_id} again: {outcome.reason.splitlines()[0][:90]}")


def main() -> None:
    """Run calm, run in the storm, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--slides", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--every", type=float, help="mean seconds between strikes")
    options = parser.parse_args()
    count = options.slides or (40 if options.quick else 200)
    workers = options.workers or (2 if options.quick else 4)
    every_s = options.every or (2.5 if options.quick else 4.0)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        print(json.dumps(measure(Path(folder), count, workers, every_s)))


def measure(folder: Path, count: int, workers: int, every_s: float) -> dict[str, Any]:
    """What a storm cost."""
    warnings.simplefilter("ignore")
    from benchmarks.faults import chaos  # workers find it by this name
    from wsi_umedpt.batch.run import run_slides

    good, bad = make_slides(folder / "slides", count)
    began = time.perf_counter()
    calm = run_slides(good, *bad_slides.plan(folder / "calm"))
    assert all(o.status == "done" for o in calm)
    calm_s = time.perf_counter() - began
    out = folder / "out"
    out.mkdir()
    began = time.perf_counter()
    with Storm(workers, every_s, 3.0, out) as storm:
        outcomes = spread_slides(
            [*good, *bad], partial(chaos.load_in_storm, out, 0.05), out, Cluster.parse(storm.address),
            limits=Limits(slide_s=60), rules=Rules(attempts=3), watcher=Told(count, storm),
        )  # fmt: skip
    storm_s = time.perf_counter() - began
    ended = {o.job.slide_id: o for o in outcomes}
    lost = [j.slide_id for j in good if problems_of(out / f"{j.slide_id}.zarr")]
    stores = [(out / f"{j.slide_id}.zarr", folder / "calm" / f"{j.slide_id}.zarr") for j in good]
    differ = [one.name for one, other in stores if bad_slides.contents(one) != bad_slides.contents(other)]
    unlisted = [j.slide_id for j in bad if not _listed(out, ended[j.slide_id])]
    records = [read_record(out, j.slide_id) for j in [*good, *bad]]
    return {
        "slides": count, "bad": len(bad), "workers": workers, "kills": storm.kills,
        "scheduler_restarts": storm.restarts, "calm_s": round(calm_s, 1), "storm_s": round(storm_s, 1),
        "attempts": sum(r.attempts for r in records if r), "good_failed": [
            [j.slide_id, ended[j.slide_id].reason] for j in good if ended[j.slide_id].status == "failed"
        ],
        "claims_left": len(list(out.glob(".runs/*.claim"))), "lost": len(lost), "differ": len(differ),
        "unlisted_bad": len(unlisted),
    }  # fmt: skip


def _listed(out: Path, outcome: Outcome) -> bool:
    record = read_record(out, outcome.job.slide_id)
    whole = (out / f"{outcome.job.slide_id}.zarr").exists()
    return outcome.status == "failed" and bool(outcome.reason and record and record.error) and not whole


if __name__ == "__main__":
    main()
