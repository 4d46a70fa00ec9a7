"""Encoders of users: any torch network, and names that load them."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.encoder import Encoder
from wsi_umedpt.models.engines import TorchEngine
from wsi_umedpt.models.names import REGISTERED
from wsi_umedpt.models.weight_files import weights_sha256

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LoadEncoder = Callable[[str], Encoder]
"""Loads an encoder onto a device: ``cpu``, ``cuda:0``, ..."""


def register_encoder(name: str, load: LoadEncoder) -> None:
    """Let an encoder of one's own be called by name, in this process: by `load_encoder`, `embed` and heads of probes.

    A package does the same for every process, the command line and Dask workers included, with an entry point of the
    group ``wsi_umedpt.encoders`` that names such a function.

    Parameters
    ----------
    name
        Name that users type; the features are called as the encoder's card says.
    load
        Called with a device; returns the encoder, as `Encoder.from_module` makes one.
    """
    REGISTERED.add(name, load)


def encoder_from_module(
    network: nn.Module, *, name: str, mpp: float | None = None, size_px: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
) -> Encoder:  # fmt: skip
    """See `Encoder.from_module`."""
    if not re.fullmatch(r"[\w.\-]+", name, re.ASCII):
        raise EncoderError(f"an encoder is named by letters, digits, '.', '_' and '-', got {name!r}")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise EncoderError(f"mean and std are of red, green and blue, std over 0; got {list(mean)} and {list(std)}")
    state = network.state_dict()
    device = str(next((tensor.device for tensor in state.values()), torch.device("cpu")))
    network.eval()
    with torch.inference_mode():
        vectors = network(torch.zeros(2, 3, size_px, size_px, device=device))
    if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2 or len(vectors) != 2:
        found = tuple(vectors.shape) if isinstance(vectors, torch.Tensor) else type(vectors).__name__
        raise EncoderError(f"{name} should return a vector a tile, (2, dim) for 2 tiles; it returns {found}")
    red, green, blue = mean
    card = EncoderCard(
        name=name, library="file", architecture="", mpp=mpp, size_px=size_px, dim=vectors.shape[1],
        mean=(red, green, blue), std=(std[0], std[1], std[2]), licence="not stated", source="a network of the user's",
        weights_sha256=weights_sha256(network),
    )  # fmt: skip
    return Encoder(card, "torch", device, "fp32", TorchEngine(network, card, device, "fp32"))
