"""`HeadSpec`: what a head of the shared model predicts, as configs and releases say it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "classification",
    "multilabel",
    "segmentation",
    "multilabel_segmentation",
    "detection",
    "regression",
    "survival",
]
BORDER = "border"
"""Class of the lines between objects that touch."""
BOXES = "_boxes"
"""Ending of the name of a head for detection that goes with one for segmentation."""
_CLASSES = 100_000
_LETTERS = 1000


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Specification of a head; enough to build it again."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    """Names of classes or labels; of values for regression; of the time and of the event for survival."""
    modality: str
    centre: tuple[float, ...] = ()
    """Mean of each value over the training cases (regression)."""
    spread: tuple[float, ...] = ()
    """Standard deviation of each value over the training cases (regression)."""
    mpp: float | None = None
    """um/px of the images it was trained on; None where images state none."""
    bags: bool = False
    """True if its labels are of bags of images, whose embeddings the grouper has made one of."""
    about: str = ""
    """Description of its objects and training data, for people who choose among heads."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError(f"task {self.name!r} names no classes")
        if len(self.classes) > _CLASSES or max(map(len, self.classes)) > _LETTERS:
            raise ValueError(f"task {self.name!r} has over {_CLASSES:,} classes, or one of over {_LETTERS:,} letters")
        if len({*self.classes}) < len(self.classes):
            raise ValueError(f"task {self.name!r} names a class twice")
        for what, values in (("centre", self.centre), ("spread", self.spread)):
            if len(values) not in (0, len(self.classes)) or not all(abs(v) < 1e30 for v in values):
                raise ValueError(f"task {self.name!r} has a {what} that is no number for each value: {values[:5]}")
        if min(self.spread, default=0) < 0:
            raise ValueError(f"task {self.name!r} has a spread below 0: {self.spread[:5]}")
        if self.mpp is not None and not 0 < self.mpp < 1e5:
            raise ValueError(f"task {self.name!r} states {self.mpp:g} um/px; it is over 0 and below 100,000")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them; `bags` only where it is true."""
        return {k: [*v] if isinstance(v, tuple) else v for k, v in asdict(self).items() if k != "bags" or v}


def object_heads(heads: Iterable[HeadSpec]) -> dict[str, str]:
    """List the heads of a release that show objects (those of `tasks.multihead.find_heads`), and what each finds."""
    specs = {head.name: head for head in heads}
    pixels = [n for n, spec in specs.items() if spec.kind == "segmentation"]
    boxes = [n for n, spec in specs.items() if spec.kind == "detection" and n.removesuffix(BOXES) not in pixels]
    return {name: _finds(specs[name]) for name in pixels + boxes}


def _finds(spec: HeadSpec) -> str:
    classes = [name for name in spec.classes if name not in ("background", BORDER)]
    at = f", {spec.mpp:g} um/px" if spec.mpp else ""
    return (spec.about or ", ".join(classes)) + at
