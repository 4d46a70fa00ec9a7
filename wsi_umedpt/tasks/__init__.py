"""Heads, losses and metrics of every kind of label; `make_task` builds one from its spec."""

from collections.abc import Callable

from wsi_umedpt.errors import ConfigError
from wsi_umedpt.tasks.base import HeadSpec, Task
from wsi_umedpt.tasks.classification import BagClassification, Classification, MultiLabel, Regression
from wsi_umedpt.tasks.detection import Detection
from wsi_umedpt.tasks.segmentation import MultiLabelSegmentation, Segmentation

_ON_VECTOR: dict[str, Callable[[HeadSpec, int], Task]] = {
    "classification": Classification,
    "multilabel": MultiLabel,
    "regression": Regression,
    "bag_classification": BagClassification,
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
