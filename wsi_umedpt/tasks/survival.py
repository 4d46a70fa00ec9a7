"""Survival of an image's or a bag's case: a risk, learnt by the order in which events come."""

import math
from typing import ClassVar

import torch

from wsi_umedpt.datasets.samples import Batch
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.tasks.base import Meter, needed, nothing, widened
from wsi_umedpt.tasks.classification import LinearHead


def cox_loss(risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Negative log partial likelihood a event, over its value for equal risks; ties by Efron (1977).

    Parameters
    ----------
    risk : (case,) log hazard ratios
    time : (case,) of the event, or of the last sight of the patient
    event : (case,) 1 where it happened, 0 where it is censored

    Returns
    -------
    scalar
        0 where no event has another patient at risk.
    """
    time, order = torch.sort(time, descending=True)
    risk, event = risk[order], event[order] > 0
    _, moment, counts = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    at_risk = torch.cumsum(counts, 0)  # (moment,) patients seen so long or longer
    everyone = torch.logcumsumexp(risk, 0)[at_risk - 1]
    moment, going = moment[event], risk[event]
    # Efron: those who go together leave one by one, each before a share of the others.
    ties = torch.bincount(moment, minlength=len(counts))
    rank = torch.arange(len(moment), device=risk.device) - (torch.cumsum(ties, 0) - ties)[moment]
    share = rank.to(risk.dtype) / ties[moment]
    together = torch.zeros_like(everyone).index_add(0, moment, torch.exp(going - everyone[moment]))
    found = everyone[moment] + torch.log1p(-share * together[moment]) - going
    chance = torch.log((at_risk[moment] - rank).to(risk.dtype)).sum()
    return found.sum() / chance if chance > 0 else risk.sum() * 0


class Survival(LinearHead):
    """Log hazard ratio of a case; times or events that are nan are not labelled."""

    def __init__(self, spec: HeadSpec, dim: int) -> None:
        super().__init__(spec, dim, outputs=1, bias=False)  # the order of risks knows no constant

    def loss_of(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See `cox_loss`, over the cases of the batch."""
        labels = needed(batch.labels, "a time and an event for each case")
        known = torch.isfinite(labels).all(1)
        if not bool(known.any()):
            return nothing(outputs)
        risk = widened(outputs)[known, 0]
        time, event = labels[known].to(risk.dtype).T
        return cox_loss(risk, time, event)

    def meter(self) -> Meter:
        """See `SurvivalMeter`."""
        return SurvivalMeter(self)


class SurvivalMeter(Meter):
    """Concordance (Harrell et al. 1982), and the loss over all cases: batches of one case have none."""

    main: ClassVar[str] = "concordance"

    def __init__(self, task: Survival) -> None:
        self._task = task
        self._risks: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, outputs: torch.Tensor, batch: Batch) -> None:
        """See `Meter.add`."""
        self._risks.append(widened(outputs).cpu())
        self._labels.append(needed(batch.labels, "times and events").cpu())

    def figures(self) -> dict[str, float]:
        """See `Meter.figures`."""
        if not self._risks:
            return {"concordance": math.nan, "loss": math.nan}
        risks, labels = torch.cat(self._risks).double(), torch.cat(self._labels).double()
        known = torch.isfinite(labels).all(1)
        risk, (time, event) = risks[known, 0], labels[known].T
        return {
            "concordance": concordance(risk, time, event),
            "loss": float(cox_loss(risk, time, event)) if bool(known.any()) else math.nan,
        }


def concordance(risk: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> float:
    """Share of the pairs of known order in which the case with the sooner event has the higher risk.

    Parameters
    ----------
    risk, time, event : (case,)
        Equal risks count one half; a case censored at the time of another's event outlived it.

    Returns
    -------
    float
        nan where no pair can be compared.
    """
    later = (time[:, None] < time) | ((time[:, None] == time) & (event == 0))
    pairs = later & (event[:, None] > 0)
    right = torch.where(risk[:, None] == risk, 0.5, (risk[:, None] > risk).double())
    return float(right[pairs].mean()) if bool(pairs.any()) else math.nan
