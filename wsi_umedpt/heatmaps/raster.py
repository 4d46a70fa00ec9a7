"""Scores of tiles as a raster: positions, a side and values in, a `Heatmap` with origin and step out.

Arithmetic only: nothing here opens a file or knows of slides, and a heatmap knows nothing of colour.
Positions are level-0 px, x before y; arrays are (row, col). What is stored is the raw value; a
`Scaling` is for the eye, has a name, and says it in the legend.

Read top to bottom: `Heatmap` (what you get), `_lay` (which cells the tiles cover), `_mean` (what a
cell holds), `scaled` (what is shown).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import HeatmapError

Values = npt.NDArray[np.float32]
Places = npt.NDArray[np.float64]

Scaling = Literal["raw", "minmax", "percentile", "signed"]

SCALINGS: dict[Scaling, str] = {
    "raw": "raw: values as stored, 0 to 1",
    "minmax": "minmax: from the least value shown to the greatest",
    "percentile": "percentile: colour is rank only, raw values are stored",
    "signed": "signed: symmetric about zero",
}
"""Description of each scaling, for legends."""

_FINEST = 8
"""Cells per side of a tile, at most, where tiles do not lie on one lattice of their own side."""
MOST_CELLS = 25_000_000
"""Five thousand tiles wide and high: no slide has more."""
_ROUNDING = 0.5 + 1e-6
"""px: each start of a tile is rounded on its own."""
_STATED = 0.75
"""px, where the side was rounded too and the step is measured from the starts."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A quantity over a slide; cell (r, c) covers `step` px from `origin_xy` + (c * step, r * step)."""

    values: Values
    """(rows, cols), as they are and never scaled; nan where there is no tile, or none with a value."""
    origin_xy: tuple[float, float]
    """Top left corner of cell (0, 0), level-0 px."""
    step: float
    """Side of a cell, level-0 px; need not be whole, as the distance between tiles need not."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float32:
            raise HeatmapError(
                f"a heatmap is float32 (rows, cols), got {self.values.dtype} of shape {self.values.shape}"
            )
        if not (0 < self.step < math.inf and all(map(math.isfinite, self.origin_xy))):
            raise HeatmapError(f"a heatmap cannot have a step of {self.step:g} px from {self.origin_xy}")

    @classmethod
    def from_tiles(
        cls, xy: npt.NDArray[Any], side: float, values: npt.NDArray[Any], *, step: float | None = None
    ) -> Self:
        """Lay the scores of tiles out as a raster.

        A cell holds the mean of the tiles that cover it, weighted by the area that each covers of it. Tiles
        that do not overlap keep their value bit for bit, and lie where they lie to half a px however many
        there are. A cell that a tile covers by less than half its width or height is not that tile's: alone
        it gives no value.

        Parameters
        ----------
        xy : (tile, 2) top left corners, level-0 px
            In any order; tiles may be missing, overlap, or repeat.
        side : level-0 px
            Side of a tile.
        values : (tile,)
            Numbers, nan where a tile has none: it takes part in no mean.
        step : level-0 px
            By default the largest whole part of `side`, down to an eighth, that all starts are multiples
            of: `side` where tiles do not overlap, half of it where they overlap by half. Tiles that fit none
            (a grid for each contour, as CLAM lays) get the finest, and lie where they lie to half a cell.

        Returns
        -------
        Heatmap
            Reaches over all tiles, those without a value too; (0, 0) cells where there are no tiles.

        Raises
        ------
        HeatmapError
            If there is not a value for each tile, one is infinite, or the tiles lie too far apart for a slide.

        Examples
        --------
        >>> heat = Heatmap.from_tiles(np.array([[0, 0], [227, 0], [681, 0]]), 227.07, np.array([0.1, 0.2, 0.4]))
        >>> heat.step, heat.values.tolist()
        (227.07, [[0.10000000149011612, 0.20000000298023224, nan, 0.4000000059604645]])
        """
        corners, scores = _checked(xy, side, values, step)
        if not len(corners):
            return cls(np.empty((0, 0), np.float32), (0.0, 0.0), float(side if step is None else step))
        laid = _lay(corners, float(side), step)
        x, y = laid.origin.tolist()
        return cls(_mean(laid, scores), (x, y), laid.step)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom; level-0 px."""
        (rows, cols), (x, y) = self.values.shape, self.origin_xy
        return x, y, x + cols * self.step, y + rows * self.step

    def at(self, xy: npt.NDArray[Any]) -> Values:
        """Look values up at positions.

        Parameters
        ----------
        xy : (position, 2) level-0 px
            Positions, x before y.

        Returns
        -------
        float32 (position,)
            Values of the cells; nan outside the raster.
        """
        rows, cols = self.values.shape
        places = np.asarray(xy, np.float64).reshape(-1, 2)
        cell = np.floor((places - self.origin_xy) / self.step)  # (place, 2), x first
        inside = ((cell >= 0) & (cell < (cols, rows))).all(axis=1)
        out = np.full(len(places), np.nan, np.float32)
        c, r = cell[inside].astype(np.int64).T
        out[inside] = self.values[r, c]
        return out


