"""What copying the next slide ahead saves: wall time of runs over slides on a slow file system.

Slides lie in a file system of fsspec that waits as a slow network does; an encoder that
waits stands for the work on a slide. Each way of running is measured with the next slide
copied while one is worked on, and without. Where copying takes as long as the work, the best
that can be is a half, and one copy more.

Run: python -m benchmarks.batch.staging [--slides 8] [--copy-s 1.5] [--rounds 3]; the last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.result import Outcome, Watcher
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.batch.executors.dask import Cluster, spread_slides
from wsi_umedpt.batch.executors.slide_queue import run_queue
from wsi_umedpt.batch.jobs.staging import Stage, StageRule
from wsi_umedpt.slides.slide_job import SlideJob


class Slow(LocalFileSystem):
    """Files of this machine, each of which takes `copy_s` to come."""

    protocol = "slow"
    copy_s = 0.0

    def get_file(self, rpath: str, lpath: str, callback: Any = None, **_: Any) -> None:
        """Copy, after a while."""
        time.sleep(self.copy_s)
        super().get_file(rpath, lpath)


@dataclass
class Work:
    """Holds a slide for as long as its work takes."""

    copy_s: float
    work_s: float
    knows_next: bool

    def __post_init__(self) -> None:
        Slow.copy_s = self.copy_s
        fsspec.register_implementation("slow", Slow, clobber=True)
        self._stage = Stage(StageRule())

    def ahead(self, job: SlideJob) -> None:
        """Copy the next, if that is what is measured."""
        if self.knows_next:
            self._stage.ahead(job, lambda: True)

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome:
        """Work on one."""
        with self._stage.at_hand(job):
            time.sleep(self.work_s)
        return Outcome(job, "done")

    def close(self) -> None:
        """Remove copies."""
        self._stage.close()


def seconds(how: str, jobs: list[SlideJob], copy_s: float, *, ahead: bool, folder: Path) -> float:
    """Wall time of one run, its processes started beforehand."""
    load = partial(Work, copy_s, copy_s, ahead)
    if how == "workers":
        began = time.perf_counter()
        outcomes = spread_slides(jobs, load, folder, Cluster.parse("local:2"))
        return time.perf_counter() - began if len(outcomes) == len(jobs) else 0.0
    isolated = Isolated(load, folder, Limits(), Rules())
    isolated.start()
    began = time.perf_counter()
    run_queue(jobs, isolated, Watcher())
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--copy-s", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {"slides": options.slides, "copy_s": options.copy_s, "work_s": options.copy_s}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = []
        for n in range(options.slides):
            (folder / f"{n}.svs").write_bytes(bytes(1000))
            jobs.append(SlideJob(Path(f"slow:/{n}"), f"{n}", url=f"slow://{folder}/{n}.svs"))
        for how in ("isolated", "workers"):
            without, with_ahead = (
                statistics.median(
                    seconds(how, jobs, options.copy_s, ahead=ahead, folder=folder) for _ in range(options.rounds)
                )
                for ahead in (False, True)
            )
            found[how] = {
                "without_s": round(without, 2), "ahead_s": round(with_ahead, 2), "ratio": round(with_ahead / without, 3)
            }  # fmt: skip
            print(how, found[how])
    print(json.dumps(found))


if __name__ == "__main__":
    from benchmarks.batch import staging  # so that other processes find `Work` by a name

    staging.main()
