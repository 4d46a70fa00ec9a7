"""One training step: a batch of every task, one backward pass each, one step of the optimiser."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.errors import TrainingError
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.distillation import DISTILLED, Distiller
from wsi_umedpt.training.parallel import sum_gradients


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Settings of one step, apart from tasks and their data."""

    total_tasks: int
    """Number of tasks over all processes; the gradient is that of the mean of their losses."""
    seeds: tuple[int, int]
    """(run, step): with a task's name they seed its dropout, so that it depends neither on the step that training
    began at nor on which process has the task."""
    clip_norm: float = 1.0
    """See `TrainingSpec`."""
    autocast: bool = False
    """Run forward passes in bfloat16."""
    distiller: Distiller | None = None
    """Adds its loss to that of every task."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Factor of a task's loss, by its name; 1 where none is named."""


def train_step(
    shared: UMedPT,
    tasks: Sequence[Task],
    batches: Mapping[str, Batch],
    optimizer: torch.optim.Optimizer,
    settings: StepSettings,
) -> dict[str, float]:
    """Train one step on this process's tasks.

    Parameters
    ----------
    shared, tasks
        All in training mode, on one device.
    batches
        One batch for each task, by its name.
    optimizer
        Optimiser of the shared model and these tasks.
    settings
        Settings of the step.

    Returns
    -------
    dict
        Loss of each task.

    Raises
    ------
    TrainingError
        If a loss or a gradient is not finite; the optimiser has not been stepped.
    """
    seed, step = settings.seeds
    optimizer.zero_grad(set_to_none=True)
    losses = {}
    for task in tasks:
        batch = batches[task.name]
        torch.manual_seed(zlib.crc32(f"{seed}/{step}/{task.name}".encode()))
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=settings.autocast):
            images = shared.normalised(batch.images)
            features = shared.features(images, batch.bags)
            loss = task.loss_of(task(shared, features), batch)
        losses[task.name] = loss.item()
        loss = loss * settings.weights.get(task.name, 1.0)
        if settings.distiller is not None:
            apart = settings.distiller.loss(images, features)
            losses[DISTILLED] = losses.get(DISTILLED, 0.0) + apart.item() / len(tasks)
            loss = loss + settings.distiller.weight * apart
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of task {task.name} is {losses[task.name]} at step {step}; a lower lr may help"
            )
        # Backward for each task, not once on the sum: memory is that of the largest task's
        # graph, while .grad adds up to the gradient of the mean loss.
        (loss / settings.total_tasks).backward()  # type: ignore[no-untyped-call]
    sum_gradients(shared)
    # Each part by itself: the same on every process, however tasks are spread.
    for part, name in ((shared, "the shared model"), *((task, f"task {task.name}") for task in tasks)):
        norm = nn.utils.clip_grad_norm_(part.parameters(), settings.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient of {name} is {float(norm)} at step {step}; a lower lr may help")
    optimizer.step()
    return losses
