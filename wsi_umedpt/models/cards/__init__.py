"""Cards: what each encoder is, what it is fed, and under which terms its weights are to be had. Data, not code.

A card is a TOML file: those of this folder ship, those of the user's folder (`user_folder`) come beside them or
in their place. Reading them needs neither torch nor timm, so that a name is checked before either is imported.
How to write one: docs/how-to/bring-your-encoder.md.
"""

import difflib
import functools
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import platformdirs

from wsi_umedpt.config import build
from wsi_umedpt.errors import ConfigError, EncoderError

Kind = Literal["tile", "slide", "cell"]
Library = Literal["timm", "transformers", "umedpt", "own", "package", "remote", "file", "none"]
"""Builder of the network. own: this project (see `wsi_umedpt.models.building`). package: a Python package of the
encoder's authors. remote: code that lies beside the weights. file: a network that is whole in its file (TorchScript,
ONNX). none: this project cannot, and `why_not` says why."""
Pooling = Literal["network", "class", "mean", "class+mean", "map", "projection"]
"""Pooling of a network's output to one vector. network: it gives one. class: its class token. mean: the mean of its
patch tokens. class+mean: both, one after the other. map: the mean of its last feature map over positions.
projection: its image embedding in the space that it shares with texts."""
Gate = Literal["open", "click", "request", "none"]
"""Gate before the weights: nothing, terms to accept on their page, a person to be asked; none: no weights."""
Precision = Literal["fp32", "bf16", "fp16"]

