"""Labels of a whole image, or of a bag of images: one class, several labels, or values."""

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.datasets.samples import IGNORED, Batch
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import Features, UMedPT
from wsi_umedpt.tasks.base import DROPOUT, Meter, Task, needed, nothing, widened


def scaled_cross_entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over ln K: 1 at chance for any number K of classes.

    Parameters
    ----------
    logits : float (n, K)
    classes : int64 (n,)
        -1 is left out. For K = 1 the loss is 0: there is nothing to tell apart.
    """
    if not bool((classes != IGNORED).any()):
        return nothing(logits)
    entropy = F.cross_entropy(widened(logits), classes, ignore_index=IGNORED)
    return entropy / math.log(max(2, logits.shape[1]))


class LinearHead(Task):
    """Dropout and one linear layer on the vector of an image or bag; the base of what follows."""

    def __init__(self, spec: HeadSpec, dim: int, *, outputs: int = 0, bias: bool = True) -> None:
        super().__init__(spec)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(dim, outputs or len(spec.classes), bias=bias))

    def forward(self, shared: UMedPT, features: Features) -> torch.Tensor:
        """Logits or values, float (image, k), or (bag, k)."""
        out: torch.Tensor = self.head(features.vector)
        return out


class Classification(LinearHead):
    """One class an image."""

    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See `scaled_cross_entropy`."""
        return scaled_cross_entropy(outputs, needed(batch.labels, "a class for each image"))

    def meter(self) -> Meter:
        """See `ClassMeter`."""
        return ClassMeter()


class MultiLabel(LinearHead):
    """Any number of labels an image; -1 where a label is not known."""

    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Binary cross entropy over ln 2, mean over the labels that are known."""
        labels = needed(batch.labels, "labels for each image")
        known = labels != IGNORED
        if not bool(known.any()):
            return nothing(outputs)
        logits = widened(outputs)[known]
        return F.binary_cross_entropy_with_logits(logits, labels[known].to(logits.dtype)) / math.log(2)

    def meter(self) -> Meter:
        """See `LabelMeter`."""
        return LabelMeter()


class Regression(LinearHead):
    """Values of an image, standardised by the mean and spread of the training cases; nan is not labelled."""

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, spec: HeadSpec, dim: int) -> None:
        super().__init__(spec, dim)
        k = len(spec.classes)
        self.register_buffer("centre", torch.tensor(spec.centre or (0.0,) * k), persistent=False)
        self.register_buffer("spread", torch.tensor(spec.spread or (1.0,) * k).clamp(min=1e-6), persistent=False)

    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean squared error in spreads: 1 for the best constant."""
        values = needed(batch.labels, "values for each image")
        known = torch.isfinite(values)
        if not bool(known.any()):
            return nothing(outputs)
        standard = (values - self.centre) / self.spread
        found = widened(outputs)[known]
        return F.mse_loss(found, standard[known].to(found.dtype))

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs in the unit of the labels."""
        return widened(outputs) * self.spread + self.centre

    def meter(self) -> Meter:
        """See `ValueMeter`."""
        return ValueMeter(self)


class ClassMeter(Meter):
    """AUC (one against the rest, mean over classes), accuracy, macro F1."""

    main: ClassVar[str] = "auc"

    def __init__(self) -> None:
        self._chances: list[torch.Tensor] = []
        self._classes: list[torch.Tensor] = []

    def add(self, outputs: torch.Tensor, batch: Batch) -> None:
        """See `Meter.add`."""
        classes = needed(batch.labels, "classes")
        known = classes != IGNORED
        self._chances.append(widened(outputs).softmax(1)[known].cpu())
        self._classes.append(classes[known].cpu())

    def figures(self) -> dict[str, float]:
        """See `Meter.figures`."""
        if not self._classes or not sum(map(len, self._classes)):
            return {"auc": math.nan, "accuracy": math.nan, "f1": math.nan}
        chances, classes = torch.cat(self._chances).numpy(), torch.cat(self._classes).numpy()
        found = chances.argmax(1)
        return {
            "auc": mean_auc(classes[:, None] == np.arange(chances.shape[1]), chances),
            "accuracy": float((found == classes).mean()),
            "f1": float(f1_score(classes, found, average="macro", zero_division=0.0)),
        }


class LabelMeter(Meter):
    """AUC, mean over labels that have both values."""

    main: ClassVar[str] = "auc"

    def __init__(self) -> None:
        self._chances: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, outputs: torch.Tensor, batch: Batch) -> None:
        """See `Meter.add`."""
        self._chances.append(widened(outputs).sigmoid().cpu())
        self._labels.append(needed(batch.labels, "labels").cpu())

    def figures(self) -> dict[str, float]:
        """See `Meter.figures`."""
        return {"auc": mean_auc(torch.cat(self._labels).numpy(), torch.cat(self._chances).numpy())}


class ValueMeter(Meter):
    """Explained variance R2 (mean over values) and mean absolute error."""

    main: ClassVar[str] = "r2"

    def __init__(self, task: Regression) -> None:
        self._task = task
        self._found: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def add(self, outputs: torch.Tensor, batch: Batch) -> None:
        """See `Meter.add`."""
        self._found.append(self._task.values(outputs).cpu())
        self._values.append(needed(batch.labels, "values").cpu())

    def figures(self) -> dict[str, float]:
        """See `Meter.figures`."""
        found, values = torch.cat(self._found).double().numpy(), torch.cat(self._values).double().numpy()
        r2, errors = [], []
        for k in range(values.shape[1]):
            known = np.isfinite(values[:, k])
            f, v = found[known, k], values[known, k]
            spread = float(((v - v.mean()) ** 2).sum()) if len(v) else 0.0
            if spread > 0:
                r2.append(1 - float(((f - v) ** 2).sum()) / spread)
                errors.append(float(np.abs(f - v).mean()))
        return {"r2": _mean(r2), "mae": _mean(errors)}


def mean_auc(labels: npt.NDArray[Any], chances: npt.NDArray[Any]) -> float:
    """Mean over columns of the area under the ROC curve; columns of one value are left out, -1 is unlabelled."""
    areas = []
    for label, chance in zip(labels.T, chances.T, strict=True):
        known = label != IGNORED
        if len(np.unique(label[known])) == 2:
            areas.append(float(roc_auc_score(label[known], chance[known])))
    return _mean(areas)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
