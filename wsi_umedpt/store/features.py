"""`Bag`: the readable tiles of one slide and their features, free of paths and files.

`FeatureKind` says what makes the features of two slides comparable, and `BagSource` is what
a store, or a feature bank of another tool, offers to those who train on many slides: what it
is without reading it, and the bag once it is needed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Bag:
    """The readable tiles of one slide and their features: input of slide classifiers."""

    slide_id: str
    """Name of the slide, as its store is called."""
    features: npt.NDArray[np.float16]
    """(tile, dim); float32 where another tool stored it so."""
    xy: npt.NDArray[np.int32]
    """(tile, 2) top left corners, level-0 px."""
    index: npt.NDArray[np.int64]
    """(tile,) rows of the grid."""
    encoder_id: str = ""
    """Encoder that made the features."""
    grid_id: str = ""
    """Grid that the tiles are of."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """Encoder and tiles of features: slides may be compared only where all of it agrees.

    What a file does not say is None (or empty), and agrees only with another that does not say it.
    """

    encoder: str = ""
    """Name of the encoder."""
    weights_sha256: str = ""
    precision: str = ""
    """Arithmetic of the encoder: fp32, bf16, fp16."""
    mpp: float | None = None
    """Resolution of a tile, um/px."""
    magnification: float | None = None
    """At which tiles were cut, where the file states that instead of um/px."""
    size_px: int | None = None
    """Side of a tile as the encoder saw it, px."""
    dim: int
    """Feature dimension."""
    channels: str = ""
    """Names of the channels that were seen as colours, where the slide is not in colour."""
    format: str = ""
    """Format of the file: ``store``, ``CLAM``, ``TRIDENT``, ...; for messages, never compared."""

    def differences(self, other: Self) -> list[str]:
        """Name the differences between two kinds; empty if they may be mixed."""
        return [
            f"{field.name} {getattr(other, field.name) or 'not stated'} instead of "
            f"{getattr(self, field.name) or 'not stated'}"
            for field in fields(self)
            if field.name != "format" and getattr(self, field.name) != getattr(other, field.name)
        ]

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Undo `to_dict`."""
        return cls(**content)


class BagSource(Protocol):
    """The features of one slide, not read yet."""

    @property
    def slide_id(self) -> str:
        """Names the slide."""

    @property
    def kind(self) -> FeatureKind:
        """Kind of the features."""

    @property
    def tiles(self) -> int:
        """Tiles there are, the unreadable ones included."""

    @property
    def side(self) -> float | None:
        """Side of a tile, level-0 px; None where the file does not say it."""

    def load(self) -> Bag:
        """Read it; an error of the package if it cannot be."""
