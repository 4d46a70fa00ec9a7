"""The shared box decoder: a pyramid in, features for box classes and box sides out.

FCOS (Tian et al., ICCV 2019) on a feature pyramid network (Lin et al., CVPR 2017): five levels
of strides 8 to 128, and two towers that are shared over levels. The towers belong to the shared
model; a task's own part is one convolution for each kind of output (`tasks.detection`).
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.models.backbones import FeaturePyramid

BOX_STRIDES = (8, 16, 32, 64, 128)
WIDTH = 128
_DEPTH = 4
_GROUPS = 32


class BoxFeatures(NamedTuple):
    """Features of five levels, each (image, WIDTH, h / stride, w / stride), rounded up."""

    classes: tuple[torch.Tensor, ...]
    sides: tuple[torch.Tensor, ...]


class BoxDecoder(nn.Module):
    """Feature pyramid and towers."""

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels[1:])
        self.smooth = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in channels[1:])
        self.down64 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.down128 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.class_tower = _tower()
        self.side_tower = _tower()

    def forward(self, pyramid: FeaturePyramid) -> BoxFeatures:
        """See `BoxFeatures`."""
        x = self.lateral[2](pyramid.stride32)
        maps = [x]
        for lateral, level in ((self.lateral[1], pyramid.stride16), (self.lateral[0], pyramid.stride8)):
            x = lateral(level) + F.interpolate(x, size=level.shape[2:], mode="nearest")
            maps.insert(0, x)
        fine = [smooth(m) for smooth, m in zip(self.smooth, maps, strict=True)]
        # Never in bfloat16: on CPU, bfloat16 convolutions of maps narrower than their kernel give
        # garbage now and then (torch 2.14, oneDNN), and these maps cost next to nothing.
        with torch.autocast(x.device.type, enabled=False):
            x64 = self.down64(fine[-1].to(self.down64.weight.dtype))
            coarse = [x64, self.down128(F.relu(x64))]
            coarse_classes = [self.class_tower(m) for m in coarse]
            coarse_sides = [self.side_tower(m) for m in coarse]
        return BoxFeatures(
            (*(self.class_tower(m) for m in fine), *coarse_classes),
            (*(self.side_tower(m) for m in fine), *coarse_sides),
        )


def _tower() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(_DEPTH):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GroupNorm(_GROUPS, WIDTH), nn.GELU()]
    return nn.Sequential(*layers)
