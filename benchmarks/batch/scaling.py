"""What running many slides costs beside the work itself, and what a second worker gains. The last line is JSON.

``overhead``: `run_slides` (claims, records, the next slide opened ahead) against a bare
loop of the same calls over the same slides, in one process, alternating; median of the pairs, and the range that the
machine's noise gives. With an encoder that costs nothing, and with the one that ships.

``fixed``: the same over slides of a few tiles, seconds a slide.

``scaling``: wall time of `--dask local:1` against `local:2`, children started beforehand;
and of a control that surely scales, the same slides in two processes that know nothing of
each other. On a busy machine only the ratio of the two means something.

``scheduler``: 10,000 tasks that do nothing through the same `SlideQueue` and window: the
memory of the process with the scheduler in it after 1,000 and at the end.

    python -m benchmarks.batch.scaling [--slides 16] [--tasks 10000]
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.support import bad_slides
from wsi_umedpt.batch.coordination.result import Outcome, Watcher
from wsi_umedpt.batch.executors.dask import Cluster, spread_slides
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.testing import tissue_image, write_pyramid


class Idle:
    """Work that is none."""

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome:
        """Say that it is done."""
        return Outcome(job, "done")

    def ahead(self, job: SlideJob) -> None:
        """There is nothing to make ready."""

    def close(self) -> None:
        """Nothing is held."""


def load_idle(out: Path) -> Idle:
    """What a child loads for slides that are names only."""
    return Idle()


def shipped_plan(out: Path) -> Any:
    """Embedding with the encoder that ships, as the command line does it."""
    from wsi_umedpt.batch.run import Batch
    from wsi_umedpt.pipeline.plan import plan_embedding
    from wsi_umedpt.settings import ComputeOptions

    return plan_embedding(compute=ComputeOptions(device="cpu")), Batch(out=out)


def bare_loop(jobs: list[SlideJob], plan: Any) -> None:
    """What embedding is without a runner: no claims, no records, nothing opened ahead."""
    from wsi_umedpt.pipeline.embed import encode_slide
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.slides.tiling import lay_grid
    from wsi_umedpt.slides.tissue import find_tissue
    from wsi_umedpt.store.slide_store import SlideStore

    warnings.simplefilter("ignore")
    task, batch = plan
    out = batch.out
    out.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        with open_slide(job.path) as slide:
            tissue = find_tissue(slide, task.tissue)
            grid = lay_grid(slide.size, slide.mpp, task.specs(slide.mpp)[0], within=tissue)
            with SlideStore.create(out / f"{job.slide_id}.zarr", slide, tissue, grid) as store:
                encode_slide(slide, store, list(task.encoders), settings=task.settings)


def idle_loop(jobs: list[SlideJob], out: Path) -> None:
    """A bare loop with an encoder that costs nothing."""
    bare_loop(jobs, bad_slides.plan(out))


def timed(work: Any, folder: Path) -> float:
    """Seconds that some work takes with an output folder of its own."""
    out = Path(tempfile.mkdtemp(dir=folder))
    began = time.perf_counter()
    work(out)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return seconds


def overhead(jobs: list[SlideJob], folder: Path, plan: Any, rounds: int) -> dict[str, float]:
    """The runner against a bare loop, both as a plan says."""
    from wsi_umedpt.batch.run import run_slides

    def bare_in(out: Path) -> None:
        bare_loop(jobs, (plan[0], replace(plan[1], out=out)))

    def runner(out: Path) -> None:
        assert {o.status for o in run_slides(jobs, plan[0], replace(plan[1], out=out))} == {"done"}

    timed(bare_in, folder)
    pairs = [(timed(bare_in, folder), timed(runner, folder)) for _ in range(rounds)]
    ratios = sorted(run / bare - 1 for bare, run in pairs)
    bare, run = (min(times) for times in zip(*pairs, strict=True))
    return {
        "bare_s": round(bare, 2), "runner_s": round(run, 2), "overhead": round(statistics.median(ratios), 3),
        "from": round(ratios[0], 3), "to": round(ratios[-1], 3),
    }  # fmt: skip


def fixed(folder: Path, slides: int = 40) -> float:
    """Seconds a slide that has a few tiles only: what every slide costs, whatever its size."""
    from wsi_umedpt.batch.run import run_slides

    source = write_pyramid(folder / "few.svs", tissue_image(256, 256)[0], tile=128)
    jobs = [SlideJob(Path(shutil.copyfile(source, folder / f"few{n}.svs")), f"few{n}") for n in range(slides)]

    def runner(out: Path) -> None:
        assert {o.status for o in run_slides(jobs, *bad_slides.plan(out))} == {"done"}

    return min(timed(runner, folder) for _ in range(3)) / slides


def spread_in(jobs: list[SlideJob], workers: int, out: Path) -> float:
    """Seconds from the first slide's end to the last's, so that no start counts, a slide."""
    from benchmarks.batch import scaling  # children find it by this name

    ends: list[float] = []

    class Noting(Watcher):
        def slide_ended(self, outcome: Outcome) -> None:
            assert outcome.status == "done", outcome.reason
            ends.append(time.perf_counter())

    spread_slides(jobs, partial(scaling.load_quiet, out), out, Cluster("local", workers=workers), watcher=Noting())
    first = 2 * workers  # children are at work by then
    return (ends[-1] - ends[first]) / (len(ends) - 1 - first)


def load_quiet(out: Path) -> Any:
    """As a test's child does, without its warnings."""
    warnings.simplefilter("ignore")
    return bad_slides.load(out)


