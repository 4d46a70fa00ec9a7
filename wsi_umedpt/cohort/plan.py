"""What a run asks of every slide, and what a slide's store already holds of it."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wsi_umedpt import __version__
from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.outcome import Outcome
from wsi_umedpt.cohort.publishing import Shelf
from wsi_umedpt.cohort.slidefiles import fingerprint_at
from wsi_umedpt.cohort.staging import StageRule
from wsi_umedpt.cohort.turns import PASSING_S, Turn, store_path, will_pass
from wsi_umedpt.drawn import drawn_by
from wsi_umedpt.encode import MAX_UNREADABLE, check_run
from wsi_umedpt.errors import reason_of
from wsi_umedpt.growing import awaits_commit
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.remote import NoRangesError, without_secrets
from wsi_umedpt.stalls import STALL_S, check_stall
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileSpec
from wsi_umedpt.tissue import METHOD, TissueParameters


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
    stage: StageRule = field(default_factory=StageRule)
    """Which slides are copied before they are opened."""
    shelf: Shelf | None = None
    """Where stores are published; `out` is then the work folder that they are made in."""
    stall_s: float = STALL_S
    """Seconds without progress after which a slide is given up."""

    def __post_init__(self) -> None:
        check_run(self.batch_size, self.threads, self.max_unreadable)
        check_stall(self.stall_s)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked for, as JSON: attempts at other work do not count."""
        return {
            "encoders": [encoder.name for encoder in self.encoders],
            "specs": [spec.to_dict() for spec in self.specs],
            "tissue": asdict(self.tissue),
            "max_unreadable": self.max_unreadable,
            "version": __version__,
        }

    @property
    def read_threads(self) -> int | None:
        """Threads that decode: at least one, as what reads in a run's own thread cannot be watched."""
        return None if self.threads is None else max(1, self.threads)

    def by_spec(self) -> dict[TileSpec, list[Encoder]]:
        """Encoders that share tiles, and so one decoding."""
        groups: dict[TileSpec, list[Encoder]] = {}
        for encoder, spec in zip(self.encoders, self.specs, strict=True):
            groups.setdefault(spec, []).append(encoder)
        return groups


def mask_asked_for(job: SlideJob, plan: EmbedPlan) -> tuple[str, dict[str, float | bool | str]]:
    """Method and parameters of the tissue mask that this run is to have."""
    return drawn_by(job.mask, plan.tissue.cell_um, job.mask_origin) if job.mask else (METHOD, asdict(plan.tissue))


def publish_store(turn: Turn, plan: EmbedPlan) -> None:
    """Put a store that is whole where the stores of a run go, if that is elsewhere."""
    if plan.shelf:
        plan.shelf.put(store_path(plan.out, turn.job), turn.check)


def publish_made(
    turn: Turn, plan: EmbedPlan, already: Callable[[SlideJob, EmbedPlan], Outcome | None]
) -> Outcome | None:
    """Publish a store that an earlier run made whole here; else fetch the published one, to be added to."""
    if plan.shelf is None:
        return None
    plan.shelf.take_base(store_path(plan.out, turn.job))
    done = already(turn.job, replace(plan, shelf=None))
    if done is None:
        return None
    publish_store(turn, plan)
    return turn.end(done)


def store_of(job: SlideJob, plan: EmbedPlan) -> SlideStore | None:
    """The store of a slide, if it is whole and has the scale and the tissue mask that are asked for."""
    path = store_path(plan.out, job)
    store = None
    if plan.shelf and not path.exists():  # one that is here waits to be published
        store = plan.shelf.open(path)
    elif not plan.shelf and path.exists() and not awaits_commit(path):
        store = SlideStore.open(path)  # where a commit was killed the next one clears what it left
    if store is None or store.tissue_made() != mask_asked_for(job, plan):
        return None  # SlideStore.create compares the masks themselves, and refuses another one
    slide = store.attrs["slide"]
    # A store at the user's scale is not what a run asks for that leaves the scale to the slide.
    other_mpp = slide["mpp_source"] == "user" if job.mpp is None else slide["mpp"] != job.mpp
    return None if other_mpp else store  # SlideStore.create says what is wrong


def is_of(store: SlideStore, job: SlideJob) -> bool:
    """Whether a store is of the slide as it is now; False where only opening a copy can tell."""
    try:
        return bool(store.attrs["slide"]["fingerprint"] == fingerprint_at(job))
    except NoRangesError:
        return False


def already_embedded(job: SlideJob, plan: EmbedPlan) -> Outcome | None:
    """What the store holds, if it holds all that is asked for."""
    if (store := store_of(job, plan)) is None:
        return None
    tiles, unreadable = [], 0
    for spec, encoders in plan.by_spec().items():
        if not all(store.has_features(encoder.name, spec.grid_id) for encoder in encoders):
            return None
        status = store.status(spec.grid_id)
        tiles.append(len(status))
        unreadable += int((status != 0).sum())
    if not is_of(store, job):
        return None
    return Outcome(
        job, "already", sum(tiles), unreadable=unreadable, tiles_by_grid=tuple(tiles),
        fingerprint=store.attrs["slide"]["fingerprint"],
    )  # fmt: skip


def failure(job: SlideJob, error: Exception) -> Outcome:
    """What an error makes of a slide."""
    frames = without_secrets("".join(traceback.format_exception(error)), job.url)
    reason, passing = without_secrets(reason_of(error), job.url), will_pass(error)
    again_s = PASSING_S if passing else None
    return Outcome(job, "failed", reason=reason, traceback=frames, again_s=again_s, passing=passing)
