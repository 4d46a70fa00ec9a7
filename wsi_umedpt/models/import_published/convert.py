"""Importing UMedPT encoders that others published: their files in, a release out.

Every weight of the parts that make the vector is understood or refused by its name. Decoders and a grouper
are taken where they are ours; other parts are left out by name, and the release says which. The weights' licence is
their authors' and binds whoever imports them; none ship here. What the files look like:
`files`; which weight is which: `parts`, `decoders`, `groupers`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.io.tensors import flaw, misfit, outline, unstorable
from wsi_umedpt.models.backbones import SWINS, swin_tables
from wsi_umedpt.models.import_published.decoders import find_boxes, find_pixels
from wsi_umedpt.models.import_published.files import Block, read_blocks
from wsi_umedpt.models.import_published.groupers import FoundGrouper, find_grouper
from wsi_umedpt.models.import_published.parts import (
    Found,
    FoundEncoder,
    Squeezer,
    find_encoder,
    find_squeezers,
    read_squeezer,
)
from wsi_umedpt.models.norms import NormKind
from wsi_umedpt.models.squeezer import Pooling
from wsi_umedpt.models.umedpt import PARTS, ModelSpec, UMedPT
from wsi_umedpt.models.weight_files import State

NO_SQUEEZER = "none"
"""Name of the squeezer of a model that has none."""
DECODERS = ("pixels", "boxes")
_SHOWN = 6


@dataclass(eq=False)
class _Model:
    """Parts of one model that were recognised."""

    encoder: FoundEncoder
    squeezer: Found | None
    decoders: dict[str, Found]
    grouper: FoundGrouper | None
    left: dict[str, str] = field(default_factory=dict)
    """Parts that are left out, and why."""

    @property
    def dim(self) -> int:
        """Length of an image's embedding."""
        return self.encoder.channels[3] if self.squeezer is None else len(self.squeezer.weights["conv.weight"])


def import_published(
    files: list[Path], out: Path, *, name: str, pooling: Pooling, mpp: float | None = None,
    squeezer: str | None = None, backbone: str | None = None,
) -> Path:  # fmt: skip
    """Turn published weights into a release that `load_encoder` takes.

    Parameters
    ----------
    files
        That hold the encoder and the squeezer between them: state dicts, whole modules as torch saved
        them, or zips of these as the authors publish them (``.pt.zip``). Nothing in them is run.
    out
        Folder for the release.
    name
        Name of the encoder.
    pooling
        'before' computes what the authors' library 1.0 does, 'after' what 1.6 does with the same
        weights; the files do not tell.
    mpp
        um/px at which to embed slides.
    squeezer
        Name of the squeezer, where there are several; 'none' for a model whose deepest map is the embedding.
    backbone
        Name of the encoder in timm, where the files do not say it.

    Returns
    -------
    Path
        The release's JSON file; its ``imported`` says what was taken and what was left out, and why.

    Raises
    ------
    EncoderError
        If the files do not hold exactly one encoder and one squeezer for it, or any weight of these is
        not understood.
    """
    if mpp is not None and not 0.01 <= mpp <= 1000:
        raise EncoderError(f"mpp is from 0.01 to 1,000 um/px, got {mpp:g}")
    blocks = [block for file in files for block in read_blocks(file)]
    for block in blocks:
        if why := unstorable(block.tensors):
            raise EncoderError(f"{block.file}: {why}")
    encoder = find_encoder(blocks, backbone)
    named = _by_name(blocks)
    rest = {key: dict(block.tensors) for key, block in named.items()}
    _use(rest, named, encoder.block, encoder.used)
    decoders: dict[str, Found] = {}
    for part in DECODERS:
        if found := _decoder(part, named, rest):
            _use(rest, named, found.block, {*found.block.tensors} if found.why else found.used)
            decoders[part] = found
    squeezers = find_squeezers(_holders(named, rest), encoder.channels[3])
    chosen = _choose(squeezers, encoder.channels[3], squeezer)
    model = _Model(encoder, read_squeezer(chosen) if chosen else None, decoders, None)
    for place, one in squeezers.items():
        _use(rest, named, one.block, {*one.weights})
        if one is not chosen:
            model.left[place] = "another squeezer"
    model.grouper = _grouper(named, rest, model)
    model.left |= _left_over(named, rest)
    return _write(files, out, name, pooling, mpp, model)


def _by_name(blocks: Iterable[Block]) -> dict[str, Block]:
    """Blocks by their names; those of one name are numbered."""
    named: dict[str, Block] = {}
    for block in blocks:
        key, n = block.name, 2
        while key in named:
            key, n = f"{block.name}-{n}", n + 1
        named[key] = block
    return named


