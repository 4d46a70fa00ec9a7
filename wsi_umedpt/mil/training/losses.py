"""Losses of every kind of target, each about 1 for a model that knows nothing, and what logits mean.

Labels that are not known (nan) count for nothing. Read top to bottom: `loss_of`, the likelihoods, and
`predicted_of` (logits to what `wsi_umedpt.mil.evaluation.heldout` holds).
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, softmax
from torch.nn import functional

from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.tasks.survival import cox_loss

Floats = npt.NDArray[np.float64]


def loss_of(
    target: Target, logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean loss of a batch.

    Parameters
    ----------
    target
        Filled in: edges, centre and scale are those of the training labels.
    logits : (bag, `Target.outputs`)
    truth : (bag, `Target.truth`), nan where not known
    weights : (class,)
        Weights of the classes, mean 1 over the training bags; binary, multiclass and ordinal only.

    Returns
    -------
    scalar
        0, with a gradient of zeros, where no label is known, or (Cox) nothing can be ranked.
    """
    total, answers = terms_of(target, logits, truth, weights)
    return total / max(answers, 1)


def terms_of(
    target: Target, logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, int]:
    """Sum of a batch's losses, and how many answers it is over; the latter is of the labels alone.

    But for Cox, whose one answer is of all bags, sums and counts of parts of a batch add up to those of the whole.
    """
    known = ~torch.isnan(truth).any(1) if target.kind != "multilabel" else ~torch.isnan(truth).all(1)
    if not known.any():
        return logits.sum() * 0, 0
    logits, truth = logits[known], truth[known]
    of_bag = weights[truth[:, 0].long()] if weights is not None else torch.ones(len(truth), device=logits.device)
    match target.kind:
        case "binary":
            losses = functional.binary_cross_entropy_with_logits(logits[:, 0], truth[:, 0], reduction="none")
            return (losses * of_bag).sum() / math.log(2), len(truth)
        case "multiclass":
            losses = functional.cross_entropy(logits, truth[:, 0].long(), reduction="none")
            return (losses * of_bag).sum() / math.log(len(target.classes)), len(truth)
        case "multilabel":
            there = ~torch.isnan(truth)
            losses = functional.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
            return losses[there].sum() / math.log(2), int(there.sum())
        case "regression":
            losses = (logits[:, 0] - (truth[:, 0] - target.centre) / target.scale) ** 2
            return losses.sum(), len(truth)
        case "ordinal":
            return _ordinal(logits, truth[:, 0], of_bag)
        case "cox":
            return cox_loss(logits[:, 0], truth[:, 0], truth[:, 1]), 1
    return _discrete(logits, truth[:, 0], truth[:, 1], target.edges)


def _ordinal(logits: torch.Tensor, classes: torch.Tensor, of_bag: torch.Tensor) -> tuple[torch.Tensor, int]:
    """CORN (Shi, Cao and Raschka 2023, arXiv 2111.08851): logit k is of being above class k, given at least k."""
    rank = torch.arange(logits.shape[1], device=logits.device)
    asked = (classes[:, None] >= rank).float()
    above = (classes[:, None] > rank).float()
    losses = functional.binary_cross_entropy_with_logits(logits, above, reduction="none") * asked * of_bag[:, None]
    return losses.sum() / math.log(2), int(asked.sum())


def _discrete(
    logits: torch.Tensor, time: torch.Tensor, event: torch.Tensor, edges: tuple[float, ...]
) -> tuple[torch.Tensor, int]:
    """Negative log likelihood of discrete-time hazards over ln 2 (Gensheimer and Narasimhan 2019, eq. 2).

    Interval k ends where ``edges[k]`` is, the last is open. A patient who was lost counts as having survived
    the intervals that were over by then.
    """
    ends = torch.tensor([*edges, math.inf], dtype=time.dtype, device=time.device)
    over = ends[None] <= time[:, None]
    interval = torch.searchsorted(ends[:-1].contiguous(), time.contiguous(), right=True)
    happened = functional.one_hot(interval, logits.shape[1]).bool() & (event > 0)[:, None]
    asked = over | happened
    losses = functional.binary_cross_entropy_with_logits(logits, happened.to(logits.dtype), reduction="none") * asked
    return losses.sum() / math.log(2), int(asked.sum())


def predicted_of(target: Target, logits: Floats, temperature: float = 1.0) -> Floats:
    """Predictions of logits, in the columns of `Target.predicted`.

    Parameters
    ----------
    target
        Filled in.
    logits : (case, `Target.outputs`)
    temperature
        Divisor of the logits of classes and labels (Guo et al. 2017, arXiv 1706.04599).
    """
    z = logits.astype(np.float64) / (temperature if target.classes else 1.0)
    match target.kind:
        case "binary":
            positive = _sigmoid(z[:, 0])
            return np.stack([1 - positive, positive], 1)
        case "multiclass":
            chances: Floats = softmax(z, axis=1)
            return chances
        case "multilabel":
            return _sigmoid(z)
        case "regression":
            return z * target.scale + target.centre
        case "ordinal":
            above = np.cumprod(_sigmoid(z), axis=1)
            edge = np.ones((len(z), 1))
            return -np.diff(np.concatenate([edge, above, 0 * edge], 1), axis=1)
        case "discrete":
            return np.asarray(np.cumprod(1 - _sigmoid(z), axis=1)[:, : len(target.edges)])
    return z


def _sigmoid(z: Floats) -> Floats:
    found: Floats = expit(z)
    return found