DEFAULT_ENCODER = "umedpt_lite0.v2"
"""A release that ships: see `models.bundle.shipped`."""
FAMILIES = {"umedpt": DEFAULT_ENCODER}
"""Names that stand for the newest of a family."""
RELEASES = Path(__file__).parents[2] / "weights"
"""Folder of the UMedPT releases that ship."""
_OF_A_RUN = ("weights_sha256", "model")
"""Fields that are filled in when weights are loaded, and that no file states of itself."""


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """One encoder, ready to be loaded by name."""

    name: str
    """Identity; names its features in a store."""
    aliases: tuple[str, ...] = ()
    """Other names that people type."""
    kind: Kind = "tile"
    """Kind of input that it embeds."""
    about: str = ""
    """Description in one line."""
    library: Library = "timm"
    architecture: str
    """Name of the network in its library; of a UMedPT model, its backbone."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments that the network is built with."""
    pooling: Pooling = "network"
    dim: int
    """Length of an embedding; 0 for that of what it is made of."""
    parameters: int | None = None
    """Number of weights, as its makers state it or as its architecture gives."""
    mpp: float | None
    """um/px of the tiles it was trained on or is used at; None where its makers state none."""
    accepts_mpp: tuple[float, ...] = ()
    """Other um/px that it was trained at."""
    size_px: int
    """Side of the tile, px."""
    resize_px: int | None = None
    """Side to which tiles of another size are resized; None: tiles enter as they are."""
    crop_px: int | None = None
    """Side of the centre that the network sees; None: the whole tile."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation by which tiles are resized."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Pixels in [0, 1] enter as (pixel - mean) / std."""
    precision: Precision = "fp32"
    """Arithmetic that its makers advise."""
    licence: str
    gate: Gate = "open"
    source: str
    """Address, package or file of its makers' description."""
    repository: str = ""
    """OWNER/NAME on the hub."""
    file: str = ""
    """File of the weights, in the repository."""
    revision: str = ""
    """Commit of the repository; empty for its newest."""
    sha256: str = ""
    """SHA-256 of the file; empty where it is not known."""
    unwrap: tuple[str, ...] = ()
    """Keys under which a file may hold the weights, beside state_dict and model."""
    strip: tuple[str, ...] = ()
    """Beginnings of names that wrappers of training add."""
    drop: tuple[str, ...] = ()
    """Regular expressions of how names begin that are not of the encoder: heads, other branches, counters."""
    rename: dict[str, str] = field(default_factory=dict)
    """Regular expressions of names, and what they become."""
    requires: str = ""
    """Packages to install for it, beyond this package."""
    tiles_from: tuple[str, ...] = ()
    """Tile encoders that a slide encoder takes; empty for any."""
    text: bool = False
    """True if it also embeds texts."""
    why_not: str = ""
    """Reason why this project does not build it; empty where it does."""
    citation: str = ""
    compared_with: tuple[str, ...] = ()
    """Addresses of what its makers publish, and of other tools that build it, with which its fields were compared."""
    unverified: tuple[str, ...] = ()
    """Fields that nothing of `compared_with` states."""
    weights_sha256: str | None = None
    """Expected sha256 over the weights (see `weights.weights_sha256`); None where it is not known beforehand."""
    model: dict[str, Any] | None = None
    """Spec of the UMedPT model that the encoder is of (see `ModelSpec`); None for others."""

    def __post_init__(self) -> None:
        if self.kind not in ("tile", "slide", "cell"):
            raise ValueError(f"kind is tile, slide or cell, got {self.kind!r}")
        if self.crop_px is not None and self.crop_px > (self.resize_px or self.size_px):
            raise ValueError(f"crop_px {self.crop_px} is over the tile's {self.resize_px or self.size_px}")
        names = {f.name for f in fields(self)}
        if strange := [name for name in self.unverified if name not in names]:
            raise ValueError(f"unverified names {strange[0]!r}, which is no field of a card")
        if self.library == "none" and not self.why_not:
            raise ValueError("a card that cannot be built says why_not")
        if not all(s > 0 for s in self.std):
            raise ValueError(f"std is over 0, got {self.std}")

    @property
    def input_px(self) -> int:
        """Side of what the network sees."""
        return self.crop_px or self.resize_px or self.size_px

    @property
    def comes_with_us(self) -> bool:
        """Return whether its weights are installed with this package."""
        return self.kind == "tile" and self.library == "own"

    @property
    def page(self) -> str:
        """Address of the page where its terms are accepted; empty without a repository."""
        return f"https://huggingface.co/{self.repository}" if self.repository else ""

    def to_dict(self) -> dict[str, Any]:
        """All fields that say something, as JSON can hold them."""
        said = {k: [*v] if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        unsaid: dict[str, Any] = {"weights_sha256": object(), "model": object(), "mpp": object()}
        for one in fields(self):
            if isinstance(one.default, str | tuple | int) or one.default is None:
                unsaid.setdefault(one.name, [*one.default] if isinstance(one.default, tuple) else one.default)
        return {k: v for k, v in said.items() if v != unsaid.get(k, {}) or k == "library"}

    @classmethod
    def from_dict(cls, said: dict[str, Any], where: str) -> "EncoderCard":
        """Undo `to_dict`, checking every field."""
        return build(cls, said, where)


def user_folder() -> Path:
    """Folder of a user's own cards."""
    return Path(platformdirs.user_config_dir("wsi_umedpt")) / "cards"


def read_card(path: Path) -> EncoderCard:
    """Read one card.

    Raises
    ------
    ConfigError
        If it is no TOML, or a key or value is not one of a card.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    if strange := [key for key in _OF_A_RUN[1:] if key in said]:
        raise ConfigError(f"{path}: {strange[0]} is of UMedPT releases, and is not for a card")
    if said.get("kind", "tile") == "tile" and not {"mean", "std"} <= {*said}:
        raise ConfigError(f"{path}: missing mean, std: how pixels enter the network")
    card = EncoderCard.from_dict({"mpp": None, **said}, str(path))
    if card.name != path.stem:
        raise ConfigError(f"{path} is the card of {card.name!r}; its file is called {card.name}.toml")
    return card


def all_cards() -> dict[str, EncoderCard]:
    """All cards by name, those of the user last; one of theirs replaces a shipped one of its name.

    Raises
    ------
    ConfigError
        If one cannot be read, or two claim one name.
    """
    return {**_shipped_cards(), **_checked(sorted(user_folder().glob("*.toml")))}


@functools.cache
def _shipped_cards() -> dict[str, EncoderCard]:
    return _checked(sorted(Path(__file__).parent.glob("*.toml")))


def _checked(paths: Iterable[Path]) -> dict[str, EncoderCard]:
    found = {path.stem: read_card(path) for path in paths}
    claimed: dict[str, str] = {}
    for card in found.values():
        for name in (card.name, *card.aliases):
            if claimed.setdefault(name.lower(), card.name) != card.name:
                raise ConfigError(f"the cards {claimed[name.lower()]} and {card.name} both claim the name {name!r}")
    return found


def release_names() -> list[str]:
    """Names of the UMedPT releases that ship."""
    return [path.stem for path in sorted(RELEASES.glob("*.json"))]


def find_card(name: str) -> EncoderCard:
    """The card of a name or an alias, in any case of letters.

    Raises
    ------
    EncoderError
        If there is none; the nearest names are said.
    ConfigError
        If a card of the user cannot be read.
    """
    known = all_cards()
    if name in known:
        return known[name]
    spelled = {alias.lower(): card for card in known.values() for alias in (card.name, *card.aliases)}
    if name.lower() in spelled:
        return spelled[name.lower()]
    if ":" in name:
        raise EncoderError(
            f"{name} is named by what it is, and has no card: `wsi-umedpt encoders` lists those that have"
        )
    raise EncoderError(f"there is no encoder {name!r}. {_nearest(name, [*spelled, *release_names()])}")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    return (
        f"{hint}`wsi-umedpt encoders` lists those that have a card; if it is a model of timm, name it timm:{name}, or "
        f"timm:{name}@FILE for weights from a file."
    )
