"""`Objects`: what was found on a slide (nuclei, cells), as flat arrays; a row is an object.

Half a million nuclei are a few dozen MB this way, and no Python object each. Outlines lie one
behind the other in one array of points, with the place where each begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

MEASURES = ("area_um2", "perimeter_um", "circularity", "hematoxylin", "eosin")
"""Measures of each object. Stains are mean optical densities after Ruifrok and Johnston
(Analytical and Quantitative Cytology and Histology 23, 2001); circularity is 4 pi area / perimeter^2."""

PALETTE = (
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
"""Red, green, blue of classes in their order, again and again; told apart by colour-blind eyes too (Okabe and
Ito, Color Universal Design, 2008)."""


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of a slide. Positions are level-0 px, x before y; the origin is the slide's top left corner."""

    classes: tuple[str, ...]
    """Names of the classes."""
    class_index: npt.NDArray[np.uint8]
    """(object,) into `classes`."""
    score: npt.NDArray[np.float32]
    """(object,) 0 to 1."""
    centroid: npt.NDArray[np.float32]
    """(object, 2)"""
    measures: npt.NDArray[np.float32]
    """(object, measure), columns as in `MEASURES`; nan where a measure does not apply."""
    starts: npt.NDArray[np.int64]
    """(object + 1,) rows of `outline` at which each object's begins."""
    outline: npt.NDArray[np.float32]
    """(point, 2) corners of all outlines, each ring left open; no holes."""

    def __len__(self) -> int:
        return len(self.class_index)

    @classmethod
    def empty(cls, classes: tuple[str, ...]) -> "Objects":
        """No objects."""
        return cls(
            classes,
            np.empty(0, np.uint8),
            np.empty(0, np.float32),
            np.empty((0, 2), np.float32),
            np.empty((0, len(MEASURES)), np.float32),
            np.zeros(1, np.int64),
            np.empty((0, 2), np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence["Objects"], classes: tuple[str, ...]) -> "Objects":
        """Parts one behind the other; all must be of these classes."""
        parts = [p for p in parts if len(p)]
        if not parts:
            return cls.empty(classes)
        lengths = np.concatenate([np.diff(p.starts) for p in parts])
        return cls(
            classes,
            np.concatenate([p.class_index for p in parts]),
            np.concatenate([p.score for p in parts]),
            np.concatenate([p.centroid for p in parts]),
            np.concatenate([p.measures for p in parts]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([p.outline for p in parts]),
        )

    def taken(self, rows: npt.NDArray[Any]) -> "Objects":
        """Some of the objects, by number or by mask, in the order given."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, np.int64)
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        points = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Objects(
            self.classes,
            self.class_index[rows],
            self.score[rows],
            self.centroid[rows],
            self.measures[rows],
            starts,
            self.outline[points],
        )

    def classified(self, classes: Sequence[str], chances: npt.NDArray[np.floating]) -> "Objects":
        """The same objects, each of the class that is likeliest; their scores stay those of what found them.

        Parameters
        ----------
        classes
            At most 255.
        chances : (object, class)
            Probabilities, or anything else of which the largest counts.
        """
        return replace(self, classes=tuple(classes), class_index=chances.argmax(axis=1).astype(np.uint8))

    def measure(self, name: str) -> npt.NDArray[np.float32]:
        """(object,) one of `MEASURES`."""
        column: npt.NDArray[np.float32] = self.measures[:, MEASURES.index(name)]
        return column

    def boxes(self) -> npt.NDArray[np.float32]:
        """(object, 4) bounds of the outlines: left, top, right, bottom."""
        if not len(self):
            return np.empty((0, 4), np.float32)
        first = self.starts[:-1]
        low, high = (f.reduceat(self.outline, first, axis=0) for f in (np.minimum, np.maximum))
        return np.concatenate([low, high], axis=1)

    def to_geodataframe(self, made_by: dict[str, Any] | None = None) -> "GeoDataFrame":
        """A row an object: ``geometry`` (level-0 px), ``class``, ``score``, measures; `made_by` is kept in `attrs`."""
        import geopandas as gpd
        import pandas as pd

        table = gpd.GeoDataFrame(
            {
                "class": pd.Categorical.from_codes(self.class_index.astype(np.int64), list(self.classes)),
                "score": self.score,
            }
            | {name: self.measures[:, k] for k, name in enumerate(MEASURES)},
            geometry=self.polygons(),
        )
        table.attrs = {"made_by": made_by or {}}
        return table

    def polygons(self) -> npt.NDArray[np.object_]:
        """(object,) shapely polygons."""
        numbers = np.repeat(np.arange(len(self)), np.diff(self.starts))
        made: npt.NDArray[np.object_] = shapely.polygons(
            shapely.linearrings(self.outline.astype(np.float64), indices=numbers)
        )
        return made


class TileBoxes(NamedTuple):
    """Boxes of one tile, best first."""

    xyxy: npt.NDArray[np.float32]
    """(box, 4) px of the tile."""
    class_index: npt.NDArray[np.int64]
    """(box,)"""
    score: npt.NDArray[np.float32]
    """(box,)"""

    @property
    def centres(self) -> npt.NDArray[np.float32]:
        """Float32 (box, 2) px of the tile, x before y."""
        return ((self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2).astype(np.float32, copy=False)
