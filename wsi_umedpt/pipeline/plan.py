"""Planning: names of models and heads in, a task out, with networks loaded and tiles chosen.

The command line, the viewer and scripts load tasks here, so that they make the same stores.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from wsi_umedpt import __version__
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import Encoder, describe_encoder, load_encoder, pick_device
from wsi_umedpt.models.head_spec import object_heads
from wsi_umedpt.models.weights import release_path
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.pipeline.segment import FeaturesToo, SegmentTask, window_spec
from wsi_umedpt.settings import ComputeOptions, RunSettings, TileOptions, TissueParameters
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.tasks.multihead import MAP_STRIDES, OnePass, find_heads

OVERLAP_PX = 64
"""Overlap of windows, where their distance is not given."""
WINDOW_PX = 320
"""Side of a window, embedded or not. Smaller ones see too little around an object; larger ones gave the same
(docs/how-to/objects.md)."""
MIN_TISSUE = 0.05
"""Least share of tissue in a window: thin strips hold nuclei, too."""
MPP_TOLERANCE = 0.05
"""Relative difference between a tile's resolution and the card's up to which a tile fits an encoder."""


def check_fit(encoder: Encoder, spec: TileSpec) -> None:
    """Refuse tiles that are not what the encoder was made for.

    Raises
    ------
    EncoderError
        If the tile's size differs at all, or its mpp by over `MPP_TOLERANCE` from those that the card states.
    """
    card = encoder.card
    stated = [] if card.mpp is None else sorted((card.mpp, *card.accepts_mpp))
    other_mpp = bool(stated) and all(abs(spec.mpp / mpp - 1) > MPP_TOLERANCE for mpp in stated)
    if other_mpp or spec.size_px != card.size_px:
        made_for = f"{card.size_px} px" + (f" at {' or '.join(f'{mpp:g}' for mpp in stated)} um/px" if stated else "")
        raise EncoderError(
            f"{card.name} is for tiles of {made_for}, asked for {spec.size_px} px at {spec.mpp:g} um/px. "
            f"Leave {'`tile_mpp` and ' if stated else ''}`size_px` out, or insist with `force`."
        )


def spec_for(encoder: Encoder, tiles: TileOptions) -> TileSpec:
    """Tiles for an encoder.

    Raises
    ------
    EncoderError
        If they do not fit its card, without `TileOptions.force`.
    """
    card = encoder.card
    spec = TileSpec(
        size_px=card.size_px if tiles.size_px is None else tiles.size_px,
        mpp=next(mpp for mpp in (tiles.tile_mpp, card.mpp, TileSpec.mpp) if mpp is not None),
        stride_px=tiles.stride_px,
        min_tissue=TileSpec.min_tissue if tiles.min_tissue is None else tiles.min_tissue,
        resampling=tiles.resampling,
        upsample=tiles.upsample,
        edge=tiles.edge,
    )
    if not tiles.force:
        check_fit(encoder, spec)
    return spec


def plan_embedding(
    models: Sequence[str] = (),
    tiles: TileOptions | None = None,
    compute: ComputeOptions | None = None,
    *,
    tissue: TissueParameters | None = None,
    settings: RunSettings | None = None,
    describe: bool = False,
    weights: bool = True,
) -> EmbedTask:
    """Load encoders for a run.

    Parameters
    ----------
    models
        Names as `load_encoder` takes them; by default the encoder that ships.
    tiles
        By default those that each encoder was made for.
    compute, tissue, settings
        Settings of networks, of tissue detection, and for reading and running tiles.
    describe
        Leave the device alone, which need not be there; such a task says what would be done, and cannot run.
    weights
        With `describe`: whether weights are read, whose hash is part of an encoder's name. Without, encoders that
        have a card need not be on this machine.

    Raises
    ------
    EncoderError
        If a model is unknown, or tiles do not fit it.
    """
    tiles, compute, settings = tiles or TileOptions(), compute or ComputeOptions(), settings or RunSettings()
    if compute.compile:  # for one size of batch
        settings = replace(settings, batch_size=settings.tiles_at_once)
    load: Callable[..., Encoder] = partial(load_encoder, batch_size=settings.tiles_at_once)
    if describe:
        load = partial(describe_encoder, weights=weights)
    encoders = [
        load(
            name, device=compute.device, precision=compute.precision, engine=compute.engine, compiled=compute.compile
        )
        for name in dict.fromkeys(models or (DEFAULT_ENCODER,))
    ]  # fmt: skip
    return EmbedTask(
        encoders=encoders,
        tile_specs=[spec_for(encoder, tiles) for encoder in encoders],
        tissue=tissue or TissueParameters(),
        settings=settings,
    )


def plan_segmentation(
    model: str = "",
    heads: Sequence[str] = (),
    tiles: TileOptions | None = None,
    compute: ComputeOptions | None = None,
    *,
    tissue: TissueParameters | None = None,
    settings: RunSettings | None = None,
    embed: bool = False,
) -> SegmentTask:
    """Load a UMedPT model and those of its heads that are asked for.

    Parameters
    ----------
    model
        One that ships, or ``umedpt:FILE.json``; by default the one that ships.
    heads
        By default the first that shows objects.
    tiles
        Windows; of `WINDOW_PX`, overlapping by `OVERLAP_PX`, where they do not say. Their scale is, where they do not
        say, that of the images which the first head learnt from (on coarser slides the slide's own), and the
        encoder's where windows are embedded or the head states none. Objects are looked for up to the slide's edge in
        any case; `edge` is of windows that are embedded.
    compute, tissue, settings
        Settings of networks, of tissue detection, and for reading and running windows.
    embed
        Embed the windows in the same pass.

    Raises
    ------
    EncoderError
        If the model is unknown, or has no such head, or the engine runs no heads.
    """
    model, tiles = model or DEFAULT_ENCODER, tiles or TileOptions()
    compute, settings = compute or ComputeOptions(), settings or RunSettings()
    if compute.engine == "openvino" or compute.compile:
        raise EncoderError("heads run on the engine torch, not compiled; leave `engine` and `compile` out")
    encoder = load_encoder(model, device=compute.device, precision=compute.precision, engine="torch")
    release = load_release(release_path(model))
    known = [*object_heads(release.heads)]
    if not known:
        raise EncoderError(f"{model} has no heads that show objects")
    chosen = find_heads(release, heads or known[:1])
    # Objects are seen best at the scale that their head learnt from; embeddings have the encoder's.
    own = None if embed or tiles.tile_mpp else chosen[0].mpp
    mpps = [mpp for mpp in (tiles.tile_mpp, own, encoder.card.mpp, chosen[0].mpp, TileSpec.mpp) if mpp is not None]
    spec = _windows(tiles, mpps[0], embed=embed)
    device = pick_device(compute.device)
    made_by: dict[str, Any] = {
        "model": encoder.card.name, "weights_sha256": encoder.card.weights_sha256, "precision": compute.precision,
        "device": device.split(":")[0], "wsi_umedpt": __version__,
    }  # fmt: skip
    features = FeaturesToo(encoder.name, {**encoder.made_by, "engine": "torch-onepass"}, encoder.dim) if embed else None
    return SegmentTask(
        model=OnePass(
            release,
            chosen,
            size_px=spec.size_px,
            device=device,
            precision=compute.precision,
            maps=MAP_STRIDES if settings.object_vectors else (),
        ),
        spec=spec,
        coarser=own is not None,
        made_by=made_by,
        features=features,
        tissue=tissue or TissueParameters(),
        settings=settings,
    )


def _windows(tiles: TileOptions, mpp: float, *, embed: bool) -> TileSpec:
    size = tiles.size_px or WINDOW_PX
    spec = TileSpec(
        size_px=size,
        mpp=mpp,
        stride_px=max(2, size - OVERLAP_PX) if tiles.stride_px is None else tiles.stride_px,
        min_tissue=MIN_TISSUE if tiles.min_tissue is None else tiles.min_tissue,
        resampling=tiles.resampling,
        upsample=tiles.upsample,
        edge=tiles.edge if embed else "drop",
    )
    if not embed and size % 32 == 0:  # another side is refused
        spec = window_spec(spec, OVERLAP_PX)
    return spec
