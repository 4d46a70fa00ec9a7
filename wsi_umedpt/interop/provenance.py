"""Provenance of exports: attributes that are added to the file of another tool so that it reads back as it was.

`Export` is the readable tiles of a store with all that formats want to know of them. Its `about`
goes into every file that we write, beside what the format asks for; `stated` reads it again. What
is added says nothing of the patient: no path, no label, no vendor's metadata.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt import __version__
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.messages import counted
from wsi_umedpt.store.features import Bag, FeatureKind
from wsi_umedpt.store.slide_store import SlideStore

PREFIX = "wsi_umedpt_"
"""Prefix of attributes that we add to files whose attributes are another tool's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Export:
    """The readable tiles of a store, and what other tools want to know of them."""

    bag: Bag
    kind: FeatureKind
    size_px: int
    """Side of a tile as the encoder saw it, px."""
    mpp: float
    """Resolution of a tile, um/px."""
    side: float
    """Side of a tile, level-0 px."""
    stride_px: int
    """Distance between tiles, px at `mpp`."""
    slide_mpp: float
    """um/px at level 0."""
    slide_size: tuple[int, int]
    """(width, height), level-0 px."""
    fingerprint: str
    """Fingerprint of the slide, as in the store."""
    tissue: npt.NDArray[np.float32]
    """(tile,) share of each tile that is tissue."""
    min_tissue: float
    """Least share that was asked for."""

    @classmethod
    def of(cls, store: SlideStore, encoder_id: str | None = None, grid_id: str | None = None) -> Self:
        """Read features from a store.

        Parameters
        ----------
        encoder_id, grid_id
            May be left out where the store holds only one.

        Raises
        ------
        StoreError
            If there are no such features, or several.
        InteropError
            If no tile is readable: other tools read no empty files.
        """
        source = StoreSource.open(store.path, encoder_id, grid_id)
        bag, grid, slide = source.load(), store.grid(source.grid_id), store.attrs["slide"]
        spec = grid.spec
        if not len(bag):
            raise InteropError(
                f"{store.path} holds {counted(source.tiles, 'tile')}, none of them readable: nothing to export"
            )
        return cls(
            bag=bag,
            kind=source.kind,
            size_px=spec.size_px,
            mpp=spec.mpp,
            side=source.side,
            stride_px=spec.stride,
            slide_mpp=float(slide["mpp"]),
            slide_size=(int(slide["size"][0]), int(slide["size"][1])),
            fingerprint=str(slide["fingerprint"]),
            tissue=grid.tissue[bag.index],
            min_tissue=spec.min_tissue,
        )

    @property
    def whole_side(self) -> int:
        """Side of a tile, level-0 px, for tools that take whole numbers alone: the floor, as they compute it."""
        return max(1, math.floor(self.side + 1e-6))

    @property
    def about(self) -> dict[str, str | int | float]:
        """Attributes that `stated` reads again: the version that wrote it, and the features."""
        return {
            "version": __version__,
            "encoder": self.kind.encoder,
            "encoder_id": self.bag.encoder_id,
            "weights_sha256": self.kind.weights_sha256,
            "precision": self.kind.precision,
            "mpp": self.mpp,
            "size_px": self.size_px,
            "side": self.side,
            "slide_mpp": self.slide_mpp,
            "grid_id": self.bag.grid_id,
            "fingerprint": self.fingerprint,
        }

    @property
    def attrs(self) -> dict[str, str | int | float]:
        """`about` under names that no other tool uses."""
        return {PREFIX + name: value for name, value in self.about.items()}


@dataclass(frozen=True, kw_only=True)
class Stated:
    """Statements of a file that we wrote about its features."""

    kind: FeatureKind
    encoder_id: str
    side: float
    """Side of a tile, level-0 px."""
    slide_mpp: float
    """um/px at level 0."""


def stated(about: Mapping[str, Any], *, dim: int, format_name: str, where: str) -> Stated | None:
    """Read what `Export.about` wrote; None where the file is another tool's.

    Parameters
    ----------
    about
        As in `Export.about`; other names are ignored.
    dim
        Feature dimension, as the file holds it.
    format_name, where
        Names of the format, for the kind, and of the file, for errors.

    Raises
    ------
    InteropError
        If it is of us, but not what we write.
    """
    if "version" not in about:
        return None
    try:
        texts = {name: about[name] for name in ("encoder", "encoder_id", "weights_sha256", "precision")}
        numbers = {name: float(about[name]) for name in ("mpp", "size_px", "side", "slide_mpp")}
    except (KeyError, TypeError, ValueError) as error:
        raise InteropError(
            f"{where}: what wsi_umedpt wrote there was changed ({error}); export the store again"
        ) from None
    if not (all(isinstance(t, str) for t in texts.values()) and all(0 < n < math.inf for n in numbers.values())):
        raise InteropError(f"{where}: what wsi_umedpt wrote there was changed; export the store again")
    return Stated(
        kind=FeatureKind(
            encoder=texts["encoder"],
            weights_sha256=texts["weights_sha256"],
            precision=texts["precision"],
            mpp=numbers["mpp"],
            size_px=int(numbers["size_px"]),
            dim=dim,
            format=format_name,
        ),
        encoder_id=texts["encoder_id"],
        side=numbers["side"],
        slide_mpp=numbers["slide_mpp"],
    )


def prefixed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Those attributes of a file that `Export.attrs` wrote, under their names in `Export.about`."""
    return {name.removeprefix(PREFIX): attrs[name] for name in attrs if name.startswith(PREFIX)}