def _use(rest: dict[str, State], named: Mapping[str, Block], block: Block, used: set[str]) -> None:
    """Take what a part has used from what is left."""
    for key, one in named.items():
        if one is block:
            rest[key] = {k: v for k, v in rest[key].items() if k not in used}


def _decoder(part: str, named: Mapping[str, Block], rest: Mapping[str, State]) -> Found | None:
    find = {"pixels": find_pixels, "boxes": find_boxes}[part]
    every = [found for key, block in named.items() if (found := find(block, rest[key]))]
    return every[0] if len(every) == 1 else None


def _grouper(named: Mapping[str, Block], rest: dict[str, State], model: _Model) -> FoundGrouper | None:
    """The grouper, if there is one that is ours; others are left out by name where they are whole modules."""
    every = [found for key, block in named.items() if (found := find_grouper(block, rest[key], model.dim))]
    ours = [found for found in every if not found.why]
    for found in every:
        if found.why and not found.block.whole:
            raise EncoderError(f"the grouper in {found.block.file} is not one that slide classifiers have: {found.why}")
        if found.why or len(ours) > 1:
            model.left[found.block.name] = f"a grouper: {found.why or 'there are several'}"
        if found.output:
            model.left[f"{found.block.name}.{found.output}"] = (
                "the layer that follows the grouper's sum: slide classifiers learn their own"
            )
        _use(rest, named, found.block, found.used)
    return ours[0] if len(ours) == 1 else None


def _holders(named: Mapping[str, Block], rest: Mapping[str, State]) -> dict[str, tuple[Block, State]]:
    """Parts in which a squeezer is looked for: modules that are called so, else all that have something left."""
    called = {key for key, block in named.items() if block.whole and "squeez" in f"{key} {block.kind}".lower()}
    return {
        key: (block, rest[key])
        for key, block in named.items()
        if key in called or (not block.whole and rest[key]) or (not called and (rest[key] or not block.tensors))
    }


def _choose(found: Mapping[str, Squeezer], deepest: int, asked: str | None) -> Squeezer | None:
    """The squeezer that is asked for, or the only one; None where it is said that there is none."""
    if asked == NO_SQUEEZER and asked not in found:
        return None
    if asked is not None:
        if asked not in found:
            raise EncoderError(
                f"there is no squeezer {asked!r}; there are {', '.join(found) or 'none'}, and {NO_SQUEEZER!r} is for a "
                "model whose deepest map is the embedding"
            )
        return found[asked]
    if len(found) == 1:
        return next(iter(found.values()))
    remedy = (
        f"Choose one with `squeezer`: {', '.join(found)}."
        if found
        else "If the squeezer lies in a file of its own, name both files; if the model has none, and its deepest map "
        f"is the embedding, say `squeezer` {NO_SQUEEZER}."
    )
    raise EncoderError(
        f"{len(found)} squeezers were found, expected one: a weight of shape (dim, {deepest}, 1, 1). {remedy}"
    )


def _left_over(named: Mapping[str, Block], rest: Mapping[str, State]) -> dict[str, str]:
    """Unused parts: whole modules of their own are left out by name, anything else is refused by name."""
    left = {}
    for key, block in named.items():
        unknown = [*rest[key]]
        if not unknown:
            continue
        if not block.whole or len(unknown) < len(block.tensors):
            raise EncoderError(
                f"{block.file} holds {len(unknown)} weights that are not understood: {', '.join(unknown[:_SHOWN])}"
                f"{', ...' if len(unknown) > _SHOWN else ''}. Nothing is dropped in silence: if they are of another "
                "part, save the state_dict() of the encoder, and that of the squeezer, to files of their own."
            )
        left[key] = f"{block.kind}, {len(unknown)} weights: not a part that is known here"
    return left


