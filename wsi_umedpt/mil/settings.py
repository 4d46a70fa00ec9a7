"""How a slide classifier is built, trained and evaluated; every field is a flag of ``wsi-umedpt mil train``."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

from wsi_umedpt.config import build
from wsi_umedpt.errors import MilError

ModelKind = Literal[
    "mean", "max", "top-k", "mean-mlp", "attention", "clam-sb", "clam-mb", "additive", "transformer"
]  # fmt: skip


TRANSFORMER_HEADS = 4
_MOST = 65_536


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which network, and how large."""

    model: ModelKind = "attention"
    """How tiles become one prediction; attention is gated attention (Ilse 2018)."""
    hidden: int = 128
    """Numbers a tile is embedded into."""
    attention: int = 64
    """Width of the attention's own layer."""
    dropout: float = 0.25
    """Share of hidden numbers dropped in training, 0 to 1."""
    feature_dropout: float = 0.1
    """Share of a tile's own numbers set to their mean in training, 0 to 1."""
    top_k: int = 8
    """Tiles that count, for top-k; and those that CLAM's instance loss takes."""

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelKind):
            raise MilError(f"there is no model {self.model!r}; there are {', '.join(get_args(ModelKind))}")
        for name, value in (("hidden", self.hidden), ("attention", self.attention), ("top_k", self.top_k)):
            if not 1 <= value <= _MOST:
                raise MilError(f"{name} (--{name.replace('_', '-')}) is from 1 to {_MOST:,}, got {value:,}")
        for name, share in (("dropout", self.dropout), ("feature_dropout", self.feature_dropout)):
            if not 0 <= share < 1:
                raise MilError(f"{name} (--{name.replace('_', '-')}) is from 0 to below 1, got {share:g}")
        if self.model == "transformer" and self.hidden % TRANSFORMER_HEADS:
            raise MilError(f"the transformer's hidden must be a multiple of {TRANSFORMER_HEADS}, got {self.hidden}")


@dataclass(frozen=True, kw_only=True)
class FitSettings(ModelSettings):
    """One network and its training."""

    lr: float = 1e-3
    """Highest learning rate of AdamW; it rises over the first epoch, then falls as a cosine."""
    weight_decay: float = 1e-3
    """AdamW's."""
    epochs: int = 60
    """At most."""
    patience: int = 15
    """Epochs without a better loss on the inner fold after which training stops."""
    batch: int = 8
    """Bags a step; 16 or more where the target is survival by Cox."""
    max_tiles: int = 4096
    """Tiles of a bag that one step sees, drawn anew each time; all where it has fewer. Predictions see all."""
    tile_dropout: float = 0.1
    """Share of those tiles left out at random."""
    instance_weight: float = 0.3
    """Share of CLAM's instance loss in the whole."""
    class_weights: bool = False
    """Whether bags of rarer classes count more. Thresholds are chosen on inner folds either way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("lr", 0.0, 1.0), ("weight_decay", 0.0, 10.0), ("epochs", 1, 10_000), ("patience", 1, 10_000),
            ("batch", 1, 100_000), ("max_tiles", 1, 10**9), ("tile_dropout", 0.0, 0.99),
            ("instance_weight", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high or (name == "lr" and value == 0):
                raise MilError(f"{name} (--{name.replace('_', '-')}) is from {low:g} to {high:g}, got {value:g}")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How cases are dealt to folds, and what is promised."""

    folds: int = 5
    """Outer folds: each is reported once, by models that never saw it. A column fold of the table overrides it."""
    inner_folds: int = 4
    """Folds within the others: for early stopping, the choice of model, temperature, thresholds and conformal sets."""
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2)
    """The whole evaluation is repeated for each."""
    preserve_sites: bool = False
    """Keep all patients of a site in one fold."""
    coverage: float = 0.9
    """Share of slides whose conformal set is to hold the truth."""

    def __post_init__(self) -> None:
        for name in ("folds", "inner_folds"):
            if not 2 <= getattr(self, name) <= 1000:
                raise MilError(f"--{name.replace('_', '-')} is 2 or more, got {getattr(self, name)}")
        if not self.seeds or len({*self.seeds}) != len(self.seeds) or not all(0 <= s < 2**31 for s in self.seeds):
            raise MilError(f"--seeds must be different numbers from 0 to {2**31 - 1}, got {self.seeds}")
        if not 0.5 <= self.coverage < 1:
            raise MilError(f"--coverage is from 0.5 to below 1, got {self.coverage:g}")


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
            raise MilError(f"--try {text}: write NAME=VALUE,NAME=VALUE, as in lr=0.003")
        changes[name.strip().replace("-", "_")] = _value(value.strip())
    return build(FitSettings, {**asdict(settings), **changes}, f"--try {text}")


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
    """All fields, for JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
