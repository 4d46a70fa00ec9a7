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
) -> None:
    """Turn published UMedPT weights (Swin V2 and squeezer, state dicts) into an encoder for -m.

    The weights' licence is their authors' and binds you; none ship with this tool.

    Examples
    --------
        wsi-umedpt encoders import encoder.pt squeezer.pt -o imported --pooling before

        wsi-umedpt embed slide.svs -o out -m umedpt:imported/umedpt_published.json

    Parameters
    ----------
    files
        One file, or one for the encoder and one for the squeezer: safetensors, or state dicts
        that torch.load(weights_only=True) accepts.
    out
        Folder to write NAME.json and its weights to.
    pooling
        before: weights of the authors' library 1.0. after: of newer versions. The files do not
        tell, and the wrong choice gives other numbers.
    name
        What to call the encoder.
    mpp
        um/px at which tiles should be cut for it, where you know.
    """
    from wsi_umedpt.errors import EncoderError
    from wsi_umedpt.models.published import import_published
    from wsi_umedpt.slideid import why_unsafe

    if why := why_unsafe(name):
        raise EncoderError(f"--name {name!r} {why}")
    say(f"umedpt:{import_published(files, out, name=name, pooling=pooling, mpp=mpp)}")
