"""A map of the tiles that are looked at: what it is made of, its colours, outlines of chosen tiles. No Qt.

Read top to bottom: `ShownMap`, `make_map`, colours by slide, labels or scores, `outlines`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import shapely
from wsi_umedpt.errors import WsiError
from wsi_umedpt.plotting import PointColours, colours_of_names, colours_of_values
from wsi_umedpt.store import SlideStore, read_scores, score_ids

from napari_wsi_umedpt.logic.alike import TilesOf, comparable
from napari_wsi_umedpt.logic.field import Square
from napari_wsi_umedpt.logic.torch_import import importing_networks

if TYPE_CHECKING:
    from wsi_umedpt.mil import FeatureMap, MapProgress, MapSettings

Points = npt.NDArray[np.int64]
Scope = Literal["tiles of this slide", "tiles of all slides of the case list", "slides of the case list"]
SCOPES: tuple[Scope, ...] = ("tiles of this slide", "tiles of all slides of the case list", "slides of the case list")
BY_SLIDE, BY_LABEL = "slide", "labels of this slide"


@dataclass(frozen=True, eq=False)
class ShownMap:
    """A map, and the stores that it was made of."""

    made: "FeatureMap"
    stores: Mapping[str, Path]
    """By slide."""
    grid_ids: Mapping[str, str]
    encoder_id: str
    left_out: Mapping[str, str]
    """Slides that are not on it, and why."""

    @property
    def words(self) -> str:
        """Number of points, of how many."""
        words = f"{self.made.words}."
        if self.left_out:
            name, why = next(iter(self.left_out.items()))
            words += f" {len(self.left_out)} slides are left out, the first {name}: {why}"
        return words

    def store_of(self, point: int) -> Path:
        """The store of a point's slide."""
        return self.stores[self.made.slide_ids[self.made.slide[point]]]

    def square(self, point: int) -> Square | None:
        """The tile of a point; None where it is a slide."""
        if self.made.of_slides:
            return None
        x, y = self.made.xy[point].tolist()
        return Square(x, y, float(self.made.sides[self.made.slide[point]]))

    def tiles(self, points: Points) -> list[TilesOf]:
        """Tiles of points, by slide."""
        found = []
        for number in np.unique(self.made.slide[points]):
            slide_id, mine = self.made.slide_ids[number], points[self.made.slide[points] == number]
            found.append(TilesOf(self.stores[slide_id], self.grid_ids[slide_id], self.made.rows[mine].tolist()))
        return found


def make_map(
    current: Path, others: Sequence[Path], settings: "MapSettings", watch: "MapProgress", *, of_slides: bool = False
) -> ShownMap:
    """Make a map of a slide, and of others that have features of the same kind.

    Raises
    ------
    StoreError
        If the slide has no features.
    MilError
        If no map can be made, or it is no longer wanted.
    """
    with importing_networks():
        from wsi_umedpt.mil import map_slides, map_tiles

    taken, left_out = comparable(current, others)
    made = (map_slides if of_slides else map_tiles)(taken, settings, watch)
    stores, grids = {one.slide_id: one.path for one in taken}, {one.slide_id: one.grid_id for one in taken}
    return ShownMap(made, stores, grids, taken[0].encoder_id, left_out)


def score_columns(store: Path, grid_id: str) -> list[tuple[str, str]]:
    """(name, column) of all scores of a slide's tiles."""
    opened = SlideStore.open(store)
    names = [name for grid, name in score_ids(opened) if grid == grid_id]
    return [(name, column) for name in names for column in read_scores(opened, name, grid_id)[1]["columns"]]


def colours_by_slide(shown: ShownMap) -> PointColours:
    """A colour a slide."""
    return colours_of_names([shown.made.slide_ids[n] for n in shown.made.slide], "slide")


def colours_by_labels(
    shown: ShownMap, slide: Path | None, labels: Mapping[int, str], names: Sequence[str]
) -> PointColours:
    """The classes of the tiles of one slide, in the colours that they have there.

    Parameters
    ----------
    slide
        Its store.
    labels
        By row of the grid.
    names
        Classes in their order.
    """
    made, number = shown.made, next((n for n, one in enumerate(shown.made.slide_ids) if shown.stores[one] == slide), -1)
    rows = zip(made.slide.tolist(), made.rows.tolist(), strict=True)
    return colours_of_names([labels.get(row, "") if of == number else "" for of, row in rows], "label", names)


def colours_by_scores(shown: ShownMap, name: str, column: str) -> PointColours:
    """Scores in the stores; slides that have none are grey."""
    made = shown.made
    values = np.full(len(made), np.nan, np.float32)
    for number, slide_id in enumerate(made.slide_ids):
        try:
            scores, about = read_scores(SlideStore.open(shown.stores[slide_id]), name, shown.grid_ids[slide_id])
            of = scores[:, list(about["columns"]).index(column)]
        except (WsiError, ValueError):
            continue  # they stay grey, and the legend counts them
        mine = made.slide == number
        values[mine] = of[made.rows[mine]]
    return colours_of_values(values, f"{name}: {column}")


def outlines(shown: ShownMap, points: Points, store: Path) -> list[npt.NDArray[np.float64]]:
    """Lines around those tiles that are of one slide, neighbours together: (corner, 2) level-0 px, closed."""
    mine = [p for p in points.tolist() if shown.store_of(p) == store]
    squares = [shown.square(p) for p in mine]
    boxes = [shapely.box(s.x, s.y, s.x + s.side, s.y + s.side).buffer(0.5, join_style="mitre") for s in squares if s]
    area = shapely.union_all(boxes)
    parts = [part for part in getattr(area, "geoms", [area]) if not part.is_empty]
    return [np.array(ring.coords) for part in parts for ring in (part.exterior, *part.interiors)]
