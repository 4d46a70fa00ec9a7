"""Trained UMedPT models as files: found by name, loaded with what is known of them.

A release is a JSON file with a safetensors file beside it, written by `training.release`.
Those that ship lie in the package's folder ``weights``; others are named by their path.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_umedpt import checkpoint
from wsi_umedpt.config import build
from wsi_umedpt.errors import CheckpointError, ConfigError, EncoderError
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT

SHIPPED = Path(__file__).parents[1] / "weights"
_SIZE_PX = 224
_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)
"""Of a model and of a head: it becomes a folder's name, and comes from a file that somebody sent."""


@dataclass(frozen=True)
class Release:
    """A trained model as it lies on disk."""

    shared: UMedPT
    """In evaluation mode, float32."""
    heads: list[dict[str, Any]]
    """Spec of each head, as JSON holds it (see `tasks.HeadSpec`)."""
    head_weights: checkpoint.State
    """Weights of all heads, ``name.key``, float32."""
    about: dict[str, Any]
    """All else that the JSON file says."""


def shipped() -> dict[str, Path]:
    """The JSON files of the releases that ship, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}


def release_card(path: Path) -> EncoderCard:
    """What a release's encoder needs to be fed; its weights are not read.

    Raises
    ------
    CheckpointError
        If the file is no release.
    """
    about = _about(path)
    spec = _spec(about, path)
    return EncoderCard(
        name=str(about["name"]),
        timm_name=spec.backbone,
        mpp=about.get("mpp"),
        size_px=int(about.get("size_px") or _SIZE_PX),
        dim=int(about.get("dim") or spec.dim),
        mean=spec.mean,
        std=spec.std,
        licence=str(about.get("licence", "unknown")),
        source="ships with wsi-umedpt" if path.parent == SHIPPED else f"file {path.name}",
        about=str(about.get("about", "")),
        model=spec.to_dict(),
    )


def release_heads(path: Path) -> list[dict[str, Any]]:
    """Spec of each head of a release, as `Release.heads`; its weights are not read.

    Raises
    ------
    CheckpointError
        If the file is no release.
    """
    return _heads(_about(path))


def load_release(path: Path) -> Release:
    """Load a release.

    Raises
    ------
    CheckpointError
        If it is damaged, or its weights are not those of the model that it describes.
    """
    _about(path)
    tensors, about = checkpoint.load(path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    shared = UMedPT(_spec(about, path))
    # A model that was imported may have no decoders; they are left as they begin.
    parts = ["shared.encoder", "shared.squeezer"] if about.get("encoder_only") else ["shared"]
    try:
        for part in parts:
            module = shared.get_submodule(part.removeprefix("shared").lstrip("."))
            module.load_state_dict(checkpoint.tensors_under(state, part))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {path} are not of its model: {' '.join(str(error).split())[:300]}"
        ) from None
    return Release(shared.eval().requires_grad_(False), _heads(about), checkpoint.tensors_under(state, "heads"), about)


def _about(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        raise EncoderError(f"a UMedPT release is named by its JSON file, got {path}")
    about = checkpoint.read_about(path)
    if about.get("kind") != "umedpt" or about.get("schema") != 1:
        raise CheckpointError(
            f"{path} is no UMedPT release that this version reads "
            f"(kind {about.get('kind')}, schema {about.get('schema')})"
        )
    names = [about.get("name"), *(head.get("name") for head in about.get("heads") or ())]
    if strange := [name for name in names if not (isinstance(name, str) and _NAME.fullmatch(name))]:
        raise CheckpointError(
            f"{path} calls itself or a head {strange[0]!r:.60}; a name is letters, digits, '.', '-' and '_'"
        )
    return about


def _heads(about: dict[str, Any]) -> list[dict[str, Any]]:
    return list(about.get("heads", []))


def _spec(about: dict[str, Any], path: Path) -> ModelSpec:
    try:
        return build(ModelSpec, dict(about["model"]), f"{path}: model")
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} describes no model that can be built: {error}") from None
