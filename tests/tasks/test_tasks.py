"""Tasks of every kind: losses near 1 at chance, labels that are not there, bags, metrics."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, mean_absolute_error, r2_score, roc_auc_score
from torch.nn import functional as F

from wsi_umedpt.datasets.samples import IGNORED, Batch, Boxes
from wsi_umedpt.errors import ConfigError, DataError
from wsi_umedpt.models.head_spec import HeadSpec, Kind
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks import make_task
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.tasks.classification import mean_auc, scaled_cross_entropy
from wsi_umedpt.tasks.segmentation import soft_dice

DIM = 24
SIDE = 64
KINDS: tuple[str, ...] = get_args(Kind)


@pytest.fixture(scope="module")
def shared() -> UMedPT:
    torch.manual_seed(0)
    return UMedPT(ModelSpec(backbone="convnext_atto", dim=DIM)).train()


def head(kind: str, classes: int, **fields: tuple[float, ...]) -> Task:
    torch.manual_seed(1)
    names = tuple(f"c{i}" for i in range(classes))
    return make_task(HeadSpec(name=kind, kind=kind, classes=names, modality="histology", **fields), DIM)


def some_batch(kind: str, classes: int, count: int = 4) -> Batch:
    """Random images and labels of one kind."""
    rng = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=rng)
    batch = Batch(images=images)
    if kind == "classification":
        return replace(batch, labels=torch.randint(0, classes, (count,), generator=rng))
    if kind == "survival":
        return replace(batch, labels=torch.stack([torch.rand(count, generator=rng), torch.ones(count)], 1))
    if kind == "multilabel":
        return replace(batch, labels=torch.randint(0, 2, (count, classes), generator=rng).float())
    if kind == "regression":
        values = torch.randn(count, classes, generator=rng)
        return replace(batch, labels=(values - values.mean(0)) / values.std(0, correction=0))
    if kind == "segmentation":
        return replace(batch, masks=torch.randint(0, classes, (count, SIDE, SIDE), generator=rng))
    if kind == "multilabel_segmentation":
        return replace(batch, masks=torch.randint(0, 2, (count, classes, SIDE, SIDE), generator=rng))
    boxes = []
    for _ in range(count):
        low, extent = torch.rand(2, 3, 2, generator=rng) * 30
        kinds = torch.randint(0, classes, (3,), generator=rng)
        boxes.append(Boxes(torch.cat([low, low + 4 + extent], 1), kinds))
    return replace(batch, boxes=tuple(boxes))


def unlabelled(kind: str, classes: int) -> Batch:
    """A batch whose labels are all "not labelled"; without boxes for detection."""
    batch = some_batch(kind, classes)
    if kind == "detection":
        return replace(batch, boxes=(Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),) * 4)
    blank = math.nan if kind in ("regression", "survival") else IGNORED
    return replace(
        batch,
        labels=None if batch.labels is None else torch.full_like(batch.labels, blank),
        masks=None if batch.masks is None else torch.full_like(batch.masks, IGNORED),
    )


def gradients(task: Task, shared: UMedPT, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = [(n, p) for part in (task, shared) for n, p in part.named_parameters()]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {n: g for (n, _), g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        *(("classification", k) for k in (2, 3, 10, 100)),
        ("survival", 2),
        *(("multilabel", k) for k in (1, 2, 14, 100)),
        *(("regression", k) for k in (1, 3)),
        *(("segmentation", k) for k in (2, 3, 10, 40)),
        *(("multilabel_segmentation", k) for k in (1, 2, 10)),
        *(("detection", k) for k in (1, 2, 20)),
    ],
)
def test_losses_are_about_one_at_chance(shared, kind, classes):
    """For any number of classes an untrained head loses 0.5 to 2, so that tasks need no weights against each other."""
    loss = head(kind, classes).loss(shared, some_batch(kind, classes))
    assert 0.5 < loss.item() < 2


@given(
    kind=st.sampled_from(["classification", "multilabel", "segmentation", "multilabel_segmentation"]),
    classes=st.integers(2, 40),
    seed=st.integers(0, 9999),
)
@settings(max_examples=60, deadline=None)
def test_losses_at_exact_chance(kind, classes, seed):
    """With logits of 0 the loss of labels is 1 to the digit, that of masks 0.5 to 1, whatever the labels."""
    rng = torch.Generator().manual_seed(seed)
    place = (5, 4) if "segmentation" in kind else ()
    several = kind.startswith("multilabel")
    labels = torch.randint(0, 2 if several else classes, (3, *((classes,) if several else ()), *place), generator=rng)
    loss = measured(head(kind, classes), torch.zeros(3, classes, *place), labels)[0]
    if place:
        assert 0.5 < loss < 1
    else:
        assert loss == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_finite(shared, kind, classes, autocast):
    """With one class too, and in both precisions; all of the head's weights get a gradient."""
    task = head(kind, classes)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = task.loss(shared, some_batch(kind, classes))
    found = gradients(task, shared, loss)
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert all(bool(g.isfinite().all()) for g in found.values())
    assert {n for n, _ in task.named_parameters()} <= {*found}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_labels_teaches_nothing(shared, kind, classes):
    """Loss and gradients are zeros in the graph, never nan; for detection, "no box is here" is all that is taught."""
    task = head(kind, classes)
    loss = task.loss(shared, unlabelled(kind, classes))
    found = gradients(task, shared, loss)
    assert {n for n, _ in task.named_parameters()} <= {*found}
    if kind == "detection":
        assert 0 < loss.item() < 0.1
        assert all(bool(g.isfinite().all()) for g in found.values())
        assert not found["sides.weight"].any()
        assert not found["centre.weight"].any()
    else:
        assert loss.item() == 0
        assert not any(bool(g.any()) for g in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_without_labels_measures_nan(shared, kind):
    """Not 0: a figure that the split cannot tell is left out of means."""
    task = head(kind, 3).eval()
    meter = task.meter()
    batch = unlabelled(kind, 3)
    with torch.no_grad():
        meter.add(task(shared, shared.features(shared.normalised(batch.images))), batch)
    figures = meter.figures()
    assert meter.main in figures
    assert all(math.isnan(f) for f in figures.values())


def outputs_and_labels(kind: str, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random outputs and labels of 8 rows and 3 classes, and which of the labels to hide."""
    rng = torch.Generator().manual_seed(seed)
    place = (6, 5) if "segmentation" in kind else ()
    outputs = torch.randn(8, 3, *place, generator=rng)
    if kind in ("classification", "segmentation"):
        labels = torch.randint(0, 3, (8, *place), generator=rng)
    elif kind == "regression":
        labels = torch.randn(8, 3, generator=rng)
    else:
        labels = torch.randint(0, 2, outputs.shape, generator=rng)
    return outputs, labels, torch.rand(labels.shape, generator=rng) < 0.4


def blanked(kind: str, labels: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return labels.masked_fill(hidden, math.nan if kind == "regression" else IGNORED)


def measured(task: Task, outputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, dict[str, float]]:
    """Loss and figures of outputs, as if a network had given them."""
    images = torch.zeros(len(outputs), 3, 1, 1, dtype=torch.uint8)
    field = "masks" if "segmentation" in task.spec.kind else "labels"
    batch = Batch(images=images, **{field: labels})
    meter = task.meter()
    meter.add(outputs, batch)
    return task.loss_of(outputs, batch).item(), meter.figures()


PLAIN = ["classification", "multilabel", "regression", "segmentation", "multilabel_segmentation"]
"""Kinds whose outputs and labels stand at the same places."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", PLAIN)
def test_hidden_labels_do_not_matter(kind, seed):
    """Whatever the network says where a label is hidden, loss and figures stay; elsewhere they do not."""
    task = head(kind, 3)
    outputs, labels, hidden = outputs_and_labels(kind, seed)
    part = blanked(kind, labels, hidden)
    loss, figures = measured(task, outputs, part)
    # Where all classes share a label, the place is hidden for all of them.
    there = hidden if hidden.shape == outputs.shape else hidden.unsqueeze(1).expand_as(outputs)
    other = outputs.flip(0) * 3 + 1
    unseen, same = measured(task, torch.where(there, other, outputs), part)
    seen, _ = measured(task, torch.where(there, outputs, other), part)
    assert unseen == pytest.approx(loss, rel=1e-6)
    assert same == pytest.approx(figures, nan_ok=True)
    assert seen != pytest.approx(loss, rel=1e-2)


@pytest.mark.parametrize("kind", PLAIN)
def test_hidden_rows_might_not_be_there(kind):
    """Images without labels give loss and figures of the batch without them."""
    task = head(kind, 3)
    outputs, labels, _ = outputs_and_labels(kind, 0)
    hidden = torch.zeros_like(labels, dtype=torch.bool)
    hidden[3:6] = True
    keep = [0, 1, 2, 6, 7]
    loss, figures = measured(task, outputs, blanked(kind, labels, hidden))
    expected, expected_figures = measured(task, outputs[keep], labels[keep])
    assert loss == pytest.approx(expected, rel=1e-6)
    assert figures == pytest.approx(expected_figures, nan_ok=True)


@pytest.mark.parametrize("kind", ["segmentation", "multilabel_segmentation"])
def test_hidden_pixels_might_not_be_there(kind):
    """Hiding the lower half of every image gives loss and figures of the upper halves, also where only class 0 is."""
    task = head(kind, 3)
    for labels in (outputs_and_labels(kind, 0)[1], torch.zeros_like(outputs_and_labels(kind, 0)[1])):
        outputs = outputs_and_labels(kind, 0)[0]
        hidden = torch.zeros_like(labels, dtype=torch.bool)
        hidden[..., 3:, :] = True
        loss, figures = measured(task, outputs, blanked(kind, labels, hidden))
        expected, expected_figures = measured(task, outputs[..., :3, :], labels[..., :3, :])
        assert loss == pytest.approx(expected, rel=1e-6)
        assert figures == pytest.approx(expected_figures, nan_ok=True)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_class_figures_are_sklearns(seed, classes, count):
    """AUC of one against the rest, accuracy and macro F1; a class that all or none are of has no AUC."""
    rng = torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, classes, generator=rng) * 2).round()  # rounded: ties
    truth = torch.randint(0, classes, (count,), generator=rng)
    meter = head("classification", classes).meter()
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    for part in (slice(0, count // 2), slice(count // 2, count)):  # two batches
        meter.add(logits[part], Batch(images=images, labels=truth[part]))
    figures, y, p = meter.figures(), truth.numpy(), logits.softmax(1).numpy()
    areas = [roc_auc_score(y == k, p[:, k]) for k in range(classes) if 0 < (y == k).sum() < count]
    assert figures["auc"] == pytest.approx(np.mean(areas) if areas else math.nan, nan_ok=True)
    assert figures["accuracy"] == pytest.approx((p.argmax(1) == y).mean())
    assert figures["f1"] == pytest.approx(f1_score(y, p.argmax(1), average="macro", zero_division=0.0))


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=30).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
@settings(max_examples=60, deadline=None)
def test_auc_is_the_chance_that_a_positive_ranks_higher(rows):
    """Counted over all pairs, ties as half; unlabelled rows are in no pair."""
    pairs = [
        (high > low) + (high == low) / 2
        for positive, high in rows
        for negative, low in rows
        if positive == 1 and negative == 0
    ]
    labels = np.array([[label] for label, _ in rows] + [[IGNORED]] * 2)
    chances = np.array([[score / 5] for _, score in rows] + [[0.0], [1.0]])
    assert mean_auc(labels, chances) == pytest.approx(sum(pairs) / len(pairs))


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_value_figures_are_sklearns(seed, values, count):
    """R2 and mean absolute error in the unit of the labels, over the values that are known."""
    rng = torch.Generator().manual_seed(seed)
    centre, spread = (5.0, -2.0, 0.0)[:values], (3.0, 0.1, 1.0)[:values]
    task = head("regression", values, centre=centre, spread=spread)
    outputs = torch.randn(count, values, generator=rng)
    truth = torch.randn(count, values, generator=rng) * torch.tensor(spread) + torch.tensor(centre)
    truth[torch.rand(count, values, generator=rng) < 0.2] = math.nan
    figures = measured(task, outputs, truth)[1]
    found, r2, errors = outputs * torch.tensor(spread) + torch.tensor(centre), [], []
    for f, t in zip(found.T.double(), truth.T.double(), strict=True):
        known = t.isfinite()
        if known.sum() >= 2:
            r2.append(r2_score(t[known], f[known]))
            errors.append(mean_absolute_error(t[known], f[known]))
    assert figures["r2"] == pytest.approx(np.mean(r2) if r2 else math.nan, nan_ok=True)
    assert figures["mae"] == pytest.approx(np.mean(errors) if errors else math.nan, nan_ok=True)


@pytest.mark.parametrize(
    ("found", "r2"),
    [
        pytest.param([1.0, 2.0, 3.0], 1.0, id="perfect"),
        pytest.param([2.0, 2.0, 2.0], 0.0, id="the-mean"),
        pytest.param([3.0, 2.0, 1.0], -3.0, id="upside-down"),
    ],
)
def test_r2_by_hand(found, r2):
    """1 is perfect, 0 is the best constant, and there is no floor."""
    task = head("regression", 1)
    assert measured(task, torch.tensor(found)[:, None], torch.tensor([[1.0], [2], [3]]))[1]["r2"] == pytest.approx(r2)


def test_regression_is_measured_in_spreads():
    """The best constant loses 1 whatever the unit of the labels; outputs read back in that unit."""
    truth = torch.tensor([[100.0], [300.0], [200.0], [400.0]])
    mean, std = float(truth.mean()), float(truth.std(correction=0))
    task = head("regression", 1, centre=(mean,), spread=(std,))
    assert measured(task, torch.zeros(4, 1), truth)[0] == pytest.approx(1)
    assert measured(task, (truth - mean) / std, truth)[0] == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(task.values((truth - mean) / std), truth)


@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_dice_is_that_of_sets_of_pixels(seed, classes, exclusive):
    """Pooled over all batches of a split, hidden pixels in neither set; the mean leaves out the background."""
    rng = torch.Generator().manual_seed(seed)
    meter = head("segmentation" if exclusive else "multilabel_segmentation", classes).meter()
    found: list[set] = [set() for _ in range(classes)]
    true: list[set] = [set() for _ in range(classes)]
    for batch in range(2):
        outputs = torch.randn(2, classes, 3, 2, generator=rng)
        shape = (2, 3, 2) if exclusive else (2, classes, 3, 2)
        masks = torch.randint(-1, classes if exclusive else 2, shape, generator=rng)
        meter.add(outputs, Batch(images=torch.zeros(2, 3, 3, 2, dtype=torch.uint8), masks=masks))
        for n, y, x, k in np.ndindex(2, 3, 2, classes):
            said = outputs[n, :, y, x].tolist()
            label = int(masks[n, y, x]) if exclusive else int(masks[n, k, y, x])
            if label == IGNORED:
                continue
            if said.index(max(said)) == k if exclusive else said[k] > 0:
                found[k].add((batch, n, y, x))
            if label == (k if exclusive else 1):
                true[k].add((batch, n, y, x))
    dice = [2 * len(f & t) / (len(f) + len(t)) if f or t else math.nan for f, t in zip(found, true, strict=True)]
    figures = meter.figures()
    assert [figures[f"dice_c{k}"] for k in range(classes)] == pytest.approx(dice, nan_ok=True)
    counted = [d for d in (dice[1:] if exclusive and classes > 1 else dice) if not math.isnan(d)]
    assert figures["dice"] == pytest.approx(np.mean(counted) if counted else math.nan, nan_ok=True)


def test_dice_by_hand():
    """Two of three found pixels are right, of two that are true: 2 * 2 / (3 + 2)."""
    outputs = torch.tensor([[[[0.0, 0, 0, 1]], [[1, 1, 1, 0]]]])
    figures = measured(head("segmentation", 2), outputs, torch.tensor([[[1, 1, 0, 0]]]))[1]
    assert figures == pytest.approx({"dice": 0.8, "dice_c0": 2 / 3, "dice_c1": 0.8})


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_segmentation_loss_is_that_of_its_formula(seed, classes):
    """Half soft Dice over the classes that are there, half focal loss over its value at chance; pixel by pixel."""
    rng = torch.Generator().manual_seed(seed)
    outputs = torch.randn(2, classes, 3, 2, generator=rng, dtype=torch.float64)
    masks = torch.randint(-1, classes, (2, 3, 2), generator=rng)
    overlap, size, there, focal = [0.0] * classes, [0.0] * classes, set(), []
    for n, y, x in np.ndindex(2, 3, 2):
        label = int(masks[n, y, x])
        if label == IGNORED:
            continue
        odds = [math.exp(v) for v in outputs[n, :, y, x].tolist()]
        chances = [o / sum(odds) for o in odds]
        focal.append((1 - chances[label]) ** 2 * -math.log(chances[label]))
        there.add(label)
        for k in range(classes):
            overlap[k] += chances[k] * (label == k)
            size[k] += chances[k] + (label == k)
    expected = 0.0
    if focal:
        at_chance = (1 - 1 / classes) ** 2 * math.log(classes)
        dice = [1 - 2 * overlap[k] / size[k] for k in there]
        expected = (sum(dice) / len(dice) + sum(focal) / len(focal) / at_chance) / 2
    assert measured(head("segmentation", classes), outputs, masks)[0] == pytest.approx(expected, rel=1e-9)


def test_multilabel_segmentation_loss_is_that_of_its_formula():
    """Half soft Dice, half sigmoid focal loss over its value at chance; label by label."""
    outputs = torch.tensor([[[[2.0, -1.0]], [[0.5, 0.0]]]], dtype=torch.float64)
    masks = torch.tensor([[[[1, 0]], [[0, IGNORED]]]])
    chance = [1 / (1 + math.exp(-v)) for v in (2.0, -1.0, 0.5)]
    right = [chance[0], 1 - chance[1], 1 - chance[2]]
    focal = sum((1 - p) ** 2 * -math.log(p) for p in right) / 3 / (0.25 * math.log(2))
    dice = 1 - 2 * chance[0] / (chance[0] + chance[1] + 1)  # the second label is nowhere
    loss = measured(head("multilabel_segmentation", 2), outputs, masks)[0]
    assert loss == pytest.approx((dice + focal) / 2, rel=1e-9)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_perfect_answer_loses_nothing(kind):
    """And its figure is 1."""
    _, labels, _ = outputs_and_labels(kind, 0)
    if kind == "regression":
        right = labels
    else:
        right = F.one_hot(labels, 3).movedim(-1, 1) if kind in ("classification", "segmentation") else labels
        right = (right.float() * 2 - 1) * 50
    task = head(kind, 3)
    loss, figures = measured(task, right, labels)
    assert loss == pytest.approx(0, abs=1e-5)
    assert figures[task.meter().main] == pytest.approx(1)


def test_cross_entropy_of_one_class_is_zero():
    """There is nothing to tell apart, and no division by ln 1."""
    assert scaled_cross_entropy(torch.randn(3, 1), torch.zeros(3, dtype=torch.int64)).item() == 0


def test_soft_dice_of_disjoint_sets_is_one():
    """And of equal ones 0; the third class is not there and does not count."""
    truth = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    assert soft_dice(truth, truth).item() == pytest.approx(0)
    assert soft_dice(1 - truth, truth).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("classification", "needs a class for each image"),
        ("multilabel", "needs labels for each image"),
        ("regression", "needs values for each image"),
        ("survival", "needs a time and an event for each case"),
        ("segmentation", "needs a class for each pixel"),
        ("multilabel_segmentation", "needs labels for each pixel"),
        ("detection", "needs boxes"),
    ],
)
def test_a_batch_of_another_kind_is_refused(shared, kind, words):
    """In words that say which label is missing."""
    with pytest.raises(DataError, match=words):
        head(kind, 2).loss(shared, Batch(images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)))


def test_unknown_kinds_are_refused():
    """The message names task and kind."""
    with pytest.raises(ConfigError, match="'astrology' is of the unknown kind 'astrology'"):
        head("astrology", 2)
