"""Labels of bags, planted in one of their vectors, are learnt by heads that share one grouper."""

from typing import NamedTuple

import pytest
import torch

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.models.grouper import Grouper, GrouperSpec
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.tasks import make_task
from wsi_umedpt.tasks.base import Task

DIM, BAGS, IMAGES = 16, 64, 8
KINDS = {"classification": ("no", "yes"), "multilabel": ("a",), "regression": ("dose",), "survival": ("days", "died")}


class Pooled(NamedTuple):
    """What heads of bags read of `Features`."""

    vector: torch.Tensor


def planted(seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Vectors (image, dim) in which one image of every second bag stands out by its dose; bags; labels."""
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(BAGS, IMAGES, DIM, generator=rng)
    dose = torch.where(torch.arange(BAGS) % 2 > 0, torch.rand(BAGS, generator=rng) + 0.5, 0.0)
    where = torch.randint(IMAGES, (BAGS,), generator=rng)
    vectors[torch.arange(BAGS), where, 0] = 6 * dose
    ill = (dose > 0).long()
    labels = {
        "classification": ill, "multilabel": ill[:, None].float(), "regression": dose[:, None],
        "survival": torch.stack([torch.exp(-dose), (torch.arange(BAGS) % 5 > 0).float()], 1),
    }  # fmt: skip
    return vectors.flatten(0, 1), torch.arange(BAGS).repeat_interleave(IMAGES), labels


def figures(task: Task, grouper: Grouper, seed: int) -> dict[str, float]:
    """What a head of bags says of cases that it has not seen."""
    vectors, bags, labels = planted(seed)
    meter = task.eval().meter()
    with torch.no_grad():
        outputs = task(None, Pooled(grouper.pooled(vectors, bags)))
    meter.add(outputs, Batch(images=torch.zeros(0), labels=labels[task.spec.kind]))
    return meter.figures()


@pytest.fixture(scope="module")
def learnt() -> tuple[dict[str, Task], Grouper]:
    """A head of each kind and the grouper after 150 steps."""
    torch.manual_seed(0)
    grouper = Grouper(GrouperSpec(dim=DIM, attention=8))
    tasks = {
        kind: make_task(
            HeadSpec(
                name=kind, kind=kind, classes=classes, modality="x", bags=True,
                **({"centre": (0.5,), "spread": (0.5,)} if kind == "regression" else {}),
            ),
            DIM,
        ).train()
        for kind, classes in KINDS.items()
    }  # fmt: skip
    optimizer = torch.optim.AdamW([p for part in (grouper, *tasks.values()) for p in part.parameters()], lr=0.02)
    for step in range(150):
        vectors, bags, labels = planted(step)
        optimizer.zero_grad()
        pooled = Pooled(grouper.pooled(vectors, bags))
        for kind, task in tasks.items():
            batch = Batch(images=torch.zeros(0), labels=labels[kind])
            task.loss_of(task(None, pooled), batch).backward(retain_graph=True)
        optimizer.step()
    return tasks, grouper


@pytest.mark.parametrize(
    ("kind", "figure", "least"),
    [
        ("classification", "auc", 0.97), ("multilabel", "auc", 0.97), ("regression", "r2", 0.8),
        ("survival", "concordance", 0.9),
    ],
)  # fmt: skip
def test_a_planted_label_is_learnt(learnt, kind, figure, least):
    """Of bags in which one image in eight says it, by tasks of every kind at once."""
    tasks, grouper = learnt
    assert figures(tasks[kind], grouper, 10_000)[figure] > least


def test_attention_is_on_the_image_that_says_it(learnt):
    """And not on the seven others of its bag."""
    vectors, bags, labels = planted(10_000)
    with torch.no_grad():
        weights = learnt[1](vectors, bags).reshape(BAGS, IMAGES)
    ill = labels["classification"] > 0
    told = vectors.reshape(BAGS, IMAGES, DIM)[..., 0].argmax(1)
    assert (weights.argmax(1) == told)[ill].float().mean() > 0.95
