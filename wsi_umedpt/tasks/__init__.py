"""Heads, losses and metrics of every kind of label; `make_task` builds one from its spec."""

from collections.abc import Callable
from functools import partial

from wsi_umedpt.errors import CheckpointError, ConfigError
from wsi_umedpt.io.checkpoint import tensors_under
from wsi_umedpt.io.tensors import misfit, outline
from wsi_umedpt.models.bundle import Release
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.tasks.classification import Classification, MultiLabel, Regression
from wsi_umedpt.tasks.detection import Detection
from wsi_umedpt.tasks.segmentation import MultiLabelSegmentation, Segmentation
from wsi_umedpt.tasks.survival import Survival

_ON_VECTOR: dict[str, Callable[[HeadSpec, int], Task]] = {
    "classification": Classification,
    "multilabel": MultiLabel,
    "regression": Regression,
    "survival": Survival,
}
_ON_MAPS: dict[str, Callable[[HeadSpec], Task]] = {
    "segmentation": Segmentation,
    "detection": Detection,
    "multilabel_segmentation": MultiLabelSegmentation,
}


def make_task(spec: HeadSpec, dim: int) -> Task:
    """A head with random weights on a shared model whose embedding has `dim` numbers."""
    if spec.kind in _ON_VECTOR:
        return _ON_VECTOR[spec.kind](spec, dim)
    if spec.kind in _ON_MAPS:
        return _ON_MAPS[spec.kind](spec)
    raise ConfigError(f"task {spec.name!r} is of the unknown kind {spec.kind!r}")


def load_heads(release: Release) -> dict[str, Task]:
    """The heads of a release, in evaluation mode.

    Raises
    ------
    CheckpointError
        If a head's weights are not those of its spec.
    """
    heads = {}
    for spec in release.heads:
        state = tensors_under(release.head_weights, spec.name)
        if why := misfit(outline(partial(make_task, spec, release.shared.vector_dim)), state):
            raise CheckpointError(f"the weights of head {spec.name} are not of its kind and classes: {why}")
        task = make_task(spec, release.shared.vector_dim)
        task.load_state_dict(state)
        heads[spec.name] = task.eval().requires_grad_(False)
    return heads
