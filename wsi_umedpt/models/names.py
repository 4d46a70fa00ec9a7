"""Names that a user may type for an encoder, parsed and checked without torch.

::

    umedpt_lite0.v1                              a release that ships
    uni2-h, UNI2                                 a card, by its name or an alias
    uni2-h@weights.safetensors                   its weights from a file, as they are published
    uni2-h?pooling=class                         another pooling
    umedpt:runs/mine/mine.v1.json                a UMedPT model that you trained or imported
    timm:resnet50                                any model of timm, its weights from the hub
    timm:NAME?img_size=224&init_values=1e-5@FILE built with arguments, weights from a file; @random for random ones
    timm:hf-hub:OWNER/NAME                       a repository of the hub that timm understands
    torchscript:FILE?size=224&mean=..&std=..     a network that is whole in its file
    onnx:FILE?size=224&mean=..&std=..            the same, in ONNX
    module:PACKAGE:FUNCTION?size=224&mean=..     what a function of yours returns, a torch module
"""

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.io.registry import Registry
from wsi_umedpt.models.cards import FAMILIES, Pooling, find_card, release_names

REGISTERED: "Registry[Any]" = Registry("wsi_umedpt.encoders")
"""Names that users added (`wsi_umedpt.models.own.register_encoder`), and what loads each."""
RANDOM = "random"
"""Word for random weights, in the place of a file."""
_PREFIXES = ("umedpt", "timm", "torchscript", "onnx", "module")
_OF_A_CARD = ("pooling", "revision", "trust_remote_code")
_OF_INPUT = ("size", "mpp", "mean", "std")
"""Options that say how tiles enter a network; the others of a timm model are arguments of its architecture."""
NEEDED = ("size", "mean", "std")
"""Those that a network of one's own must state."""

Source = Literal["card", "release", "umedpt", "timm", "torchscript", "onnx", "module", "registered"]


@dataclass(frozen=True)
class Asked:
    """An encoder's name, taken apart."""

    source: Source
    name: str
    """Name of the card, the release or the architecture; of others the file or PACKAGE:FUNCTION."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options after the question mark."""
    file: str = ""
    """File of weights after the @, or `RANDOM`."""


def parse_name(text: str) -> Asked:
    """Take a name apart and check all of it that can be checked without torch.

    Raises
    ------
    EncoderError
        If there is no such card, file, module or option.
    """
    text = FAMILIES.get(text, text)
    if text in REGISTERED.names():
        return Asked("registered", text)
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in _PREFIXES:
        return _of_a_card(text)
    if prefix == "umedpt":
        return Asked("umedpt", rest)
    if prefix == "timm":
        left, _, file = rest.partition("@")
        name, _, said = left.partition("?")
        if not name:
            raise EncoderError("timm: is followed by the name of a model, as in timm:resnet50")
        return Asked("timm", name, _options(said, text), file)
    name, _, said = rest.partition("?")
    options = _options(said, text)
    if unknown := [key for key in options if key not in _OF_INPUT]:
        raise EncoderError(f"{text}: there is no option {unknown[0]!r}; there are {', '.join(_OF_INPUT)}")
    if missing := [key for key in NEEDED if key not in options]:
        raise EncoderError(
            f"{text} must say {' and '.join(missing)}: {prefix}:{name}?size=224&mpp=0.5&mean=0.485,0.456,0.406"
            "&std=0.229,0.224,0.225"
        )
    if prefix == "module":
        _check_function(name)
        return Asked("module", name, options)
    if not Path(name).is_file():
        raise EncoderError(f"there is no file {name} ({text})")
    return Asked("torchscript" if prefix == "torchscript" else "onnx", name, options)


def trusting(text: str) -> str:
    """A name with consent to run its authors' code, where it is of a card that needs that; others as they are."""
    left, at, file = text.partition("@")
    asked = parse_name(text)
    if asked.source != "card" or find_card(asked.name).library != "remote":
        return text
    return f"{left}{'&' if '?' in left else '?'}trust_remote_code=true{at}{file}"


def check_tile_encoder(text: str) -> None:
    """Refuse a name that is none, is of a slide encoder, or is of one that is not built here; without torch.

    Raises
    ------
    EncoderError
        With what to do instead.
    """
    asked = parse_name(text)
    if asked.source != "card":
        return
    card = find_card(asked.name)
    if card.kind == "slide":
        of = " or ".join(card.tiles_from) or "any"
        raise EncoderError(
            f"{card.name} makes one vector of a slide's tiles, and embeds no tiles itself: name an encoder of tiles "
            f"({of}), and {card.name} as the slide encoder"
        )
    if card.why_not:
        raise EncoderError(f"{card.name} cannot be built here: {card.why_not}")


def _of_a_card(text: str) -> Asked:
    left, _, file = text.partition("@")
    name, _, said = left.partition("?")
    options = _options(said, text)
    if name in release_names():
        if options or file:
            raise EncoderError(f"{name} ships with its weights, and takes no file and no options")
        return Asked("release", name)
    card = find_card(name)
    if unknown := [key for key in options if key not in _OF_A_CARD]:
        raise EncoderError(f"{text}: a card takes the options {', '.join(_OF_A_CARD)}, not {unknown[0]!r}")
    if options.get("pooling", card.pooling) not in get_args(Pooling):
        raise EncoderError(f"{text}: pooling is one of {', '.join(get_args(Pooling))}")
    if file and file != RANDOM and not (Path(file).is_dir() if card.library == "remote" else Path(file).is_file()):
        raise EncoderError(f"there is no {'folder' if card.library == 'remote' else 'weights file'} at {file}")
    return Asked("card", card.name, options, file)


def _options(text: str, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise EncoderError(f"{where}: options are written name=value&name=value, got {part!r}")
        if key in ("revision", "pooling"):  # a commit may look like a number
            found[key] = value
        else:
            found[key] = tuple(map(_value, value.split(","))) if "," in value else _value(value)
    for key in ("mean", "std"):
        if key in found and not (isinstance(found[key], tuple) and [*map(type, found[key])] in _THREE):
            raise EncoderError(f"{where}: {key} is three numbers, as in {key}=0.485,0.456,0.406")
    for key in ("size", "mpp"):
        if key in found and not (isinstance(found[key], int | float) and found[key] > 0):
            raise EncoderError(f"{where}: {key} is a number over 0, got {found[key]!r}")
    return found


_THREE = [[a, b, c] for a in (int, float) for b in (int, float) for c in (int, float)]


def _value(text: str) -> str | int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _check_function(name: str) -> None:
    package, _, function = name.partition(":")
    if not function:
        raise EncoderError(f"module: is followed by PACKAGE:FUNCTION, as in module:mypackage.models:load, got {name!r}")
    try:
        there = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        there = None
    if there is None:
        raise EncoderError(f"there is no package {package!r} on this Python's path (module:{name})")
