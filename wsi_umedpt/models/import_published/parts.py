"""Recognition of our encoder's and squeezer's weights in a published file.

Each finder takes blocks and gives a `Found`: our names and their tensors, and which of their names were
used, so that what nobody understood can be refused by name. Names before and around those that are
looked for differ between versions, so parts are known by endings and shapes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import timm
import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.io.tensors import outline
from wsi_umedpt.models.backbones import SWINS, SwinSize, make_backbone
from wsi_umedpt.models.import_published.files import Block
from wsi_umedpt.models.weight_files import State

_FIRST = "features.0.0.weight"
"""torchvision's name of the patch embedding's convolution."""
_STAGES = "1357"
"""Stages among torchvision's features; the others are the patch embedding and mergings."""
_ARCHITECTURE = re.compile(r"(pretrained_cfg|default_cfg)\.(architecture|architecture_name)$")


@dataclass(eq=False)
class Found:
    """Weights of one part."""

    weights: State
    """Weights by our names, within the part."""
    used: set[str]
    """Their names, within the block."""
    affine: bool
    """True if its norms have weights."""
    block: Block
    root: str = ""
    """Prefix of their names."""
    unused: set[str] = field(default_factory=set)
    """Names that are understood and say nothing of the features: a classifier and the norm before it."""
    why: str = ""
    """Reason why it is not ours after all."""


@dataclass(eq=False)
class FoundEncoder(Found):
    """The encoder, and which it is."""

    backbone: str = ""
    channels: tuple[int, int, int, int] = (0, 0, 0, 0)


def find_encoder(blocks: Iterable[Block], asked: str | None) -> FoundEncoder:
    """Find the encoder: torchvision's Swin Transformer V2, or a network of timm.

    Parameters
    ----------
    blocks
        All parts.
    asked
        Name of a timm model; None where the file says it, or it is a Swin.

    Raises
    ------
    EncoderError
        If there is none or several, or it is not read.
    """
    blocks = [*blocks]
    swins = [
        (block, key.removesuffix(_FIRST))
        for block in blocks
        for key, value in block.tensors.items()
        if key.endswith(_FIRST) and value.ndim == 4 and value.shape[1:] == (3, 4, 4)
    ]
    if len(swins) == 1 and not asked:
        return _swin(*swins[0])
    if swins and not asked:
        raise EncoderError(f"{len(swins)} Swin Transformers were found, expected one: {_places(swins)}")
    named = [(block, name) for block in blocks for name in [asked or _architecture(block)] if name]
    fits = [found for block, name in named if (found := _timm(block, name))]
    if len(fits) == 1:
        return fits[0]
    if named:
        raise EncoderError(
            f"{len(fits)} parts hold the weights of timm's {named[0][1]}, expected one: "
            f"{', '.join(found.block.name for found in fits) or 'none'} of {_described(blocks)}"
        )
    raise EncoderError(
        f"no encoder was found among {_described(blocks)}. Known are Swin Transformer V2 with torchvision's names "
        f"(one ends in {_FIRST}) and networks of timm; where the file does not say which, name it with `backbone`."
    )


def _swin(block: Block, root: str) -> FoundEncoder:
    given = {k.removeprefix(root): v for k, v in block.tensors.items() if k.startswith(f"{root}features.")}
    width = int(given[_FIRST].shape[0])
    unused = {
        f"{root}{key}"
        for key, shape in (("norm.weight", 1), ("norm.bias", 1), ("head.weight", 2), ("head.bias", 1))
        if (value := block.tensors.get(f"{root}{key}")) is not None
        and value.ndim == shape
        and (key == "head.bias" or value.shape[-1] == 8 * width)
    }
    return FoundEncoder(
        weights=given,
        used={f"{root}{key}" for key in given} | unused,
        affine=any(key.endswith("norm1.weight") for key in given),
        block=block,
        root=root,
        unused=unused,
        backbone=_which_swin(given, width),
        channels=(width, 2 * width, 4 * width, 8 * width),
    )


def _which_swin(given: State, width: int) -> str:
    """Name in `SWINS`, by width, blocks and heads of each stage, and window."""
    depths = [len({key.split(".")[2] for key in given if key.startswith(f"features.{n}.")}) for n in _STAGES]
    heads = [
        int(value.shape[0]) if (value := given.get(f"features.{n}.0.attn.logit_scale")) is not None else 0
        for n in _STAGES
    ]
    table = given.get("features.1.0.attn.relative_coords_table")
    for name, size in SWINS.items():
        window = size.window if table is None else (int(table.shape[1]) + 1) // 2
        if SwinSize(width, (*depths,), (*heads,), size.drop_path, window) == size:  # type: ignore[arg-type]
            return name
    raise EncoderError(
        f"a Swin Transformer V2 of width {width} with {depths} blocks and {heads} heads"
        f"{'' if table is None else f' and a window of {(int(table.shape[1]) + 1) // 2}'} is not known; known are "
        f"{', '.join(SWINS)}"
    )


