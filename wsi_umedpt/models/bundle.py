"""Trained UMedPT models as files: found by name, loaded with what is known of them.

A release is a JSON file with a safetensors file beside it, written by `training.release`.
Those that ship lie in the package's folder ``weights``; others are named by their path.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsi_umedpt.config import build_known
from wsi_umedpt.errors import CheckpointError, ConfigError, EncoderError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.io.tensors import Outline, flaw, misfit, outline
from wsi_umedpt.models.cards import RELEASES, EncoderCard
from wsi_umedpt.models.grouper import Grouper, GrouperSpec
from wsi_umedpt.models.head_spec import HeadSpec, Kind
from wsi_umedpt.models.umedpt import PARTS, ModelSpec, UMedPT

_SIZE_PX = 224
_MOST_DIM = 100_000
_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)
"""Pattern of a name of a model or head: it becomes a folder's name, and comes from a file that somebody sent."""
_ENCODER_PARTS = ("encoder", "squeezer")
_GROUPER = "grouper."
_DECODED: dict[Kind, str] = {"segmentation": "pixels", "multilabel_segmentation": "pixels", "detection": "boxes"}
"""The decoder that a head of a kind reads."""


@dataclass(frozen=True)
class Release:
    """A trained model as it lies on disk."""

    shared: UMedPT
    """Shared model, in evaluation mode, float32."""
    parts: tuple[str, ...]
    """Those of `PARTS` that the file has weights of; the others are as they begin."""
    heads: tuple[HeadSpec, ...]
    head_weights: checkpoint.State
    """Weights of all heads, ``name.key``, float32."""


@dataclass(frozen=True, kw_only=True)
class _Said:
    """Fields that a release's JSON file must have, and may have, for its weights to be used."""

    name: str
    model: ModelSpec
    heads: tuple[HeadSpec, ...] = ()
    mpp: float | None = None
    size_px: int | None = None
    dim: int | None = None
    """Length of an embedding, where the model does not say it alone."""
    about: str = ""
    licence: str = "unknown"
    encoder_only: bool = False
    """Flag by which releases before `parts` stated that they have no decoders."""
    parts: tuple[str, ...] | None = None
    grouper: GrouperSpec | None = None

    def __post_init__(self) -> None:
        names = [head.name for head in self.heads]
        if strange := [name for name in (self.name, *names) if not _NAME.fullmatch(name)]:
            raise ValueError(
                f"it calls itself or a head {strange[0]!r:.60}; a name is letters, digits, '.', '-' and '_'"
            )
        if len({*names}) < len(names):
            raise ValueError("two heads have one name")
        if self.mpp is not None and not 0.01 <= self.mpp <= 1000:
            raise ValueError(f"mpp is from 0.01 to 1,000 um/px, got {self.mpp:g}")
        if self.size_px is not None and not 16 <= self.size_px <= 2048:
            raise ValueError(f"size_px is from 16 to 2,048, got {self.size_px}")
        if self.dim is not None and not 1 <= self.dim <= _MOST_DIM:
            raise ValueError(f"dim is from 1 to {_MOST_DIM:,}, got {self.dim}")
        parts = self.parts_there
        if strange := [part for part in self.parts or () if part not in PARTS]:
            raise ValueError(f"parts are {', '.join(PARTS)}, got {strange[0]!r:.60}")
        if not {*_ENCODER_PARTS} <= {*parts}:
            raise ValueError(f"a release has an encoder and a squeezer, this one says {', '.join(parts) or 'nothing'}")
        for head in self.heads:
            if (decoder := _DECODED.get(head.kind)) and decoder not in parts:
                raise ValueError(f"head {head.name} reads the decoder {decoder!r}, which the release does not have")
            if head.bags and not self.grouper:
                raise ValueError(f"head {head.name} is of bags of images, and the release has no grouper")

    @property
    def parts_there(self) -> tuple[str, ...]:
        if self.parts is None:
            return _ENCODER_PARTS if self.encoder_only else PARTS
        return tuple(part for part in PARTS if part in self.parts)


def shipped() -> dict[str, Path]:
    """The JSON files of the releases that ship, by name."""
    return {path.stem: path for path in sorted(RELEASES.glob("*.json"))}