def control(jobs: list[SlideJob], folder: Path) -> float:
    """How much faster two bare loops in two processes are than one, over the same slides."""
    context = multiprocessing.get_context("spawn")

    def seconds(parts: list[list[SlideJob]]) -> float:
        out = Path(tempfile.mkdtemp(dir=folder))
        with context.Pool(len(parts)) as pool:
            pool.starmap(idle_loop, [(part[:1], out / f"warm{n}") for n, part in enumerate(parts)], chunksize=1)
            began = time.perf_counter()
            pool.starmap(idle_loop, [(part, out / f"part{n}") for n, part in enumerate(parts)], chunksize=1)
            return time.perf_counter() - began

    return seconds([jobs]) / seconds([jobs[::2], jobs[1::2]])


def scheduler_memory(tasks: int, folder: Path) -> dict[str, float]:
    """Memory of the process with client and scheduler, early and at the end."""
    from benchmarks.batch import scaling

    me, ended, sizes = psutil.Process(), 0, {}

    class Counting(Watcher):
        def slide_ended(self, outcome: Outcome) -> None:
            nonlocal ended
            ended += 1
            if ended in (tasks // 10, tasks):
                sizes[ended] = me.memory_info().rss / 1e6

    jobs = [SlideJob(folder / f"{n}.svs", f"{n}") for n in range(tasks)]
    began = time.perf_counter()
    spread_slides(jobs, partial(scaling.load_idle, folder), folder, Cluster("local", workers=2), watcher=Counting())
    seconds = time.perf_counter() - began
    early, late = sizes.values()
    return {
        "tasks": tasks, "seconds": round(seconds, 1), "ms_a_task": round(1e3 * seconds / tasks, 2),
        "early_mb": round(early, 1), "late_mb": round(late, 1),
    }  # fmt: skip


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        source = write_pyramid(folder / "source.svs", tissue_image(1536, 1536)[0], tile=128)
        jobs = [SlideJob(Path(shutil.copyfile(source, folder / f"{n}.svs")), f"{n}") for n in range(options.slides)]
        result: dict[str, Any] = {"slides": options.slides}
        # This one first: the other's plan makes chunks of all stores small.
        result["runner_shipped"] = overhead(jobs, folder, shipped_plan(folder), rounds=8)
        print(json.dumps({"runner_shipped": result["runner_shipped"]}), flush=True)
        result["runner"] = overhead(jobs, folder, bad_slides.plan(folder), rounds=8)
        print(json.dumps({"runner": result["runner"]}), flush=True)
        result["fixed_s"] = round(fixed(folder), 3)
        print(json.dumps({"fixed_s": result["fixed_s"]}), flush=True)
        gains = []
        for _ in range(3):
            one, two = (timed_spread(jobs, workers, folder) for workers in (1, 2))
            gains.append((one / two, control(jobs, folder)))
            print(json.dumps({"scaling": round(gains[-1][0], 2), "control": round(gains[-1][1], 2)}), flush=True)
        ours, controls = (sorted(values)[1] for values in zip(*gains, strict=True))
        result |= {
            "scaling": round(ours, 2), "control": round(controls, 2), "of_control": round(ours / controls, 3),
            "scheduler": scheduler_memory(options.tasks, folder),
        }  # fmt: skip
        print(json.dumps(result))


def timed_spread(jobs: list[SlideJob], workers: int, folder: Path) -> float:
    """Seconds a slide with so many workers."""
    out = Path(tempfile.mkdtemp(dir=folder))
    seconds = spread_in(jobs, workers, out)
    shutil.rmtree(out)
    return seconds


if __name__ == "__main__":
    main()
