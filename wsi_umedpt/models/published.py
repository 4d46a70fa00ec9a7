"""Importing UMedPT encoders that others published: their weights file in, a release out.

Their library wraps torchvision's Swin Transformer V2, whose weight names our `SwinBackbone`
shares, and a 1x1 convolution with a norm as squeezer. Names before and around these differ
between versions, so parts are recognised by their endings and shapes. The weights' licence is
their authors' and binds whoever imports them; none ship here.
"""

from pathlib import Path
from typing import Any

import torch

from wsi_umedpt import checkpoint
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.backbones import SWINS
from wsi_umedpt.models.squeezer import Pooling
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.models.weights import State, read_weights

_FIRST = "features.0.0.weight"
"""torchvision's name of the patch embedding's convolution."""
_BUFFERS = ("relative_coords_table", "relative_position_index")


def import_published(files: list[Path], out: Path, *, name: str, pooling: Pooling, mpp: float | None = None) -> Path:
    """Turn published weights into a release that `load_encoder` takes.

    Parameters
    ----------
    files
        State dicts (safetensors, or what ``torch.load(weights_only=True)`` accepts) that hold
        the encoder and the squeezer between them.
    out
        Folder for the release.
    name
        Of the encoder.
    pooling
        'before' for weights of the authors' versions 1.0, 'after' for newer ones; the file
        does not tell.
    mpp
        um/px at which to embed slides.

    Returns
    -------
    Path
        The release's JSON file.

    Raises
    ------
    EncoderError
        If the files do not hold exactly one Swin Transformer V2 and one squeezer for it.
    """
    found: State = {}
    for file in files:
        found |= {f"{file.stem}.{key}": value for key, value in read_weights(file).items()}
    prefix = _prefix(found)
    encoder = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(f"{prefix}features.")}
    backbone = _backbone(encoder)
    deepest = int(encoder[_FIRST].shape[0]) * 8
    squeezer = _squeezer({k: v for k, v in found.items() if not k.startswith(prefix + "features.")}, deepest)
    # Weights without affine norms come from their variant of that name.
    affine = any(key.endswith("norm1.weight") for key in encoder)
    spec = ModelSpec(
        backbone=backbone,
        dim=int(squeezer["conv.weight"].shape[0]),
        norm="affinelayernorm" if affine else "layernorm",
        pooling=pooling,
    )
    shared = UMedPT(spec)
    _load(shared, encoder, squeezer)
    about: dict[str, Any] = {
        "schema": 1,
        "kind": "umedpt",
        "name": name,
        "model": spec.to_dict(),
        "encoder_only": True,
        "heads": [],
        "mpp": mpp,
        "about": f"imported from {', '.join(file.name for file in files)}",
        "licence": "that of the weights' authors",
    }
    state = {f"shared.encoder.{k}": v for k, v in shared.encoder.state_dict().items()}
    state |= {f"shared.squeezer.{k}": v for k, v in shared.squeezer.state_dict().items()}
    path = out / f"{name}.json"
    checkpoint.save(path, state, about)
    return path


def _prefix(found: State) -> str:
    prefixes = [key.removesuffix(_FIRST) for key in found if key.endswith(_FIRST)]
    if len(prefixes) != 1:
        raise EncoderError(
            f"{len(prefixes)} Swin Transformers were found among {len(found)} weights, expected one; looked for names "
            f"that end in {_FIRST}, as torchvision's do. Files of whole modules cannot be read: load them with the "
            "authors' library and save each module's state_dict() instead."
        )
    return prefixes[0]


def _backbone(encoder: State) -> str:
    """Which of `SWINS` the weights are of: by width and by the blocks of the third stage."""
    width = int(encoder[_FIRST].shape[0])
    blocks = len({key.split(".")[2] for key in encoder if key.startswith("features.5.")})
    for name, size in SWINS.items():
        if (size.embed_dim, size.depths[2]) == (width, blocks):
            return name
    raise EncoderError(f"a Swin Transformer V2 of width {width} with {blocks} blocks in stage 3 is not known")


def _squeezer(rest: State, deepest: int) -> State:
    """The 1x1 convolution from the deepest map, and its norm's weights if it has any."""
    convs = [k for k, v in rest.items() if v.ndim == 4 and v.shape[1:] == (deepest, 1, 1)]
    if len(convs) != 1:
        raise EncoderError(
            f"{len(convs)} squeezers were found, expected one: a weight of shape (dim, {deepest}, 1, 1). "
            "If the squeezer lies in a file of its own, name both files."
        )
    stem = convs[0].removesuffix("weight")
    dim = rest[convs[0]].shape[0]
    out = {"conv.weight": rest[convs[0]], "conv.bias": rest.get(f"{stem}bias", torch.zeros(dim))}
    # Its norm lies in the same sequence.
    root = stem.rstrip(".").rpartition(".")[0]
    norms = {
        part: [
            k
            for k, v in rest.items()
            if k.startswith(root) and k.endswith(f".{part}") and v.shape == (dim,) and k != f"{stem}{part}"
        ]
        for part in ("weight", "bias")
    }
    if [len(found) for found in norms.values()] not in ([0, 0], [1, 1]):
        beside = [*norms["weight"], *norms["bias"]][:4]
        raise EncoderError(
            f"beside the squeezer {convs[0]} stand several norms, or half of one: {', '.join(beside)}. "
            "Save the squeezer's state_dict() to a file of its own."
        )
    return out | {f"norm.{part}": rest[found[0]] for part, found in norms.items() if found}


def _load(shared: UMedPT, encoder: State, squeezer: State) -> None:
    own = shared.encoder.state_dict()
    given = {key: value for key, value in encoder.items() if key in own}
    absent = [key for key in own if key not in given and not key.endswith(_BUFFERS)]
    strange = [key for key in encoder if key not in own]
    wrong = [key for key, value in given.items() if value.shape != own[key].shape]
    if absent or strange or wrong:
        raise EncoderError(
            f"the weights do not fit {shared.spec.backbone}: {len(absent)} missing {absent[:2]}, "
            f"{len(strange)} unknown {strange[:2]}, {len(wrong)} of another shape {wrong[:2]}"
        )
    shared.encoder.load_state_dict(given, strict=False)
    norm = {k for k in shared.squeezer.state_dict() if k.startswith("norm.")}
    if set(squeezer) - set(shared.squeezer.state_dict()):
        raise EncoderError("the squeezer's norm has weights, the encoder's norms have none: not one model's files")
    if norm - set(squeezer):
        # Affine norms elsewhere, none here: a norm of ones and zeros is the same.
        dim = shared.spec.dim
        squeezer = {"norm.weight": torch.ones(dim), "norm.bias": torch.zeros(dim), **squeezer}
    shared.squeezer.load_state_dict({k: v for k, v in squeezer.items() if k in shared.squeezer.state_dict()})
