"""`Grouper`: gated attention over the images of one bag (a patient, a slide, a volume).

All tasks on bags share one. It weighs embeddings of images; slide classifiers can start from its weights
(`wsi_umedpt.mil.training.start`).
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

    def forward(self, embeddings: torch.Tensor, bags: torch.Tensor | None = None) -> torch.Tensor:
        """Weigh the images of each bag.

        Parameters
        ----------
        embeddings : float (image, dim)
        bags : int64 (image,)
            The bag of each image, counted from 0; images of a bag need not stand together. One bag, unless given.

        Returns
        -------
        float (image,)
            Weights that sum to 1 in each bag.
        """
        if bags is None:
            bags = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)
        signal, gate = self.gates(embeddings).chunk(2, dim=1)
        scores = self.score(torch.tanh(signal) * torch.sigmoid(gate))[:, 0]
        count = int(bags.max()) + 1
        # Softmax in each bag; the highest score of a bag is taken off first.
        highest = scores.new_full((count,), -torch.inf).scatter_reduce(0, bags, scores.detach(), "amax")
        weights = torch.exp(scores - highest[bags])
        shares: torch.Tensor = weights / scores.new_zeros(count).index_add(0, bags, weights)[bags]
        return shares

    def pooled(self, embeddings: torch.Tensor, bags: torch.Tensor) -> torch.Tensor:
        """Weighted mean of each bag's embeddings, (bag, dim)."""
        # Not under autocast: sums over thousands of images need more digits than bfloat16 has.
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            weights = self(wide, bags)
            return wide.new_zeros(int(bags.max()) + 1, wide.shape[1]).index_add(0, bags, weights[:, None] * wide)
