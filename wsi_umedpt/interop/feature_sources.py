"""Features of one slide that are not read yet: `StoreSource` of a store, `FileSource` of another tool's file.

Both are a `wsi_umedpt.store.features.BagSource`. What a file says of itself is checked when its source is made,
its numbers when it is loaded; what is here is what all formats share.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import InteropError, StoreError
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.feature_choice import features_for
from wsi_umedpt.store.features import Bag, FeatureKind
from wsi_umedpt.store.slide_store import SlideStore

NOWHERE = int(np.iinfo(np.int32).min)
"""Both coordinates of a tile whose file does not say where it lies."""

FEATURES = ("features", "feats", "embeddings")
"""Names of arrays of features in files that have arrays with names."""
POSITIONS = ("coords", "coords_patching", "xy")
"""And those of top left corners, level-0 px; a file of UNI's authors has the first two, which then say the same."""

_SMALL = 1 << 28
"""Bytes that may be unpacked from however few."""
_EXPANSION = 100
"""Times that features may grow when unpacked; floats hardly shrink at all."""

Unit = Literal["px", "um", ""]
Numbers = npt.NDArray[Any]


class NotThisFormatError(InteropError):
    """A file is of another format, which may still be tried; any other error is about the file itself."""


@dataclass(frozen=True, kw_only=True)
class StoreSource:
    """Features in a store of ours."""

    path: Path
    slide_id: str
    kind: FeatureKind
    tiles: int
    side: float
    encoder_id: str
    grid_id: str

    @classmethod
    def open(
        cls, path: Path, encoder_id: str | None = None, grid_id: str | None = None, kind: FeatureKind | None = None
    ) -> Self:
        """Say what a store holds, reading nothing but attributes.

        Parameters
        ----------
        path
            Path of the store.
        encoder_id, grid_id
            Features to read; may be left out where there is one, or one of the kind.
        kind
            Kind that a model takes.

        Raises
        ------
        StoreError
            If it is no store, holds no such features, or several and none is named.
        """
        store = SlideStore.open(path)
        if kind is not None:
            encoder_id, grid_id = features_for(
                store,
                partial(cls._unlike, path, kind),
                ", ".join(str(v) for k, v in kind.to_dict().items() if v and k not in ("weights_sha256", "format")),
                encoder_id=encoder_id,
                grid_id=grid_id,
            )
        made_by = store.feature_attrs(encoder_id, grid_id)  # refuses what is not clear
        if grid_id is None:
            grids = [g for g in store.grid_ids if encoder_id is None or encoder_id in store.encoder_ids(g)]
            grid_id = grids[0]
        encoder_id = encoder_id or store.encoder_ids(grid_id)[0]
        grid = f"grids/{grid_id}"
        try:
            about = store.nodes.attrs(grid)
            tiles, dim = store.nodes.shape(f"{grid}/features/{encoder_id}")
            spec = TileSpec.from_dict(about["spec"])
            side = float(about["side"])
            kind = FeatureKind(
                encoder=made_by.get("card", {}).get("name") or encoder_id,
                weights_sha256=made_by.get("weights_sha256") or "",
                precision=made_by.get("precision") or "",
                mpp=spec.mpp,
                size_px=spec.size_px,
                dim=int(dim),
                channels=", ".join(one.name for one in store.channels),
                format="store",
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise StoreError(f"{store.path / grid} is damaged: {why}. Embed the slide again.") from None
        return cls(
            path=path,
            slide_id=store.slide_id,
            kind=kind,
            tiles=int(tiles),
            side=side,
            encoder_id=encoder_id,
            grid_id=grid_id,
        )

    @classmethod
    def _unlike(cls, path: Path, kind: FeatureKind, encoder_id: str, grid_id: str) -> str:
        """Differences between features and a kind, in words; empty if there are none."""
        return "; ".join(kind.differences(cls.open(path, encoder_id, grid_id).kind))

    def load(self) -> Bag:
        """Read the features of all readable tiles."""
        return SlideStore.open(self.path).features(self.encoder_id, self.grid_id)


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Features in a file of another tool."""

    path: Path
    slide_id: str
    kind: FeatureKind
    tiles: int
    side: float | None
    """Side of a tile, level-0 px; None where the file does not say it."""
    side_um: float | None = None
    """Side of a tile, um, where positions are in microns."""
    unit: Unit = "px"
    """Unit of positions: level-0 px; microns, where the file does not say how many there are to a pixel; or
    nothing, where it has no positions (they are `NOWHERE`)."""
    encoder_id: str = ""
    """Name of the features in the store that they were exported from; the encoder's, where they were not."""
    read: Callable[[Path], tuple[Numbers, Numbers | None]]
    """Gives features (tile, dim) and positions (tile, 2); a plain function, so that sources can be pickled."""

    def load(self) -> Bag:
        """Read features and positions, and check them.

        float16 and float32 stay what they are, float64 becomes float32; positions are rounded.

        Raises
        ------
        InteropError
            If the file cannot be read, a feature is not finite, or a position is none.
        """
        features, xy = self.read(self.path)
        features, xy = of_one_slide(features), None if xy is None else of_one_slide(xy)
        if features.shape != (self.tiles, self.kind.dim):
            raise InteropError(
                f"{self.path} held ({self.tiles}, {self.kind.dim}) features when it was opened, and holds "
                f"{features.shape} now: something is writing it. Wait until it is whole."
            )
        return Bag(
            self.slide_id,
            _finite(features, self.path),
            _positions(xy, self.tiles, self.path),
            np.arange(self.tiles),
            self.encoder_id or self.kind.encoder,
        )


def has_positions(bag: Bag) -> bool:
    """Return whether the positions of a bag's tiles are known."""
    return not (bag.xy == NOWHERE).any()


def of_one_slide(values: Numbers) -> Numbers:
    """An array without the leading axis of length 1 that stands for the slide in many files, (1, tile, dim)."""
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def named(held: Collection[str], names: Sequence[str], what: str, where: str) -> str | None:
    """Name, out of the known ones, of an array that a file has; None if it has none of them.

    Raises
    ------
    InteropError
        If there are several, which may be of different things.
    """
    found = [name for name in names if name in held]
    if "coords" in found and "coords_patching" in found:
        found.remove("coords_patching")  # who reads them compares them
    if len(found) > 1:
        raise InteropError(f"{where} has both {' and '.join(found)}; keep the one that holds {what}")
    return found[0] if found else None


def check_same_positions(xy: Numbers, other: Numbers, where: str) -> None:
    """Refuse a file whose two arrays of positions contradict each other."""
    if not np.array_equal(of_one_slide(xy), of_one_slide(other)):
        raise InteropError(f"{where}: coords and coords_patching differ; keep the one that holds level-0 px")


def tiles_and_dim(shape: Sequence[int], dtype: np.dtype[Any], where: str) -> tuple[int, int]:
    """Check what an array of features says of itself; a leading axis of length 1 stands for the slide.

    Parameters
    ----------
    shape, dtype
        Shape and type of the array.
    where
        Names file and array in errors.

    Raises
    ------
    InteropError
        If it is not (tile, dim), or (1, tile, dim), of floats with at least one tile.
    """
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise InteropError(f"{where} is {dtype}; features are float16, float32 or float64")
    if not all(shape):
        raise InteropError(f"{where} has shape {tuple(shape)}: no tiles. Leave the slide out, or embed it again.")
    if len(shape) == 1:
        raise InteropError(
            f"{where} has shape {tuple(shape)}: one vector of a slide, not a row a tile. Name the features of its "
            "tiles (TRIDENT: features_ENCODER, not slide_features_ENCODER)."
        )
    shape = tuple(shape)[1:] if len(shape) == 3 and shape[0] == 1 else tuple(shape)
    if len(shape) != 2:
        raise InteropError(
            f"{where} has shape {shape}; features of tiles are (tile, dim) or (1, tile, dim). Stacks of slides or of "
            "regions are not read: save a file a slide, without leading axes."
        )
    return shape[0], shape[1]


def check_rows(tiles: int, shape: Sequence[int], where: str) -> None:
    """Refuse positions that are not one (x, y) a tile."""
    if tuple(shape) not in ((tiles, 2), (1, tiles, 2)):
        raise InteropError(
            f"{where} has shape {tuple(shape)} for {tiles} tiles; positions are (tile, 2), a row a tile. Features and "
            "positions are of different runs, or the file is damaged: make it again."
        )


def check_expansion(where: str, size: int, stored: int) -> None:
    """Refuse arrays that would unpack to far more than they are on disk.

    Parameters
    ----------
    where
        Names file and array.
    size, stored : bytes
        In memory and on disk.
    """
    if size > _SMALL and size > _EXPANSION * stored:
        raise InteropError(f"{where} would unpack {stored} bytes to {size}; features do not shrink so much")


def _finite(features: Numbers, path: Path) -> Numbers:
    kept = np.float16 if features.dtype.itemsize == 2 else np.float32
    with np.errstate(over="ignore"):  # what overflows is not finite, and refused as such
        features = np.ascontiguousarray(features, kept)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InteropError(
            f"{path}: features of {len(bad)} of {len(features)} tiles are not finite, the first of row {bad[0]}. Make "
            "them anew (float16 overflows where float32 does not), or leave the slide out."
        )
    return features


def _positions(xy: Numbers | None, tiles: int, path: Path) -> npt.NDArray[np.int32]:
    if xy is None:
        return np.full((tiles, 2), NOWHERE, np.int32)
    check_rows(tiles, xy.shape, f"{path}: positions")
    if xy.dtype.kind == "f":
        xy = np.rint(xy)
    # Said so that nan fails too.
    if not ((xy > NOWHERE) & (xy < 2**31)).all():
        row = np.flatnonzero(~((xy > NOWHERE) & (xy < 2**31)).all(axis=1))[0]
        raise InteropError(f"{path}: tile {row} lies at {xy[row].tolist()}, which is no position; make the file again")
    return xy.astype(np.int32)
