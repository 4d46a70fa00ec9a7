"""How long a study will take is about right."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.mil_cohorts import COX, QUICK, STUDY, TARGETS, cohort_of
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.run import run_study
from wsi_umedpt.mil.training import time_estimate
from wsi_umedpt.mil.training.nested_cv import splits_of
from wsi_umedpt.mil.training.time_estimate import seconds_at_most


@pytest.fixture(autouse=True)
def cpu_time(monkeypatch):
    """Instead of time: whatever else the machine does."""
    monkeypatch.setattr(time_estimate, "time", SimpleNamespace(perf_counter=time.process_time))


@pytest.mark.parametrize("target", [*TARGETS.values()], ids=[*TARGETS])
def test_time_is_estimated_for_every_kind_of_target(target):
    """Twice the epochs take twice as long, and two settings as long as both; survival too."""
    cohort, banks = cohort_of(target, cases=24)
    study, reader = replace(STUDY, folds=2), BagReader(banks)
    found = seconds_at_most(cohort, reader, [QUICK], study, splits_of(cohort, study))
    assert 0 < found < 600
    more = seconds_at_most(cohort, reader, [replace(QUICK, epochs=3000)], study, splits_of(cohort, study))
    assert more > 20 * found


def test_the_estimate_holds_for_a_study(tmp_path):
    """Within a factor of five either way, where nothing stops early."""
    cohort, banks = cohort_of(cases=48, tiles=(200, 300))
    settings = replace(QUICK, epochs=10, patience=10)
    told = seconds_at_most(cohort, BagReader(banks), [settings], STUDY, splits_of(cohort, STUDY))
    start = time.process_time()
    run_study(cohort, BagReader(banks), [settings], STUDY, tmp_path / "run")
    took = time.process_time() - start
    assert told < 5 * took
    assert told > took / 5 - 5  # baselines and files come on top


def test_cases_that_cannot_be_ranked_are_timed_too():
    """The cases that an epoch is timed on need not hold an event."""
    cohort, banks = cohort_of(COX, cases=24)
    late = np.column_stack([np.arange(1.0, 25), np.arange(24) >= 8])
    cohort = replace(cohort, truth=(late,))
    assert seconds_at_most(cohort, BagReader(banks), [QUICK], STUDY, splits_of(cohort, STUDY)) > 0
