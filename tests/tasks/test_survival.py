"""Survival heads: risks that order events, their loss and their concordance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.mil.evaluation import survival as reference
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.tasks import make_task
from wsi_umedpt.tasks.survival import concordance

IMAGES = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
cases = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=12)


@pytest.fixture
def task():
    torch.manual_seed(0)
    return make_task(HeadSpec(name="s", kind="survival", classes=("days", "died"), modality="x"), 4).eval()


@given(cases)
def test_concordance_is_that_of_slide_classifiers(rows):
    """Ties of risks and of times, censored cases and cohorts without a pair among them."""
    risk, time, event = (np.array(column, float) for column in zip(*rows, strict=True))
    expected = float(reference.concordance(time, event, risk)[0])
    assert concordance(*map(torch.tensor, (risk, time, event))) == pytest.approx(expected, nan_ok=True)


def test_one_risk_a_case(task):
    """From the vector of an image or bag."""
    assert task.head[1].weight.shape == (1, 4)


def test_the_loss_is_over_its_value_for_equal_risks(task):
    """1 for equal risks, less where those with sooner events have higher ones, more where they are turned round."""
    batch = Batch(images=IMAGES, labels=torch.tensor([[1.0, 1], [2, 1], [3, 0]]))
    equal, right, wrong = (
        task.loss_of(torch.tensor(risk)[:, None], batch).item() for risk in ([0.0, 0, 0], [2.0, 1, 0], [0.0, 1, 2])
    )
    assert equal == pytest.approx(1)
    assert right < 1 < wrong


def test_cases_without_time_or_event_do_not_matter(task):
    """Loss and figures are those of the others; nothing but such cases gives a loss of 0 and no figures."""
    labels = torch.tensor([[1.0, 1], [math.nan, 1], [2, 0], [4, math.nan], [5, 1]])
    risk = torch.tensor([[0.3], [9.0], [0.1], [9.0], [0.2]])
    keep = [0, 2, 4]
    hidden, without = Batch(images=IMAGES, labels=labels), Batch(images=IMAGES, labels=labels[keep])
    meters = task.meter(), task.meter()
    for at in range(5):  # a case a batch, as evaluation has them
        meters[0].add(risk[at : at + 1], Batch(images=IMAGES, labels=labels[at : at + 1]))
    meters[1].add(risk[keep], without)
    assert task.loss_of(risk, hidden).item() == pytest.approx(task.loss_of(risk[keep], without).item())
    assert meters[0].figures() == pytest.approx(meters[1].figures())
    assert meters[1].figures()["concordance"] == 1.0
    blank = Batch(images=IMAGES, labels=labels[[1, 3]])
    assert task.loss_of(risk[[1, 3]], blank).item() == 0
    empty = task.meter()
    empty.add(risk[[1, 3]], blank)
    assert all(map(math.isnan, empty.figures().values()))
