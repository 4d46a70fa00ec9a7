"""Losses against their definitions written out, and what logits say of probabilities."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from wsi_umedpt.mil.data.targets import Target, spans
from wsi_umedpt.mil.training.losses import cox_loss, loss_of, predicted_of, terms_of

TARGETS = {
    "binary": Target(name="t", kind="binary", columns=("t",), classes=("a", "b")),
    "multiclass": Target(name="t", kind="multiclass", columns=("t",), classes=("a", "b", "c")),
    "multilabel": Target(name="t", kind="multilabel", columns=("a", "b"), classes=("a", "b")),
    "regression": Target(name="t", kind="regression", columns=("t",), centre=7.0, scale=3.0),
    "ordinal": Target(name="t", kind="ordinal", columns=("t",), classes=("1", "2", "3", "4")),
    "cox": Target(name="t", kind="cox", columns=("d", "e")),
    "discrete": Target(name="t", kind="discrete", columns=("d", "e"), edges=(2.0, 5.0, 9.0)),
}
every_kind = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def labels(target, count, seed=0):
    """Labels of so many bags, in float32 as training sees them."""
    rng = np.random.default_rng(seed)
    match target.kind:
        case "regression":
            made = rng.normal(target.centre, target.scale, (count, 1))
        case "cox" | "discrete":
            made = np.stack([rng.integers(1, 12, count), rng.random(count) < 0.6], 1)
        case "multilabel":
            made = rng.integers(0, 2, (count, len(target.classes)))
        case _:
            made = rng.integers(0, len(target.classes), (count, 1))
    return torch.from_numpy(made).float()


def drawn(target, count, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, target.outputs, generator=generator) * spread


@every_kind
@pytest.mark.parametrize("spread", [0, 0.5])
def test_a_loss_is_about_1_for_who_knows_nothing(target, spread):
    """So that several targets can share a network without weights: 1 for equal chances, and near it by luck."""
    found = loss_of(target, drawn(target, 400, spread), labels(target, 400)).item()
    exact = spread == 0 and target.kind not in ("regression",)
    assert 0.9 < found < 1.3
    assert not exact or found == pytest.approx(1, abs=1e-5)


@every_kind
def test_an_unknown_label_counts_for_nothing(target):
    """The loss is that of the others; of a batch that knows none it is 0, with gradients of 0."""
    logits, truth = drawn(target, 12).requires_grad_(True), labels(target, 12)
    truth[::3] = math.nan
    known = torch.arange(12) % 3 > 0
    torch.testing.assert_close(loss_of(target, logits, truth), loss_of(target, logits[known], truth[known]))
    loss = loss_of(target, logits, truth * math.nan)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros_like(logits))


def test_one_label_of_several_may_be_unknown():
    """The mean is over the labels that are there."""
    target, logits, truth = TARGETS["multilabel"], drawn(TARGETS["multilabel"], 6), labels(TARGETS["multilabel"], 6)
    truth[0, 0] = math.nan
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
    expected = (each.sum() - each[0, 0]) / 11 / math.log(2)
    torch.testing.assert_close(loss_of(target, logits, truth), expected)


@every_kind
def test_parts_of_a_batch_add_up_to_it(target):
    """Sums and counts of its pieces are those of the whole; Cox ranks bags against each other and has one answer."""
    logits, truth = drawn(target, 9), labels(target, 9)
    truth[4] = math.nan
    pieces = [terms_of(target, logits[rows], truth[rows]) for rows in (slice(0, 2), slice(2, 8), slice(8, 9))]
    whole, answers = terms_of(target, logits, truth)
    if target.kind == "cox":
        assert answers == 1
        return
    torch.testing.assert_close(sum(loss for loss, _ in pieces), whole)
    assert sum(count for _, count in pieces) == answers


@every_kind
@pytest.mark.parametrize("spread", [50, 1e4])
def test_logits_however_wrong_have_a_finite_loss_and_gradient(target, spread):
    """As after an outlier."""
    logits = drawn(target, 40, spread).requires_grad_(True)
    loss = loss_of(target, logits, labels(target, 40))
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_class_weights_count_bags():
    """A bag of weight 3 counts as three, over the same number of bags."""
    for kind in ("binary", "multiclass", "ordinal"):
        target = TARGETS[kind]
        logits, truth = drawn(target, 8), labels(target, 8)
        weights = torch.arange(1.0, len(target.classes) + 1)
        repeated = [row for row in range(8) for _ in range(int(weights[int(truth[row, 0])]))]
        total, answers = terms_of(target, logits[repeated], truth[repeated])
        torch.testing.assert_close(terms_of(target, logits, truth, weights)[0], total)
        assert terms_of(target, logits, truth, weights)[1] < answers


# ------------------------------------------------------------------ survival


def efron(risk, time, event):
    """Negative log partial likelihood by Efron's definition, term by term; and the same for equal risks."""
    total = chance = 0.0
    for moment in sorted({*time[event > 0].tolist()}):
        going = np.flatnonzero((time == moment) & (event > 0))
        at_risk = np.exp(risk[time >= moment]).sum()
        for left, who in enumerate(going):
            share = left / len(going)
            total += math.log(at_risk - share * np.exp(risk[going]).sum()) - risk[who]
            chance += math.log((time >= moment).sum() - left)
    return total / chance if chance else 0.0


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 1), st.floats(-3, 3)), min_size=1, max_size=12),
    st.floats(-50, 50),
)
def test_cox_is_the_partial_likelihood(rows, shift):
    """Efron's ties written out; adding the same to every risk changes nothing."""
    time, event, risk = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    found = cox_loss(risk, time, event)
    assert found.item() == pytest.approx(efron(risk.numpy(), time.numpy(), event.numpy()), abs=1e-9)
    assert cox_loss(risk + shift, time, event).item() == pytest.approx(found.item(), abs=1e-9)


