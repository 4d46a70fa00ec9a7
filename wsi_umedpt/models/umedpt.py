"""UMedPT's shared model: one encoder and two decoders, trained by every task.

After Schaefer et al., Overcoming data scarcity in biomedical imaging with a foundational
multi-task model, Nature Computational Science 4 (2024), written anew. Four parts, read in the
order of the data: `encoder` (image to pyramid), `squeezer` (deepest map to an embedding),
`pixels` (pyramid to an embedding of every second pixel), `boxes` (pyramid to box features). Where
tasks have bags of images, a fifth, `grouper`, makes one embedding of those of a bag.
The squeezed map replaces the pyramid's deepest, so that every kind of label trains it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn import functional as F

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.backbones import STRIDES, FeaturePyramid, make_backbone
from wsi_umedpt.models.fcos import BoxDecoder
from wsi_umedpt.models.grouper import Grouper, GrouperSpec
from wsi_umedpt.models.norms import NORMS, NormKind, batch_norms, rewrite_norms
from wsi_umedpt.models.squeezer import Pooling, Squeezer, SqueezerKind
from wsi_umedpt.models.unet import PixelDecoder

Vector = Literal["squeezed", "maps"]
"""squeezed: the mean of the squeezed map. maps: the means of the encoder's maps of strides 8, 16 and 32,
standardised by fixed numbers; nothing is squeezed out of it, and what early layers see stays in it."""
PARTS = ("encoder", "squeezer", "pixels", "boxes")
"""Parts of `UMedPT` that see images, as its weights name them."""
_MOST_DIM = 16_384
_AS_EVER = (("vector", "squeezed"), ("squeezer", "convolution"), ("decoder_bias", False), ("grouper", 0))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Specification of the shared model; two equal specs give the same architecture."""

    backbone: str = "swinv2_tiny"
    """A name of `SWINS`, or a timm model with maps of strides 4 to 32."""
    dim: int = 512
    """Channels of the squeezed map; length of an image's embedding where that is `squeezed`."""
    vector: Vector = "squeezed"
    """Kind of an image's embedding; see `Vector`."""
    norm: NormKind = "layernorm"
    """Norms inside; see `NormKind`."""
    pooling: Pooling = "after"
    """Place where the vector is pooled; see `Pooling`."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Pixels in [0, 1] enter as (pixel - mean) / std."""
    squeezer: SqueezerKind = "convolution"
    """Without one, `dim` is the number of channels of the deepest map."""
    decoder_bias: bool = False
    """True if the pixel decoder's last convolution has a bias, as published ones do."""
    grouper: int = 0
    """Width of the attention over the images of a bag, which tasks on bags share; 0: none."""

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm is one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.vector not in get_args(Vector):
            raise ValueError(f"vector is one of {', '.join(get_args(Vector))}, got {self.vector!r}")
        if not 1 <= self.dim <= _MOST_DIM:
            raise ValueError(f"dim is from 1 to {_MOST_DIM:,}, got {self.dim}")
        if self.grouper < 0:
            raise ValueError(f"grouper is the width of its attention, or 0 for none, got {self.grouper}")
        if not all(1e-6 <= s <= 1e6 for s in self.std) or not all(abs(m) <= 1e6 for m in self.mean):
            raise ValueError(f"std is from 1e-6 to 1e6 and mean from -1e6 to 1e6, got {self.std} and {self.mean}")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them.

        Those that younger versions added are left out where they are as they always were, since the
        names of encoders and what they made hang on it.
        """
        said = {**asdict(self), "mean": [*self.mean], "std": [*self.std]}
        return {key: value for key, value in said.items() if (key, value) not in _AS_EVER}


class Features(NamedTuple):
    """Output of one pass of the encoder; every head starts from here."""

    pyramid: FeaturePyramid
    """Strides 4 to 32; the deepest is the squeezed map, (image, dim, h / 32, w / 32)."""
    vector: torch.Tensor
    """(image, vector_dim); where bags were given, (bag, vector_dim)."""
    size: tuple[int, int]
    """Height and width of the images, px, before they were padded to multiples of 32."""
    deepest: torch.Tensor
    """The encoder's own map of stride 32, before it was squeezed."""


