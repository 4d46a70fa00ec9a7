"""Many cases by the workers of a cluster: the same rows as in one process, and a file that crashes is one failure."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.mil_cohorts import QUICK, STUDY, Bank, cohort_of
from wsi_umedpt.batch import predict
from wsi_umedpt.batch.executors.dask import Cluster, start
from wsi_umedpt.batch.predict import CaseTask, predict_cases
from wsi_umedpt.errors import SpreadError, WsiError
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.training.ensemble import develop


@dataclass(frozen=True, eq=False)
class Crashing(Bank):
    """Features that end the process which reads them, as a native library may."""

    def load(self):
        """Never returns."""
        os._exit(1)


@dataclass(frozen=True, eq=False)
class Slow(Bank):
    """Features that take their time."""

    def load(self):
        """After a while."""
        time.sleep(0.3)
        return super().load()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained one, as a file."""
    cohort, banks = cohort_of(cases=24)
    path = tmp_path_factory.mktemp("model") / "model.json"
    develop(cohort, BagReader(banks), [QUICK], STUDY, (0,)).save(path)
    return path


def tasks_of(kinds: dict[str, type[Bank]]) -> list[CaseTask]:
    rng = np.random.default_rng(0)
    banks = {name: kind(name, rng.normal(size=(5, 6)).astype(np.float32)) for name, kind in kinds.items()}
    return [CaseTask(name, (bank,)) for name, bank in banks.items()]


def test_a_cluster_gives_the_rows_of_one_process(model, monkeypatch):
    """All of them to the last digit; a file that crashes what reads it, time and again, costs its own case.

    Though a worker takes all cases down that lie with it: so few may be lost with them here that others are, too.
    """
    monkeypatch.setitem(predict._SETTINGS, "distributed.scheduler.allowed-failures", 1)
    tasks = tasks_of({f"s{n}": Bank for n in range(20)} | {"wide": Bank})
    tasks[-1] = CaseTask("wide", (Bank("wide", np.zeros((3, 9), np.float32), cohort_of(dim=9)[0].kind),))
    here = {result.case_id: result for result in predict_cases(model, tasks)}
    tasks.insert(3, *tasks_of({"crashing": Crashing}))
    there = {result.case_id: result for result in predict_cases(model, tasks, Cluster.parse("local:2"))}
    crashed = there.pop("crashing")
    assert crashed.failed
    assert crashed.row["error"] == "each of 2 processes that read its features crashed"
    assert there == here
    assert [name for name, result in here.items() if result.failed] == ["wide"]


def test_no_more_than_a_few_cases_a_worker_are_with_the_scheduler(model, monkeypatch):
    """Its memory does not grow with the cohort."""
    monkeypatch.setattr(predict, "_AHEAD", 2)
    monkeypatch.setattr(predict, "start", lambda cluster, opened, processes: start(cluster, opened, processes=False))
    asked = []
    submit = predict.Client.submit

    def counted(client, *args, **options):
        asked.append(len(asked))
        return submit(client, *args, **options)

    monkeypatch.setattr(predict.Client, "submit", counted)
    results = predict_cases(model, tasks_of({f"s{n}": Slow for n in range(12)}), Cluster.parse("local:1"))
    for done in range(1, 13):
        next(results)
        assert done <= len(asked) <= done + 2
    assert not [*results]


def test_what_is_wrong_with_the_model_is_said_before_anything_is_started(tmp_path):
    """As an error and not as that of every case."""
    with pytest.raises(WsiError, match=r"nowhere\.json"):
        next(predict_cases(tmp_path / "nowhere.json", tasks_of({"s": Bank}), Cluster.parse("local:1")))


def test_a_scheduler_that_dies_is_an_error(model):
    """Said in a sentence, in time."""
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    worker = None
    try:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        words = ["-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        worker = subprocess.Popen([sys.executable, *words], **quiet)
        results = predict_cases(model, tasks_of({f"s{n}": Slow for n in range(30)}), Cluster.parse(address))
        assert not next(results).failed
        scheduler.kill()
        with pytest.raises(SpreadError, match="scheduler was lost"):
            list(results)
    finally:
        scheduler.kill()
        scheduler.stderr.close()
        scheduler.wait()
        if worker:
            worker.kill()
            worker.wait()
