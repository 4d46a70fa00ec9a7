"""Settings of a map of features; every field is also a flag of ``wsi-umedpt map``."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from wsi_umedpt.errors import OptionError

Method = Literal["umap", "pca"]
FEWEST = 4
"""Fewer points are no map."""


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Settings of a map."""

    method: Method = "umap"
    """Layout: umap (neighbours of a tile stay beside it; pip install 'wsi-umedpt[map]') or pca (the two directions in
    which features vary most; fast, needs nothing else)."""
    most: int = 20_000
    """Largest number of tiles that are drawn; of more, a random sample, spread over slides by their size."""
    neighbours: int = 15
    """Neighbours that umap keeps together; many show the whole, few show detail."""
    min_dist: float = 0.1
    """Least distance of points in umap, 0 to 1: small packs those that are alike."""
    seed: int = 0
    """Seed of the sample and of umap: the same seed makes the same map on the same machine."""

    def __post_init__(self) -> None:
        if self.method not in ("umap", "pca"):
            raise OptionError(f"`method` is umap or pca, got {self.method!r}")
        if self.most < FEWEST:
            raise OptionError(f"`most` is {FEWEST} or more, got {self.most}")
        if not 2 <= self.neighbours <= 500:
            raise OptionError(f"`neighbours` is from 2 to 500, got {self.neighbours}")
        if not 0 <= self.min_dist <= 1:
            raise OptionError(f"`min_dist` is from 0 to 1, got {self.min_dist:g}")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"`seed` is from 0 to 4294967295, got {self.seed}")


def has_umap() -> bool:
    """Return whether umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None