def _checked(xy: npt.NDArray[Any], side: float, values: npt.NDArray[Any], step: float | None) -> tuple[Places, Values]:
    corners = np.asarray(xy, np.float64)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        scores = np.asarray(values).astype(np.float32)
    if corners.ndim != 2 or corners.shape[1] != 2 or scores.shape != (len(corners),):
        raise HeatmapError(
            f"a heatmap is made of xy (tile, 2) and as many values (tile,), got {corners.shape} and {scores.shape}"
        )
    for size, what in ((side, "side of a tile"), (side if step is None else step, "step of a raster")):
        if not 0 < size < math.inf:
            raise HeatmapError(f"the {what} is over 0 level-0 px, got {size:g}")
    for bad, what in (~np.isfinite(corners).all(axis=1), "lies nowhere"), (np.isinf(scores), "has an infinite value"):
        if bad.any():
            raise HeatmapError(
                f"tile {int(np.flatnonzero(bad)[0])} {what}; give nan as the value of a tile without one"
            )
    return corners, scores


# ---- which cells the tiles cover ----


class _Laid(NamedTuple):
    """Tiles over the cells of a raster."""

    origin: Places
    """(2,) level-0 px"""
    step: float
    at: Places
    """(tile, 2) left and upper edges in cells, x first; whole numbers where the tiles lie on a lattice."""
    span: float
    """Side of a tile, in cells."""

    @property
    def cells(self) -> tuple[float, float]:
        """Rows and columns."""
        cols, rows = np.ceil(self.at.max(axis=0) + self.span - 1e-9).tolist()
        return rows, cols


def _lay(corners: Places, side: float, step: float | None) -> _Laid:
    """The coarsest raster whose cells the tiles cover wholly or not at all, or a fine one."""
    for parts in range(1, _FINEST + 1) if step is None else ():
        if _few(corners, side, side / parts) and (laid := _on_parts(corners, side, parts)):
            return laid
    for given in (step,) if step is not None else (side / parts for parts in (_FINEST, 4, 2, 1)):
        if _few(corners, side, given):
            return _on_lattice(corners, side, given, _ROUNDING) or _between(corners, side, given)
    width, height = np.ptp(corners, axis=0) + side
    raise HeatmapError(
        f"tiles of {side:g} px lie over {width:,.0f} x {height:,.0f} px: a raster of cells of "
        f"{step or side:g} px would have over {MOST_CELLS:,} of them. Are all positions level-0 px"
        f"{', and is the step in level-0 px too?' if step else '?'}"
    )


def _few(corners: Places, side: float, step: float) -> bool:
    return bool(np.prod(np.ceil((np.ptp(corners, axis=0) + side) / step) + 1) <= MOST_CELLS)


