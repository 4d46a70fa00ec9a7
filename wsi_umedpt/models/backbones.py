"""Backbones as feature pyramids: an image in, four maps of strides 4, 8, 16 and 32 out.

Two sources: any timm model whose feature contract offers these strides, and torchvision's
Swin Transformer V2, which takes any image size and whose weight names published UMedPT
encoders carry. Decoders are built from `Backbone.channels` alone.
"""

from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    ShiftedWindowAttentionV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

from wsi_umedpt.errors import EncoderError

STRIDES = (4, 8, 16, 32)


class FeaturePyramid(NamedTuple):
    """Feature maps of one batch of images, each (image, channel, h / stride, w / stride)."""

    stride4: torch.Tensor
    stride8: torch.Tensor
    stride16: torch.Tensor
    stride32: torch.Tensor


class SwinSize(NamedTuple):
    """Size of a Swin Transformer V2."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    drop_path: float
    window: int = 8


SWINS = {
    "swinv2_micro": SwinSize(48, (2, 2, 4, 2), (3, 6, 12, 24), 0.1),
    "swinv2_tiny": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "swinv2_small": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "swinv2_base": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
    "swinv2_large": SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.2, window=16),
}
"""Sizes tiny to large as in Liu et al., Swin Transformer V2, CVPR 2022; micro trains on two cores."""


class Backbone(nn.Module):
    """A network that gives a `FeaturePyramid`."""

    channels: tuple[int, int, int, int]

    def forward(self, images: torch.Tensor) -> FeaturePyramid:
        """Images (image, 3, h, w), h and w multiples of 32."""
        raise NotImplementedError


class SwinBackbone(Backbone):
    """torchvision's Swin Transformer V2, any image size."""

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        whole = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=size.embed_dim,
            depths=[*size.depths],
            num_heads=[*size.heads],
            window_size=[size.window, size.window],
            stochastic_depth_prob=size.drop_path,
            num_classes=1,
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
        )
        # The classifier and the norm before it are not part of the pyramid.
        self.features: nn.Sequential = whole.features
        c = size.embed_dim
        self.channels = (c, 2 * c, 4 * c, 8 * c)

    def forward(self, images: torch.Tensor) -> FeaturePyramid:
        """See `Backbone.forward`."""
        maps = []
        x = images
        for i, stage in enumerate(self.features):
            x = stage(x)  # (image, h, w, channel)
            if i % 2 == 1:  # even: patch embedding or merging; odd: the blocks of a stage
                maps.append(x.permute(0, 3, 1, 2))
        return FeaturePyramid(*maps)


def swin_tables(window: int) -> dict[str, torch.Tensor]:
    """Position tables of a window, as every attention of a Swin Transformer V2 holds them: not learned."""
    attention = ShiftedWindowAttentionV2(1, [window, window], [0, 0], 1)
    return {name: value for name, value in attention.named_buffers() if name.startswith("relative")}


class TimmBackbone(Backbone):
    """A timm model through its feature contract."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if not timm.is_model(name.split(".")[0]):
            raise EncoderError(f"timm has no model {name!r}, and it is none of {', '.join(SWINS)}")
        try:
            whole: Any = timm.create_model(name, pretrained=False, features_only=True)
            at = [whole.feature_info.reduction().index(stride) for stride in STRIDES]
        except (ValueError, RuntimeError, AttributeError) as error:
            raise EncoderError(
                f"timm's {name} gives no feature maps of strides {STRIDES}: {error}. "
                "A convolutional or hierarchical model is needed, for example resnet50 or convnext_tiny."
            ) from None
        net: Any = timm.create_model(name, pretrained=False, features_only=True, out_indices=at)
        self.net: nn.Module = net
        c = [int(n) for n in net.feature_info.channels()]
        self.channels = (c[0], c[1], c[2], c[3])
        # Some networks of timm give (image, h, w, channel); shapes alone cannot tell where h is c.
        self._channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: torch.Tensor) -> FeaturePyramid:
        """See `Backbone.forward`."""
        maps = self.net(images)
        return FeaturePyramid(*(m.permute(0, 3, 1, 2) for m in maps) if self._channels_last else maps)


def make_backbone(name: str) -> Backbone:
    """A backbone with random weights: a name of `SWINS`, or one of timm."""
    return SwinBackbone(SWINS[name]) if name in SWINS else TimmBackbone(name)
