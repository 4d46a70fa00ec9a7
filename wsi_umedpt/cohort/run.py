"""Embed many slides, one after the other: every slide attempted, failures listed, nothing lost.

While one slide is embedded, the next is opened, its tissue found and its first tiles
decoded. Several processes may share one output folder: a slide that another one is
writing is left to it, and waited for at the end.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.drawn import drawn_by, mask_from_file
from wsi_umedpt.encode import MAX_UNREADABLE, Embedded, check_run, encode_slide
from wsi_umedpt.errors import StoreBusyError, StoreError, reason_of
from wsi_umedpt.growing import awaits_commit, work_folder
from wsi_umedpt.loading import TileBatch, read_tiles
from wsi_umedpt.locks import locked
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.slide import Slide, fingerprint, open_slide
from wsi_umedpt.store import SlideStore, stored_tissue
from wsi_umedpt.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.tissue import (
    METHOD,
    TissueMask,
    TissueParameters,
    find_tissue,
    read_thumbnail,
)


@dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """What is done to every slide of a run."""

    out: Path
    """Folder of the stores."""
    encoders: Sequence[Encoder]
    specs: Sequence[TileSpec]
    """The tiles of each encoder."""
    tissue: TissueParameters = field(default_factory=TissueParameters)
    batch_size: int = 64
    threads: int | None = None
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        check_run(self.batch_size, self.threads, self.max_unreadable)

    def by_spec(self) -> dict[TileSpec, list[Encoder]]:
        """Encoders that share tiles, and so one decoding."""
        groups: dict[TileSpec, list[Encoder]] = {}
        for encoder, spec in zip(self.encoders, self.specs, strict=True):
            groups.setdefault(spec, []).append(encoder)
        return groups


@dataclass(frozen=True)
class Outcome:
    """What became of one slide."""

    job: SlideJob
    status: Literal["done", "already", "failed"]
    tiles: int = 0
    fresh: int = 0
    """Tiles embedded now, not in an earlier run."""
    unreadable: int = 0
    seconds: float = 0.0
    reason: str = ""
    tiles_by_grid: tuple[int, ...] = ()
    """Parts of `tiles`, in the order of `EmbedPlan.by_spec`."""
    objects: dict[str, int] = field(default_factory=dict)
    """Number of objects of each kind, where they were looked for."""


class Watcher:
    """What a run tells as it goes; the command line draws progress bars from it."""

    def slide_started(self, job: SlideJob, tiles: int) -> None:
        """Embedding of a slide begins."""

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Some more tiles of the slide are embedded."""

    def slide_ended(self, outcome: Outcome) -> None:
        """A slide is done, or failed."""


def embed_slides(jobs: Sequence[SlideJob], plan: EmbedPlan, watcher: Watcher | None = None) -> list[Outcome]:
    """Embed every slide; errors of one never touch another.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`.
    """
    watcher = watcher or Watcher()
    outcomes: dict[str, Outcome] = {}
    busy: list[SlideJob] = []
    with ExitStack() as opened:
        ahead = opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="next-slide"))
        upcoming = (ahead.submit(_attempt_prepare, job, plan) for job in jobs)
        slides = opened.enter_context(closing(_one_ahead(upcoming)))
        for job, prepared in zip(jobs, slides, strict=True):
            outcome = _embed(job, prepared.result(), plan, watcher)
            if outcome is None:
                busy.append(job)
            else:
                outcomes[job.slide_id] = outcome
                watcher.slide_ended(outcome)
    for job in busy:
        outcome = once_free(job, plan.out, lambda job=job: _embed(job, _attempt_prepare(job, plan), plan, watcher))  # type: ignore[misc]
        outcomes[job.slide_id] = outcome
        watcher.slide_ended(outcome)
    return [outcomes[job.slide_id] for job in jobs]


def once_free(job: SlideJob, out: Path, attempt: Callable[[], Outcome | None]) -> Outcome:
    """Attempt a slide that another process is writing, as soon as it no longer is."""
    outcome = None
    while outcome is None:  # others may wait too, and one of them be faster
        with locked(store_path(out, job), wait=True):
            pass
        outcome = attempt()
    return outcome


def store_path(out: Path, job: SlideJob) -> Path:
    """Where a slide's store lies; ids are safe, and this makes sure once more."""
    path = out / f"{job.slide_id}.zarr"
    if path.resolve().parent != out.resolve():
        raise StoreError(f"slide id {job.slide_id!r} would leave the folder {out}")
    return path


