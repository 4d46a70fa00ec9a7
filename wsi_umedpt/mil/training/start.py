"""Starting a slide classifier from a grouper that was trained on patients' images, instead of from nothing.

A grouper weighs embeddings as they are; our networks see them standardised, and rectify what they make of
them. `start_from` sets the first layer so that it undoes both, so that a network begins with the grouper's
own weights of the tiles.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.networks.attention import GatedAttention
from wsi_umedpt.mil.networks.base import SlideNetwork
from wsi_umedpt.mil.settings import STARTED, FitSettings
from wsi_umedpt.models.grouper import Grouper
from wsi_umedpt.store.features import FeatureKind

_LOWEST = 0.17
"""GELU, and any mean of it, is above -0.17: this much more, and nothing is cut off by rectifying."""


def check_starts(options: Sequence[FitSettings], kind: FeatureKind) -> dict[str, str]:
    """Refuse what cannot be started from; sha256 of the weights of each that can, by its path.

    Raises
    ------
    MilError
        If a network has other shapes than its grouper, or features are not those that it was trained on.
    EncoderError, CheckpointError
        If a release has no grouper, or cannot be read.
    """
    found: dict[str, str] = {}
    for settings in options:
        if not settings.start_from or settings.start_from in found:
            continue
        from wsi_umedpt.models.weights import load_network  # timm takes seconds, and few studies start from a grouper

        grouper = _load(settings.start_from)
        _check_shapes(settings, grouper, kind.dim)
        card = load_network(f"umedpt:{settings.start_from}")[1]
        if kind.weights_sha256 and kind.weights_sha256 != card.weights_sha256:
            raise MilError(
                f"`start_from` {settings.start_from}: its grouper was trained on the embeddings of {card.name}, and "
                f"the features are those of {kind.encoder}. Embed with `model` umedpt:{settings.start_from}."
            )
        found[settings.start_from] = _digest(grouper)
    return found


def start_from(network: SlideNetwork, settings: FitSettings) -> None:
    """Begin with the weights that a grouper has; after `SlideNetwork.standardise`."""
    if not settings.start_from:
        return
    grouper = _load(settings.start_from)
    _check_shapes(settings, grouper, network.dim)
    if not isinstance(network, GatedAttention):
        raise MilError(f"only {', '.join(STARTED)} can start from a grouper")
    linear = network.embed[0]
    varies = network.scale > 0
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.where(varies, 1 / network.scale.clamp_min(1e-30), 0.0)))  # type: ignore[operator]
        linear.bias.copy_(network.mean + _LOWEST)  # type: ignore[operator]
        network.gates.weight.copy_(grouper.gates.weight)
        network.gates.bias.copy_(grouper.gates.bias - _LOWEST * grouper.gates.weight.sum(1))
        network.score.load_state_dict(grouper.score.state_dict())


def _load(path: str) -> Grouper:
    from wsi_umedpt.models.bundle import load_grouper  # as above

    return load_grouper(Path(path))


def _check_shapes(settings: FitSettings, grouper: Grouper, dim: int) -> None:
    spec = grouper.spec
    if spec.dim != dim:
        raise MilError(
            f"`start_from` {settings.start_from}: its grouper weighs embeddings of {spec.dim} numbers, and the "
            f"features have {dim}"
        )
    if (settings.hidden, settings.attention) != (spec.dim, spec.attention):
        raise MilError(
            f"`start_from` {settings.start_from}: its grouper needs `hidden` {spec.dim} `attention` {spec.attention}, "
            f"got {settings.hidden} and {settings.attention}"
        )


def _digest(grouper: Grouper) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(grouper.state_dict().items()):
        digest.update(f"{key} {[*value.shape]}\0".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
