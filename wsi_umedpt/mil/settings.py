"""Settings of a slide classifier and its evaluation; every field is also a flag of ``wsi-umedpt mil train``."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from wsi_umedpt.config import build
from wsi_umedpt.errors import MilError
from wsi_umedpt.io.registry import Registry

ModelKind = Literal[
    "mean", "max", "top-k", "mean-mlp", "attention", "clam-sb", "clam-mb", "additive", "transformer"
]  # fmt: skip


TRANSFORMER_HEADS = 4
STARTED = ("attention", "clam-sb", "additive")
"""Networks with one gated attention, which can start from a grouper."""
_MOST = 65_536

NETWORKS: Registry[Any] = Registry("wsi_umedpt.mil_networks", get_args(ModelKind))
"""Networks of users; see `wsi_umedpt.mil.networks.factory.register_mil_network`."""


def network_names() -> list[str]:
    """Names of all networks, ours first."""
    return [*get_args(ModelKind), *NETWORKS.names()]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Kind and size of the network."""

    model: str = "attention"
    """Aggregation of tiles to a prediction: mean, max, top-k, mean-mlp, attention (gated, Ilse 2018), clam-sb, clam-mb,
    additive, transformer, or the name of a network that was registered."""
    hidden: int = 128
    """Width of the hidden layer that tiles are embedded into."""
    attention: int = 64
    """Width of the attention layer."""
    dropout: float = 0.25
    """Dropout of hidden numbers in training, 0 to 1."""
    feature_dropout: float = 0.1
    """Share of a tile's features set to their mean in training, 0 to 1."""
    top_k: int = 8
    """Number of tiles that top-k averages, and that the instance loss of CLAM takes."""

    def __post_init__(self) -> None:
        if self.model not in (known := network_names()):
            raise MilError(f"there is no model {self.model!r}; there are {', '.join(known)}")
        for name, value in (("hidden", self.hidden), ("attention", self.attention), ("top_k", self.top_k)):
            if not 1 <= value <= _MOST:
                raise MilError(f"`{name}` is from 1 to {_MOST:,}, got {value:,}")
        for name, share in (("dropout", self.dropout), ("feature_dropout", self.feature_dropout)):
            if not 0 <= share < 1:
                raise MilError(f"`{name}` is from 0 to below 1, got {share:g}")
        if self.model == "transformer" and self.hidden % TRANSFORMER_HEADS:
            raise MilError(f"the transformer's hidden must be a multiple of {TRANSFORMER_HEADS}, got {self.hidden}")


@dataclass(frozen=True, kw_only=True)
class FitSettings(ModelSettings):
    """Settings of one network and its training."""

    lr: float = 1e-3
    """Highest learning rate of AdamW; it rises over the first epoch, then falls as a cosine."""
    weight_decay: float = 1e-3
    """Weight decay of AdamW."""
    epochs: int = 60
    """Largest number of epochs."""
    patience: int = 15
    """Epochs without a better loss on the inner fold after which training stops."""
    batch: int = 8
    """Number of bags in a step; 16 or more where the target is survival by Cox."""
    max_tiles: int = 4096
    """Tiles of a bag that one step sees, drawn anew each time; all where it has fewer. Predictions see all."""
    tile_dropout: float = 0.1
    """Share of those tiles left out at random."""
    instance_weight: float = 0.3
    """Share of CLAM's instance loss in the whole."""
    class_weights: bool = False
    """Weight bags of rarer classes more. Thresholds are chosen on inner folds either way."""
    start_from: str = ""
    """UMedPT release (NAME.json) whose grouper the attention starts from; `hidden` and `attention` are then its."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_from and self.model not in STARTED:
            raise MilError(f"`start_from` is for the models {', '.join(STARTED)}; {self.model} has no gated attention")
        for name, low, high in (
            ("lr", 0.0, 1.0), ("weight_decay", 0.0, 10.0), ("epochs", 1, 10_000), ("patience", 1, 10_000),
            ("batch", 1, 100_000), ("max_tiles", 1, 10**9), ("tile_dropout", 0.0, 0.99),
            ("instance_weight", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high or (name == "lr" and value == 0):
                raise MilError(f"`{name}` is from {low:g} to {high:g}, got {value:g}")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Settings of folds, seeds and coverage."""

    folds: int = 5
    """Outer folds: each is reported once, by models that never saw it. A column fold of the table overrides it."""
    inner_folds: int = 4
    """Folds within the others: for early stopping, the choice of model, temperature, thresholds and conformal sets."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The whole evaluation is repeated for each."""
    preserve_sites: bool = False
    """Keep all patients of a site in one fold."""
    coverage: float = 0.9
    """Share of slides whose conformal set is to hold the truth."""

    def __post_init__(self) -> None:
        for name in ("folds", "inner_folds"):
            if not 2 <= getattr(self, name) <= 1000:
                raise MilError(f"`{name}` is 2 or more, got {getattr(self, name)}")
        if not self.seeds or len({*self.seeds}) != len(self.seeds) or not all(0 <= s < 2**31 for s in self.seeds):
            raise MilError(f"`seeds` must be different numbers from 0 to {2**31 - 1}, got {self.seeds}")
        if not 0.5 <= self.coverage < 1:
            raise MilError(f"`coverage` is from 0.5 to below 1, got {self.coverage:g}")


def varied(settings: FitSettings, text: str) -> FitSettings:
    """Settings with some changed: ``lr=0.003`` or ``model=mean-mlp,hidden=64``.

    Raises
    ------
    MilError, ConfigError
        If it cannot be understood, or a name or value is none.
    """
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise MilError(f"`try` {text}: write NAME=VALUE,NAME=VALUE, as in lr=0.003")
        changes[name.strip().replace("-", "_")] = _value(value.strip())
    return build(FitSettings, {**asdict(settings), **changes}, f"`try` {text}")


def _value(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def to_dict(settings: FitSettings | StudySettings) -> dict[str, Any]:
    """All fields, for JSON; one that younger versions added is left out where it says nothing."""
    return {
        k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items() if (k, v) != ("start_from", "")
    }
