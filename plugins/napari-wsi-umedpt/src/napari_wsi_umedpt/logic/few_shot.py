"""Tiles of a slide, taught by a few labels: the classifier of all tiles, and the colours that show it. No Qt.

Read top to bottom: `TeachableTiles` (a store's features), `open_teachable`, `colours_of`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from wsi_umedpt.annotations import Point
from wsi_umedpt.errors import ProbeError
from wsi_umedpt.slides import TileGrid
from wsi_umedpt.store import Bag, SlideStore

from napari_wsi_umedpt.layers.build import Colour, Place
from napari_wsi_umedpt.layers.thin_lines import TileLines
from napari_wsi_umedpt.logic import tile_labels
from napari_wsi_umedpt.logic.teachable import NothingToTeach, Taught, least_sure
from napari_wsi_umedpt.logic.tile_labels import Labels, TileCells
from napari_wsi_umedpt.logic.torch_import import importing_networks
from napari_wsi_umedpt.opening.load import place_of

_PALEST, _FULLEST = 0.12, 0.85


@dataclass(frozen=True, eq=False)
class TeachableTiles:
    """A store's features of tiles, ready to be learned from; see `napari_wsi_umedpt.logic.teachable.Teachable`."""

    store: SlideStore
    bag: Bag
    place: Place
    tiles: TileLines
    cells: TileCells
    encoder: dict[str, Any]
    """Origin of the features, as a probe states it."""
    what: str = "tiles"

    @property
    def grid(self) -> TileGrid:
        """Its tiles."""
        return self.tiles.grid

    @property
    def squares(self) -> TileGrid:
        """The tiles themselves."""
        return self.tiles.grid

    def points_of(self, labels: Labels) -> list[Point]:
        """A point for each tile."""
        return tile_labels.points_of(labels, self.grid, self.store.slide_id)

    def at(self, points: Sequence[Point]) -> tuple[dict[int, str], list[Point]]:
        """Find the tiles that points mean, and the points that no tile holds."""
        return tile_labels.tiles_at(points, self.cells)

    def read_labels(self, path: Path) -> dict[int, str]:
        """Read points of a table, or annotations."""
        return tile_labels.read_labels(path, self.cells, self.store.slide_id, self.place.corner)

    def write_regions(self, path: Path, labels: Labels, colours: Mapping[str, Colour]) -> None:
        """Write neighbours of one class as one region."""
        tile_labels.write_regions(path, labels, self.cells, colours, self.place.corner)

    def keep_scores(self, taught: Taught) -> None:
        """Write the probabilities of all tiles."""
        from wsi_umedpt.mil import score_store

        score_store(self.store, taught.probe, self.bag.encoder_id, self.bag.grid_id)

    def teach(self, labels: Labels, *, name: str = "few-shot", suggest: int = 8) -> Taught:
        """Fit, cross-validate, and score all tiles; a second at most.

        Raises
        ------
        ProbeError
            If fewer than two classes are labelled.
        """
        from wsi_umedpt.mil import fit_probe, label_tiles

        tiles = label_tiles(self.store, self.bag, self.grid.side, points=self.points_of(labels))
        probe = fit_probe([tiles], name=name, encoder=self.encoder)
        found = probe.predict(self.bag.features)
        chances = np.full((len(self.grid), len(probe.classes)), np.nan, np.float32)
        chances[self.bag.index] = found
        overlapping = self.grid.spec.stride < self.grid.spec.size_px
        return Taught(probe, chances, least_sure(chances, labels, self.grid, suggest), overlapping=overlapping)


def features_of(store: SlideStore) -> list[tuple[str, str]]:
    """(grid, encoder) of all features of a store."""
    return [(grid_id, encoder_id) for grid_id in store.grid_ids for encoder_id in store.encoder_ids(grid_id)]


def open_teachable(path: Path, grid_id: str | None = None, encoder_id: str | None = None) -> TeachableTiles:
    """Read a store's features, and load what learns from them, so that the first fit is as fast as all others.

    Parameters
    ----------
    path
        The store.
    grid_id, encoder_id
        By default its first features.

    Raises
    ------
    NothingToTeach, StoreError, ProbeError
        If it holds none, or does not say what made them.
    """
    with importing_networks():
        import wsi_umedpt.mil.tile_probe  # noqa: F401

    store = SlideStore.open(path)
    if grid_id is None or encoder_id is None:
        known = features_of(store)
        if not known:
            raise NothingToTeach(
                f"{path.name} holds no features to learn from. Embed the slide first, in the dock Analyse or with: "
                f"wsi-umedpt embed SLIDE -o {path.parent}"
            )
        grid_id, encoder_id = known[0]
    bag = store.features(encoder_id, grid_id)
    grid, made_by = store.grid(grid_id), store.feature_attrs(encoder_id, grid_id)
    if not len(bag):
        raise ProbeError(f"{path.name} has no readable tiles to learn from")
    try:
        encoder = {
            "name": made_by["card"]["name"], "weights_sha256": made_by["weights_sha256"],
            "precision": made_by["precision"], "mpp": grid.spec.mpp, "size_px": grid.spec.size_px,
            **({"channels": [one.name for one in store.channels]} if store.channels else {}),
        }  # fmt: skip
    except KeyError as lacking:
        raise ProbeError(f"{path.name}: the features {encoder_id} do not say their {lacking}; embed it again") from None
    lines = TileLines(grid, store.status(grid_id) != 0)
    return TeachableTiles(store, bag, place_of(store), lines, TileCells.of(grid, bag.index), encoder)


def colours_of(
    taught: Taught, cells: TileCells, colours: Sequence[Colour], only: int | None = None
) -> npt.NDArray[np.uint8]:
    """RGBA (rows, cols, 4) of all tiles: the likeliest class's colour, paler where it is less sure.

    Parameters
    ----------
    colours
        Colours of the probe's classes.
    only
        Colours by the probability of one class instead.
    """
    chances = cells.spread(taught.chances)  # (rows, cols, class)
    there = np.isfinite(chances).all(axis=2)
    chances = np.nan_to_num(chances)
    table = np.array(colours, np.float32)
    if only is not None:
        rgb = np.broadcast_to(table[only], (*there.shape, 3))
        share = chances[..., only]
    else:
        ordered = np.sort(chances, axis=2)
        rgb = table[chances.argmax(axis=2)]
        share = _PALEST + (_FULLEST - _PALEST) * (ordered[..., -1] - ordered[..., -2])
    alpha = np.where(there, share * 255, 0)
    return np.concatenate([rgb, alpha[..., None]], axis=2).round().astype(np.uint8)
