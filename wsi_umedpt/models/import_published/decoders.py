"""Recognition of our decoders' weights in a published file: a U-Net, and a feature pyramid with two towers."""

import re

from wsi_umedpt.messages import counted
from wsi_umedpt.models.import_published.files import Block
from wsi_umedpt.models.import_published.parts import Found, other_norms
from wsi_umedpt.models.unet import WIDTHS
from wsi_umedpt.models.weight_files import State

_LEVELS = ("smooth.0", "smooth.1", "smooth.2", "down64", "down128")


def find_pixels(block: Block, rest: State) -> Found | None:
    """Find a U-Net decoder by its blocks; None if there is none."""
    first = [m for k in rest if (m := re.fullmatch(r"(.*?)blocks\.0\.conv1\.0\.weight", k))]
    if len(first) != 1 or len(rest[first[0].string].shape) != 4:
        return None
    root = first[0][1]
    weights: State = {}
    used: set[str] = set()
    for n in range(len(WIDTHS)):
        for their, ours in (("conv1.0", "0"), ("conv1.1", "1"), ("conv2.0", "3"), ("conv2.1", "4")):
            for part in ("weight", "bias"):
                key = f"{root}blocks.{n}.{their}.{part}"
                if key in rest:
                    weights[f"blocks.{n}.{ours}.{part}"] = rest[key]
                    used.add(key)
    width = WIDTHS[-1]
    lasts = [k for k, v in rest.items() if k not in used and tuple(v.shape) == (width, width, 3, 3)]
    if len(lasts) == 1:
        stem = lasts[0].removesuffix("weight")
        near = stem.rstrip(".").rpartition(".")[0]
        vectors = [k for k, v in rest.items() if k not in used and tuple(v.shape) == (width,) and k.startswith(near)]
        weights["last.0.weight"] = rest[lasts[0]]
        used |= {lasts[0], *vectors}
        for key in vectors:
            weights[f"last.{0 if key.startswith(stem) else 1}.{key.rpartition('.')[2]}"] = rest[key]
    return Found(weights, used, "blocks.0.1.weight" in weights, block, root, why=_unlike(block, rest, used, 9, 1))


def find_boxes(block: Block, rest: State) -> Found | None:
    """Find a feature pyramid with two towers; None if there is none."""
    stems: dict[str, list[str]] = {}
    for key in sorted(rest, key=_natural):
        if m := re.fullmatch(r"(.*)\.(weight|bias)", key):
            group = _group(key)
            if m[1] not in stems.setdefault(group, []):
                stems[group].append(m[1])
    if not stems.get("lateral"):
        return None
    weights: State = {}
    used: set[str] = set()

    def take(stem: str, ours: str) -> None:
        for part in ("weight", "bias"):
            if f"{stem}.{part}" in rest:
                weights[f"{ours}.{part}"] = rest[f"{stem}.{part}"]
                used.add(f"{stem}.{part}")

    for n, stem in enumerate(stems["lateral"]):
        take(stem, f"lateral.{n}")
    for stem, ours in zip(stems.get("fpn", ()), _LEVELS, strict=False):
        take(stem, ours)
    for tower in ("class_tower", "side_tower"):
        mine = stems.get(tower, ())
        for kind, at in ((4, 0), (1, 1)):  # convolutions, and norms
            for n, stem in enumerate(s for s in mine if f"{s}.weight" in rest and rest[f"{s}.weight"].ndim == kind):
                take(stem, f"{tower}.{3 * n + at}")
    return Found(weights, used, True, block, why=_unlike(block, rest, used, 8, 32))


def _unlike(block: Block, rest: State, used: set[str], norms: int, groups: int) -> str:
    """Reason why a decoder that is a whole module of its own is not ours."""
    if not block.whole or len(rest) < len(block.tensors):
        return ""
    if more := [key for key in rest if key not in used]:
        return f"{counted(len(more), 'weight')} more: {', '.join(more[:3])}"
    return other_norms(block, "", norms, groups)


_OF_BOXES = {
    "lateral": r"lateral", "side_tower": r"reg|box|side", "class_tower": r"cls|class", "fpn": r"fpn|smooth",
}  # fmt: skip
"""Parts of names that tell the parts of a box decoder."""


def _group(key: str) -> str:
    """Part that a weight belongs to, by the last of its names that tells it."""
    for word in reversed(key.lower().split(".")):
        for name, telling in _OF_BOXES.items():
            if re.search(telling, word):
                return name
    return ""


def _natural(key: str) -> list[tuple[bool, int, str]]:
    """Order by which 10 comes after 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in key.split(".")]
