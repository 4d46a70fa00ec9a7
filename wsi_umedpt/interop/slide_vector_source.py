"""A slide's own vector as features: to slide classifiers, a bag of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.features import Bag, FeatureKind
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.slide_vectors import read_slide_vector, slide_vector_attrs, slide_vector_ids


@dataclass(frozen=True, kw_only=True)
class SlideVectorSource:
    """The vector of a slide in a store of ours."""

    path: Path
    slide_id: str
    kind: FeatureKind
    encoder_id: str
    grid_id: str
    tiles: int = 1
    side: None = None
    """It has no place on the slide."""

    @classmethod
    def find(cls, path: Path, name: str | None, grid_id: str | None) -> Self | None:
        """The vector of this name in a store; None if it holds none of that name.

        Raises
        ------
        StoreError
            If it is in several grids, and none is named.
        """
        store = SlideStore.open(path)
        if name is None or name not in {one for _, one in slide_vector_ids(store)}:
            return None
        attrs = slide_vector_attrs(store, name, grid_id)
        spec = TileSpec.from_dict(store.nodes.attrs(f"grids/{attrs['grid_id']}")["spec"])
        kind = FeatureKind(
            encoder=name, weights_sha256=attrs.get("weights_sha256") or "", precision=attrs.get("precision") or "",
            mpp=spec.mpp, size_px=spec.size_px, dim=attrs["dim"], format="store",
        )  # fmt: skip
        return cls(path=path, slide_id=store.slide_id, kind=kind, encoder_id=name, grid_id=attrs["grid_id"])

    def load(self) -> Bag:
        """Read it."""
        vector, _ = read_slide_vector(SlideStore.open(self.path), self.encoder_id, self.grid_id)
        nowhere = np.zeros((1, 2), np.int32)
        return Bag(self.slide_id, vector[None], nowhere, np.zeros(1, np.int64), self.encoder_id, self.grid_id)  # type: ignore[arg-type]
