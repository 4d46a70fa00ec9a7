"""What norms see of a task's training images, for fixed norms over slides (see `models.fixednorm`)."""

import torch

from wsi_umedpt.datasets.taskdata import TaskData
from wsi_umedpt.models.fixednorm import Statistics, watched
from wsi_umedpt.models.umedpt import UMedPT

ON_MAPS = ("segmentation", "multilabel_segmentation", "detection")
"""Kinds of tasks whose heads work on maps."""
BATCHES = 32


@torch.no_grad()
def norm_statistics(shared: UMedPT, data: TaskData, device: str, batches: int = BATCHES) -> Statistics:
    """Mean statistics of the squeezer and of the task's decoder over its first training batches."""
    training = shared.training
    shared.eval()
    with watched(shared) as watch:
        for number in range(batches):
            images = data.batch(number).images.to(device)
            features = shared.features(shared.normalised(images))
            (shared.boxes if data.spec.kind == "detection" else shared.pixels)(features.pyramid)
            watch.ended(len(images))
    shared.train(training)
    return watch.statistics()
