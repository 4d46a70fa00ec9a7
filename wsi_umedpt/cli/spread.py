"""Executors of a command's slides: this process, a child process, or the workers of a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_umedpt.cli.options import SpreadOptions, check_mpp, origin_of
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.settings import RunSettings

if TYPE_CHECKING:
    from wsi_umedpt.batch.coordination.attempts import Rules
    from wsi_umedpt.batch.coordination.publish import PublishTarget
    from wsi_umedpt.batch.coordination.result import Outcome, Watcher
    from wsi_umedpt.batch.executors.slide_child import Load
    from wsi_umedpt.batch.jobs.manifest import Failure
    from wsi_umedpt.batch.jobs.staging import StageRule
    from wsi_umedpt.batch.run import Batch, SlideRunner
    from wsi_umedpt.pipeline.task import SlideTask
    from wsi_umedpt.slides.slide_job import SlideJob


@dataclass(frozen=True)
class Given:
    """Slides that the user named."""

    names: Sequence[str]
    jobs: "list[SlideJob]"
    failures: "list[Failure]"
    """Names that cannot be used, and the reasons; `status` shows them."""


def find_given(
    slides: Sequence[str], mpp: float | None, mask: Path | None, bounds: bool | None, channels: str | None = None
) -> Given:
    """The slides that a command names, with what its flags state of them."""
    from wsi_umedpt.batch.jobs.manifest import list_slides, with_flags
    from wsi_umedpt.slides.channels import choices

    check_mpp(mpp)
    chosen = choices(channels or ())
    jobs, failures = list_slides(slides, say)
    return Given(slides, with_flags(jobs, mpp, mask, origin_of(bounds), chosen), failures)


def rules_of(spread: SpreadOptions) -> "Rules":
    """Rules for retries."""
    from wsi_umedpt.batch.coordination.attempts import Rules

    return Rules(attempts=spread.attempts, retry_failed=spread.retry_failed)


def stage_of(spread: SpreadOptions) -> "StageRule":
    """Rule for slides that are copied before they are opened."""
    from wsi_umedpt.batch.jobs.staging import StageRule

    return StageRule(folder=spread.stage.absolute() if spread.stage else None, most_gb=spread.stage_gb)


def output_of(out: str, spread: SpreadOptions) -> "tuple[Path, PublishTarget | None]":
    """Folder that stores are made in, and where they are published if that is elsewhere."""
    from wsi_umedpt.batch.coordination.publish import PublishTarget
    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.io.remote import is_url, plain

    if not is_url(out):
        if spread.work:
            raise OptionError(f"--work goes with an output that is a URL; {out} is a folder, and keeps it all")
        return Path(out), None
    if spread.work is None:
        raise OptionError(
            f"stores are made here before they are published to {plain(out)}: name a folder with --work; it is "
            "needed to resume after an interruption"
        )
    return spread.work, PublishTarget(out.rstrip("/"))


def batch_of(out: str, spread: SpreadOptions) -> "Batch":
    """Settings of a run: output, staging and retries."""
    from wsi_umedpt.batch.run import Batch

    folder, publish_to = output_of(out, spread)
    return Batch(out=folder, publish_to=publish_to, stage=stage_of(spread), rules=rules_of(spread))


def make_output(out: str, spread: SpreadOptions) -> Path:
    """Make the folder that stores are made in, and see that they can go where they are published.

    Raises
    ------
    OptionError, StoreError, RemoteError
        If that cannot be.
    """
    from wsi_umedpt.batch.coordination.publish import published_to
    from wsi_umedpt.errors import OptionError, StoreError

    folder, publish_to = output_of(out, spread)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "a file has that name" if folder.is_file() else error.strerror or error
        raise StoreError(f"the output folder {folder} cannot be made: {why}") from None
    if publish_to:
        publish_to.reach()  # first: a name that was mistyped binds nothing
        publish_to.bind(folder)
    elif url := published_to(folder):
        raise OptionError(
            f"{folder} is the work folder of runs that publish to {url}, and what lies in it need not be whole: resume "
            f"with -o {url} --work {folder}, or name another folder"
        )
    return folder


def in_children(spread: SpreadOptions) -> bool:
    """Return whether slides are opened in other processes than this."""
    return bool(spread.dask or spread.isolate or spread.slide_timeout or spread.slide_memory)


def check_spread(spread: SpreadOptions) -> None:
    """Refuse what cannot be, before anything is loaded."""
    from wsi_umedpt.batch.executors.child_process import Limits

    rules_of(spread)
    stage_of(spread)
    Limits(slide_s=spread.slide_timeout, memory_gb=spread.slide_memory)
    if spread.dask:
        from wsi_umedpt.batch.executors.dask import Cluster

        Cluster.parse(spread.dask)


def cores_each(spread: SpreadOptions) -> int:
    """Cores that each worker may use; 0 for as many as there are."""
    import os

    if not (spread.dask and spread.dask.startswith("local")):
        return 0
    from wsi_umedpt.batch.executors.dask import Cluster, default_workers

    cluster = Cluster.parse(spread.dask)
    return max(1, (os.cpu_count() or 1) // (cluster.workers or default_workers()))


def share_cores(settings: RunSettings, cores: int) -> RunSettings:
    """Settings for a process that shares its machine: so many threads for networks, and readers for the rest."""
    from dataclasses import replace

    import torch

    if not cores:
        return settings
    torch.set_num_threads(min(torch.get_num_threads(), cores))
    return replace(settings, readers=max(1, cores - 1) if settings.readers is None else settings.readers)


def load_runner(
    load: "Callable[[RunSettings], SlideTask]", settings: RunSettings, out: str, spread: SpreadOptions
) -> "SlideRunner":
    """Load what works on slides, in a process that does nothing else."""
    from wsi_umedpt.batch.run import SlideRunner

    return SlideRunner(load(share_cores(settings, cores_each(spread))), batch_of(out, spread))


def run_everywhere(
    given: "Given", out: str, spread: SpreadOptions, task: "SlideTask", load: "Load",
) -> "list[Outcome] | int":  # fmt: skip
    """Work on all slides, with progress; an exit code if it was stopped.

    Parameters
    ----------
    task
        Loaded for this process; elsewhere `load` makes it.
    load
        Loads the runner in another process; see `slide_child.Load`.
    """
    from wsi_umedpt.batch.coordination.shutdown import EXIT_CODE, Terminated, raise_on_sigterm
    from wsi_umedpt.batch.jobs.run_files import announced
    from wsi_umedpt.batch.reporting.forecast import Forecast
    from wsi_umedpt.batch.run import run_slides
    from wsi_umedpt.cli.progress import Bars

    jobs, folder = given.jobs, make_output(out, spread)
    forecast = Forecast.of(jobs)
    with Bars(len(jobs), forecast) as bars, announced(folder, jobs, given.failures, given.names, forecast):
        try:
            with raise_on_sigterm():
                if in_children(spread):
                    return _elsewhere(jobs, folder, spread, load, bars)
                return run_slides(jobs, task, batch_of(out, spread), bars)
        except Terminated:
            bars.stopped(folder, "SIGTERM")
            return EXIT_CODE
        except KeyboardInterrupt:
            bars.stopped(folder)
            return 130


def _elsewhere(
    jobs: Sequence["SlideJob"], out: Path, spread: SpreadOptions, load: "Load", watcher: "Watcher"
) -> "list[Outcome]":
    from wsi_umedpt.batch.executors.child_process import Isolated, Limits
    from wsi_umedpt.batch.executors.slide_queue import run_queue

    limits, rules = Limits(slide_s=spread.slide_timeout, memory_gb=spread.slide_memory), rules_of(spread)
    if not spread.dask:
        return run_queue(jobs, Isolated(load, out, limits, rules), watcher)
    from wsi_umedpt.batch.executors.dask import Cluster, spread_slides

    return spread_slides(jobs, load, out, Cluster.parse(spread.dask), limits=limits, rules=rules, watcher=watcher)