def test_ties_by_hand():
    """Three patients, two of whom go at once, with hazards 1, 2 and 3: Efron's second term takes half of them out."""
    risk, time, event = torch.log(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([1.0, 1.0, 4.0]), torch.ones(3)
    expected = -math.log(1 / 6 * 2 / (6 - 1.5) * 3 / 3)
    chance = math.log(3 * 2 * 1)
    assert cox_loss(risk, time, event).item() == pytest.approx(expected / chance)


@pytest.mark.parametrize(
    ("time", "event"),
    [
        pytest.param([3.0], [1.0], id="alone"),
        pytest.param([3.0, 5.0], [0.0, 0.0], id="no-event"),
        pytest.param([3.0, 5.0], [0.0, 1.0], id="the-last"),
    ],
)
def test_where_nothing_can_be_ranked_cox_is_0(time, event):
    """With gradients of 0, not nan."""
    risk = torch.randn(len(time), requires_grad=True)
    loss = cox_loss(risk, torch.tensor(time), torch.tensor(event))
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, risk)[0], torch.zeros(len(time)))


def test_censored_at_the_moment_of_an_event_was_at_risk():
    """By convention those lost at a time were still seen at it."""
    risk = torch.tensor([1.0, 0.0])
    found = cox_loss(risk, torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert found.item() == pytest.approx(-math.log(math.e / (math.e + 1)) / math.log(2))


def test_discrete_hazards_are_the_likelihood():
    """Survived intervals, then the event or not; who is lost within an interval is not counted in it."""
    target = TARGETS["discrete"]  # intervals end at 2, 5 and 9, the last is open
    rows = [(1, 1, 0, True), (1, 0, 0, False), (2, 1, 1, True), (2, 0, 1, False), (7, 1, 2, True), (8.9, 0, 2, False),
            (9, 0, 3, False), (100, 1, 3, True), (100, 0, 3, False)]  # fmt: skip
    for time, event, survived, happens in rows:
        logits = drawn(target, 1, seed=int(time * 10 + event))
        hazard = torch.sigmoid(logits[0]).tolist()
        terms = [-math.log(1 - h) for h in hazard[:survived]] + [-math.log(hazard[survived])] * happens
        expected = sum(terms) / math.log(2), len(terms)
        found = terms_of(target, logits, torch.tensor([[time, event]]).float())
        assert (found[0].item(), found[1]) == pytest.approx(expected, abs=1e-6)


def test_survival_is_the_product_of_what_is_left():
    """Falls from edge to edge, within 0 and 1."""
    target = TARGETS["discrete"]
    logits = drawn(target, 30, 3).double().numpy()
    found = predicted_of(target, logits)
    assert found.shape == (30, 3)
    hazard = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found[:, 1], (1 - hazard[:, 0]) * (1 - hazard[:, 1]))
    assert ((np.diff(found, axis=1) <= 0).all(), found.min() >= 0, found.max() <= 1) == (True, True, True)


