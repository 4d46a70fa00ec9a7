"""`wsi-umedpt encoders`: what tiles can be embedded with, and importing what others published."""

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from wsi_umedpt.cli.terminal import say

encoders = cyclopts.App(name="encoders", help="List the encoders that can be named with -m, or import one.")


@encoders.default
def list_encoders() -> None:
    """List the encoders that can be named with -m and the heads of each, or import one.

    Examples
    --------
        wsi-umedpt encoders

        wsi-umedpt embed slide.svs -o out -m timm:resnet50@weights.safetensors
    """
    from wsi_umedpt.models.cards import DEFAULT_ENCODER, ENCODERS
    from wsi_umedpt.models.release import release_card, release_heads, shipped
    from wsi_umedpt.tasks.onepass import object_heads

    ships = shipped()
    for card in (*map(release_card, ships.values()), *ENCODERS.values()):
        say(f"{card.name}{' (default)' if card.name == DEFAULT_ENCODER else ''}")
        say(f"    {card.about}")
        at = "at any um/px" if card.mpp is None else f"at {card.mpp:g} um/px"
        say(f"    {card.size_px} px {at} -> {card.dim} numbers; {card.licence}; {card.source}")
        for head, finds in object_heads(release_heads(ships[card.name])).items() if card.name in ships else ():
            say(f"    --heads {head}: {finds}")
    say("umedpt:FILE.json")
    say("    a UMedPT model that you trained (wsi-umedpt pretrain) or imported (wsi-umedpt encoders import)")
    say("timm:NAME, timm:NAME@FILE, timm:NAME@random")
    say("    any model of timm, with weights from its hub or cache, from a file, or random;")
    say("    they state no um/px: choose it with --tile-mpp")


@encoders.command(name="import")
def import_encoder(
    files: list[Path],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    pooling: Literal["before", "after"],
    name: str = "umedpt_published",
    mpp: float | None = None,
    squeezer: str | None = None,
    backbone: str | None = None,
) -> None:
    """Turn published UMedPT weights into an encoder for -m; nothing in their files is run.

    The weights' licence is their authors' and binds you; none ship with this tool.

    Examples
    --------
        wsi-umedpt encoders import encoder-1.0.4.pt.zip -o imported --pooling before

        wsi-umedpt encoders import encoder.pt squeezer.pt -o imported --pooling after

        wsi-umedpt embed slide.svs -o out -m umedpt:imported/umedpt_published.json

    Parameters
    ----------
    files
        A zip of modules as the authors publish it (.pt.zip), or the encoder and the squeezer in one
        file or two: whole modules that torch saved, state dicts, or safetensors.
    out
        Folder to write NAME.json and its weights to.
    pooling
        before: what the authors' library 1.0 computes. after: what 1.6 computes with the same
        weights. The files do not tell, and the two give other numbers.
    name
        What to call the encoder.
    mpp
        um/px at which tiles should be cut for it, where you know.
    squeezer
        Which squeezer, where there are several; none for a model whose deepest map is the embedding
        and whose files do not say so.
    backbone
        Name of the encoder in timm, where it is one of timm's and the files do not say which.
    """
    from wsi_umedpt.checkpoint import read_about
    from wsi_umedpt.errors import EncoderError
    from wsi_umedpt.models.published import import_published
    from wsi_umedpt.slideid import why_unsafe

    if why := why_unsafe(name):
        raise EncoderError(f"--name {name!r} {why}")
    path = import_published(
        files, out, name=name, pooling=pooling, mpp=mpp, squeezer=squeezer, backbone=backbone
    )  # fmt: skip
    said = read_about(path)["imported"]
    for part, place in said["taken"].items():
        say(f"{part}: taken from {place}")
    for place, reason in said["left_out"].items():
        say(f"{place}: left out, {reason}")
    say(f"umedpt:{path}")