class UMedPT(nn.Module):
    """The shared model."""

    mean: torch.Tensor
    std: torch.Tensor
    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.float32_encoder = False
        """Run the encoder in float32 under autocast too: on CPU, depthwise convolutions are slower in bfloat16."""
        self.encoder = make_backbone(spec.backbone)
        rewrite_norms(self.encoder, spec.norm)
        channels = (*self.encoder.channels[:3], spec.dim)
        self.vector_dim = spec.dim if spec.vector == "squeezed" else sum(self.encoder.channels[1:])
        """Length of an image's embedding."""
        if spec.vector == "maps":
            self.register_buffer("centre", torch.zeros(self.vector_dim))
            self.register_buffer("spread", torch.ones(self.vector_dim))
        if spec.squeezer == "none" and spec.dim != self.encoder.channels[3]:
            raise EncoderError(
                f"without a squeezer, dim is what {spec.backbone}'s deepest map has, {self.encoder.channels[3]} "
                f"channels, got {spec.dim}"
            )
        self.squeezer = Squeezer(self.encoder.channels[3], spec.dim, spec.norm, spec.pooling, spec.squeezer)
        self.pixels = PixelDecoder(channels, spec.norm, last_bias=spec.decoder_bias)
        self.boxes = BoxDecoder(channels)
        self.grouper: Grouper | None = None
        if spec.grouper:
            self.grouper = Grouper(GrouperSpec(dim=self.vector_dim, attention=spec.grouper))
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "UMedPT":
        """Switch training on or off; frozen norms stay as in evaluation."""
        super().train(mode)
        if self.spec.norm == "frozenbatchnorm":
            for norm in batch_norms(self.encoder):
                norm.eval()
        return self

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Images, uint8 (image, 3, h, w), as `features` takes them."""
        return ((images.to(self.mean.dtype) / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def pyramid(self, images: torch.Tensor) -> FeaturePyramid:
        """Run the encoder alone: maps of strides 4 to 32 as it gives them, of images as `features` takes them."""
        right, bottom = (-n % STRIDES[-1] for n in images.shape[:1:-1])
        if right or bottom:
            images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        kind = images.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not self.float32_encoder):
            maps: FeaturePyramid = self.encoder(images)
        return maps

    def features(self, images: torch.Tensor, bags: torch.Tensor | None = None) -> Features:
        """Run the encoder and the squeezer, and the grouper on bags.

        Parameters
        ----------
        images : float (image, 3, h, w)
            Normalised. Sides that are no multiple of 32 are padded at the right and the bottom
            by repeating the border.
        bags : int64 (image,)
            The bag of each image, where labels are of bags.

        Raises
        ------
        EncoderError
            If bags are given to a model without a grouper.
        """
        pyramid = self.pyramid(images)
        squeezed, vector = self.squeezer(pyramid.stride32)
        if self.spec.vector == "maps":
            vector = self.map_means(pyramid)
        if bags is not None:
            if self.grouper is None:
                raise EncoderError("the model has no grouper for bags of images (`grouper` in its spec is 0)")
            vector = self.grouper.pooled(vector, bags)
        height, width = images.shape[2:]
        return Features(pyramid._replace(stride32=squeezed), vector, (height, width), pyramid.stride32)

    def vectors(self, pyramid: FeaturePyramid) -> torch.Tensor:
        """Embeddings, (image, vector_dim), of images whose pyramid the encoder gave."""
        if self.spec.vector == "maps":
            return self.map_means(pyramid)
        vectors: torch.Tensor = self.squeezer(pyramid.stride32)[1]
        return vectors

    def map_means(self, pyramid: FeaturePyramid) -> torch.Tensor:
        """Standardised means of the encoder's maps of strides 8, 16 and 32, (image, vector_dim)."""
        means = torch.cat([one.mean((2, 3)) for one in pyramid[1:]], 1)
        return (means - self.centre) / self.spread

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed normalised images: float (image, 3, h, w) to (image, vector_dim)."""
        return self.vectors(self.pyramid(images))
