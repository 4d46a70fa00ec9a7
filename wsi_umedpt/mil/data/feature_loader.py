"""Features of the slides of a study, read once while memory allows."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from wsi_umedpt.errors import MilError, WsiError
from wsi_umedpt.store.features import Bag, BagSource

BUDGET_BYTES = 4 << 30
"""Features kept in memory by default."""

Features = npt.NDArray[Any]
"""(tile, dim) float16 or float32"""


def _cache(budget_bytes: float) -> LRUCache[str, Features]:
    return LRUCache(budget_bytes, getsizeof=attrgetter("nbytes"))


class BagReader:
    """Features by slide; knows the slides it was given and no others.

    Parameters
    ----------
    sources
        By slide.
    budget_bytes
        Bytes kept in memory; beyond them the slides used longest ago are read again.
    """

    def __init__(self, sources: Mapping[str, BagSource], budget_bytes: int = BUDGET_BYTES) -> None:
        self._sources = dict(sources)
        self._kept = _cache(budget_bytes)

    @property
    def sources(self) -> Mapping[str, BagSource]:
        """Sources of features, by slide."""
        return self._sources

    def only(self, slides: Iterable[str]) -> "BagReader":
        """A reader of these slides alone, which shares the memory, and gives nothing of the others."""
        made = BagReader({slide: self._sources[slide] for slide in slides})
        made._kept = self._kept
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Another process reads for itself."""
        return {**self.__dict__, "_kept": _cache(self._kept.maxsize)}

    def __call__(self, slides: Iterable[str]) -> Features:
        """(tile, dim) of one slide, or of several one after another.

        Raises
        ------
        MilError
            If a slide is not known here, has no tiles, or features that are not finite.
        """
        parts = [self._one(slide) for slide in slides]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def tiles(self, slides: Iterable[str]) -> int:
        """Number of tiles of each source, without reading them."""
        return sum(self._sources[slide].tiles for slide in slides)

    def _one(self, slide: str) -> Features:
        if slide not in self._sources:
            raise MilError(f"slide {slide!r} is not among those that may be read here")
        known = self._kept.get(slide)
        if known is not None:
            return known
        features = features_of(self._sources[slide].load())
        with suppress(ValueError):  # larger than the whole budget: read again each time
            self._kept[slide] = features
        return features


def unreadable(reader: BagReader, slides: Iterable[str]) -> dict[str, WsiError | OSError]:
    """Read the features of slides once, as training will; why those that cannot be read cannot, by slide."""
    troubles: dict[str, WsiError | OSError] = {}
    for slide in slides:
        try:
            reader((slide,))
        except (WsiError, OSError) as error:
            troubles[slide] = error
    return troubles


def features_of(bag: Bag) -> Features:
    """Features of a bag as torch takes them: without gaps, and such as can be written to.

    Raises
    ------
    MilError
        If it has no tiles, or features that are not finite.
    """
    features: Features = np.require(bag.features, requirements=("C", "W"))
    if not len(features):
        raise MilError(f"slide {bag.slide_id!r} has no tiles: leave it out, or embed it with another mask")
    if not np.isfinite(features).all():
        raise MilError(f"slide {bag.slide_id!r} has features that are not finite; embed it again")
    return features
