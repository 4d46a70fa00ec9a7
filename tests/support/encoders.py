"""Encoders that cost nothing, and are functions of the pixels alone."""

import numpy as np

from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.encoder import Encoder


class MeanEngine:
    """Embeds a tile as the means of its 4 x 4 fields: cheap, and a function of the pixels alone."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def submit(self, pixels, part_done=None):
        """Embed at once."""
        n, side = len(pixels), pixels.shape[1] // 4
        fields = pixels[:, : 4 * side, : 4 * side].reshape(n, 4, side, 4, side, 3).mean(axis=(2, 4))
        return lambda: (fields.reshape(n, 48) * self.scale).astype(np.float32)


def mean_encoder(name: str = "mean", scale: float = 1.0) -> Encoder:
    """An encoder of tiles of 64 px whose engine is a `MeanEngine`."""
    card = EncoderCard(
        name=name, architecture="", mpp=0.5, size_px=64, dim=48, mean=(0, 0, 0), std=(1, 1, 1), licence="-", source="-"
    )
    return Encoder(card, "torch", "cpu", "fp32", MeanEngine(scale))
