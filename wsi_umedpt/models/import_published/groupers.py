"""Recognition of our grouper's weights in a published file: gated attention over the images of a bag."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wsi_umedpt.io.tensors import flaw
from wsi_umedpt.models.grouper import GrouperSpec
from wsi_umedpt.models.import_published.files import Block
from wsi_umedpt.models.import_published.parts import Found
from wsi_umedpt.models.weight_files import State

_ROLES = {"tanh": r"tanh|attention_v|attn_v|\bv\b|signal", "sigmoid": r"sigmoid|gate|attention_u|attn_u|\bu\b"}
"""Parts of names that tell the two layers, in the letters of Ilse et al. 2018 among others."""


@dataclass(eq=False)
class FoundGrouper(Found):
    """A grouper, and what it is built from; see `Found.why` for one that is not ours."""

    spec: GrouperSpec | None = None
    output: str = ""
    """Name of the layer that follows the weighted sum, if there is one; slide classifiers learn their own."""


def find_grouper(block: Block, rest: State, dim: int) -> FoundGrouper | None:
    """Find a grouper by its name; None if there is none.

    Parameters
    ----------
    block, rest
        A part, and which of its tensors no other part has used.
    dim
        Length of an image's embedding.
    """
    if block.whole:
        root = "" if "group" in f"{block.name} {block.kind}".lower() else None
    else:
        roots = {match[1] for key in rest if (match := re.match(r"(?i)((?:[^.]+\.)*?[^.]*group[^.]*\.)", key))}
        root = next(iter(roots)) if len(roots) == 1 else "" if "group" in block.name.lower() else None
    inside = {} if root is None else {key: value for key, value in rest.items() if key.startswith(root)}
    if root is None or not inside:
        return None
    found = FoundGrouper({}, {*inside}, True, block, root)
    found.why = _read(found, inside, dim) or flaw(found.weights)
    return found


def _read(found: FoundGrouper, inside: State, dim: int) -> str:
    """Fill in what is found, or why it is not ours."""
    layers = {key.removesuffix(".weight"): value for key, value in inside.items() if key.endswith(".weight")}
    known = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    if strange := [key for key in inside if key not in known] or [k for k, v in layers.items() if v.ndim != 2]:
        return f"it has weights that gated attention does not have: {', '.join(strange[:3])}"
    roles = _roles(found.block, layers, found.root)
    gates, score, output = _split(layers, roles, dim)
    if not gates:
        shapes = ", ".join(f"{name.removeprefix(found.root)} {tuple(v.shape)}" for name, v in layers.items())
        return (
            f"gated attention over embeddings of {dim} numbers has two layers of (n, {dim}) and one of (1, n); "
            f"this one has {shapes}"
        )
    if sorted(roles[name] for name in gates) != ["sigmoid", "tanh"]:
        return f"which of {' and '.join(sorted(gates))} is followed by tanh, and which by a sigmoid, is not said"
    first, second = sorted(gates, key=lambda name: roles[name] != "tanh")
    biases = {name: inside.get(f"{name}.bias", torch.zeros(len(layers[name]))) for name in (first, second, score)}
    found.weights = {
        "gates.weight": torch.cat([layers[first], layers[second]]).float(),
        "gates.bias": torch.cat([biases[first], biases[second]]).float(),
        "score.weight": layers[score].float(),
        "score.bias": biases[score].float(),
    }
    found.spec = GrouperSpec(dim=dim, attention=int(layers[score].shape[1]))
    found.output = output
    return ""


def _split(layers: Mapping[str, torch.Tensor], roles: Mapping[str, str], dim: int) -> tuple[list[str], str, str]:
    """Names of the gated layers, of the one that scores, and of the one that follows; no gates if it is another."""
    scores = [name for name, value in layers.items() if value.shape[0] == 1]
    width = layers[scores[0]].shape[1] if len(scores) == 1 else 0
    gates = [name for name, value in layers.items() if tuple(value.shape) == (width, dim) and name not in scores]
    if width == dim and len(gates) == 3:  # the one that follows has their shape
        gates = [name for name in gates if roles[name]]
    others = [name for name in layers if name not in (*gates, *scores)]
    if len(gates) != 2 or len(others) > 1 or any(tuple(layers[name].shape) != (dim, dim) for name in others):
        return [], "", ""
    return gates, scores[0], others[0] if others else ""


def _roles(block: Block, layers: Mapping[str, torch.Tensor], root: str) -> dict[str, str]:
    """Role of each layer, by the layer after it in its sequence, or by its name; empty if neither tells it."""
    roles = {}
    for name in layers:
        parent, _, place = name.rpartition(".")
        after = block.layers.get(f"{parent}.{int(place) + 1}".lstrip(".")) if place.isdecimal() else None
        said = after.kind.rpartition(".")[2].lower() if after else ""
        if said not in _ROLES:
            words = name.removeprefix(root).lower()
            told = [role for role, names in _ROLES.items() if re.search(names, words)]
            said = told[0] if len(told) == 1 else ""
        roles[name] = said
    return roles
