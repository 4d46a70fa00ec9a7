"""How a slide classifier is trained and evaluated; every field is a flag of ``wsi-umedpt mil train``."""

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.network import ModelKind, ModelSettings


@dataclass(frozen=True, kw_only=True)
class FitSettings(ModelSettings):
    """One network and its training."""

    lr: float = 5e-4
    """Highest learning rate of AdamW; it rises over the first epoch, then falls as a cosine."""
    weight_decay: float = 1e-3
    """AdamW's."""
    epochs: int = 40
    """At most."""
    patience: int = 10
    """Epochs without a better loss on the inner fold after which training stops."""
    batch: int = 8
    """Bags a step; 32 or more where the target is survival by Cox."""
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
    seeds: tuple[int, ...] = (0, 1, 2)
    """The whole evaluation is repeated for each."""
    preserve_sites: bool = False
    """Keep all patients of a site in one fold."""
    coverage: float = 0.9
    """Share of slides whose conformal set is to hold the truth."""

    def __post_init__(self) -> None:
        for name in ("folds", "inner_folds"):
            if not 2 <= getattr(self, name) <= 1000:
                raise MilError(f"--{name.replace('_', '-')} is 2 or more, got {getattr(self, name)}")
        if not self.seeds or len({*self.seeds}) != len(self.seeds):
            raise MilError(f"--seeds must be different numbers, got {self.seeds}")
        if not 0.5 <= self.coverage < 1:
            raise MilError(f"--coverage is from 0.5 to below 1, got {self.coverage:g}")


def candidates(settings: FitSettings, models: tuple[ModelKind, ...], lrs: tuple[float, ...]) -> list[FitSettings]:
    """All that the inner folds choose between: every model with every learning rate."""
    return [replace(settings, model=m, lr=lr) for m, lr in product(models or (settings.model,), lrs or (settings.lr,))]


def to_dict(settings: FitSettings | StudySettings) -> dict[str, Any]:
    """All fields, for JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
