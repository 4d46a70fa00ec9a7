"""Measuring tasks on a split: whole images, no augmentation, dropout off."""

import math
from collections.abc import Iterable

import torch

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.tasks.base import Task

Figures = dict[str, float]


@torch.no_grad()
def evaluate(shared: UMedPT, task: Task, batches: Iterable[Batch], device: str, *, autocast: bool) -> Figures:
    """Figures of one task; `loss` (mean over batches) is among them."""
    modes = shared.training, task.training
    shared.eval()
    task.eval()
    meter, losses = task.meter(), []
    for batch in batches:
        here = batch.to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            outputs = task(shared, shared.features(shared.normalised(here.images), here.bags))
            losses.append(float(task.loss_of(outputs, here)))
        meter.add(outputs, here)
    shared.train(modes[0])
    task.train(modes[1])
    if not losses:
        return {"loss": math.nan, meter.main: math.nan}
    return {"loss": sum(losses) / len(losses), **meter.figures()}


def main_scores(figures: dict[str, Figures], tasks: Iterable[Task]) -> list[float]:
    """The figure by which each task is compared."""
    return [figures[t.name][t.meter().main] for t in tasks]


def mean_score(scores: Iterable[float]) -> float:
    """Mean over tasks; those that the split cannot tell of are left out."""
    known = [s for s in scores if not math.isnan(s)]
    return sum(known) / len(known) if known else math.nan
