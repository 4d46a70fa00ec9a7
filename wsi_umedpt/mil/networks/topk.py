"""Slide classifiers that classify every tile and let the highest speak for the slide."""

import math

import torch
from torch import nn

from wsi_umedpt.mil.networks.base import MilResult, SlideNetwork, chunked
from wsi_umedpt.mil.networks.ragged_pooling import Bags, top
from wsi_umedpt.mil.settings import ModelSettings


class Highest(SlideNetwork):
    """Every tile is classified; the bag's logits are the mean of its `count` highest, output by output.

    With count 1 this is instance-based MIL by maximum (mi-Net): one positive tile makes the bag positive, and nothing
    can make it negative again.
    """

    def __init__(self, dim: int, outputs: int, settings: ModelSettings, count: int) -> None:
        super().__init__(dim, outputs, settings)
        self.count = count
        self.classify = nn.Sequential(self.embedding(), nn.Linear(settings.hidden, outputs))

    def _tiles(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.classify(self.scaled(features))
        return found

    def forward(self, bags: Bags) -> torch.Tensor:
        """See `SlideNetwork.forward`."""
        return top(self._tiles, bags, self.count)

    @torch.no_grad()
    def explain(self, features: torch.Tensor) -> MilResult:
        """Attention is shared by the highest tiles of every output; see `SlideNetwork.explain`."""
        return self.among(self.alone(features), torch.ones(len(features), dtype=torch.bool, device=features.device))

    @torch.no_grad()
    def alone(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `SlideNetwork.alone`: the values of each tile."""
        return (chunked(self._tiles, features),)

    @torch.no_grad()
    def among(self, alone: tuple[torch.Tensor, ...], there: torch.Tensor) -> MilResult:
        """See `SlideNetwork.among`."""
        values = alone[0][there]
        count = min(self.count, len(values))
        chosen = torch.zeros_like(values).scatter_(0, values.topk(count, dim=0).indices, 1 / count)
        shares = chosen * values
        return MilResult(shares.sum(0), chosen.mean(1), shares)

    @torch.no_grad()
    def without_each(self, features: torch.Tensor) -> torch.Tensor:
        """See `SlideNetwork.without_each`: of a tile that is not among the highest nothing changes."""
        values = chunked(self._tiles, features)
        if len(values) == 1:
            return torch.full_like(values, math.nan)
        count = min(self.count, len(values) - 1)
        highest = values.topk(min(self.count, len(values)), dim=0)
        found = values.topk(count, dim=0).values.mean(0).expand_as(values).clone()
        for row in torch.unique(highest.indices).tolist():
            rest = torch.cat([values[:row], values[row + 1 :]])
            found[row] = rest.topk(count, dim=0).values.mean(0)
        return found