def _architecture(block: Block) -> str:
    """Name of the timm model that a block says it is."""
    names = {str(value) for key, value in block.settings.items() if _ARCHITECTURE.search(key)}
    known = sorted(name for name in names if timm.is_model(name.split(".")[0]))
    return known[0] if len(known) == 1 else ""


def _timm(block: Block, name: str) -> FoundEncoder | None:
    """A network of timm in a block, whether its maps were taken by their names or out of the whole."""
    if name in SWINS:
        raise EncoderError(f"`backbone` names a network of timm; {name} is told by its weights")
    backbone = outline(lambda: make_backbone(name))
    channels = _channels(name)
    ours = {_flat(key.removeprefix("net.")): key for key in backbone}
    whole = {_flat(key) for key in outline(lambda: _whole(name))}
    first = next(iter(ours))
    for key in block.tensors:
        if not _flat(key).endswith(first):
            continue
        root = key[: len(key) - len(first)]
        here = {k: _flat(k.removeprefix(root)) for k in block.tensors if k.startswith(root)}
        weights = {ours[flat]: block.tensors[k] for k, flat in here.items() if flat in ours}
        unused = {k for k, flat in here.items() if flat in whole and flat not in ours}
        norms = [n for n in backbone if ".norm" in n and n.endswith(".weight")]
        affine = any(n in weights for n in norms) or any(n.endswith("running_mean") for n in weights)
        return FoundEncoder(
            weights=weights,
            used={k for k, flat in here.items() if flat in ours} | unused,
            affine=affine,
            block=block,
            root=root,
            unused=unused,
            backbone=name,
            channels=channels,
        )
    return None


def _channels(name: str) -> tuple[int, int, int, int]:
    with torch.device("meta"):
        return make_backbone(name).channels


def _whole(name: str) -> nn.Module:
    made: nn.Module = timm.create_model(name, pretrained=False)
    return made


def _flat(key: str) -> str:
    """A name of timm's; its networks for maps have an underscore where the whole ones have a dot."""
    return key.replace("_", ".")


@dataclass(eq=False)
class Squeezer:
    """A squeezer that was found, not understood yet."""

    block: Block
    root: str
    """Prefix of the names of its weights."""
    conv: str
    """Name of its convolution's weight; empty for one that changes nothing."""
    weights: State


def find_squeezers(blocks: Mapping[str, tuple[Block, State]], deepest: int) -> dict[str, Squeezer]:
    """All squeezers that there are, by name.

    Parameters
    ----------
    blocks
        By name: those that may hold one, and which of their tensors no other part has used.
    deepest
        Channels of the encoder's deepest map.
    """
    found = {}
    for name, (block, rest) in blocks.items():
        convs = [k for k, v in rest.items() if v.ndim == 4 and v.shape[1:] == (deepest, 1, 1)]
        if block.whole and not block.tensors and _changes_nothing(block):
            found[name] = Squeezer(block, "", "", {})
        alone = block.whole and len(convs) == 1 and len(rest) == len(block.tensors)
        for conv in convs:
            root = "" if alone else _root(conv, rest)
            place = ".".join(part for part in (name if block.whole or not root else "", root.rstrip(".")) if part)
            found[place] = Squeezer(block, root, conv, {k: v for k, v in rest.items() if k.startswith(root)})
    return found


def _changes_nothing(block: Block) -> bool:
    """Return whether a block without weights is a squeezer that leaves the deepest map as it is."""
    named = "squeez" in f"{block.name} {block.kind}".lower()
    return named or any(k.endswith("out_channels") and v == -1 for k, v in block.settings.items())


def _root(conv: str, rest: State) -> str:
    """Prefix of the names of a squeezer: as short as it holds one convolution and vectors alone."""
    parts = conv.split(".")[:-1]
    dim = rest[conv].shape[0]
    for n in range(len(parts)):
        root = "".join(f"{part}." for part in parts[:n])
        shapes = [tuple(v.shape) for k, v in rest.items() if k.startswith(root) and k != conv]
        if all(shape in ((dim,), ()) for shape in shapes):
            return root
    return conv.removesuffix("weight")