def release_card(path: Path) -> EncoderCard:
    """Card of a release's encoder; its weights are not read.

    Raises
    ------
    CheckpointError
        If the file is no release.
    """
    said = _said(path)
    return EncoderCard(
        name=said.name,
        library="umedpt",
        architecture=said.model.backbone,
        mpp=said.mpp,
        size_px=said.size_px or _SIZE_PX,
        dim=said.dim or said.model.dim,
        mean=said.model.mean,
        std=said.model.std,
        licence=said.licence,
        source="ships with wsi-umedpt" if path.parent == RELEASES else f"file {path.name}",
        about=said.about,
        model=said.model.to_dict(),
    )


def release_heads(path: Path) -> tuple[HeadSpec, ...]:
    """Spec of each head of a release; its weights are not read.

    Raises
    ------
    CheckpointError
        If the file is no release.
    """
    return _said(path).heads


def load_release(path: Path) -> Release:
    """Load a release.

    Raises
    ------
    CheckpointError
        If it is damaged, its weights are not those of the model that it describes, or they are NaN or
        infinite. Of heads, `tasks.load_heads` compares the shapes.
    """
    said = _said(path)
    spec = replace(said.model, grouper=said.grouper.attention if said.grouper else 0)
    try:
        whole = outline(lambda: UMedPT(spec))
    except (RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"{path} describes no model that can be built: {error!s:.300}") from None
    absent = {*PARTS} - {*said.parts_there}
    expected = {_stored(k): v for k, v in whole.items() if k.partition(".")[0] not in absent}
    heads = tuple(f"heads.{head.name}." for head in said.heads)

    def fits(found: Outline) -> str:
        shared = {key: value for key, value in found.items() if not key.startswith(heads)}
        return misfit(expected, shared)

    tensors, _ = checkpoint.load(path, fits)
    if why := flaw(tensors):
        raise CheckpointError(f"the weights of {path} cannot be used: {why}")
    state = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    shared = UMedPT(spec)
    if (dim := said.dim or said.model.dim) != shared.vector_dim:
        raise CheckpointError(f"{path} says that embeddings have {dim} numbers; its model gives {shared.vector_dim}")
    if said.grouper and said.grouper.dim != shared.vector_dim:
        raise CheckpointError(
            f"{path} says that its grouper takes embeddings of {said.grouper.dim} numbers; its model gives "
            f"{shared.vector_dim}"
        )
    if bool((state.get("shared.spread", torch.ones(1)) <= 0).any()):
        raise CheckpointError(f"the weights of {path} cannot be used: it divides its embeddings by 0 or less")
    own = checkpoint.tensors_under(state, "shared")
    own |= {key: value for key, value in state.items() if key.startswith(_GROUPER)}
    shared.load_state_dict(_filled(shared, own))
    head_weights = checkpoint.tensors_under(state, "heads")
    return Release(shared.eval().requires_grad_(False), said.parts_there, said.heads, head_weights)


def load_grouper(path: Path) -> Grouper:
    """Load the grouper of a release.

    Raises
    ------
    EncoderError
        If the release has none.
    CheckpointError
        If it is damaged.
    """
    if (grouper := load_release(path).shared.grouper) is None:
        raise EncoderError(f"{path} has no grouper, so that nothing can start from it{_why_none(path)}")
    return grouper


def stored_tensors(shared: UMedPT) -> checkpoint.State:
    """Weights of a shared model by the names that a release has them by."""
    return {_stored(key): value for key, value in shared.state_dict().items()}


def _stored(key: str) -> str:
    """Name of a weight of the shared model in a release: the grouper's stand apart, as they make no embedding."""
    return key if key.startswith(_GROUPER) else f"shared.{key}"


def _why_none(path: Path) -> str:
    """Reason of the import for a grouper that it left out."""
    imported = checkpoint.read_about(path).get("imported")
    left = imported.get("left_out") if isinstance(imported, dict) else None
    parts = left.items() if isinstance(left, dict) else ()
    reasons = [f"{part} was left out: {why}" for part, why in parts if "group" in f"{part} {why}"]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _filled(shared: UMedPT, state: checkpoint.State) -> Mapping[str, object]:
    """Weights of the parts that are there, and of the others as they begin."""
    return {**shared.state_dict(), **state}


def _said(path: Path) -> _Said:
    if path.suffix != ".json":
        raise EncoderError(f"a UMedPT release is named by its JSON file, got {path}")
    about = checkpoint.read_about(path)
    if about.get("kind") != "umedpt" or about.get("schema") != 1:
        raise CheckpointError(
            f"{path} is no UMedPT release that this version reads "
            f"(kind {about.get('kind')!r:.60}, schema {about.get('schema')!r:.60})"
        )
    try:
        return build_known(_Said, about, f"{path}, a UMedPT release")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
