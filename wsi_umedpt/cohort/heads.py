"""From the names of a model's heads to an `ObjectPlan`: which windows, which model, what results will say of it.

What the command line and the viewer load in the same way, so that they make the same stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wsi_umedpt import __version__
from wsi_umedpt.cohort.objects import ObjectPlan
from wsi_umedpt.dense import FeaturesToo, window_spec
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import load_encoder, pick_device
from wsi_umedpt.models.release import load_release
from wsi_umedpt.models.weights import release_path
from wsi_umedpt.slide import Resampling
from wsi_umedpt.tasks.onepass import OnePass, find_heads, object_heads
from wsi_umedpt.tiling import Edge, TileSpec

OVERLAP_PX = 64
"""By how much windows overlap, where their distance is not given."""
WINDOW_PX = 320
"""Side of a window, embedded or not. Smaller ones see too little around an object; larger ones gave the same
(docs/objects.md)."""
MIN_TISSUE = 0.05
"""Least share of tissue in a window: thin strips hold nuclei, too."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Which windows are cut; what is None is left to the model."""

    size_px: int | None = None
    mpp: float | None = None
    stride_px: int | None = None
    min_tissue: float | None = None
    resampling: Resampling = "area"
    upsample: bool = False
    edge: Edge = "drop"
    """Of windows that are embedded; objects are looked for up to the slide's edge in any case."""


def plan_objects(
    model: str = "", names: Sequence[str] = (), windows: Windows | None = None, *, device: str = "auto",
    precision: str = "fp32", embed: bool = False,
) -> ObjectPlan:  # fmt: skip
    """Load a UMedPT model and those of its heads that are asked for.

    Parameters
    ----------
    model
        One that ships, or ``umedpt:FILE.json``; by default the one that ships.
    names
        Of heads; by default the first that shows objects.
    windows
        Windows of `WINDOW_PX` where it does not say.
    device, precision
        As for `load_encoder`.
    embed
        Whether the windows are embedded in the same pass.

    Raises
    ------
    EncoderError
        If the model is unknown, or has no such head.
    """
    model, windows = model or DEFAULT_ENCODER, windows or Windows()
    encoder = load_encoder(model, device=device, precision=precision)
    release = load_release(release_path(model))
    known = [*object_heads(release.heads)]
    if not known:
        raise EncoderError(f"{model} has no heads that show objects")
    heads = find_heads(release, names or known[:1])
    size = windows.size_px or WINDOW_PX
    mpps = [mpp for mpp in (windows.mpp, encoder.card.mpp, heads[0].mpp, TileSpec.mpp) if mpp is not None]
    spec = TileSpec(
        size_px=size,
        mpp=mpps[0],
        stride_px=max(2, size - OVERLAP_PX) if windows.stride_px is None else windows.stride_px,
        min_tissue=MIN_TISSUE if windows.min_tissue is None else windows.min_tissue,
        resampling=windows.resampling,
        upsample=windows.upsample,
        edge=windows.edge,
    )
    if not embed and size % 32 == 0:  # another side is refused
        spec = window_spec(spec, OVERLAP_PX)
    chosen = pick_device(device)
    return ObjectPlan(
        model=OnePass(release, heads, size_px=spec.size_px, device=chosen, precision=precision),
        spec=spec,
        made_by={
            "model": encoder.card.name, "weights_sha256": encoder.card.weights_sha256, "precision": precision,
            "device": chosen.split(":")[0], "wsi_umedpt": __version__,
        },
        features=FeaturesToo(encoder.name, {**encoder.made_by, "engine": "torch-onepass"}, encoder.dim)
        if embed
        else None,
    )  # fmt: skip