def read_squeezer(here: Squeezer) -> Found | None:
    """Understand a squeezer; None for one that changes nothing.

    Raises
    ------
    EncoderError
        If it computes, or may compute, anything but ours does.
    """
    block = here.block
    _check_layers(here)
    if not here.conv:
        return None
    stem = here.conv.removesuffix("weight")
    dim = here.weights[here.conv].shape[0]
    weights = {
        "conv.weight": here.weights[here.conv], "conv.bias": here.weights.get(f"{stem}bias", torch.zeros(dim)),
    }  # fmt: skip
    rest = sorted({*here.weights} - {here.conv, f"{stem}bias"})
    # Its norm: a weight and a bias, a number for each channel.
    norms = {
        k.removesuffix("weight") for k in rest if k.endswith("weight") and f"{k.removesuffix('weight')}bias" in rest
    }
    if len(norms) == 1:
        norm = next(iter(norms))
        weights |= {f"norm.{part}": here.weights[f"{norm}{part}"] for part in ("weight", "bias")}
        rest = [k for k in rest if k not in (f"{norm}weight", f"{norm}bias")]
    if rest:
        raise EncoderError(
            f"the squeezer {block.name} ({block.file}) has weights that are not understood: {', '.join(rest[:6])}. "
            "Known is a 1x1 convolution with a norm over all channels of an image, and the mean over positions; a "
            "BatchNorm (running_mean) or a pooling with weights of its own computes something else. If several "
            "squeezers lie in it, save the state_dict() of one to a file of its own."
        )
    return Found(weights, {*here.weights}, bool(norms), block, here.root)


_IDLE = ("Identity", "AdaptiveAvgPool2d", "Dropout", "Dropout2d", "Flatten", "Sequential", "ModuleList", "ModuleDict")
_HARMLESS = (*_IDLE, "Conv2d", "GroupNorm", "GELU")


def _check_layers(here: Squeezer) -> None:
    """Refuse a whole module whose squeezer is made of other layers than ours; a state dict does not say."""
    block = here.block
    if not block.whole:
        return
    place = f"the squeezer {block.name} ({block.file})"
    inside = {path: layer for path, layer in block.layers.items() if f"{path}.".startswith(here.root) or not here.root}
    for path, layer in inside.items():
        kind = layer.kind.rpartition(".")[2]
        of_torch = layer.kind.startswith("torch.nn.")
        if of_torch and kind not in (_HARMLESS if here.conv else _IDLE):
            raise EncoderError(f"{place} holds the layer {path or 'itself'}, a {kind}, which is not understood there")
        if not of_torch and re.search(r"attention|max", f"{path.rpartition('.')[2]} {kind}".lower()):
            raise EncoderError(f"{place} pools by {layer.kind}; known is the mean over positions")
        if kind == "GELU" and layer.settings.get("approximate", "none") != "none":
            raise EncoderError(f"{place}: its GELU is approximated by {layer.settings['approximate']}")
    for key, value in block.settings.items():
        if key.startswith(here.root) and "pool" in key.rpartition(".")[2].lower() and isinstance(value, str):
            if not re.search(r"av(era)?g|mean", value.lower()) or "max" in value.lower():
                raise EncoderError(f"{place} has {key} {value!r:.60}; known is the mean over positions")
    if here.conv and (why := other_norms(block, here.root, 1, 1)):
        raise EncoderError(f"{place} {why}")


def other_norms(block: Block, root: str, count: int, groups: int) -> str:
    """Reason why a whole module's norms are not so many GroupNorms of so many groups; empty if they are."""
    inside = {path: layer for path, layer in block.layers.items() if f"{path}.".startswith(root) or not root}
    norms = {
        p: layer
        for p, layer in inside.items()
        if layer.kind.startswith("torch.nn.") and "Norm" in layer.kind.rpartition(".")[2]
    }
    for path, layer in norms.items():
        kind, given = layer.kind.rpartition(".")[2], layer.settings
        eps = given.get("eps", 1e-5)
        if kind != "GroupNorm" or given.get("num_groups") != groups or not abs(float(eps) - 1e-5) < 1e-9:
            return (
                f"has the norm {path}, a {kind} of {given.get('num_groups', 'no')} groups and eps {eps}; known is a "
                f"GroupNorm of {groups} and 1e-05"
            )
    return "" if len(norms) == count else f"has {len(norms)} norms, expected {count}"


def _places(found: Iterable[tuple[Block, str]]) -> str:
    return ", ".join(f"{block.file}: {root.rstrip('.') or block.name}" for block, root in found)


def _described(blocks: list[Block]) -> str:
    """Parts and their classes, in words."""
    return ", ".join(f"{b.name} ({b.kind or f'{len(b.tensors)} weights'})" for b in blocks[:12]) or "no parts"
