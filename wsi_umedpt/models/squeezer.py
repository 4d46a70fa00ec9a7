"""The squeezer: the deepest map to an embedding, a map for the decoders and a vector for the image."""

from typing import Literal

import torch
from torch import nn

from wsi_umedpt.models.norms import NormKind, one_group

Pooling = Literal["after", "before"]
"""after: the vector is the mean of the squeezed map. before: the mean of the deepest map goes
through the same layers, as published weights of the first versions expect. Not equivalent."""


SqueezerKind = Literal["convolution", "none"]
"""convolution: 1x1 convolution, norm and GELU. none: the deepest map is left as it is, as in published
weights by default; its mean is the vector."""


class Squeezer(nn.Module):
    """1x1 convolution, norm, GELU, and average pooling; or the pooling alone."""

    def __init__(
        self, channels: int, dim: int, norm: NormKind, pooling: Pooling, kind: SqueezerKind = "convolution"
    ) -> None:
        super().__init__()
        self.pooling, self.kind = pooling, kind
        if kind == "convolution":
            self.conv = nn.Conv2d(channels, dim, 1)
            self.norm = one_group(dim, norm)
            self.act = nn.GELU()

    def forward(self, deepest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Deepest map (image, channel, h, w) to a map (image, dim, h, w) and a vector (image, dim)."""
        squeezed = self._squeeze(deepest)
        if self.pooling == "after":
            return squeezed, squeezed.mean((2, 3))
        return squeezed, self._squeeze(deepest.mean((2, 3), keepdim=True)).flatten(1)

    def _squeeze(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "none":
            return x
        out: torch.Tensor = self.act(self.norm(self.conv(x)))
        return out
