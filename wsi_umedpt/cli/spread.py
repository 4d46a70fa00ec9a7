"""Where the slides of a command are worked on: in this process, in one beside it, or by the workers of a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_umedpt.cli.options import RunOptions, SpreadOptions, TissueOptions

if TYPE_CHECKING:
    from wsi_umedpt.cohort.isolate import Load
    from wsi_umedpt.cohort.manifest import Failure, SlideJob
    from wsi_umedpt.cohort.outcome import Outcome, Watcher
    from wsi_umedpt.cohort.publishing import Shelf
    from wsi_umedpt.cohort.run import EmbedPlan
    from wsi_umedpt.cohort.staging import StageRule
    from wsi_umedpt.cohort.turns import Rules
    from wsi_umedpt.models.encoder import Encoder
    from wsi_umedpt.tiling import TileSpec


def rules_of(spread: SpreadOptions) -> "Rules":
    """How stubbornly slides are tried."""
    from wsi_umedpt.cohort.turns import Rules

    return Rules(attempts=spread.attempts, retry_failed=spread.retry_failed)


def stage_of(spread: SpreadOptions) -> "StageRule":
    """Which slides are copied before they are opened."""
    from wsi_umedpt.cohort.staging import StageRule

    return StageRule(folder=spread.stage.absolute() if spread.stage else None, most_gb=spread.stage_gb)


def output_of(out: str, spread: SpreadOptions) -> "tuple[Path, Shelf | None]":
    """Folder that stores are made in, and where they are published if that is elsewhere."""
    from wsi_umedpt.cohort.publishing import Shelf
    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.remote import is_url, plain

    if not is_url(out):
        if spread.work:
            raise OptionError(f"--work goes with an output that is a URL; {out} is a folder, and keeps it all")
        return Path(out), None
    if spread.work is None:
        raise OptionError(
            f"stores are made here before they are published to {plain(out)}: name a folder with --work; it is "
            "needed to go on after an interruption"
        )
    return spread.work, Shelf(out.rstrip("/"))


def plan_of(
    out: str, tissue: TissueOptions, run: RunOptions, spread: SpreadOptions, encoders: "Sequence[Encoder]" = (),
    specs: "Sequence[TileSpec]" = (),
) -> "EmbedPlan":  # fmt: skip
    """What is done to every slide, by the flags that `embed` and `segment` share."""
    from dataclasses import asdict

    from wsi_umedpt.cohort.run import EmbedPlan
    from wsi_umedpt.tissue import TissueParameters

    folder, shelf = output_of(out, spread)
    return EmbedPlan(
        out=folder,
        shelf=shelf,
        encoders=encoders,
        specs=specs,
        tissue=TissueParameters(**asdict(tissue)),
        batch_size=run.batch_size,
        threads=run.threads,
        max_unreadable=run.max_unreadable,
        stage=stage_of(spread),
        stall_s=run.stall_timeout,
    )


def make_output(out: str, spread: SpreadOptions) -> Path:
    """Make the folder that stores are made in, and see that they can go where they are published.

    Raises
    ------
    OptionError, StoreError, RemoteError
        If that cannot be.
    """
    from wsi_umedpt.cohort.publishing import published_to
    from wsi_umedpt.errors import OptionError, StoreError

    folder, shelf = output_of(out, spread)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "a file has that name" if folder.is_file() else error.strerror or error
        raise StoreError(f"the output folder {folder} cannot be made: {why}") from None
    if shelf:
        shelf.reach()  # first: a name that was mistyped binds nothing
        shelf.bind(folder)
    elif url := published_to(folder):
        raise OptionError(
            f"{folder} is the work folder of runs that publish to {url}, and what lies in it need not be whole: go on "
            f"with -o {url} --work {folder}, or name another folder"
        )
    return folder


def in_children(spread: SpreadOptions) -> bool:
    """Whether slides are opened in other processes than this."""
    return bool(spread.dask or spread.isolate or spread.slide_timeout or spread.slide_memory)


def check_spread(spread: SpreadOptions, run: RunOptions) -> None:
    """Refuse what cannot be, before anything is loaded."""
    from wsi_umedpt.cohort.isolate import Limits
    from wsi_umedpt.errors import OptionError

    rules_of(spread)
    stage_of(spread)
    Limits(slide_s=spread.slide_timeout, memory_gb=spread.slide_memory)
    if spread.dask:
        from wsi_umedpt.cohort.spread import Cluster

        Cluster.parse(spread.dask)
    if in_children(spread) and run.device == "cuda:all":
        raise OptionError("--device cuda:all does not go with --isolate or --dask; --dask local has one worker a GPU")


def cores_each(spread: SpreadOptions) -> int:
    """Cores that each worker may use; 0 for as many as there are."""
    import os

    if not (spread.dask and spread.dask.startswith("local")):
        return 0
    from wsi_umedpt.cohort.spread import Cluster, default_workers

    cluster = Cluster.parse(spread.dask)
    return max(1, (os.cpu_count() or 1) // (cluster.workers or default_workers()))


def share_cores(run: RunOptions, cores: int) -> RunOptions:
    """Settings for a process that shares its machine: so many threads for networks, and for decoding."""
    from dataclasses import replace

    import torch

    if not cores:
        return run
    torch.set_num_threads(min(torch.get_num_threads(), cores))
    return replace(run, threads=min(cores, 8) if run.threads is None else run.threads)


def run_slides(
    jobs: Sequence["SlideJob"],
    out: Path,
    spread: SpreadOptions,
    load: "Load",
    here: "Callable[[Watcher, Rules], list[Outcome]]",
    given: "tuple[Sequence[str], Sequence[Failure]]" = ((), ()),
) -> "list[Outcome] | int":
    """Work on all slides, with progress; an exit code if it was stopped.

    Parameters
    ----------
    load
        Loads the encoders in another process; see `cohort.isolate.Load`.
    here
        Does all the work in this process.
    given
        What the user named, and what of it cannot be used; `status` shows it.
    """
    from wsi_umedpt.cli.progress import Bars
    from wsi_umedpt.cohort.forecast import Forecast
    from wsi_umedpt.cohort.runs import announced
    from wsi_umedpt.cohort.stopping import EXIT_CODE, Stopped, stoppable

    forecast = Forecast.of(jobs)
    with Bars(len(jobs), forecast) as bars, announced(out, jobs, given[1], given[0], forecast):
        try:
            with stoppable():
                if in_children(spread):
                    return _elsewhere(jobs, out, spread, load, bars)
                return here(bars, rules_of(spread))
        except Stopped:
            bars.stopped(out, "SIGTERM")
            return EXIT_CODE
        except KeyboardInterrupt:
            bars.stopped(out)
            return 130


def _elsewhere(
    jobs: Sequence["SlideJob"], out: Path, spread: SpreadOptions, load: "Load", watcher: "Watcher"
) -> "list[Outcome]":
    from wsi_umedpt.cohort.isolate import Isolated, Limits
    from wsi_umedpt.cohort.line import run_line

    limits, rules = Limits(slide_s=spread.slide_timeout, memory_gb=spread.slide_memory), rules_of(spread)
    if not spread.dask:
        return run_line(jobs, Isolated(load, out, limits, rules), watcher)
    from wsi_umedpt.cohort.spread import Cluster, spread_slides

    return spread_slides(jobs, load, out, Cluster.parse(spread.dask), limits=limits, rules=rules, watcher=watcher)
