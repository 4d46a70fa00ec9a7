"""`Grouper`: gated attention over the images of one patient, as a release may carry it.

It weighs embeddings of images; slide classifiers can start from its weights (`wsi_umedpt.mil.training.start`).
"""

from dataclasses import dataclass

import torch
from torch import nn

_MOST = 65_536


@dataclass(frozen=True, kw_only=True)
class GrouperSpec:
    """Specification of a grouper."""

    dim: int
    """Length of an image's embedding."""
    attention: int
    """Width of the attention's own layer."""

    def __post_init__(self) -> None:
        for name, value in (("dim", self.dim), ("attention", self.attention)):
            if not 1 <= value <= _MOST:
                raise ValueError(f"a grouper's {name} is from 1 to {_MOST:,}, got {value}")


class Grouper(nn.Module):
    """Gated attention, Ilse et al. 2018 (arXiv 1802.04712), equation 9, on embeddings as they are."""

    def __init__(self, spec: GrouperSpec) -> None:
        super().__init__()
        self.spec = spec
        self.gates = nn.Linear(spec.dim, 2 * spec.attention)
        """tanh's rows, then those of the sigmoid."""
        self.score = nn.Linear(spec.attention, 1)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings of one bag (image, dim) to weights (image,) that sum to 1."""
        signal, gate = self.gates(embeddings).chunk(2, dim=1)
        return torch.softmax(self.score(torch.tanh(signal) * torch.sigmoid(gate))[:, 0], 0)
