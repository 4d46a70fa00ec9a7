"""One backward pass for each task is exact, leaves other tasks alone, and never steps on a bad number."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from benchmarks.pretraining import multitask_memory
from wsi_umedpt.datasets.samples import Batch, Boxes
from wsi_umedpt.errors import TrainingError
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.norms import NormKind
from wsi_umedpt.models.umedpt import Features, ModelSpec, UMedPT
from wsi_umedpt.tasks import make_task
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.step import StepSettings, train_step

DIM, SIDE, CLASSES = 12, 32, 3
KINDS = (
    "classification",
    "multilabel",
    "regression",
    "survival",
    "bags",
    "segmentation",
    "multilabel_segmentation",
    "detection",
)


def model(backbone: str, norm: NormKind = "layernorm") -> UMedPT:
    """In float64 and in training mode, without anything random."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone=backbone, dim=DIM, norm=norm, grouper=5)).double().train()
    without_chance(shared)
    return shared


def without_chance(network: nn.Module) -> None:
    """Switch off dropout and dropped paths, and nothing else."""
    for module in network.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth", "DropPath"):
            module.eval()


def make_heads(kinds: tuple[str, ...]) -> list[Task]:
    heads = []
    for kind in kinds:
        names = tuple(f"c{k}" for k in range(2 if kind == "survival" else CLASSES))
        of = "classification" if kind == "bags" else kind
        spec = HeadSpec(name=kind, kind=of, classes=names, modality="x", bags=kind == "bags")
        task = make_task(spec, DIM).double().train()
        without_chance(task)
        heads.append(task)
    return heads


