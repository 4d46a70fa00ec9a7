"""`Task`: a head, its loss and how its predictions are measured; it never owns data.

Every loss is scaled so that an untrained head gives about 1, which is what lets tasks of
different kinds be summed without weights of their own. A batch without any label gives a loss
of 0 that is still part of the graph.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.errors import DataError
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import Features, UMedPT

DROPOUT = 0.2


class Meter(ABC):
    """Collects predictions over a split and measures them at the end."""

    main: ClassVar[str]
    """The figure by which models are compared; higher is better, 1 is perfect."""

    @abstractmethod
    def add(self, outputs: Any, batch: Batch) -> None:
        """Take one batch of a task's outputs and labels."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """All figures, `main` among them; nan where the split cannot tell."""


class Task(nn.Module, ABC):
    """A head on the shared model. Subclasses differ in outputs, loss and meter."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def name(self) -> str:
        """Names the task in configs, logs and weights."""
        return self.spec.name

    @abstractmethod
    def forward(self, shared: UMedPT, features: Features) -> Any:
        """Raw outputs (logits) from what one pass of the encoder gave."""

    @abstractmethod
    def loss_of(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Scalar loss of `forward`'s outputs, about 1 at chance."""

    @abstractmethod
    def meter(self) -> Meter:
        """A fresh meter."""

    def loss(self, shared: UMedPT, batch: Batch) -> torch.Tensor:
        """Scalar loss of a batch, about 1 at chance."""
        features = shared.features(shared.normalised(batch.images), batch.bags)
        return self.loss_of(self(shared, features), batch)


def needed(value: torch.Tensor | None, what: str) -> torch.Tensor:
    """The field of a batch that a task cannot do without."""
    if value is None:
        raise DataError(f"the task needs {what}, and its batch has none")
    return value


def widened(x: torch.Tensor) -> torch.Tensor:
    """Float32 where autocast gave less; float64 stays, so that gradients can be checked in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def nothing(logits: torch.Tensor) -> torch.Tensor:
    """A loss of 0 that is part of the graph: what a batch without labels gives."""
    return widened(logits).sum() * 0
