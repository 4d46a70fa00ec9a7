"""Labels of tiles: a small raster to paint on, and its labels as points and regions of files. No Qt.

Each tile has one cell, as wide as tiles lie apart, around the tile's middle; so cells never overlap, also
where tiles do. Positions are level-0 px, x before y.

Read top to bottom: `TileCells` (tiles as cells), labels to points and regions, the files.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from wsi_umedpt.annotations import POINT_COLUMNS, Corner, Point, Region, labels_at, read_drawn_labels, read_points
from wsi_umedpt.errors import AnnotationError
from wsi_umedpt.io import TABLE_SUFFIXES as SUFFIXES
from wsi_umedpt.slides import TileGrid, match_slides
from wsi_umedpt.store import whole_file

from napari_wsi_umedpt.layers.build import Colour
from napari_wsi_umedpt.logic.annotations import Annotation, write_annotations

Painted = npt.NDArray[np.uint8]
Labels = Mapping[int, str]
"""Labels of tiles, by row of their grid, or of cells, by row of their objects."""

_CORNER = 0.5
"""Offset from a tile's lower right corner, px: a place that no tile before it in reading order holds."""


@dataclass(frozen=True, eq=False)
class TileCells:
    """A grid's readable tiles as cells of a raster."""

    grid: TileGrid
    tile: npt.NDArray[np.int64]
    """(rows, cols) row of the grid of the tile there; -1 where there is none."""
    origin: tuple[float, float]
    """(x, y) of the raster's upper left corner."""
    step: float
    """Side of a cell."""

    @classmethod
    def of(cls, grid: TileGrid, readable: npt.NDArray[np.int64]) -> "TileCells":
        """Lay cells.

        Parameters
        ----------
        readable
            Rows of the grid.
        """
        step = grid.side * grid.spec.stride / grid.spec.size_px
        cells = np.rint(grid.xy[readable] / step).astype(np.int64)  # (tile, 2), x first
        low, high = (cells.min(0), cells.max(0)) if len(cells) else (np.zeros(2, np.int64),) * 2
        tile = np.full((*(high - low + 1)[::-1],), -1, np.int64)
        col, row = (cells - low).T
        tile[row, col] = readable
        inset = (grid.side - step) / 2
        x, y = (low * step + inset).tolist()
        return cls(grid, tile, (x, y), step)

    def labels(self, painted: Painted, classes: Sequence[str]) -> dict[int, str]:
        """Labels that were painted: number 1 is the first class; cells without a tile do not count."""
        there = (painted > 0) & (painted <= len(classes)) & (self.tile >= 0)
        pairs = zip(self.tile[there].tolist(), painted[there].tolist(), strict=True)
        return {tile: classes[number - 1] for tile, number in pairs}

    def painted(self, labels: Labels, classes: Sequence[str]) -> Painted:
        """Undo `labels`."""
        out = np.zeros(self.tile.shape, np.uint8)
        for number, name in enumerate(classes, start=1):
            out[np.isin(self.tile, [tile for tile, label in labels.items() if label == name])] = number
        return out

    def spread(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values of tiles (tile of the grid, k) on their cells: (rows, cols, k), nan where there is no tile."""
        out = np.asarray(values[self.tile.ravel()], np.float32).reshape(*self.tile.shape, -1)
        out[self.tile < 0] = np.nan
        return out

    def cell(self, tile: int) -> shapely.Polygon:
        """The square of one tile."""
        x, y = self.grid.xy[tile] + (self.grid.side - self.step) / 2
        return shapely.box(x, y, x + self.step, y + self.step)


def points_of(labels: Labels, grid: TileGrid, slide_id: str) -> list[Point]:
    """A point for each labelled tile, which `wsi_umedpt.mil.tile_probe.label_tiles` takes for that very tile."""
    # Of overlapping tiles that hold a point the first is meant; the middle lies in this one alone only where
    # tiles are at least half their side apart.
    middle = grid.spec.stride * 2 >= grid.spec.size_px
    offset = grid.side / 2 if middle else grid.side - _CORNER
    return [
        Point(slide_id, float(x) + offset, float(y) + offset, labels[tile], "")
        for tile, (x, y) in ((tile, grid.xy[tile]) for tile in sorted(labels))
    ]


def regions_of(labels: Labels, cells: TileCells, colours: Mapping[str, Colour]) -> list[Annotation]:
    """Labelled tiles as regions for QuPath: neighbours of one class are one region, which holds their middles."""
    found = []
    for name in dict.fromkeys(labels.values()):
        # Cells meet but for rounding: a hair of overlap makes them one.
        squares = [cells.cell(tile).buffer(0.5, join_style="mitre") for tile, label in labels.items() if label == name]
        area = shapely.union_all(squares).buffer(-0.5, join_style="mitre").simplify(0.75)
        for part in getattr(area, "geoms", [area]):
            rings = [np.array(ring.coords[:-1]) for ring in (part.exterior, *part.interiors)]
            found.append(Annotation((tuple(rings),), name, colours.get(name)))
    return found


# ---- files ----


def write_points(path: Path, points: Sequence[Point], slide_id: str) -> int:
    """Write points as `wsi-umedpt probe fit` reads them; those of other slides in the file are kept.

    Returns
    -------
    int
        Points of other slides.

    Raises
    ------
    AnnotationError
        If the file is there and is no table of labels, or names no CSV.
    """
    if path.suffix.lower() != ".csv":
        raise AnnotationError(f"labels of tiles are saved as .csv; {path.name} does not end so")
    known = read_points(path) if path.exists() else []
    ours = match_slides({point.slide_id for point in known}, [slide_id], AnnotationError)
    others = [point for point in known if point.slide_id not in ours]
    with_patients = any(point.patient for point in known)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([*POINT_COLUMNS, *(["patient"] if with_patients else [])])
    patient = next((point.patient for point in known if point.slide_id in ours), "")
    for point in (*others, *points):
        row = [point.slide_id, f"{point.x:.10g}", f"{point.y:.10g}", point.label]
        table.writerow([*row, *([point.patient or patient] if with_patients else [])])
    with whole_file(path) as file:
        file.write(text.getvalue().encode())
    return len(others)


def write_regions(
    path: Path, labels: Labels, cells: TileCells, colours: Mapping[str, Colour], corner: Corner = (0, 0)
) -> None:
    """Write labelled tiles as regions for QuPath, which `wsi-umedpt probe fit` reads too."""
    write_annotations(path, regions_of(labels, cells, colours), corner)


def read_labels(path: Path, cells: TileCells, slide_id: str, corner: Corner = (0, 0)) -> dict[int, str]:
    """Read labels of one slide: points of a table, or annotations of QuPath, ASAP, ImageScope or HALO.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or labels no tile of this slide.
    """
    grid, readable = cells.grid, cells.tile[cells.tile >= 0]
    found: dict[int, str] = {}
    if path.suffix.lower() in SUFFIXES:
        points = read_points(path)
        regions: list[Region] = []
        named = sorted({point.slide_id for point in points})
        ours = match_slides(named, [slide_id], AnnotationError)
        if not ours:
            raise AnnotationError(
                f"{path.name} labels no tile of {slide_id}; it is of {', '.join(named[:5])}. Open one of those slides."
            )
    else:
        regions, points, _ = read_drawn_labels(path, slide_id, corner)
        ours = {slide_id: slide_id}
    labels, _ = labels_at(regions, grid.xy[readable] + grid.side / 2)
    found |= {int(tile): label for tile, label in zip(readable, labels, strict=True) if label}
    for point in points:
        if point.slide_id in ours:
            found |= _first_holding(point, grid, readable)
    if not found:
        raise AnnotationError(f"{path.name} labels no readable tile of {slide_id}. Is it of another slide?")
    return found


def tiles_at(points: Sequence[Point], cells: TileCells) -> tuple[dict[int, str], list[Point]]:
    """Tiles at points, and the points that no tile holds."""
    readable = cells.tile[cells.tile >= 0]
    found: dict[int, str] = {}
    beside: list[Point] = []
    for point in points:
        if meant := _first_holding(point, cells.grid, readable):
            found |= meant
        else:
            beside.append(point)
    return found, beside


def _first_holding(point: Point, grid: TileGrid, readable: npt.NDArray[np.int64]) -> dict[int, str]:
    xy, place = grid.xy[np.sort(readable)], (point.x, point.y)
    rows = np.flatnonzero(((xy <= place) & (place < xy + grid.side)).all(axis=1))
    return {int(np.sort(readable)[row]): point.label for row in rows[:1]}