class Prepared:
    """A slide that is open, with tissue found, grids laid, and its first tiles being read."""

    def __init__(self, job: SlideJob, plan: EmbedPlan, *, read: bool = True) -> None:
        self.path = store_path(plan.out, job)
        self._open = ExitStack()
        self.slide: Slide = self._open.enter_context(open_slide(job.path, mpp=job.mpp))
        try:
            self.tissue = self._tissue(job, plan)
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

    def _tissue(self, job: SlideJob, plan: EmbedPlan) -> TissueMask:
        if known := stored_tissue(self.path, self.slide, *_mask_asked_for(job, plan)):
            return known
        if job.mask:
            drawn = mask_from_file(job.mask, self.slide.size, self.slide.mpp, plan.tissue.cell_um)
            return replace(drawn, thumbnail=read_thumbnail(self.slide, drawn.step)[0])
        return find_tissue(self.slide, plan.tissue)

    def _start_reading(self, grid: TileGrid, plan: EmbedPlan) -> Iterator[TileBatch]:
        tiles = read_tiles(self.slide, grid, batch_size=plan.batch_size, threads=plan.threads)
        self._open.callback(tiles.close)
        first = list(itertools.islice(tiles, 1))  # the rest is read on in the background
        return itertools.chain(first, tiles)


def _mask_asked_for(job: SlideJob, plan: EmbedPlan) -> tuple[str, dict[str, float | bool | str]]:
    """Method and parameters of the tissue mask that this run is to have."""
    return drawn_by(job.mask, plan.tissue.cell_um) if job.mask else (METHOD, asdict(plan.tissue))


def _attempt_prepare(job: SlideJob, plan: EmbedPlan) -> Prepared | Outcome | Exception:
    try:
        return _already(job, plan) or Prepared(job, plan)
    except Exception as error:  # noqa: BLE001 - whatever one slide does must not end the run
        return error


def _already(job: SlideJob, plan: EmbedPlan) -> Outcome | None:
    """What the store holds, if it holds all that is asked for."""
    path = store_path(plan.out, job)
    if not path.exists() or awaits_commit(path):
        return None  # also where a commit was killed: the next one clears what it left
    store = SlideStore.open(path)
    known = store.tissue()
    if (known.method, known.parameters) != _mask_asked_for(job, plan):
        return None  # SlideStore.create compares the masks themselves, and refuses another one
    tiles, unreadable = [], 0
    for spec, encoders in plan.by_spec().items():
        if not all(store.has_features(encoder.name, spec.grid_id) for encoder in encoders):
            return None
        status = store.status(spec.grid_id)
        tiles.append(len(status))
        unreadable += int((status != 0).sum())
    slide = store.attrs["slide"]
    # A store at the user's scale is not what a run asks for that leaves the scale to the slide.
    other_mpp = slide["mpp_source"] == "user" if job.mpp is None else slide["mpp"] != job.mpp
    if other_mpp or slide["fingerprint"] != fingerprint(job.path):
        return None  # SlideStore.create says what is wrong
    return Outcome(job, "already", sum(tiles), unreadable=unreadable, tiles_by_grid=tuple(tiles))


def _embed(
    job: SlideJob, prepared: Prepared | Outcome | Exception, plan: EmbedPlan, watcher: Watcher
) -> Outcome | None:
    """One slide's outcome; None if another process is writing it."""
    began = time.perf_counter()
    if isinstance(prepared, Outcome):
        return prepared
    if isinstance(prepared, Exception):
        return Outcome(job, "failed", reason=reason_of(prepared))
    parts: list[Embedded] = []
    try:
        total = sum(map(len, prepared.grids))
        watcher.slide_started(job, total)
        for grid, encoders in zip(prepared.grids, plan.by_spec().values(), strict=True):
            with SlideStore.create(prepared.path, prepared.slide, prepared.tissue, grid) as store:
                before = sum(part.tiles for part in parts)
                result = encode_slide(
                    prepared.slide,
                    store,
                    encoders,
                    grid_id=grid.spec.grid_id,
                    batch_size=plan.batch_size,
                    threads=plan.threads,
                    max_unreadable=plan.max_unreadable,
                    progress=lambda done, _, before=before: watcher.tiles_done(job, before + done, total),  # type: ignore[misc]
                    batches=prepared.batches if grid is prepared.grids[0] else None,
                )
            parts.append(result)
    except StoreBusyError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever one slide does must not end the run
        return _outcome(job, "failed", parts, began, reason_of(error))
    finally:
        prepared.close()
    return _outcome(job, "done", parts, began, by_grid=tuple(map(len, prepared.grids)))


def _outcome(
    job: SlideJob,
    status: Literal["done", "failed"],
    parts: Sequence[Embedded],
    began: float,
    reason: str = "",
    by_grid: tuple[int, ...] = (),
) -> Outcome:
    tiles, fresh, unreadable = (sum(getattr(p, n) for p in parts) for n in ("tiles", "fresh", "unreadable"))
    return Outcome(job, status, tiles, fresh, unreadable, time.perf_counter() - began, reason, by_grid)


def _one_ahead(
    futures: Iterator["Future[Prepared | Outcome | Exception]"],
) -> Generator["Future[Prepared | Outcome | Exception]"]:
    """Start the next before the current is used, and no more: each holds an open slide.

    Closed before its end, as by Ctrl-C, it closes the slides that nobody will take.
    """
    started = deque(itertools.islice(futures, 1))
    try:
        while started:
            started.extend(itertools.islice(futures, 1))
            yield started[0]
            started.popleft()
    finally:
        for future in started:
            if not future.cancel() and isinstance(left := future.result(), Prepared):
                left.close()
