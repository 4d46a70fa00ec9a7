"""`wsi-umedpt encoders`: what tiles can be embedded with, how to get it, and importing what others published."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from wsi_umedpt.cli.options import AsJson
from wsi_umedpt.cli.terminal import say, say_json

if TYPE_CHECKING:
    from wsi_umedpt.models.cards import EncoderCard

encoders = cyclopts.App(name="encoders", help="List the encoders that can be named with -m, show one, or import one.")

_SHOWN = (
    "about", "kind", "library", "architecture", "arguments", "pooling", "dim", "parameters", "mpp", "accepts_mpp",
    "size_px", "resize_px", "crop_px", "interpolation", "mean", "std", "precision", "licence", "gate", "source",
    "repository", "file", "revision", "sha256", "tiles_from", "citation", "compared_with",
)  # fmt: skip
_GATES = {
    "open": "to be downloaded by anybody", "click": "to be downloaded once its terms are accepted on its page",
    "request": "to be asked for on its page", "none": "none are needed",
}  # fmt: skip


@encoders.default
def list_encoders(
    *,
    free: Annotated[bool, Parameter(name="--open", negative=())] = False,
    gated: Annotated[bool, Parameter(negative=())] = False,
    kind: Literal["tile", "slide", "cell"] | None = None,
    as_json: AsJson = False,
) -> None:
    """List the encoders that can be named with -m; `encoders show NAME` says more of one.

    Examples
    --------
        wsi-umedpt encoders

        wsi-umedpt encoders --open --kind tile

        wsi-umedpt embed slide.svs -o out -m uni2-h

    Parameters
    ----------
    free
        Those whose weights anybody may download.
    gated
        Those whose weights are behind terms or a request.
    kind
        Those that embed tiles, or slides.
    as_json
        One JSON list of all that the cards say.
    """
    from wsi_umedpt.models.cards import DEFAULT_ENCODER, all_cards, release_names

    chosen = [
        card
        for card in all_cards().values()
        if kind in (None, card.kind)
        and (not free or card.gate in ("open", "none"))
        and (not gated or card.gate in ("click", "request"))
    ]
    shipped = release_names() if kind in (None, "tile") and not gated else []
    if as_json:
        listed: list[dict[str, Any]] = [{"name": name, "kind": "tile", "gate": "none"} for name in shipped]
        say_json([*listed, *(card.to_dict() for card in chosen)])
        return
    for name in shipped:
        say(f"{name}{' (default)' if name == DEFAULT_ENCODER else ''}: ships with this tool, with its heads")
        for head, finds in _heads(name).items():
            say(f"    --heads {head}: {finds}")
    for card in chosen:
        say(f"{card.name}: {_short(card)}")
    for gate in ("open", "click", "request"):
        if any(card.gate == gate for card in chosen):
            say(f"    {gate}: weights {_GATES[gate]}")
    if kind in (None, "tile"):
        say("umedpt:FILE.json: a UMedPT model that you trained (wsi-umedpt pretrain) or imported (encoders import)")
        say("timm:NAME[?ARGUMENT=VALUE&..][@FILE], timm:hf-hub:OWNER/NAME: any model of timm; no um/px: use --tile-mpp")
        say(
            "torchscript:FILE?.., onnx:FILE?.., module:PACKAGE:FUNCTION?..: your own network "
            "(docs/how-to/bring-your-encoder.md)"
        )


def _heads(release: str) -> dict[str, str]:
    """Heads of a release that ships which show objects, and what each finds; torch, which takes seconds, stays out."""
    from wsi_umedpt.config import build_known
    from wsi_umedpt.models.cards import RELEASES
    from wsi_umedpt.models.head_spec import HeadSpec, object_heads

    path = RELEASES / f"{release}.json"
    heads = json.loads(path.read_text(encoding="utf-8"))["heads"]
    return object_heads(build_known(HeadSpec, head, str(path)) for head in heads)


def _short(card: "EncoderCard") -> str:
    at = "any um/px" if card.mpp is None else f"{card.mpp:g} um/px"
    tiles = f"{card.size_px} px at {at} -> {card.dim or 'as many'} numbers"
    if card.kind == "slide":
        tiles = (
            f"slides, from tiles of {' or '.join(card.tiles_from) or 'any encoder'} -> {card.dim or 'as many'} numbers"
        )
    return f"{tiles}; {card.licence}, {card.gate}{'; not built here' if card.why_not else ''}"


@encoders.command
def show(name: str, /, *, as_json: AsJson = False) -> None:
    """Print what is known of an encoder, and what to do to get its weights.

    Examples
    --------
        wsi-umedpt encoders show uni2-h

    Parameters
    ----------
    name
        A card's name or an alias, or a release that ships.
    as_json
        As JSON.
    """
    from wsi_umedpt.models.cards import find_card, release_names

    shipped = name in release_names()
    if shipped:
        from wsi_umedpt.models.bundle import release_card
        from wsi_umedpt.models.weights import release_path

        card = release_card(release_path(name))
    else:
        card = find_card(name)
    said = card.to_dict()
    if as_json:
        say_json(said)
        return
    say(card.name + (f" ({', '.join(card.aliases)})" if card.aliases else ""))
    for key in (key for key in _SHOWN if key in said):
        mark = " (unconfirmed)" if key in card.unverified else ""
        say(f"    {key}: {_plain(said[key])}{mark}")
    for head, finds in _heads(name).items() if shipped else ():
        say(f"    --heads {head}: {finds}")
    for line in _to_get(card):
        say(line)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(_plain(one) for one in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)


def _to_get(card: "EncoderCard") -> list[str]:
    """Steps that are needed before `-m NAME` works."""
    if card.why_not:
        first = [f"This project does not build it: {card.why_not}."]
        return [*first, f"To install what it needs: {card.requires}"] if " " in card.requires else first
    if card.comes_with_us or card.library == "umedpt" or card.gate == "none":
        return ["It needs no download."]
    lines = [f"Its weights are {_GATES[card.gate]}{f': {card.page}' if card.page else f'; see {card.source}'}"]
    if card.gate in ("click", "request"):
        lines.append("Then make a token at https://huggingface.co/settings/tokens, and type: hf auth login")
    remote = card.library == "remote"
    if remote:
        lines.append(f"Its network is code beside its weights: read that, then add --trust-remote-code ({card.page})")
    if card.requires:
        lines.append(f"It needs the package {card.requires}: pip install 'wsi-umedpt[{card.requires}]'")
    use = card.name if card.repository else f"{card.name}@FILE"
    lines.append(f"wsi-umedpt embed slide.svs -o out -m {use}{' --trust-remote-code' if remote else ''}")
    if remote:
        lines.append(f"or from a copy of its repository: -m {card.name}@FOLDER --trust-remote-code")
    elif card.repository:
        lines.append(f"or from a file that you have: -m {card.name}@weights.safetensors")
    return lines


@encoders.command
def check(name: str, /) -> int:
    """Say whether an encoder's weights are on this machine, can be read, and are those of its card.

    Nothing is asked over the network; exit code 1 where they are not here or not right.

    Examples
    --------
        wsi-umedpt encoders check uni2-h

        wsi-umedpt encoders check uni2-h@weights.safetensors

    Parameters
    ----------
    name
        As -m takes it.
    """
    from wsi_umedpt.models.cards import find_card
    from wsi_umedpt.models.names import parse_name

    asked = parse_name(name)
    if asked.source == "card" and not asked.file:
        card = find_card(asked.name)
        if card.why_not:
            say(f"{card.name}: {card.why_not}")
            return 1
        if card.kind == "slide":
            say(f"{card.name}: it has no weights; wsi-umedpt embed slide.svs -o out --slide-encoder {card.name}")
            return 0
        if card.repository:
            from wsi_umedpt.models.hub import WEIGHTS, cached

            files = (card.file,) if card.file else WEIGHTS
            if (found := cached(card.repository, files, str(asked.options.get("revision", card.revision)))) is None:
                say(f"{card.name}: its weights are not here")
                for line in _to_get(card):
                    say(f"    {line}")
                return 1
            say(f"{card.name}: {found.path}, revision {found.revision or 'not known'}")
    from wsi_umedpt.models.hub import without_network
    from wsi_umedpt.models.weights import load_network

    with without_network():
        loaded = load_network(name)[1]
    say(f"{loaded.name}: its weights are here and right; {loaded.dim} numbers, sha256 {loaded.weights_sha256}")
    return 0


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

    The weights' licence is their authors' and binds you; none ship with this tool. A grouper that is found is
    kept for `mil train --start-from`.

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
        Name of the encoder.
    mpp
        um/px at which tiles should be cut for it, where you know.
    squeezer
        Name of the squeezer, where there are several; none for a model whose deepest map is the embedding
        and whose files do not say so.
    backbone
        Name of the encoder in timm, where it is one of timm's and the files do not say which.
    """
    from wsi_umedpt.errors import EncoderError
    from wsi_umedpt.io.checkpoint import read_about
    from wsi_umedpt.models.import_published.convert import import_published
    from wsi_umedpt.slides.slide_id import why_unsafe

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
