"""The shared pixel decoder: a pyramid in, an embedding of every second pixel out.

U-Net decoding (Ronneberger et al., MICCAI 2015) from stride 32 to stride 2; heads turn the
embedding into logits and upsample those to the image.
"""

import torch
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.models.backbones import FeaturePyramid
from wsi_umedpt.models.norms import NormKind, one_group

WIDTHS = (96, 64, 32, 16)


class PixelDecoder(nn.Module):
    """Four blocks, each: upsample by 2, join the encoder's map of that stride, two convolutions."""

    dim = WIDTHS[-1]
    """Length of a pixel's embedding."""
    stride = 2

    def __init__(self, channels: tuple[int, int, int, int], norm: NormKind, *, last_bias: bool = False) -> None:
        super().__init__()
        skips = (channels[2], channels[1], channels[0], 0)
        before = (channels[3], *WIDTHS[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(*_conv(below + skip, width, norm, nn.ReLU()), *_conv(width, width, norm, nn.ReLU()))
            for below, skip, width in zip(before, skips, WIDTHS, strict=True)
        )
        self.last = nn.Sequential(*_conv(self.dim, self.dim, norm, nn.GELU(), bias=last_bias))

    def forward(self, pyramid: FeaturePyramid) -> torch.Tensor:
        """Embeddings (image, dim, h / 2, w / 2)."""
        x = pyramid.stride32
        for block, skip in zip(self.blocks, (pyramid.stride16, pyramid.stride8, pyramid.stride4, None), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x if skip is None else torch.cat([x, skip], 1))
        embedded: torch.Tensor = self.last(x)
        return embedded


def _conv(before: int, after: int, norm: NormKind, act: nn.Module, *, bias: bool = False) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, padding=1, bias=bias), one_group(after, norm), act
