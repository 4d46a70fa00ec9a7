"""Many workers on many slides, through Dask: on this machine, on a cluster that runs, or on Slurm or PBS.

A task is one slide's name; what it does is publish a store, and what it returns is a few
numbers. No pixels and no features travel. Each worker keeps one child process that loaded
the encoders once (`Isolated`), so that no slide can end a worker; claims and records
(`Attempts`) make tasks that run twice harmless. So a worker, a machine or the scheduler may
vanish at any time: what is not done is handed out again.

Only some more slides than there are workers are with the scheduler at a time, so that
its memory does not grow with the cohort.

Read top to bottom: `Cluster` (what the user asks for), `spread_slides`, then the worker.
"""

import contextlib
import multiprocessing
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, Worker, WorkerPlugin, get_worker

from wsi_umedpt.batch.coordination.attempts import Rules
from wsi_umedpt.batch.coordination.result import Logged, Outcome, Watcher
from wsi_umedpt.batch.executors.child_process import Isolated, Limits
from wsi_umedpt.batch.executors.slide_child import Load
from wsi_umedpt.batch.executors.slide_queue import SlideQueue
from wsi_umedpt.batch.jobs.slide_files import bytes_of
from wsi_umedpt.errors import OptionError, SpreadError, WsiError, reason_of
from wsi_umedpt.slides.slide_job import SlideJob

_AHEAD = 2
"""Slides with the scheduler for each worker."""
_ASK_S = 2.0
"""Seconds between two counts of the workers."""
CONNECT_S = 10.0
PATIENCE_S = 300.0
"""Seconds that a scheduler may be out of reach."""
_SETTINGS = {
    # A worker that vanishes is never the slide's fault: slides run in children. Records count.
    "distributed.scheduler.allowed-failures": 1000,
    "distributed.comm.timeouts.connect": "10s",
    "distributed.scheduler.work-stealing": True,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
}


@dataclass(frozen=True)
class Cluster:
    """Cluster that has the workers."""

    kind: Literal["local", "address", "slurm", "pbs"]
    address: str = ""
    workers: int = 0
    """0: one a GPU, or one for every four cores where there is none."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a user wrote: ``local``, ``local:4``, ``tcp://HOST:PORT``, ``slurm:16``, ``pbs:16``.

        Raises
        ------
        OptionError
            If it is none of these.
        """
        if found := re.fullmatch(r"(local|slurm|pbs)(?::([1-9]\d{0,4}))?", text):
            kind: Any = found[1]
            if kind == "local" or found[2]:
                return cls(kind, workers=int(found[2] or 0))
        elif re.fullmatch(r"(tcp|tls|ucx|ws|wss)://\S+", text):
            return cls("address", text)
        raise OptionError(
            f"`dask` is local, local:N, tcp://HOST:PORT, slurm:N or pbs:N (N workers), got {text!r} "
            "(docs/how-to/cluster.md)"
        )


