"""Many cases through a slide classifier: one after the other in this process, or by the workers of a cluster.

A task is a case: where its features lie, and what comes back is a row of a table. Each worker loads the model once.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, as_completed

from wsi_umedpt.batch.executors.dask import CONNECT_S, Cluster, start
from wsi_umedpt.errors import SpreadError, WsiError, reason_of
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.mil.inference.predict import bag_of, predict, store_scores, tile_scores
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.store.features import BagSource
from wsi_umedpt.store.slide_store import SlideStore

_AHEAD = 4
"""Cases with the scheduler for each worker."""
ATTEMPTS = 3
"""Processes that a case may crash before it is given up."""
_SETTINGS = {"distributed.scheduler.allowed-failures": ATTEMPTS - 1, "distributed.comm.timeouts.connect": "10s"}


@dataclass(frozen=True)
class CaseTask:
    """Task on one case."""

    case_id: str
    sources: tuple[BagSource, ...]
    """Its slides."""
    scores: str = ""
    """Name of the scores to write into their stores; empty for none."""


@dataclass(frozen=True)
class CaseResult:
    """Result of one case."""

    case_id: str
    row: Mapping[str, Any]
    """Columns of a table; ``error`` among them where it failed."""
    said: str
    """Prediction in one line."""
    failed: bool = False


def predict_cases(model: Path, tasks: Sequence[CaseTask], cluster: Cluster | None = None) -> Iterator[CaseResult]:
    """Predict every case; what fails is a result like the others.

    Parameters
    ----------
    model
        Model, of the same path on every machine.
    tasks
        Tasks on cases of different names.
    cluster
        Cluster whose workers do it, and give results in any order; None for this process.

    Raises
    ------
    WsiError
        If the model cannot be loaded.
    SpreadError
        If there is no cluster, or its scheduler is lost.
    """
    model = model.absolute()
    _loaded.cache_clear()
    _loaded(model)  # before any case, and here: what is wrong with it is wrong everywhere
    if cluster is None:
        yield from (predict_case(model, task) for task in tasks)
        return
    with dask.config.set(_SETTINGS), contextlib.ExitStack() as opened:
        try:
            address = start(cluster, opened, processes=True)
            client = opened.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
            yield from _spread(client, model, tasks)
        except (OSError, TimeoutError) as error:  # among them distributed's CommClosedError
            raise SpreadError(f"the Dask scheduler was lost ({error}); start it, and run the command again") from None


def _spread(client: Client, model: Path, tasks: Sequence[CaseTask]) -> Iterator[CaseResult]:
    """Keep every worker busy, and no more with the scheduler than that takes.

    A worker that crashes takes down all cases that lie with it, so that those whose workers crashed are tried again at
    the end, each alone: only then is it known whose fault it was.
    """
    waiting, done = iter(tasks), as_completed(loop=client.loop)
    asked: dict[Future[Any], CaseTask] = {}
    suspected: list[CaseTask] = []

    def top_up() -> None:
        room = _AHEAD * max(1, len(client.nthreads())) - len(asked)
        for task in itertools.islice(waiting, max(0, room)):
            future = client.submit(predict_case, model, task, pure=False)
            asked[future] = task
            done.add(future)

    top_up()
    for future in done:
        task = asked.pop(future)
        if isinstance(future.exception(), KilledWorker):
            suspected.append(task)
        else:
            yield _result(future, task)
        top_up()
    for task in suspected:
        yield _result(client.submit(predict_case, model, task, pure=False), task)


def _result(future: "Future[Any]", task: CaseTask) -> CaseResult:
    try:
        found: CaseResult = future.result()
    except (WsiError, OSError):  # the model cannot be loaded there, or the scheduler is lost
        raise
    except KilledWorker as error:
        return _failure(task, f"each of {error.allowed_failures + 1} processes that read its features crashed")
    except CancelledError as error:
        raise ConnectionError(error) from None
    except Exception as error:  # noqa: BLE001 - what cannot even be sent there
        why = f"workers cannot predict: {reason_of(error)}. Have they the same version installed?"
        raise SpreadError(why) from None
    return found


def predict_case(model: Path, task: CaseTask) -> CaseResult:
    """Read a case's features, predict it, and write what each tile did into its stores."""
    loaded = _loaded(model)
    try:
        bags = [bag_of(loaded, source) for source in task.sources]
        found = predict(loaded, bags, task.case_id)
        for source, bag in zip(task.sources, bags, strict=True):
            if task.scores and isinstance(source, StoreSource):
                columns = tile_scores(loaded, bag)
                store_scores(loaded, task.scores, SlideStore.open(source.path), columns, bag)
    except (WsiError, OSError) as error:
        return _failure(task, reason_of(error))
    said = ", ".join(f"{f.target.name} {f.answer or f.predicted.round(3)}" for f in found.forecasts)
    return CaseResult(task.case_id, found.row(), f"{task.case_id}: {said}")


def unread(troubles: Mapping[str, WsiError]) -> Iterator[CaseResult]:
    """Failures of slides whose features cannot be used at all."""
    for slide, error in troubles.items():
        yield _failed(slide, slide, reason_of(error))


def _failure(task: CaseTask, reason: str) -> CaseResult:
    return _failed(task.case_id, "+".join(source.slide_id for source in task.sources), reason)


def _failed(case_id: str, slides: str, reason: str) -> CaseResult:
    row = {"case_id": case_id, "slides": slides, "error": reason}
    return CaseResult(case_id, row, f"{case_id}: FAILED: {reason}", failed=True)


@lru_cache(maxsize=1)
def _loaded(model: Path) -> SlideModel:
    return SlideModel.load(model)
