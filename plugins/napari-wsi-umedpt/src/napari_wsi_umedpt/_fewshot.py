"""A few labelled tiles to a classifier of all tiles of the slide, and the tiles to label next. No Qt, no viewer.

Frozen features of the store, one linear layer (`wsi_umedpt.probe`). Read top to bottom: `Teachable` (a store's
features), `Taught` (what was learned, and its words), `least_sure`, `colours_of`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from wsi_umedpt.bag import SlideBag
from wsi_umedpt.errors import ProbeError, StoreError
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileGrid

from napari_wsi_umedpt._layers import Colour, Place
from napari_wsi_umedpt._marks import TileLines
from napari_wsi_umedpt._opening import place_of
from napari_wsi_umedpt._tilelabels import Labels, TileCells, points_of
from napari_wsi_umedpt._torch import importing_networks

if TYPE_CHECKING:
    from wsi_umedpt.probe import Probe

_APART = 3.0
"""Tiles that are to be labelled next lie this many tiles apart: neighbours say the same."""
_PALEST, _FULLEST = 0.12, 0.85
Chances = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Teachable:
    """A store's features, ready to be learned from."""

    store: SlideStore
    bag: SlideBag
    place: Place
    tiles: TileLines
    cells: TileCells
    encoder: dict[str, Any]
    """What made the features, as a probe states it."""

    @property
    def grid(self) -> TileGrid:
        """Its tiles."""
        return self.tiles.grid


@dataclass(frozen=True, eq=False)
class Taught:
    """What was learned from some labels."""

    probe: "Probe"
    chances: Chances
    """(tile of the grid, class); nan where a tile cannot be read."""
    next: list[int]
    """Rows of the grid of tiles that it is least sure of."""
    overlapping: bool
    """Whether tiles overlap."""

    @property
    def figures(self) -> dict[str, Any]:
        """Of the cross-validation; see `wsi_umedpt.probe.fit_probe`."""
        found: dict[str, Any] = self.probe.about["cross_validation"]
        return found

    @property
    def words(self) -> str:
        """How good it is, and what that says nothing of."""
        counts = self.probe.about["labelled"]
        learned = "Learned from " + ", ".join(f"{count} {name}" for name, count in counts.items()) + "."
        figures = self.figures
        if "auc" not in figures:
            return (
                f"{learned} Too few places to say how good it is: label every class in two places at least, "
                "several tiles apart."
            )
        folds = f"{figures['folds']} fold" + ("s" if figures["folds"] > 1 else "")
        few = " Few tiles: these figures are rough." if figures["tiles"] < _ROUGH else ""
        return (
            f"{learned} On neighbourhoods that were left out ({folds}, {figures['tiles']} tiles): balanced accuracy "
            f"{figures['balanced_accuracy']:.2f}, AUC within folds {figures['auc']:.2f}.{few} "
            "They are of this slide alone: other slides will be harder."
            + (" Tiles overlap, so that neighbourhoods share pixels: it flatters." if self.overlapping else "")
        )


_ROUGH = 40
"""Tiles below which figures are called rough."""


def features_of(store: SlideStore) -> list[tuple[str, str]]:
    """(grid, encoder) of all features of a store."""
    return [(grid_id, encoder_id) for grid_id in store.grid_ids for encoder_id in store.encoder_ids(grid_id)]


def open_teachable(path: Path, grid_id: str | None = None, encoder_id: str | None = None) -> Teachable:
    """Read a store's features, and load what learns from them, so that the first fit is as fast as all others.

    Parameters
    ----------
    path
        The store.
    grid_id, encoder_id
        By default its first features.

    Raises
    ------
    StoreError, ProbeError
        If it holds none, or does not say what made them.
    """
    with importing_networks():
        import wsi_umedpt.probe  # noqa: F401

    store = SlideStore.open(path)
    if grid_id is None or encoder_id is None:
        known = features_of(store)
        if not known:
            raise StoreError(
                f"{path.name} holds no features to learn from. Embed the slide first, in the dock Analyse or with: "
                f"wsi-umedpt embed SLIDE -o {path.parent}"
            )
        grid_id, encoder_id = known[0]
    bag = store.bag(encoder_id, grid_id)
    grid, made_by = store.grid(grid_id), store.feature_attrs(encoder_id, grid_id)
    if not len(bag):
        raise ProbeError(f"{path.name} has no readable tiles to learn from")
    try:
        encoder = {
            "name": made_by["card"]["name"], "weights_sha256": made_by["weights_sha256"],
            "precision": made_by["precision"], "mpp": grid.spec.mpp, "size_px": grid.spec.size_px,
        }  # fmt: skip
    except KeyError as lacking:
        raise ProbeError(f"{path.name}: the features {encoder_id} do not say their {lacking}; embed it again") from None
    lines = TileLines(grid, store.status(grid_id) != 0)
    return Teachable(store, bag, place_of(store), lines, TileCells.of(grid, bag.index), encoder)


def teach(slide: Teachable, labels: Labels, *, name: str = "few-shot", suggest: int = 8) -> Taught:
    """Fit, cross-validate, and score all tiles; a second at most.

    Raises
    ------
    ProbeError
        If fewer than two classes are labelled.
    """
    from wsi_umedpt.probe import fit_probe, label_tiles

    points = points_of(labels, slide.grid, slide.store.slide_id)
    tiles = label_tiles(slide.store, slide.bag, slide.grid.side, points=points)
    probe = fit_probe([tiles], name=name, encoder=slide.encoder)
    found = probe.predict(slide.bag.features)
    chances = np.full((len(slide.grid), len(probe.classes)), np.nan, np.float32)
    chances[slide.bag.index] = found
    overlapping = slide.grid.spec.stride < slide.grid.spec.size_px
    return Taught(probe, chances, least_sure(chances, labels, slide.grid, suggest), overlapping)


def save_probe(taught: Taught, path: Path) -> None:
    """Save a probe for ``wsi-umedpt probe predict``; its scores are called as the file is.

    Raises
    ------
    ProbeError
        If the name does not end in .json.
    """
    if path.suffix != ".json":
        raise ProbeError(f"a probe is saved as .json; {path.name} does not end so")
    probe = taught.probe
    replace(probe, about={**probe.about, "name": path.stem}).save(path)


def least_sure(chances: Chances, labels: Labels, grid: TileGrid, count: int) -> list[int]:
    """Tiles whose two likeliest classes are nearest to each other, not labelled yet, and not neighbours.

    Margin sampling (Scheffer et al. 2001), spread over the slide: of near tiles only the least sure is taken.
    """
    open_rows = np.flatnonzero(np.isfinite(chances).all(axis=1))
    open_rows = open_rows[~np.isin(open_rows, list(labels))]
    ordered = np.sort(chances[open_rows], axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    found: list[int] = []
    places = grid.xy.astype(np.float64)
    for row in open_rows[np.argsort(margin, kind="stable")].tolist():
        near = found and (np.abs(places[found] - places[row]).max(axis=1) < _APART * grid.side).any()
        if not near:
            found.append(row)
            if len(found) == count:
                break
    return found


def colours_of(
    taught: Taught, cells: TileCells, colours: Sequence[Colour], only: int | None = None
) -> npt.NDArray[np.uint8]:
    """RGBA (rows, cols, 4) of all tiles: the likeliest class's colour, paler where it is less sure.

    Parameters
    ----------
    colours
        Of the probe's classes.
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