def spread_slides(
    jobs: Sequence[SlideJob],
    load: Load,
    out: Path,
    cluster: Cluster,
    *,
    limits: Limits | None = None,
    rules: Rules | None = None,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Work on every slide with all workers of a cluster, largest first.

    Parameters
    ----------
    load
        Loads the encoders in each worker's child process; must be picklable.
    out
        Folder of the stores, under the same name on every machine.

    Returns
    -------
    list of Outcome
        One per job, in the order of `jobs`.

    Raises
    ------
    SpreadError
        If there is no cluster, or it is out of reach for `PATIENCE_S`.
    WsiError
        What `load` says.
    """
    watcher = Logged(watcher or Watcher())
    queue = SlideQueue(jobs, watcher, out)
    queue.sort(_bytes)
    devices = gpus() if cluster.kind == "local" else []
    plugin = SlidePlugin(load, out.absolute(), limits or Limits(), rules or Rules(), Path.cwd(), devices)
    run = f"wsi-umedpt-{uuid.uuid4().hex}"
    with dask.config.set(_SETTINGS), contextlib.ExitStack() as opened:
        # Workers are threads here, as the work is done in a child process of each.
        address = start(cluster, opened, processes=False)
        reached = time.monotonic()
        while queue.open:
            try:
                with _connected(address, plugin, run) as client:
                    reached = time.monotonic()
                    for _ in _work_off(queue, client, run):
                        reached = time.monotonic()
            except (OSError, TimeoutError) as error:  # among them distributed's CommClosedError
                if time.monotonic() - reached > PATIENCE_S:
                    raise SpreadError(
                        f"the Dask scheduler at {address} has been out of reach for {PATIENCE_S:.0f} s ({error}). "
                        "What is done is done; start it, and run the same command again."
                    ) from None
                time.sleep(1.0)
    return queue.outcomes


def _work_off(queue: SlideQueue, client: Client, run: str) -> Iterator[None]:
    """Hand slides to a scheduler as workers become free, for as long as it is the one that we know.

    Yields at every sign of life.
    """
    with_it: dict[Future[Any], SlideJob] = {}
    asked, most = 0.0, _AHEAD
    wake = threading.Event()
    try:
        while queue.open:
            if client.status != "running":
                raise ConnectionError("it went away")
            if time.monotonic() - asked > _ASK_S:
                asked, most = time.monotonic(), _AHEAD * max(1, len(client.nthreads()))
                yield
            while len(with_it) < most and (job := queue.next()):
                key = f"slide-{uuid.uuid4().hex}"  # one prefix for all: the scheduler keeps statistics of each for ever
                future = client.submit(attempt_slide, job, run, key=key, pure=False)
                future.add_done_callback(lambda _: wake.set())
                with_it[future] = job
            for future in _ended(with_it, wake, queue.wait_s()):
                _settle(queue, with_it.pop(future), future)
                yield
    finally:
        for job in with_it.values():
            queue.put_back(job)


def _ended(futures: "Iterable[Future[Any]]", wake: threading.Event, seconds: float) -> "list[Future[Any]]":
    wake.wait(max(0.05, seconds))
    wake.clear()
    return [future for future in futures if future.done()]


def _settle(queue: SlideQueue, job: SlideJob, future: "Future[Any]") -> None:
    if future.status == "finished":
        queue.settle(job, future.result())
        return
    error = future.exception() if future.status == "error" else None
    if isinstance(error, WsiError):
        raise error
    if error is None or isinstance(error, KilledWorker | OSError):  # lost with a worker, or a connection
        queue.put_back(job, 1.0)
    else:
        raise SpreadError(f"workers cannot work on slides: {reason_of(error)}. Have they the same version installed?")


@contextlib.contextmanager
def _connected(address: Any, plugin: "SlidePlugin", run: str) -> Iterator[Client]:
    with Client(address, timeout=CONNECT_S, set_as_default=False) as client:
        client.register_plugin(plugin, name=run)
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):  # what counts is known by now
                client.unregister_worker_plugin(run)


def start(cluster: Cluster, opened: contextlib.ExitStack, *, processes: bool) -> Any:
    """Start what must be started; what a Client connects to.

    Parameters
    ----------
    cluster
        As the user asked for it.
    opened
        Ends it.
    processes
        True if workers of this machine are processes of their own, not threads of this one.

    Raises
    ------
    SpreadError
        If what it needs is not installed.
    """
    if cluster.kind == "address":
        return cluster.address
    if cluster.kind == "local":
        return opened.enter_context(
            LocalCluster(
                n_workers=cluster.workers or default_workers(), threads_per_worker=1, processes=processes,
                memory_limit=0,
                # No dashboard; its server is started all the same, and by default where another run may have its own.
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            )
        )  # fmt: skip
    try:
        from dask_jobqueue import PBSCluster, SLURMCluster
    except ImportError:
        raise SpreadError(f"`dask` {cluster.kind} needs dask-jobqueue: pip install 'wsi-umedpt[cluster]'") from None
    made = opened.enter_context((SLURMCluster if cluster.kind == "slurm" else PBSCluster)(nanny=False))
    made.scale(jobs=cluster.workers)
    return made


def default_workers() -> int:
    """Workers on this machine where the user does not say: one a GPU, or one for every four cores."""
    return len(gpus()) or max(1, (os.cpu_count() or 1) // 4)


def gpus() -> list[str]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    from wsi_umedpt.models.encoder import count_devices

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible or [str(n) for n in range(count_devices("cuda"))]


# ---- the worker ----


class SlidePlugin(WorkerPlugin):
    """Gives each worker a child process that has the encoders.

    Parameters
    ----------
    folder
        Folder that relative paths begin at.
    devices
        CUDA devices to be dealt to workers that share this machine; empty where each worker
        was given its own.
    """

    def __init__(
        self, load: Load, out: Path, limits: Limits, rules: Rules, folder: Path, devices: Sequence[str] = ()
    ) -> None:
        self._load, self._out, self._limits, self._rules = load, out, limits, rules
        self._folder, self._devices = folder, devices
        self.isolated: Isolated | None = None
        self._worker: Worker | None = None

    def setup(self, worker: Worker) -> None:
        """Make ready; encoders are loaded by the first slide, or what fails would end the worker without a word."""
        if multiprocessing.current_process().daemon:
            raise SpreadError(
                "this Dask worker was started by a nanny, and may have no child processes. Start it with --no-nanny "
                "(slides run in processes of their own, which are watched), or with "
                "DASK_DISTRIBUTED__WORKER__DAEMON=False"
            )
        env = {}
        if self._devices and isinstance(worker.name, int):
            env["CUDA_VISIBLE_DEVICES"] = self._devices[worker.name % len(self._devices)]
        self._worker = worker
        self.isolated = Isolated(self._load, self._out, self._limits, self._rules, env, self._folder)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Let the child know which slide waits on this worker."""
        if finish in ("ready", "executing") and self._worker and self.isolated and self._worker.state.ready:
            for given in getattr(self._worker.state.ready.peek().run_spec, "args", ()):
                if isinstance(given, SlideJob):
                    self.isolated.ahead(given)

    def teardown(self, worker: Worker) -> None:
        """End the child; it hands its slide back first."""
        if self.isolated:
            self.isolated.close()


def attempt_slide(job: SlideJob, run: str) -> Outcome | None:
    """Work on one slide in this worker's child process: what a Dask task is."""
    plugin = get_worker().plugins.get(run)
    if not isinstance(plugin, SlidePlugin) or plugin.isolated is None:  # the run ends, or begins, just now
        return None
    return plugin.isolated.attempt(job, Watcher())


def _bytes(job: SlideJob) -> float:
    """Approximate size of a slide in bytes; a folder counts as the largest."""
    return float("inf") if job.url is None and job.path.is_dir() else bytes_of(job)