# ------------------------------------------------------------------ classes


def test_corn_is_conditional():
    """Each logit is asked only of bags at least that high: its loss is that of binary questions one by one."""
    target, truth = TARGETS["ordinal"], torch.tensor([[0.0], [1.0], [3.0], [2.0]])
    logits = drawn(target, 4)
    terms = [
        -math.log(1 / (1 + math.exp(-z if rank > k else z)))
        for z_row, (rank,) in zip(logits.tolist(), truth.tolist(), strict=True)
        for k, z in enumerate(z_row)
        if rank >= k
    ]
    assert len(terms) == 1 + 2 + 3 + 3
    assert loss_of(target, logits, truth).item() == pytest.approx(sum(terms) / len(terms) / math.log(2))


@given(st.lists(st.floats(-40, 40), min_size=3, max_size=3), st.sampled_from([0.1, 1.0, 10.0]))
def test_ordinal_chances_are_chances_whatever_the_logits(logits, temperature):
    """Being above a class is never likelier than being above a lower one; the classes' chances add up to 1."""
    found = predicted_of(TARGETS["ordinal"], np.array([logits]), temperature)[0]
    assert found.min() >= -1e-12
    assert found.sum() == pytest.approx(1)
    above = [found[k:].sum() for k in range(1, 4)]
    assert all(low >= high - 1e-12 for low, high in itertools.pairwise(above))


@examples(max_examples=30)
@given(st.sampled_from(["binary", "multiclass"]), st.integers(0, 99), st.floats(0.1, 10))
def test_a_temperature_changes_how_sure_not_which(kind, seed, temperature):
    """The likeliest class stays; chances add up to 1; at 1 they are the softmax."""
    target = TARGETS[kind]
    logits = drawn(target, 5, 2, seed).double().numpy()
    found, plain = (predicted_of(target, logits, t) for t in (temperature, 1.0))
    np.testing.assert_array_equal(found.argmax(1), plain.argmax(1))
    np.testing.assert_allclose(found.sum(1), 1)
    both = np.concatenate([0 * logits, logits], 1) if kind == "binary" else logits
    np.testing.assert_allclose(plain, np.exp(both) / np.exp(both).sum(1, keepdims=True))
    hotter = predicted_of(target, logits, temperature * 2)
    assert (hotter.max(1) <= found.max(1) + 1e-12).all()


def test_values_come_back_on_their_scale():
    """What the network gives is in standard deviations of the training labels; a temperature is not theirs."""
    found = predicted_of(TARGETS["regression"], np.array([[0.0], [2.0]]), 5.0)
    np.testing.assert_allclose(found, [[7.0], [13.0]])


def test_targets_lie_one_after_another():
    """Each as many logits as it takes, and as many columns as it names."""
    targets = [*TARGETS.values()]
    assert [(s.start, s.stop) for s in spans(targets)] == [(0, 1), (1, 4), (4, 6), (6, 7), (7, 10), (10, 11), (11, 15)]
    for target in targets:
        found = predicted_of(target, np.zeros((2, target.outputs)))
        assert found.shape == (2, len(target.predicted))
        assert Target.from_dict(target.to_dict()) == target