def _on_parts(corners: Places, side: float, parts: int) -> _Laid | None:
    """Tiles whose side is so many steps: the step as stated, else as the starts say if the side was rounded."""
    if laid := _on_lattice(corners, side, side / parts, _ROUNDING):
        return laid
    step = _measured(corners, max(side - 0.5, 0.5 * side) / parts, (side + 0.5) / parts)
    return _on_lattice(corners, step * parts, step, _STATED) if step else None


def _on_lattice(corners: Places, side: float, step: float, slack: float) -> _Laid | None:
    """Tiles whose starts are multiples of a step from some origin, to `slack` px; None if they are not."""
    first = corners.min(axis=0)
    # Our own grids begin at the slide's (0, 0), which tells the origin exactly.
    for origin, ours in ((np.round(first / step) * step, True), (first, False)):
        index = np.round((corners - origin) / step)
        off = corners - origin - index * step
        moved = np.zeros(2) if ours else (off.min(axis=0) + off.max(axis=0)) / 2
        if (np.abs(off - moved) <= slack).all():
            span = side / step
            if span > 0.5 and abs(round(span) * step - side) <= 0.5:
                span = round(span)
            low = index.min(axis=0)
            return _Laid(origin + moved + low * step, step, index - low, span)
    return None


def _between(corners: Places, side: float, step: float) -> _Laid:
    origin = corners.min(axis=0)
    return _Laid(origin, step, (corners - origin) / step, side / step)


def _measured(corners: Places, low: float, high: float) -> float | None:
    """A step between two bounds of which all distances between starts are multiples to a px, if there is one.

    Neighbours bound it loosely and those far apart closely, but only once it is known how many steps apart
    they are: the distance looked at doubles.
    """
    for axis in corners.T:
        starts = np.unique(axis)
        lag = 1
        while lag < len(starts):
            apart = starts[lag:] - starts[:-lag]
            steps = np.round(apart / low)
            sure = (steps > 0) & (steps == np.round(apart / high))
            if sure.any():
                low = max(low, float(((apart - 1) / np.maximum(steps, 1))[sure].max()))
                high = min(high, float(((apart + 1) / np.maximum(steps, 1))[sure].min()))
            if low > high:
                return None
            lag *= 2
    return (low + high) / 2


# ---- what a cell holds ----


def _mean(laid: _Laid, scores: Values) -> Values:
    """Mean of the tiles that cover a cell, weighted by area; float32 (rows, cols)."""
    rows, cols = map(int, laid.cells)
    total, weight = np.zeros(rows * cols), np.zeros(rows * cols)
    shown = np.zeros(rows * cols, bool)
    known = np.isfinite(scores)
    at, values = laid.at[known], scores[known].astype(np.float64)
    first = np.floor(at + 1e-9).astype(np.int64)  # (tile, 2)
    # A step larger than a tile: half of the tile counts, and not half of the cell.
    enough = 0.5 * min(1.0, laid.span) - 1e-9

    def share(cell: int) -> Places:
        """Share of the cell's width and height that a tile covers; (tile, 2)."""
        edge = first + cell
        return np.asarray(np.clip(np.minimum(edge + 1, at + laid.span) - np.maximum(edge, at), 0, 1), np.float64)

    touched = range(math.ceil(laid.span - 1e-9) + 1)
    for down in touched:
        high = share(down)[:, 1]
        for right in touched:
            wide = share(right)[:, 0]
            area = high * wide
            part = area > 1e-9
            cell = ((first[:, 1] + down) * cols + first[:, 0] + right)[part]
            np.add.at(total, cell, (area * values)[part])
            np.add.at(weight, cell, area[part])
            shown[cell[(np.minimum(high, wide) >= enough)[part]]] = True
    out = np.full(rows * cols, np.nan, np.float32)
    out[shown] = total[shown] / weight[shown]
    return out.reshape(rows, cols)


