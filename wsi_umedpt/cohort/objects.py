"""Find objects on many slides, one after the other: every slide attempted, failures listed, nothing lost."""

import itertools
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.outcome import Outcome, Watcher, in_order
from wsi_umedpt.cohort.plan import EmbedPlan, failure, is_of, publish_store, store_of
from wsi_umedpt.cohort.run import Opening, Ready, once_free
from wsi_umedpt.cohort.staging import Stage
from wsi_umedpt.cohort.turns import Rules, Turns
from wsi_umedpt.dense import FeaturesToo, Segmented, segment_slide, whole_objects
from wsi_umedpt.errors import StoreBusyError
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tasks.onepass import OnePass
from wsi_umedpt.tiling import TileSpec, lay_grid


@dataclass(frozen=True, kw_only=True)
class ObjectPlan:
    """Which objects are looked for on every slide."""

    model: OnePass
    spec: TileSpec
    """Of the windows."""
    made_by: dict[str, Any]
    """What results say of the model; see `segment_slide`."""
    features: FeaturesToo | None = None
    """Embeddings to be written in the same pass."""


class Segmenting:
    """Finding objects as work on one slide after the other, for one process."""

    def __init__(self, plan: EmbedPlan, objects: ObjectPlan, rules: Rules | None = None) -> None:
        self._plan, self._objects = plan, objects
        asked = {**plan.asked, "made_by": objects.made_by, "spec": objects.spec.to_dict()}
        asked["features"] = objects.features.name if objects.features else None
        asked["heads"] = [head.name for head in objects.model.heads]
        self._turns = Turns(plan.out, "segment", asked, rules or Rules())
        self._stage = Stage(plan.stage)

    def close(self) -> None:
        """Stop renewing claims, and remove copies of slides."""
        self._stage.close()
        self._turns.close()

    def ahead(self, job: SlideJob) -> None:
        """Begin to copy a slide that will be attempted next, if it lies elsewhere and will be needed."""
        self._stage.ahead(job, lambda: self._turns.may_take(job) and self._already(job, self._plan) is None)

    def attempt(self, job: SlideJob, watcher: Watcher) -> Outcome | None:
        """Find one slide's objects; None if another process has it."""
        began = time.perf_counter()
        ready = Opening(job, self._plan, self._turns, self._stage, self._already, read=False).result()
        if not isinstance(ready, Ready):
            return ready
        turn = ready.turn
        try:
            done = self._segment(ready, watcher)
            publish_store(turn, self._plan)
        except StoreBusyError:
            return None
        except Exception as error:  # noqa: BLE001 - as above
            return turn.end(replace(failure(job, error), seconds=time.perf_counter() - began), error)
        else:
            return turn.end(Outcome(
                job, "done" if done.added else "already", done.windows, done.fresh, done.unreadable,
                time.perf_counter() - began, objects=done.objects, fingerprint=ready.prepared.slide.fingerprint,
                note=ready.prepared.tissue.note,
            ))  # fmt: skip
        finally:
            ready.close()

    def _already(self, job: SlideJob, plan: EmbedPlan) -> Outcome | None:
        """What a slide's store holds, if it holds all that is asked for."""
        objects = self._objects
        if (store := store_of(job, plan)) is None:
            return None
        counts = whole_objects(
            store, objects.model, objects.spec, objects.made_by, features=objects.features, batch_size=plan.batch_size
        )
        if counts is None or not is_of(store, job):
            return None
        slide = store.attrs["slide"]
        windows = lay_grid(tuple(slide["size"]), slide["mpp"], objects.spec, within=store.tissue(), whole=False)
        return Outcome(job, "already", len(windows), objects=counts, fingerprint=slide["fingerprint"])

    def _segment(self, ready: Ready, watcher: Watcher) -> Segmented:
        turn, plan, objects = ready.turn, self._plan, self._objects
        slide, tissue = ready.prepared.slide, ready.prepared.tissue
        grid = lay_grid(slide.size, slide.mpp, objects.spec, within=tissue)
        watcher.slide_started(turn.job, len(grid))

        def progress(done: int, total: int) -> None:
            turn.check()
            watcher.tiles_done(turn.job, done, total)

        with SlideStore.create(ready.prepared.path, slide, tissue, grid, turn.hold) as store:
            return segment_slide(
                slide,
                store,
                objects.model,
                objects.spec,
                objects.made_by,
                features=objects.features,
                batch_size=plan.batch_size,
                threads=plan.read_threads,
                max_unreadable=plan.max_unreadable,
                progress=progress,
            )


def segment_slides(
    jobs: Sequence[SlideJob],
    plan: EmbedPlan,
    objects: ObjectPlan,
    watcher: Watcher | None = None,
    rules: Rules | None = None,
) -> list[Outcome]:
    """Find objects on every slide, in this process; errors of one never touch another.

    Parameters
    ----------
    plan
        Where stores lie, how tissue is found and how the work is done; it has no encoders.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`; their tiles are windows.
    """
    watcher = watcher or Watcher()
    outcomes: dict[str, Outcome] = {}
    busy = []
    with closing(Segmenting(plan, objects, rules)) as work:
        for job, after in itertools.zip_longest(jobs, jobs[1:]):
            if after:
                work.ahead(after)
            outcome = work.attempt(job, watcher)
            if outcome is None:
                busy.append(job)
                continue
            outcomes[job.slide_id] = outcome
            watcher.slide_ended(outcome)
        for job, outcome in once_free(busy, work, watcher, plan.out):
            outcomes[job.slide_id] = outcome
            watcher.slide_ended(outcome)
    return in_order(jobs, outcomes)
