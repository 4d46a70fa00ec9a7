"""CTransPath's patch embedding: three convolutions instead of one.

Wang et al., Medical Image Analysis 81 (2022), doi 10.1016/j.media.2022.102559.
"""

from typing import Any

import torch
from torch import nn


class ConvStem(nn.Module):
    """Images to (image, h / 4, w / 4, channel): two convolutions of stride 2, then one of 1 x 1."""

    def __init__(self, img_size: int, in_chans: int, embed_dim: int, norm_layer: Any) -> None:
        super().__init__()
        width = embed_dim // 8
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, embed_dim, 1),
        )  # fmt: skip
        self.norm = norm_layer(embed_dim)
        self.img_size, self.patch_size = (img_size, img_size), (4, 4)
        self.grid_size = (img_size // 4, img_size // 4)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (image, 3, h, w)."""
        found: torch.Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return found


def conv_stem(
    img_size: Any = 224, in_chans: int = 3, embed_dim: int = 96, norm_layer: Any = nn.LayerNorm, **_: Any
) -> ConvStem:
    """`ConvStem` by the arguments that timm's Swin gives the layer in its place."""
    side = img_size[0] if isinstance(img_size, tuple | list) else img_size
    return ConvStem(int(side), in_chans, embed_dim, norm_layer or nn.Identity)
