"""Run a task over many slides in this process: every slide attempted, failures listed, nothing lost.

While one slide is worked on, the next is opened, its tissue found and its first tiles
decoded. Several processes may share one output folder: each takes slides that no other has
claimed, and waits at the end for those that others are writing.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from wsi_umedpt.batch.coordination.attempts import Attempt, Attempts, Rules
from wsi_umedpt.batch.coordination.leases import holder_of
from wsi_umedpt.batch.coordination.publish import PublishTarget
from wsi_umedpt.batch.coordination.result import Logged, Outcome, SlideWork, Waiting, Watcher, in_order
from wsi_umedpt.batch.jobs.staging import Stage, StageRule
from wsi_umedpt.batch.opening import Opener, Opening, Ready, failure, one_ahead
from wsi_umedpt.errors import StoreBusyError
from wsi_umedpt.pipeline.task import Progress, SlideTask
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.slides.tile_loader import close_readers

_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
"""Between looks at slides that others have."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Output of a run, staging of its slides, and rules for retries."""

    out: Path
    """Folder that stores are made in."""
    publish_to: PublishTarget | None = None
    """Target to which stores are published; `out` is then the work folder that they are made in."""
    stage: StageRule = field(default_factory=StageRule)
    """Rule for slides that are copied before they are opened."""
    rules: Rules = field(default_factory=Rules)
    """Rules for retries."""


class SlideRunner:
    """Runs a task on one slide after the other, for one process; a `SlideWork`."""

    def __init__(self, task: SlideTask, batch: Batch) -> None:
        self._task = task
        self._attempts = Attempts(batch.out, task.name, task.asked, batch.rules)
        self._stage = Stage(batch.stage)
        self._opener = Opener(task, self._attempts, self._stage, batch.publish_to)

    def close(self) -> None:
        """Stop renewing claims, end the processes that read tiles, and remove copies of slides."""
        close_readers()
        self._stage.close()
        self._attempts.close()

    def stop(self) -> None:
        """End copies of slides that are under way."""
        self._stage.stop()

    def ahead(self, job: SlideJob) -> None:
        """Begin to copy a slide that will be attempted next, if it lies elsewhere and will be needed."""
        self._stage.ahead(job, lambda: self._attempts.may_take(job) and self._opener.already(job) is None)

    def begin(self, job: SlideJob) -> Opening:
        """Begin to prepare a slide, in a thread of its own."""
        return self._opener.open(job)

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome | None:
        """Work on one slide; None if another process has it."""
        return self.run(job, self.begin(job).result(), watcher)

    def run(self, job: SlideJob, ready: Outcome | Ready | None, watcher: Watcher) -> Outcome | None:
        """Work on a slide that was prepared, and let go of it; None if another process has it."""
        if not isinstance(ready, Ready):
            return ready
        began, attempt, prepared = time.perf_counter(), ready.attempt, ready.prepared
        try:
            result = self._task.run(prepared, _Watched(attempt, watcher), attempt.hold)
            self._opener.publish(job, attempt)
        except StoreBusyError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever one slide does must not end the run
            return attempt.end(replace(failure(job, error), seconds=time.perf_counter() - began), error)
        else:
            outcome = Outcome.of(
                job,
                "done" if result.changed else "already",
                result,
                seconds=time.perf_counter() - began,
                fingerprint=prepared.slide.fingerprint,
                left_out=sum(grid.left_out for grid in prepared.grids),
                note=prepared.tissue.note,
            )
            return attempt.end(outcome)
        finally:
            ready.close()


class _Watched(Progress):
    """Progress of one slide, told to the watcher of a run; ends the task where another process took the slide over."""

    def __init__(self, attempt: Attempt, watcher: Watcher) -> None:
        self._attempt, self._watcher = attempt, watcher

    def started(self, tiles: int) -> None:
        self._watcher.slide_started(self._attempt.job, tiles)

    def tiles_done(self, done: int, total: int) -> None:
        self._attempt.check()
        self._watcher.tiles_done(self._attempt.job, done, total)


def run_slides(
    jobs: Sequence[SlideJob], task: SlideTask, batch: Batch, watcher: Watcher | None = None
) -> list[Outcome]:
    """Run a task over every slide in this process; errors of one never touch another.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`.
    """
    watcher = Logged(watcher or Watcher())
    outcomes: dict[str, Outcome] = {}
    busy: list[SlideJob] = []

    def settle(job: SlideJob, outcome: Outcome | None) -> None:
        if outcome is None:
            busy.append(job)
        else:
            outcomes[job.slide_id] = outcome
            watcher.slide_ended(outcome)

    with ExitStack() as opened:
        runner = opened.enter_context(closing(SlideRunner(task, batch)))
        slides = opened.enter_context(closing(one_ahead(jobs, runner.begin)))
        opened.callback(runner.stop)
        for job, ready in slides:
            settle(job, runner.run(job, ready, watcher))
        for job, outcome in _once_free(busy, runner, watcher, batch.out):
            settle(job, outcome)
    return in_order(jobs, outcomes)


def _once_free(
    busy: list[SlideJob], work: SlideWork, watcher: Watcher, out: Path
) -> Iterator[tuple[SlideJob, Outcome]]:
    """Attempt slides that other processes have, again and again until each has an outcome."""
    waiting, pause = deque(busy), _PAUSE_S
    tell = Waiting(watcher, partial(holder_of, out))
    while waiting:
        for _ in range(len(waiting)):
            job = waiting.popleft()
            if outcome := work.attempt(job, watcher):
                pause = _PAUSE_S
                yield job, outcome
            else:
                waiting.append(job)
                tell.busy(job)
        if waiting:
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)