def _write(files: list[Path], out: Path, name: str, pooling: Pooling, mpp: float | None, model: _Model) -> Path:
    encoder, squeezer, decoders, left = model.encoder, model.squeezer, model.decoders, model.left
    if squeezer is not None and not squeezer.block.whole and encoder.affine and not squeezer.affine:
        raise EncoderError(
            f"{squeezer.block.file} holds a squeezer without a norm's weights, and the encoder's norms have weights: "
            "it does not say whether there is a norm at all. Import the whole module, which says it."
        )
    batch = any(key.endswith("running_mean") for key in encoder.weights)
    affine = any(found.affine for found in (encoder, squeezer, decoders.get("pixels")) if found and not found.why)
    norm: NormKind = "keepnorm" if batch else "affinelayernorm" if affine else "layernorm"
    bias = "pixels" in decoders and "last.0.bias" in decoders["pixels"].weights
    spec = ModelSpec(
        backbone=encoder.backbone,
        dim=model.dim,
        norm=norm,
        pooling=pooling,
        squeezer="convolution" if squeezer else "none",
        decoder_bias=bias,
    )
    whole = outline(lambda: UMedPT(spec))
    parts = {"encoder": encoder} | ({"squeezer": squeezer} if squeezer else {}) | decoders
    state: State = {}
    for part, found in parts.items():
        weights, why = ({}, found.why) if found.why else _fitted(part, found, whole, spec)
        if not why:
            state |= {f"{part}.{key}": value for key, value in weights.items()}
        elif part in DECODERS and found.block.whole and found.block is not encoder.block:
            left[found.block.name] = f"a decoder that is not ours: {why}"
        else:
            raise EncoderError(f"the {part} in {found.block.file} does not fit {spec.backbone}: {why}")
    there = [part for part in parts if any(key.startswith(f"{part}.") for key in state)]
    taken = {part: found.block.name for part, found in parts.items() if part in there}
    tensors = {f"shared.{key}": value for key, value in state.items()}
    grouper = model.grouper
    if grouper and grouper.spec:
        taken["grouper"] = grouper.block.name
        tensors |= {f"grouper.{key}": value for key, value in grouper.weights.items()}
    about: dict[str, Any] = {
        "schema": 1,
        "kind": "umedpt",
        "name": name,
        "model": spec.to_dict(),
        "parts": [part for part in PARTS if part in there or part == "squeezer"],
        "heads": [],
        "mpp": mpp,
        "about": f"imported from {', '.join(file.name for file in files)}",
        "licence": "that of the weights' authors",
        "imported": {
            "taken": taken,
            "unused": sorted(encoder.unused),
            "left_out": left,
        },
    }
    if grouper and grouper.spec:
        about["grouper"] = asdict(grouper.spec)
    path = out / f"{name}.json"
    checkpoint.save(path, tensors, about)
    return path


def _fitted(part: str, found: Found, whole: Mapping[str, torch.Tensor], spec: ModelSpec) -> tuple[State, str]:
    """A part's weights in float32, and why they are not those of `spec`.

    Norms without weights are the same as norms of ones and zeros.
    """
    expected = {k.removeprefix(f"{part}."): v for k, v in whole.items() if k.startswith(f"{part}.")}
    plain = {} if found.affine else _ones_and_zeros(spec, part)
    weights = _tables(expected, spec) | plain | found.weights
    if why := misfit(expected, weights) or flaw(weights):
        return {}, why
    for key, table in _tables(expected, spec).items():
        if not torch.allclose(weights[key].float(), table.float(), atol=1e-3):
            return {}, f"{key} is not that of a window of {SWINS[spec.backbone].window}"
    # Tensors of one storage cannot be saved as they are.
    state = {k: (v.float() if v.is_floating_point() else v).clone() for k, v in weights.items()}
    return state, _other_layers(spec, found) if part == "encoder" else ""


def _tables(expected: Mapping[str, torch.Tensor], spec: ModelSpec) -> State:
    """Tables of a Swin's attentions that are not learned."""
    if spec.backbone not in SWINS:
        return {}
    tables = swin_tables(SWINS[spec.backbone].window)
    return {key: tables[leaf] for key in expected if (leaf := key.rpartition(".")[2]) in tables}


def _ones_and_zeros(spec: ModelSpec, part: str) -> State:
    """Weights of a part's norms that change nothing."""
    with torch.device("meta"):
        module = UMedPT(spec).get_submodule(part)
    return {
        f"{name}.{leaf}": torch.full(tuple(value.shape), float(leaf == "weight"))
        for name, norm in module.named_modules()
        if isinstance(norm, nn.LayerNorm | nn.GroupNorm)
        for leaf, value in norm.named_parameters()
    }


def _other_layers(spec: ModelSpec, found: Found) -> str:
    """Layers of a whole module that are set otherwise than ours of the same name; empty if none, or not known."""
    with torch.device("meta"):
        ours = UMedPT(spec).encoder
    for path, module in ours.named_modules():
        layer = found.block.layers.get(f"{found.root}{path.removeprefix('net.')}")
        for name in ("eps", "num_heads", "window_size", "shift_size", "kernel_size", "stride", "padding", "groups"):
            mine, theirs = getattr(module, name, None), layer.settings.get(name) if layer else None
            if None not in (mine, theirs) and _numbers(mine) != _numbers(theirs):
                return f"{path} has {name} {theirs}, expected {mine}"
    return ""


def _numbers(value: Any) -> Any:
    return [*value] if isinstance(value, list | tuple) else value
