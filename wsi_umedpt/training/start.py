"""Start of training: the weights that `initial` and `distil_from` name."""

from dataclasses import replace

import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.backbones import Backbone
from wsi_umedpt.models.bundle import Release, load_release
from wsi_umedpt.models.names import parse_name
from wsi_umedpt.models.umedpt import UMedPT
from wsi_umedpt.models.weights import load_network, release_path
from wsi_umedpt.tasks import load_heads
from wsi_umedpt.tasks.base import Task
from wsi_umedpt.training.settings import PretrainConfig


def initial_model(config: PretrainConfig) -> UMedPT:
    """Build the shared model as it is before the first step.

    A UMedPT model of the same description, but perhaps for the grouper, gives all its weights, the
    standardisation of its embedding too; any other network gives those of the encoder.

    Raises
    ------
    EncoderError
        If the network that `initial` names is no encoder for the backbone.
    """
    torch.manual_seed(config.training.seed)
    shared = UMedPT(config.model)
    if release := _same_model(config):
        own = shared.state_dict()
        given = release.shared.state_dict().items()
        shared.load_state_dict(own | {k: v for k, v in given if k in own and v.shape == own[k].shape})
    elif config.initial:
        _fill(shared.encoder, config.initial, config.model.backbone)
    return shared


def initial_heads(config: PretrainConfig) -> dict[str, Task]:
    """Heads of the model that `initial` names, on CPU; none where it is no UMedPT model of the same description.

    A head serves the task of its name if kind and classes are the same, and both are of bags or both of images.
    """
    wanted = {(task.name, task.kind, task.classes, task.bags) for task in config.task}
    heads = load_heads(release) if (release := _same_model(config)) else {}
    found = {name: (name, head.spec.kind, head.spec.classes, head.spec.bags) for name, head in heads.items()}
    return {name: head for name, head in heads.items() if found[name] in wanted}


def kept_near(config: PretrainConfig, shared: UMedPT) -> Backbone:
    """The encoder whose maps `distil` holds the trained one's near: that of `distil_from`, else as it begins."""
    if not config.training.distil_from:
        return shared.encoder
    known = UMedPT(config.model)
    _fill(known.encoder, config.training.distil_from, config.model.backbone)
    return known.encoder


def _same_model(config: PretrainConfig) -> Release | None:
    """The UMedPT model that `initial` names, if it is of the same description; its grouper may be another."""
    if not config.initial or parse_name(config.initial).source not in ("release", "umedpt"):
        return None
    release = load_release(release_path(config.initial))
    return release if replace(release.shared.spec, grouper=config.model.grouper) == config.model else None


def _fill(encoder: Backbone, name: str, backbone: str) -> None:
    network, card = load_network(name)
    network = network.encoder if isinstance(network, UMedPT) else network
    own = encoder.state_dict()
    given = {key.removeprefix("net."): value for key, value in network.state_dict().items()}
    absent = [key for key in (k.removeprefix("net.") for k in own) if key not in given]
    if absent:
        raise EncoderError(
            f"{name} ({card.architecture}) is no encoder for backbone {backbone}: "
            f"{len(absent)} weights are missing, the first {absent[:3]}"
        )
    encoder.load_state_dict({key: given[key.removeprefix("net.")] for key in own})
