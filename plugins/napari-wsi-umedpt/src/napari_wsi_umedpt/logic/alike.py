"""More tiles like this one: what is searched, pictures of what was found, and labels for all of it. No Qt.

Read top to bottom: `Searched` (the tiles of one slide, or of a case list), `open_search`, `pictures_of_found`,
`label_found`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry
from wsi_umedpt.errors import WsiError, reason_of
from wsi_umedpt.interop import StoreSource, find_usable
from wsi_umedpt.slides import Slide, open_slide
from wsi_umedpt.store import SlideStore

from napari_wsi_umedpt.layers.multiscale import Report
from napari_wsi_umedpt.logic.autosave_place import LABELS, Home, Kept
from napari_wsi_umedpt.logic.field import Square
from napari_wsi_umedpt.logic.kept_labels import KeptLabels, read_kept_labels, write_kept_labels
from napari_wsi_umedpt.logic.tile_labels import points_of
from napari_wsi_umedpt.logic.tile_pictures import Picture, TilePictures
from napari_wsi_umedpt.logic.torch_import import importing_networks
from napari_wsi_umedpt.opening.load import place_of
from napari_wsi_umedpt.opening.slide_locator import find_slide

if TYPE_CHECKING:
    from wsi_umedpt.mil import SimilarTile, TileIndex

FOUND = 40
"""Tiles at most that are shown."""


@dataclass(frozen=True, eq=False)
class Searched:
    """Tiles of slides that are searched for similar ones."""

    index: "TileIndex"
    stores: Mapping[str, Path]
    """Stores of the slides, by their ids."""
    grid_ids: Mapping[str, str]
    """Grids of the features, by slide."""
    left_out: Mapping[str, str]
    """Slides that cannot be searched, and why."""

    def tile_at(self, slide_id: str, place: tuple[float, float]) -> Square:
        """The tile at a place, level-0 px.

        Raises
        ------
        MilError
            If no readable tile lies there.
        """
        one = self.index.tile(int(self.index.tile_at(slide_id, *place)[0]))
        return Square(one.x, one.y, one.side)

    def find(self, slide_id: str, asked: "tuple[float, float] | BaseGeometry") -> "list[SimilarTile]":
        """The tiles most similar to the one at a place, or to those of a region, level-0 px.

        Raises
        ------
        MilError
            If no readable tile lies there.
        """
        if isinstance(asked, BaseGeometry):
            rows = self.index.tiles_within(slide_id, asked)
        else:
            rows = self.index.tile_at(slide_id, *asked)
        return self.index.similar(rows, FOUND)


def open_search(current: Path, others: Sequence[Path] = (), done: Callable[[int], None] | None = None) -> Searched:
    """Read the features of a slide, and those of the same kind of other slides.

    Raises
    ------
    StoreError
        If the slide has no features.
    """
    with importing_networks():
        from wsi_umedpt.mil import TileIndex

    taken, left_out = comparable(current, others)
    return Searched(
        TileIndex.read(taken, done),
        {one.slide_id: one.path for one in taken}, {one.slide_id: one.grid_id for one in taken}, left_out,
    )  # fmt: skip


def comparable(current: Path, others: Sequence[Path] = ()) -> tuple[list[StoreSource], dict[str, str]]:
    """The first features of a slide, those of the same kind of other slides, and why slides are left out.

    Raises
    ------
    StoreError
        If the slide has no features.
    """
    store = SlideStore.open(current)
    known = [(encoder, grid) for grid in store.grid_ids for encoder in store.encoder_ids(grid)]
    own = StoreSource.open(current, *(known[0] if known else (None, None)))
    paths = [path for path in others if path != current]
    sources, troubles = find_usable(paths, kind=own.kind) if paths else ({}, {})
    left_out = {name: reason_of(error) for name, error in troubles.items()}
    taken = [own]
    for source in sources.values():
        if different := own.kind.differences(source.kind):
            left_out[source.slide_id] = "; ".join(different)
        elif isinstance(source, StoreSource):
            taken.append(source)
    return taken, left_out


class _Squares(NamedTuple):
    xy: npt.NDArray[np.float64]
    side: float


def pictures_of_found(
    found: "Sequence[SimilarTile]", stores: Mapping[str, Path], slides: Mapping[str, Slide], report: Report
) -> list[Picture | None]:
    """Read a picture of each tile; None where its slide cannot be found.

    Parameters
    ----------
    found
        Tiles of any slides.
    stores
        Stores of the slides, by their ids.
    slides
        Slides that are open already; others are opened, and closed again.
    """
    pictures: dict[int, Picture] = {}
    for slide_id in dict.fromkeys(one.slide_id for one in found):
        mine = [n for n, one in enumerate(found) if one.slide_id == slide_id]
        squares = _Squares(np.array([[found[n].x, found[n].y] for n in mine]), found[mine[0]].side)
        if slide_id in slides:
            pictures |= zip(mine, TilePictures(slides[slide_id], squares, report).read(range(len(mine))), strict=True)
            continue
        try:
            store = SlideStore.open(stores[slide_id])
            if (path := find_slide(store)) is None:
                continue
            with open_slide(path, mpp=store.stated_mpp, channels=store.channels) as slide:
                pictures |= zip(mine, TilePictures(slide, squares, report).read(range(len(mine))), strict=True)
        except (WsiError, OSError) as error:
            report(error)
    return [pictures.get(n) for n in range(len(found))]


class TilesOf(NamedTuple):
    """Tiles of one slide."""

    store: Path
    grid_id: str
    rows: Sequence[int]


def label_found(tiles: TilesOf, name: str) -> None:
    """Label tiles of a slide that is not shown: its file of labels has them when it is.

    Raises
    ------
    OSError
        If no place takes it.
    """
    store = SlideStore.open(tiles.store)
    home, kept = Home(place_of(store), store.path), Kept(LABELS)
    known, refused = read_kept_labels(kept, home)
    if refused:
        raise refused[0]
    new = points_of(dict.fromkeys(tiles.rows, name), store.grid(tiles.grid_id), store.slide_id)
    points = {(point.x, point.y): point for point in (*known.points, *new)}
    classes = tuple(dict.fromkeys((*known.classes, name)))
    write_kept_labels(kept, home, KeptLabels(classes, tuple(points.values())))
