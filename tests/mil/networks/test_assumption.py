"""Which networks keep to the standard assumption of MIL: a bag is positive because of what is in it.

Algorithm 1 of Raff and Holt 2023 (arXiv 2310.17867), small; for every network: docs/measured/slide-classifiers.md.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.support.mil_cohorts import BINARY, KIND, Bank
from wsi_umedpt.mil.data.cohort import Case, Cohort
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.settings import FitSettings
from wsi_umedpt.mil.training.fit import fit


def poisoned(count, rng, *, train):
    """Positive bags hold a concept; in training negative ones hold a poison too, in testing positive ones do."""
    bags = []
    for n in range(count):
        parts = [rng.normal(size=(8, 6))]
        if n % 2:
            parts.append(rng.normal(2, 0.7, (1, 6)))
        if bool(n % 2) != train:
            parts.append(rng.normal(-10, 0.1, (1, 6)))
        bags.append(np.concatenate(parts).astype(np.float32))
    return bags, np.arange(count) % 2


def cohort_of(bags, labels):
    cases = tuple(Case(f"b{n}", f"b{n}", (f"b{n}",)) for n in range(len(bags)))
    reader = BagReader({f"b{n}": Bank(f"b{n}", x) for n, x in enumerate(bags)})
    return Cohort(cases, (BINARY,), (labels.astype(float)[:, None],), "slide", KIND), reader


@pytest.mark.parametrize(
    ("model", "keeps"),
    [
        pytest.param("max", True, id="the highest tile cannot be made negative by another"),
        pytest.param("attention", False, id="attention may learn that a poison means negative"),
        pytest.param("mean-mlp", False, id="a mean may learn anything"),
    ],
)
def test_instance_networks_keep_to_the_assumption_and_pooled_ones_need_not(model, keeps, rng):
    """The documented verdict: all separate the training bags, and only `max` those where the poison changed sides."""
    cohort, reader = cohort_of(*poisoned(80, rng, train=True))
    settings = FitSettings(model=model, epochs=15, hidden=16, attention=8, lr=5e-3)
    network = fit(cohort.only(range(60)), cohort.only(range(60, 80)), reader, settings, 0).network
    found = {}
    for train in (True, False):
        bags, labels = poisoned(80, rng, train=train)
        found[train] = roc_auc_score(labels, network(join([torch.from_numpy(bag) for bag in bags]))[:, 0].numpy())
    assert found[True] > 0.95
    assert found[False] > 0.9 if keeps else found[False] < 0.5
