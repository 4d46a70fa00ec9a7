"""The network that a card describes, with random weights, wrapped so that it gives one vector a tile.

Libraries are imported where they are needed: timm for most cards, transformers for some, torch alone for ours.
"""

import importlib
from typing import Any, cast

import timm
import torch
from timm import layers
from torch import nn

from wsi_umedpt.config import build
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.conv_stem import conv_stem
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT

_TIMM: Any = layers
_LAYERS: dict[str, Any] = {
    "SwiGLUPacked": _TIMM.SwiGLUPacked, "SwiGLU": _TIMM.SwiGLU, "GluMlp": _TIMM.GluMlp,
    "Mlp": _TIMM.Mlp, "SiLU": nn.SiLU, "GELU": nn.GELU, "ReLU": nn.ReLU, "LayerNorm": nn.LayerNorm,
    "conv_stem": conv_stem,
}  # fmt: skip
"""Classes that arguments may name; nothing else of a card becomes code."""
_TRANSFORMERS = ("ViTModel", "Dinov2Model", "Dinov2WithRegistersModel", "CLIPModel")


class Pooled(nn.Module):
    """A network whose tokens or maps are made into one vector."""

    def __init__(self, network: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.network = network
        self.pooling = card.pooling
        self.of_transformers = card.library == "transformers"
        self.before = self._tokens_before(card)

    def _tokens_before(self, card: EncoderCard) -> int:
        """Tokens before those of patches: the class token and registers."""
        if self.of_transformers:
            return 1 + int(card.arguments.get("num_register_tokens", 0))
        return int(getattr(self.network, "num_prefix_tokens", 0))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(image, token, channel), after the network's last norm."""
        network = cast("Any", self.network)
        if self.of_transformers:
            return cast("torch.Tensor", network(pixel_values=images).last_hidden_state)
        return cast("torch.Tensor", network.forward_features(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (image, 3, h, w) to (image, dim)."""
        network = cast("Any", self.network)
        if self.pooling == "map":
            return cast("torch.Tensor", network(images)[-1].mean((2, 3)))
        if self.pooling == "projection":
            seen = network.vision_model(pixel_values=images).pooler_output
            return cast("torch.Tensor", network.visual_projection(seen))
        tokens = self.tokens(images)
        if self.pooling == "class":
            return tokens[:, 0]
        patches = tokens[:, self.before :].mean(1)
        return patches if self.pooling == "mean" else torch.cat([tokens[:, 0], patches], 1)


def build_network(card: EncoderCard) -> nn.Module:
    """Make the network of a card, with random weights.

    Raises
    ------
    EncoderError
        If its library is not installed, or does not know it; or this project does not build it.
    """
    if card.library == "none" or card.library in ("package", "remote", "file"):
        raise EncoderError(f"{card.name} cannot be built here: {card.why_not or f'it is of library {card.library}'}")
    if card.model is not None:
        return UMedPT(build(ModelSpec, card.model, card.name))
    network = _of_transformers(card) if card.library == "transformers" else _of_timm(card)
    return network if card.pooling == "network" else Pooled(network, card)


def inner(network: nn.Module) -> nn.Module:
    """The network whose weights a file holds, without what pools its output."""
    return network.network if isinstance(network, Pooled) else network


def _of_timm(card: EncoderCard) -> nn.Module:
    check_timm_name(card.architecture)
    arguments: dict[str, Any] = {"num_classes": 0, **meant_arguments(card)}
    try:
        network: nn.Module = timm.create_model(card.architecture, pretrained=False, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        said = ", ".join(f"{key}={value}" for key, value in card.arguments.items()) or "none"
        raise EncoderError(f"timm cannot build {card.architecture} with the arguments {said}: {error}") from None
    return network


def check_timm_name(name: str) -> None:
    """Refuse a name that is none of timm's models."""
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5]
        hint = f" Near: {', '.join(near)}." if near else ""
        raise EncoderError(f"timm has no model {name!r}.{hint}")


def meant_arguments(card: EncoderCard) -> dict[str, Any]:
    """Arguments with classes in the place of their names."""
    return {
        key: _layer(value, f"{card.name}: {key}") if key.endswith("_layer") and isinstance(value, str) else value
        for key, value in card.arguments.items()
    }


def _layer(name: str, where: str) -> Any:
    if name not in _LAYERS:
        raise EncoderError(f"{where} is one of {', '.join(_LAYERS)}, got {name!r}")
    return _LAYERS[name]


def _of_transformers(card: EncoderCard) -> nn.Module:
    made: Any = getattr(need("transformers", card.name), card.architecture, None)
    config, more = config_of(card)
    network: nn.Module = made(config, **more)
    return network


def config_of(card: EncoderCard) -> tuple[Any, dict[str, Any]]:
    """A network's configuration, and what else it is built with."""
    transformers = need("transformers", card.name)
    if card.architecture not in _TRANSFORMERS:
        raise EncoderError(
            f"{card.name}: of transformers, {', '.join(_TRANSFORMERS)} are known, not {card.architecture}"
        )
    config = getattr(transformers, card.architecture).config_class(**card.arguments)
    # A layer after the class token that is trained for no task of ours.
    return config, {"add_pooling_layer": False} if card.architecture == "ViTModel" else {}


def need(package: str, name: str) -> Any:
    """Import an optional package, or say how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise EncoderError(f"{name} needs the package {package}: pip install 'wsi-umedpt[{package}]'") from None