def batches_of(kinds: tuple[str, ...]) -> dict[str, Batch]:
    """Two images for each task, some brighter than others."""
    rng = torch.Generator().manual_seed(1)

    def whole(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(-1, high, shape, generator=rng)

    found = {}
    for number, kind in enumerate(kinds):
        images = torch.randint(0, 60 + 25 * number, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=rng)
        labels = {
            "classification": {"labels": torch.tensor([0, 2])},
            "multilabel": {"labels": whole(2, 2, CLASSES).float()},
            "regression": {"labels": torch.randn(2, CLASSES, generator=rng)},
            "survival": {"labels": torch.tensor([[2.0, 1.0], [3.0, 0.0]])},
            "bags": {"labels": torch.tensor([1]), "bags": torch.tensor([0, 0])},
            "segmentation": {"masks": whole(CLASSES, 2, SIDE, SIDE)},
            "multilabel_segmentation": {"masks": whole(2, 2, CLASSES, SIDE, SIDE)},
            "detection": {
                "boxes": (
                    Boxes(torch.tensor([[1.0, 2, 20, 15], [10, 11, 30, 31]]), torch.tensor([0, 2])),
                    Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
                )
            },
        }[kind]
        found[kind] = Batch(images=images, **labels)
    return found


def parameters(shared: UMedPT, heads: list[Task]) -> Iterator[tuple[str, nn.Parameter]]:
    for name, part in (("shared", shared), *((t.name, t) for t in heads)):
        for own, p in part.named_parameters():
            if p.requires_grad:
                yield f"{name}.{own}", p


def gradient_of_step(
    shared: UMedPT, heads: list[Task], batches: dict[str, Batch], **weights: float
) -> dict[str, torch.Tensor]:
    """What `train_step` leaves in .grad; with lr 0, and a norm so high that nothing is clipped."""
    optimizer = torch.optim.SGD([p for _, p in parameters(shared, heads)], lr=0.0)
    how = StepSettings(total_tasks=len(heads), seeds=(0, 0), clip_norm=1e12, weights=weights)
    train_step(shared, heads, batches, optimizer, how)
    return {n: p.grad for n, p in parameters(shared, heads) if p.grad is not None}


def joint_gradient(
    shared: UMedPT, heads: list[Task], batches: dict[str, Batch], **weights: float
) -> dict[str, torch.Tensor]:
    """One graph: all images of all tasks in one pass of the encoder, one backward on the mean of losses."""
    features = shared.features(shared.normalised(torch.cat([batches[t.name].images for t in heads])))
    losses, first = [], 0
    for task in heads:
        here = slice(first, first + len(batches[task.name].images))
        vector, bags = features.vector[here], batches[task.name].bags
        if bags is not None:
            vector = shared.grouper(vector) @ vector  # of one bag
            vector = vector[None]
        part = Features(
            type(features.pyramid)(*(m[here] for m in features.pyramid)), vector, features.size, features.deepest[here]
        )
        losses.append(weights.get(task.name, 1.0) * task.loss_of(task(shared, part), batches[task.name]))
        first = here.stop
    named = dict(parameters(shared, heads))
    found = torch.autograd.grad(torch.stack(losses).mean(), [*named.values()], allow_unused=True)
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference in any weight's gradient over the largest entry of that gradient."""
    assert a.keys() == b.keys()
    # Biases before a norm have no gradient but rounding; they are measured by the smallest that counts.
    least = 1e-6 * max(float(g.abs().max()) for g in b.values())
    return max(float((a[n] - g).abs().max()) / max(least, float(g.abs().max())) for n, g in b.items())


@pytest.mark.parametrize(
    ("backbone", "norm"),
    [
        pytest.param("convnext_atto", "layernorm", id="convnext-layernorm"),
        pytest.param("swinv2_micro", "affinelayernorm", id="swin-affinelayernorm"),
        pytest.param("tf_efficientnet_lite0", "layernorm", id="lite0-layernorm"),
        pytest.param("tf_efficientnet_lite0", "frozenbatchnorm", id="lite0-frozenbatchnorm"),
    ],
)
def test_a_step_has_the_gradient_of_the_joint_mean_loss(backbone, norm):
    """To the last digits of float64, for tasks of every kind, though no two of them were ever in memory at once."""
    shared, heads, batches = model(backbone, norm), make_heads(KINDS), batches_of(KINDS)
    assert distance(gradient_of_step(shared, heads, batches), joint_gradient(shared, heads, batches)) < 1e-9


def test_a_task_weighs_what_its_config_says():
    """In the mean of losses; the number of tasks stays what it is divided by."""
    shared, heads, batches = model("convnext_atto"), make_heads(KINDS), batches_of(KINDS)
    found = gradient_of_step(shared, heads, batches, segmentation=3.0)
    assert distance(found, joint_gradient(shared, heads, batches, segmentation=3.0)) < 1e-9
    assert distance(found, joint_gradient(shared, heads, batches)) > 0.1


def test_batchnorm_would_not_be_exact():
    """Why norms are per image: BatchNorm of one task's batch is not that of all tasks'."""
    shared, heads, batches = model("tf_efficientnet_lite0", "keepnorm"), make_heads(KINDS), batches_of(KINDS)
    assert distance(gradient_of_step(shared, heads, batches), joint_gradient(shared, heads, batches)) > 1e-2


def test_the_order_of_tasks_does_not_matter():
    """Nor do tasks know of each other: a task's own gradient is that of training it alone, over their number."""
    shared, heads, batches = model("convnext_atto"), make_heads(KINDS), batches_of(KINDS)
    found = gradient_of_step(shared, heads, batches)
    assert distance(gradient_of_step(shared, heads[::-1], batches), found) < 1e-9
    alone = gradient_of_step(shared, heads[:1], batches)
    own = [n for n in alone if n.startswith("classification.")]
    assert own
    for name in own:
        torch.testing.assert_close(found[name] * len(heads), alone[name], rtol=1e-9, atol=0)


def test_the_clip_is_by_part():
    """The shared model and each head are scaled down by themselves, and only where they are above the norm."""
    shared, heads, batches = model("convnext_atto"), make_heads(KINDS[:2]), batches_of(KINDS[:2])
    free = gradient_of_step(shared, heads, batches)
    limit = 1e-3
    optimizer = torch.optim.SGD([p for _, p in parameters(shared, heads)], lr=0.0)
    train_step(shared, heads, batches, optimizer, StepSettings(total_tasks=2, seeds=(0, 0), clip_norm=limit))
    for name, part in (("shared", shared), *((t.name, t) for t in heads)):
        before = torch.cat([g.flatten() for n, g in free.items() if n.startswith(f"{name}.")])
        after = torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None])
        assert before.norm() > limit
        torch.testing.assert_close(after, before / before.norm() * limit, rtol=1e-3, atol=1e-12)