# ---- what is shown ----


def fitting_scaling(values: npt.NDArray[Any], name: str = "") -> Scaling:
    """The scaling that shows most where none is asked for.

    ``signed`` where a value is negative or the quantity is called a contribution; ``percentile`` where it is called
    attention, or sums to 1 over the slide as attention does (few tiles have most of it); ``raw`` where all are within
    0 and 1, else ``minmax``.
    """
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if (finite < 0).any() or "contribution" in name.lower():
        return "signed"
    if "attention" in name.lower() or (len(finite) > 1 and abs(finite.sum() - 1) < 1e-3):
        return "percentile"
    return "raw" if (finite <= 1).all() else "minmax"


def scaled(values: npt.NDArray[Any], scaling: Scaling) -> Values:
    """Scale values to levels from 0 to 1, for a colour map; nan stays nan.

    Parameters
    ----------
    values
        Values of any shape, not infinite.
    scaling
        ``raw`` clips to 0 and 1. ``minmax`` stretches the least to 0 and the greatest to 1. ``percentile`` is the
        rank among the finite values, ties sharing theirs. ``signed`` is 0.5 at zero, and 0 or 1 at the greatest
        distance from it. Equal values are 0.5 in ``minmax`` and ``percentile``, as all of zero are in ``signed``.
    """
    given = np.asarray(values, np.float64)
    out = np.full(given.shape, np.nan)
    known = np.isfinite(given)
    finite = given[known]
    if finite.size:
        out[known] = _levels(finite, scaling)
    return out.astype(np.float32)


def _levels(finite: Places, scaling: Scaling) -> Places:
    low, high = finite.min(), finite.max()
    if scaling == "raw":
        return np.clip(finite, 0, 1)
    if scaling == "signed":
        return 0.5 + finite / (2 * (max(-low, high) or 1))
    if scaling not in SCALINGS:
        raise HeatmapError(f"there is no scaling {scaling!r}; use one of {', '.join(SCALINGS)}")
    if low == high:
        return np.full(finite.shape, 0.5)
    if scaling == "percentile":
        from scipy.stats import rankdata  # a second to import, for what few ask

        return np.asarray((rankdata(finite) - 1) / (len(finite) - 1), np.float64)
    return np.asarray((finite - low) / (high - low), np.float64)


def legend_ticks(values: npt.NDArray[Any], scaling: Scaling) -> list[tuple[float, str]]:
    """Ticks of a colour bar: levels from 0 to 1, and the value of each in words.

    Examples
    --------
    >>> legend_ticks(np.array([-2.0, 1.0]), "signed")
    [(0.0, '-2'), (0.25, '-1'), (0.5, '0'), (0.75, '1'), (1.0, '2')]
    """
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if not finite.size:
        return []
    low, high = float(finite.min()), float(finite.max())
    if scaling == "signed":
        low, high = -max(-low, high), max(-low, high)
    if scaling != "raw" and low == high:
        return [(0.5, f"{low:.4g}")]
    levels = np.linspace(0, 1, 5)
    if scaling == "percentile":
        ranks = np.quantile(finite, levels)
        return [(k, f"{k:.0%} ({value})") for k, value in zip(levels.tolist(), _told(ranks), strict=True)]
    stops = _told(levels if scaling == "raw" else low + levels * (high - low))
    if scaling == "raw":  # clipped values have the colours of the ends
        stops[0] = "<= 0" if low < 0 else stops[0]
        stops[-1] = ">= 1" if high > 1 else stops[-1]
    return list(zip(levels.tolist(), stops, strict=True))


def _told(numbers: Places) -> list[str]:
    """Numbers in as few digits as tell different ones apart, three at least."""
    for digits in range(3, 10):
        words = [f"{number + 0.0:.{digits}g}" for number in numbers.tolist()]
        if len(set(words)) == len(set(numbers.tolist())):
            break
    return words
