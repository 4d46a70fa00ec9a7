"""Base of all slide classifiers: settings, the result for one bag, and the methods of a network.

All are permutation-invariant, know no padding, and give `MilResult` for one bag: logits, an
attention that sums to 1, and what every tile contributes to every logit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from wsi_umedpt.mil.data.standardize import scale_of
from wsi_umedpt.mil.networks.ragged_pooling import CHUNK_TILES, Bags
from wsi_umedpt.mil.settings import ModelSettings


@dataclass(frozen=True, eq=False)
class MilResult:
    """Result of a network for one bag."""

    logits: torch.Tensor
    """(output,)"""
    attention: torch.Tensor
    """(tile,) sums to 1"""
    contribution: torch.Tensor
    """(tile, output), signed; see `SlideNetwork.contributions` for what they add up to"""


class SlideNetwork(nn.Module):
    """Base of all kinds: features are standardised by the training tiles, then embedded."""

    contributions: ClassVar[Literal["exact", "first order"]] = "exact"
    """Exact: they add up to the logits. First order: gradient times embedding, their sum is an approximation."""
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__()
        self.dim, self.outputs, self.settings = dim, outputs, settings
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def standardise(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set what features are centred on and divided by: (dim,) of the training tiles."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.from_numpy(scale_of(mean.numpy(), deviation.numpy())))

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """(tile, dim) standardised, and limited to 10 deviations."""
        scaled = torch.addcmul(-self.mean * self.scale, features, self.scale).clamp_(-10, 10)
        return functional.dropout(scaled, self.settings.feature_dropout, self.training)

    def forward(self, bags: Bags) -> torch.Tensor:
        """Compute the logits (bag, output) of a batch."""
        raise NotImplementedError

    def explain(self, features: torch.Tensor) -> MilResult:
        """Logits, attention and contributions for one bag (tile, dim), in evaluation mode."""
        raise NotImplementedError

    def alone(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Output of each tile whatever else is in its bag, a row a tile: the costly part, made once for `among`."""
        return (features,)

    def among(self, alone: tuple[torch.Tensor, ...], there: torch.Tensor) -> MilResult:
        """Result of `explain` for a bag of some of the tiles, from the output of `alone` for all.

        Parameters
        ----------
        alone
            Output of `alone` for all tiles.
        there : bool (tile,)
            At least one.
        """
        return self.explain(alone[0][there])

    def without_each(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the logits (tile, output) of one bag without each of its tiles; nan for a bag of one tile."""
        raise NotImplementedError

    def beside(self, bags: Bags, classes: list[torch.Tensor]) -> torch.Tensor | None:
        """A loss of the network's own, about 1 at chance; None where it has none.

        Parameters
        ----------
        bags
            The batch.
        classes : (bag,) for each target of classes
            Class numbers, -1 where unknown.
        """
        del bags, classes
        return None

    def embedding(self) -> nn.Sequential:
        """Make the layers from features to hidden numbers: linear, rectified, with dropout."""
        hidden = self.settings.hidden
        return nn.Sequential(nn.Linear(self.dim, hidden), nn.ReLU(), nn.Dropout(self.settings.dropout))


def chunked(function: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Apply a network of single tiles to (tile, dim) of any float dtype, a chunk at a time."""
    return torch.cat([function(chunk.float()) for chunk in torch.split(features, CHUNK_TILES)])