def test_another_task_on_a_frozen_model_changes_nothing():
    """A head that is added and trained leaves what other heads say as it was, bit for bit."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="convnext_atto", dim=DIM)).eval().requires_grad_(False)
    heads = [t.float().eval() for t in make_heads(("classification", "segmentation", "detection"))]
    images = batches_of(("classification",))["classification"].images

    @torch.no_grad()
    def said() -> list[torch.Tensor]:
        features = shared.features(shared.normalised(images))
        outputs = [task(shared, features) for task in heads]
        return [outputs[0], outputs[1], outputs[2].logits, outputs[2].sides, outputs[2].centres]

    before = said()
    new = [t.float() for t in make_heads(("multilabel", "multilabel_segmentation"))]
    batches = batches_of(("multilabel", "multilabel_segmentation"))
    weights = [p.clone() for t in new for p in t.parameters()]
    optimizer = torch.optim.AdamW([p for t in new for p in t.parameters()], lr=0.1)
    for step in range(2):
        train_step(shared, new, batches, optimizer, StepSettings(total_tasks=2, seeds=(0, step)))
    assert not any(torch.equal(a, b) for a, b in zip(weights, (p for t in new for p in t.parameters()), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(said(), before, strict=True))


class Exploding(torch.autograd.Function):
    """1 forward, infinite backward."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:  # noqa: D102 (torch's interface)
        ctx.shape = x.shape
        return x.sum() * 0 + 1

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return torch.full(ctx.shape, math.inf)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        pytest.param(lambda x: x.sum() * math.nan, "the loss of task multilabel is nan at step 7", id="nan"),
        pytest.param(lambda x: x.exp().sum() * math.inf, "the loss of task multilabel is inf at step 7", id="inf"),
        pytest.param(Exploding.apply, "the gradient of the shared model is (inf|nan) at step 7", id="gradient"),
    ],
)
def test_a_bad_number_stops_training_before_the_step(bad, words, monkeypatch):
    """Weights and optimiser are those of the step before, though the first task was fine."""
    kinds = ("classification", "multilabel")
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="convnext_atto", dim=DIM)).train()
    heads, batches = [t.float() for t in make_heads(kinds)], batches_of(kinds)
    optimizer = torch.optim.AdamW([p for _, p in parameters(shared, heads)], lr=0.1)
    train_step(shared, heads, batches, optimizer, StepSettings(total_tasks=2, seeds=(0, 6)))
    before = [p.clone() for _, p in parameters(shared, heads)]
    moments = {i: s["exp_avg"].clone() for i, s in optimizer.state_dict()["state"].items()}
    monkeypatch.setattr(heads[1], "loss_of", lambda outputs, batch: bad(outputs))
    with pytest.raises(TrainingError, match=words):
        train_step(shared, heads, batches, optimizer, StepSettings(total_tasks=2, seeds=(0, 7)))
    assert all(torch.equal(a, p) for a, (_, p) in zip(before, parameters(shared, heads), strict=True))
    for i, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["exp_avg"], moments[i])
        assert state["step"] == 1


def test_chance_depends_on_run_step_and_task_only():
    """Dropout of a task is the same whatever was drawn before and whichever tasks there are; another step's differs."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="convnext_atto", dim=DIM)).train()
    heads, batches = [t.float().train() for t in make_heads(KINDS[:2])], batches_of(KINDS[:2])
    optimizer = torch.optim.SGD([p for _, p in parameters(shared, heads)], lr=0.0)

    def loss(own: list[Task], step: int) -> float:
        return train_step(shared, own, batches, optimizer, StepSettings(total_tasks=2, seeds=(0, step)))[KINDS[1]]

    assert loss(heads, 3) == loss(heads[1:], 3)
    assert loss(heads, 3) != loss(heads, 4)


@pytest.mark.parametrize(("arm", "low", "high"), [("accumulated", 1.0, 1.02), ("joint", 2.5, 4.0)])
def test_memory_does_not_grow_with_the_number_of_tasks(arm, low, high, monkeypatch):
    """Four tasks save at their peak what the largest saves alone; in one graph, what all save."""
    monkeypatch.setattr(multitask_memory, "SIDE_PX", 64)
    one, four = (multitask_memory.measure(count, arm, "convnext_atto")["saved_mb"] for count in (1, 4))
    assert one > 1
    assert low <= four / one <= high
