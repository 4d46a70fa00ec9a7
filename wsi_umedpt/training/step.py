"""One training step: a batch of every task, one backward pass each, one step of the optimiser."""

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from wsi_umedpt.cases import Batch
from wsi_umedpt.errors import TrainingError
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.distil import DISTILLED, Distiller
from wsi_umedpt.training.parallel import sum_gradients


def train_step(
    shared: UMedPT,
    tasks: Sequence[Task],
    batches: Mapping[str, Batch],
    optimizer: torch.optim.Optimizer,
    *,
    total_tasks: int,
    seeds: tuple[int, int],
    clip_norm: float = 1.0,
    autocast: bool = False,
    distiller: Distiller | None = None,
) -> dict[str, float]:
    """Train one step on this process's tasks.

    Parameters
    ----------
    shared, tasks
        All in training mode, on one device.
    batches
        One batch for each task, by its name.
    optimizer
        Of the shared model and these tasks.
    total_tasks
        Over all processes; the gradient is that of the mean of their losses.
    seeds
        (run, step): with a task's name they seed its dropout, so that it depends neither on
        the step that training began at nor on which process has the task.
    clip_norm
        See `TrainingSpec`.
    autocast
        Run forward passes in bfloat16.
    distiller
        Adds its loss to that of every task.

    Returns
    -------
    dict
        Loss of each task.

    Raises
    ------
    TrainingError
        If a loss or a gradient is not finite; the optimiser has not been stepped.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = {}
    for task in tasks:
        batch = batches[task.name]
        torch.manual_seed(zlib.crc32(f"{seeds[0]}/{seeds[1]}/{task.name}".encode()))
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=autocast):
            images = shared.normalised(batch.images)
            features = shared.features(images)
            loss = task.loss_of(task(shared, features), batch)
        losses[task.name] = loss.item()
        if distiller is not None:
            apart = distiller.loss(images, features)
            losses[DISTILLED] = losses.get(DISTILLED, 0.0) + apart.item() / len(tasks)
            loss = loss + distiller.weight * apart
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of task {task.name} is {losses[task.name]} at step {seeds[1]}; a lower lr may help"
            )
        # Backward for each task, not once on the sum: memory is that of the largest task's
        # graph, while .grad adds up to the gradient of the mean loss.
        (loss / total_tasks).backward()  # type: ignore[no-untyped-call]
    sum_gradients(shared)
    # Each part by itself: the same on every process, however tasks are spread.
    for part, name in ((shared, "the shared model"), *((task, f"task {task.name}") for task in tasks)):
        norm = nn.utils.clip_grad_norm_(part.parameters(), clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient of {name} is {float(norm)} at step {seeds[1]}; a lower lr may help")
    optimizer.step()
    return losses
