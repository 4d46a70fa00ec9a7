"""Find objects on many slides, one after the other: every slide attempted, failures listed, nothing lost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.run import EmbedPlan, Outcome, Prepared, Watcher, once_free
from wsi_umedpt.dense import FeaturesToo, segment_slide
from wsi_umedpt.errors import StoreBusyError, reason_of
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


def segment_slides(
    jobs: Sequence[SlideJob], plan: EmbedPlan, objects: ObjectPlan, watcher: Watcher | None = None
) -> list[Outcome]:
    """Find objects on every slide; errors of one never touch another.

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
    for job in jobs:
        outcome = _segment(job, plan, objects, watcher)
        if outcome is None:
            busy.append(job)
            continue
        outcomes[job.slide_id] = outcome
        watcher.slide_ended(outcome)
    for job in busy:
        outcome = once_free(job, plan.out, lambda job=job: _segment(job, plan, objects, watcher))  # type: ignore[misc]
        outcomes[job.slide_id] = outcome
        watcher.slide_ended(outcome)
    return [outcomes[job.slide_id] for job in jobs]


def _segment(job: SlideJob, plan: EmbedPlan, objects: ObjectPlan, watcher: Watcher) -> Outcome | None:
    """One slide's outcome; None if another process is writing it."""
    began = time.perf_counter()
    prepared: Prepared | None = None
    try:
        prepared = Prepared(job, plan, read=False)
        slide = prepared.slide
        grid = lay_grid(slide.size, slide.mpp, objects.spec, within=prepared.tissue)
        watcher.slide_started(job, len(grid))
        with SlideStore.create(prepared.path, slide, prepared.tissue, grid) as store:
            done = segment_slide(
                slide,
                store,
                objects.model,
                objects.spec,
                objects.made_by,
                features=objects.features,
                batch_size=plan.batch_size,
                threads=plan.threads,
                max_unreadable=plan.max_unreadable,
                progress=lambda n, total: watcher.tiles_done(job, n, total),
            )
    except StoreBusyError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever one slide does must not end the run
        return Outcome(job, "failed", seconds=time.perf_counter() - began, reason=reason_of(error))
    finally:
        if prepared:
            prepared.close()
    return Outcome(
        job, "done" if done.added else "already", done.windows, done.fresh, done.unreadable,
        time.perf_counter() - began, objects=done.objects,
    )  # fmt: skip
