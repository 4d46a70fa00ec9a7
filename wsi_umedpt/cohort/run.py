"""Embed many slides, one after the other: every slide attempted, failures listed, nothing lost.

While one slide is embedded, the next is opened, its tissue found and its first tiles
decoded. Several processes may share one output folder: each takes slides that no other has
claimed, and waits at the end for those that others are writing.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from wsi_umedpt.cohort.claims import holder_of
from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.outcome import Outcome, SlideWork, Waiting, Watcher, in_order
from wsi_umedpt.cohort.plan import (
    EmbedPlan,
    already_embedded,
    failure,
    mask_asked_for,
    publish_made,
    publish_store,
)
from wsi_umedpt.cohort.staging import Stage
from wsi_umedpt.cohort.stopping import Stopped
from wsi_umedpt.cohort.turns import Rules, Turn, Turns, store_path
from wsi_umedpt.drawn import mask_from_file
from wsi_umedpt.encode import Embedded, encode_slide
from wsi_umedpt.errors import StalledError, StoreBusyError
from wsi_umedpt.growing import work_folder
from wsi_umedpt.loading import TileBatch, read_tiles
from wsi_umedpt.remote import StopAskingError, asking_until
from wsi_umedpt.slide import Slide, open_slide
from wsi_umedpt.stalls import GRACE_S, Pulse, Task
from wsi_umedpt.store import SlideStore
from wsi_umedpt.storedtissue import stored_tissue
from wsi_umedpt.tiling import TileGrid, lay_grid
from wsi_umedpt.tissue import TissueMask, find_tissue, read_thumbnail

__all__ = ["EmbedPlan", "Embedding", "Outcome", "Prepared", "Watcher", "embed_slides"]
_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
"""Between looks at slides that others have."""


class Embedding:
    """Embedding as work on one slide after the other, for one process."""

    def __init__(self, plan: EmbedPlan, rules: Rules | None = None) -> None:
        self._plan = plan
        self._turns = Turns(plan.out, "embed", plan.asked, rules or Rules())
        self._stage = Stage(plan.stage)

    def close(self) -> None:
        """Stop renewing claims, and remove copies of slides."""
        self._stage.close()
        self._turns.close()

    def stop(self) -> None:
        """End copies of slides that are under way."""
        self._stage.stop()

    def ahead(self, job: SlideJob) -> None:
        """Begin to copy a slide that will be attempted next, if it lies elsewhere and will be needed."""
        self._stage.ahead(job, lambda: self._turns.may_take(job) and already_embedded(job, self._plan) is None)

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome | None:
        """Embed one slide; None if another process has it."""
        return self.embed(job, self.begin(job).result(), watcher)

    def begin(self, job: SlideJob) -> "Opening":
        """Begin to make a slide ready, in a thread of its own."""
        return Opening(job, self._plan, self._turns, self._stage, already_embedded)

    def embed(self, job: SlideJob, ready: "Outcome | Ready | None", watcher: Watcher) -> Outcome | None:
        """Embed a slide that was prepared, and let go of it; None if another process has it."""
        if not isinstance(ready, Ready):
            return ready
        began = time.perf_counter()
        parts: list[Embedded] = []
        try:
            by_grid = self._fill(ready, parts, watcher)
            publish_store(ready.turn, self._plan)
        except StoreBusyError:
            ready.close()
            return None
        except Exception as error:  # noqa: BLE001 - as above
            outcome = _outcome(job, "failed", parts, began, failure(job, error))
            return ready.turn.end(outcome, error)
        else:
            outcome = _outcome(job, "done", parts, began, by_grid=by_grid)
            prepared = ready.prepared
            left_out = sum(grid.left_out for grid in prepared.grids)
            return ready.turn.end(
                replace(outcome, fingerprint=prepared.slide.fingerprint, left_out=left_out, note=prepared.tissue.note)
            )
        finally:
            ready.close()

    def _fill(self, ready: "Ready", parts: list[Embedded], watcher: Watcher) -> tuple[int, ...]:
        """Embed all that the store lacks; tiles by grid."""
        prepared, plan, job = ready.prepared, self._plan, ready.turn.job
        total = sum(map(len, prepared.grids))
        watcher.slide_started(job, total)
        for grid, encoders in zip(prepared.grids, plan.by_spec().values(), strict=True):
            before = sum(part.tiles for part in parts)

            def progress(done: int, _: int, before: int = before) -> None:
                ready.turn.check()
                watcher.tiles_done(job, before + done, total)

            with SlideStore.create(prepared.path, prepared.slide, prepared.tissue, grid, ready.turn.hold) as store:
                result = encode_slide(
                    prepared.slide,
                    store,
                    encoders,
                    grid_id=grid.spec.grid_id,
                    batch_size=plan.batch_size,
                    threads=plan.read_threads,
                    max_unreadable=plan.max_unreadable,
                    progress=progress,
                    batches=prepared.batches if grid is prepared.grids[0] else None,
                )
            parts.append(result)
        return tuple(map(len, prepared.grids))


def embed_slides(
    jobs: Sequence[SlideJob], plan: EmbedPlan, watcher: Watcher | None = None, rules: Rules | None = None
) -> list[Outcome]:
    """Embed every slide in this process; errors of one never touch another.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`.
    """
    watcher = watcher or Watcher()
    outcomes: dict[str, Outcome] = {}
    busy: list[SlideJob] = []

    def settle(job: SlideJob, outcome: Outcome | None) -> None:
        if outcome is None:
            busy.append(job)
        else:
            outcomes[job.slide_id] = outcome
            watcher.slide_ended(outcome)

    with ExitStack() as opened:
        work = opened.enter_context(closing(Embedding(plan, rules)))
        slides = opened.enter_context(closing(one_ahead(jobs, work.begin)))
        opened.callback(work.stop)
        for job, ready in slides:
            settle(job, work.embed(job, ready, watcher))
        for job, outcome in once_free(busy, work, watcher, plan.out):
            settle(job, outcome)
    return in_order(jobs, outcomes)


def one_ahead(
    jobs: Sequence[SlideJob], begin: Callable[[SlideJob], "Opening"]
) -> Generator[tuple[SlideJob, "Outcome | Ready | None"]]:
    """Make each slide ready while the one before it is used, and no more: each holds an open slide.

    Closed before its end, as by Ctrl-C, it lets go of the slide that nobody will take.
    """
    upcoming = iter(jobs)
    job = next(upcoming, None)
    opening = begin(job) if job else None
    try:
        while job and opening:
            ready, taken = opening.result(), job
            job = next(upcoming, None)
            opening = begin(job) if job else None
            yield taken, ready
    finally:
        if opening:
            opening.close()


def once_free(busy: list[SlideJob], work: SlideWork, watcher: Watcher, out: Path) -> Iterator[tuple[SlideJob, Outcome]]:
    """Attempt slides that other processes have, again and again until each is somebody's outcome."""
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


@dataclass(frozen=True)
class Ready:
    """A slide whose turn is ours, open."""

    turn: Turn
    prepared: "Prepared"

    def close(self) -> None:
        """Free the slide, and let others have it if it did not come to an end."""
        try:
            self.prepared.close()
        finally:
            self.turn.hand_back()


class Opening:
    """A slide that is made ready in a thread of its own, which is left behind if reading makes no progress.

    Parameters
    ----------
    already
        What the slide's store holds, if it holds all that is asked for.
    read
        Whether its first tiles are read, too.
    """

    def __init__(
        self, job: SlideJob, plan: EmbedPlan, turns: Turns, stage: Stage,
        already: Callable[[SlideJob, EmbedPlan], Outcome | None], *, read: bool = True,
    ) -> None:  # fmt: skip
        self._job, self._plan, self._turns, self._stage = job, plan, turns, stage
        self._already, self._read = already, read
        self._turn: Turn | None = None
        self._task = Task[Outcome | Ready | None](
            self._prepare, stall_s=plan.stall_s, name="next-slide", discard=_close_ready
        )

    def result(self) -> Outcome | Ready | None:
        """The slide, open; what is to be said instead; or None if another process has it."""
        try:
            return self._task.result()
        except StalledError as error:
            outcome = failure(self._job, error)
            return self._turn.end(outcome, error) if self._turn else outcome
        except BaseException:  # Ctrl-C, or SIGTERM: nobody will take it
            self.close()
            raise

    def close(self) -> None:
        """Let go of the slide, which nobody will take as the run ends; what hangs is not waited for."""
        self._stage.stop()
        if not self._task.leave(GRACE_S) and self._turn:
            self._turn.hand_back()

    def _prepare(self, pulse: Pulse) -> Outcome | Ready | None:
        """Take the slide's turn, open it and begin to read."""
        job, plan = self._job, self._plan
        try:
            with asking_until(self._stage.stopped):
                turn = self._turns.take(job, lambda job: self._already(job, plan))
        except StopAskingError:
            raise Stopped from None
        except Exception as error:  # noqa: BLE001 - whatever one slide does must not end the run
            return failure(job, error)
        if not isinstance(turn, Turn):
            return turn
        self._turn = turn
        try:
            pulse()
            with asking_until(self._stage.stopped):
                if done := publish_made(turn, plan, self._already):
                    return done
                return Ready(turn, Prepared(job, plan, self._stage, read=self._read, pulse=pulse))
        except StopAskingError:
            turn.hand_back()
            raise Stopped from None
        except Exception as error:  # noqa: BLE001 - as above
            return turn.end(failure(job, error), error)
        except BaseException:
            turn.hand_back()
            raise


def _close_ready(made: Outcome | Ready | None) -> None:
    if isinstance(made, Ready):
        made.close()


class Prepared:
    """A slide that is open, with tissue found, grids laid, and its first tiles being read.

    `pulse` is called whenever that advances.
    """

    def __init__(
        self, job: SlideJob, plan: EmbedPlan, stage: Stage | None = None, *, read: bool = True,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.path = store_path(plan.out, job)
        self._open = ExitStack()
        try:
            stage = stage or self._open.enter_context(closing(Stage(plan.stage)))
            file = self._open.enter_context(stage.at_hand(job, pulse))
            pulse()
            self.slide: Slide = self._open.enter_context(open_slide(file, mpp=job.mpp))
            self.slide.stall_s = plan.stall_s
            pulse()
            self.tissue = self._tissue(job, plan, pulse)
            pulse()
            self.grids: list[TileGrid] = [
                lay_grid(self.slide.size, self.slide.mpp, spec, within=self.tissue) for spec in plan.by_spec()
            ]
            self.batches = self._start_reading(self.grids[0], plan) if read and not self._begun() else None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading and free the slide."""
        self._open.close()

    def _begun(self) -> bool:
        return self.path.exists() or work_folder(self.path).exists()

    def _tissue(self, job: SlideJob, plan: EmbedPlan, pulse: Callable[[], None]) -> TissueMask:
        if known := stored_tissue(self.path, self.slide, *mask_asked_for(job, plan)):
            return known
        if job.mask:
            drawn = mask_from_file(
                job.mask, self.slide.size, self.slide.mpp, plan.tissue.cell_um,
                bounds=self.slide.bounds, origin=job.mask_origin,
            )  # fmt: skip
            return replace(drawn, thumbnail=read_thumbnail(self.slide, drawn.step, pulse)[0])
        return find_tissue(self.slide, plan.tissue, pulse)

    def _start_reading(self, grid: TileGrid, plan: EmbedPlan) -> Iterator[TileBatch]:
        tiles = read_tiles(self.slide, grid, batch_size=plan.batch_size, threads=plan.read_threads)
        self._open.callback(tiles.close)
        first = list(itertools.islice(tiles, 1))  # the rest is read on in the background
        return itertools.chain(first, tiles)


def _outcome(
    job: SlideJob,
    status: Literal["done", "failed"],
    parts: Sequence[Embedded],
    began: float,
    failed: Outcome | None = None,
    by_grid: tuple[int, ...] = (),
) -> Outcome:
    tiles, fresh, unreadable = (sum(getattr(p, n) for p in parts) for n in ("tiles", "fresh", "unreadable"))
    seconds, failed = time.perf_counter() - began, failed or Outcome(job, status)
    return Outcome(job, status, tiles, fresh, unreadable, seconds, failed.reason, by_grid, traceback=failed.traceback)
