"""Tiles that look like a tile or a region: of one slide, or of all slides of a folder.

Features are standardised over all tiles that are searched, so that no feature counts because its numbers are large, and
compared by their cosine: exact products, a block of tiles at a time in float32. What is kept of a tile is a unit
vector in float16. No index of near neighbours is built, which would take longer than all queries of a day.

Read top to bottom: `SimilarTile` (what comes out), `TileIndex` (what is searched), `find_similar` (both at once).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
import torch

from wsi_umedpt.annotations.annotation import Geometry
from wsi_umedpt.annotations.filling import holds
from wsi_umedpt.errors import InteropError, MilError
from wsi_umedpt.interop.feature_banks import find_usable
from wsi_umedpt.interop.feature_sources import has_positions
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.blocks import blocks, moments
from wsi_umedpt.store.features import BagSource

_NEARER = 8
"""Times as many candidates are taken as tiles are asked for, of which some overlap better ones."""

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


class SimilarTile(NamedTuple):
    """A tile that was found."""

    slide_id: str
    row: int
    """Row of its grid."""
    x: float
    y: float
    """Upper left corner, level-0 px."""
    side: float
    """Level-0 px."""
    similarity: float
    """Cosine of the standardised features, -1 to 1."""


@dataclass(frozen=True)
class _Slide:
    """Rows of an index that are of one slide."""

    first: int
    past: int
    side: float


class TileIndex:
    """Tiles of slides, ready to be searched; see `TileIndex.read`.

    Parameters
    ----------
    slides
        Rows of each slide, by its id.
    vectors : float16 (tile, dim)
        Unit vectors.
    xy : (tile, 2)
        Upper left corners, level-0 px.
    rows : (tile,)
        Rows of each slide's grid.
    """

    def __init__(
        self, slides: Mapping[str, _Slide], vectors: npt.NDArray[np.float16], xy: npt.NDArray[np.int32], rows: Numbers
    ) -> None:
        self._slides, self._vectors, self._xy, self._rows = dict(slides), vectors, xy, rows

    @classmethod
    def read(cls, sources: Sequence[BagSource], done: Callable[[int], None] | None = None) -> "TileIndex":
        """Read the features of slides.

        Parameters
        ----------
        sources
            Features of one kind, a slide each; see `wsi_umedpt.interop.find_sources`.
        done
            Is told how many slides are read.

        Raises
        ------
        MilError
            If they are of several kinds, do not say where tiles lie or how large they are, or hold no tile.
        """
        first = sources[0].kind if sources else None
        slides: dict[str, _Slide] = {}
        parts, places, rows = [], [], []
        count = 0
        for number, source in enumerate(sources, start=1):
            if first and (different := first.differences(source.kind)):
                raise MilError(
                    f"{source.slide_id} has other features than {sources[0].slide_id}: {'; '.join(different)}. Search "
                    "those of one kind."
                )
            bag = source.load()
            if source.side is None or not has_positions(bag):
                raise MilError(
                    f"the features of {source.slide_id} do not say where its tiles lie, and how large they are"
                )
            slides[source.slide_id] = _Slide(count, count + len(bag), source.side)
            count += len(bag)
            parts.append(bag.features)
            places.append(bag.xy)
            rows.append(bag.index)
            if done is not None:
                done(number)
        if not count:
            raise MilError("there are no tiles to search: no slide has readable ones")
        return cls(slides, unit_vectors(parts), np.concatenate(places), np.concatenate(rows))

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Ids of the slides that are searched."""
        return tuple(self._slides)

    def tile_at(self, slide_id: str, x: float, y: float) -> Numbers:
        """Find the tile that holds a place, level-0 px; where several do, the one whose middle is nearest.

        Returns
        -------
        (1,)
            Its row in the index.

        Raises
        ------
        MilError
            If there is none, or no such slide.
        """
        of = self._of(slide_id)
        away = np.abs(self._xy[of.first : of.past] + of.side / 2 - (x, y)).max(axis=1)
        nearest = int(away.argmin()) if len(away) else -1
        if nearest < 0 or away[nearest] > of.side / 2:
            raise MilError(f"no readable tile of {slide_id} holds x {x:g}, y {y:g} (level-0 px)")
        return np.array([of.first + nearest])

    def tiles_within(self, slide_id: str, area: Geometry) -> Numbers:
        """Find the tiles whose middle lies in an area, level-0 px; gives their rows in the index.

        Raises
        ------
        MilError
            If there is none, or no such slide.
        """
        of = self._of(slide_id)
        inside = np.flatnonzero(holds(area, self._xy[of.first : of.past] + of.side / 2))
        if not len(inside):
            left, top, right, bottom = area.bounds
            raise MilError(
                f"the region of {slide_id}, x {left:g} to {right:g}, y {top:g} to {bottom:g}, holds the middle of no "
                "readable tile"
            )
        return inside + of.first

    def tile(self, row: int) -> SimilarTile:
        """The tile of a row of the index; it is as similar to itself as can be."""
        slide_id = next(name for name, of in self._slides.items() if of.first <= row < of.past)
        x, y = self._xy[row].tolist()
        return SimilarTile(slide_id, int(self._rows[row]), x, y, self._slides[slide_id].side, 1.0)

    def similar(self, rows: Numbers, count: int = 20, within: Collection[str] | None = None) -> list[SimilarTile]:
        """Find the tiles that are most similar to some, which stand for one thing.

        Parameters
        ----------
        rows
            In the index, as `tile_at` and `tiles_within` give them; of several their mean is looked for.
        count
            Number of tiles at most.
        within
            Slides that are searched; by default all.

        Returns
        -------
        list
            The most similar first. None overlaps those that are asked about, or a better one.
        """
        asked = self._vectors[rows].astype(np.float32).mean(axis=0)
        scores = self._products(asked / max(float(np.linalg.norm(asked)), 1e-12))
        scores[rows] = -np.inf
        if within is not None:
            for slide_id in self._slides.keys() - {*within}:
                scores[self._slides[slide_id].first : self._slides[slide_id].past] = -np.inf
        left = int(np.isfinite(scores).sum())
        most = min(left, _NEARER * count + len(rows))
        while True:
            found = self._apart(rows, scores, most, count)
            if len(found) == count or most >= left:
                return found
            most = min(left, 4 * most)

    def _of(self, slide_id: str) -> _Slide:
        if slide_id not in self._slides:
            raise MilError(f"{slide_id} is not searched; the slides are {', '.join(sorted(self._slides)[:5])}")
        return self._slides[slide_id]

    def _products(self, asked: Floats) -> Floats:
        """(tile,) cosine of each tile to a unit vector."""
        out, query = np.empty(len(self), np.float32), torch.from_numpy(asked)
        for block in blocks(*self._vectors.shape):
            out[block] = torch.mv(torch.from_numpy(self._vectors[block]).float(), query).numpy()
        return out

    def _apart(self, rows: Numbers, scores: Floats, most: int, count: int) -> list[SimilarTile]:
        """Take those of the best that overlap neither what is asked about nor a better one."""
        best = torch.topk(torch.from_numpy(scores), most, sorted=False).indices.numpy()  # of millions, in no time
        names, firsts = [*self._slides], np.array([of.first for of in self._slides.values()])

        def name_of(row: int) -> str:
            return names[int(np.searchsorted(firsts, row, "right")) - 1]

        taken: dict[str, list[npt.NDArray[np.int32]]] = {name: [] for name in names}
        for row in rows.tolist():
            taken[name_of(row)].append(self._xy[row])
        found: list[SimilarTile] = []
        for row in best[np.lexsort((best, -scores[best]))].tolist():
            name = name_of(row)
            side, place = self._slides[name].side, self._xy[row]
            if taken[name] and (np.abs(np.array(taken[name]) - place).max(axis=1) < side - 1).any():
                continue
            taken[name].append(place)
            x, y = place.tolist()
            found.append(SimilarTile(name, int(self._rows[row]), x, y, side, float(scores[row])))
            if len(found) == count:
                break
        return found


def find_similar(
    stores: Sequence[str | Path],
    slide_id: str,
    *,
    at: tuple[float, float] | None = None,
    area: Geometry | None = None,
    count: int = 20,
    encoder_id: str | None = None,
    grid_id: str | None = None,
) -> list[SimilarTile]:
    """Find the tiles of slides that look most like a tile, or a region, of one of them.

    Parameters
    ----------
    stores
        Stores, or folders of them; the slide that is asked about is among them.
    slide_id
        The slide that is asked about.
    at : (x, y), level-0 px
        In the tile that is asked about.
    area : level-0 px
        The region that is asked about, in place of `at`: the tiles whose middles it holds.
    count
        Number of tiles at most.
    encoder_id, grid_id
        Features to compare, where stores hold several.

    Returns
    -------
    list
        The most similar first; see `TileIndex.similar`.

    Raises
    ------
    MilError
        If no tile is asked about, or features are of several kinds.
    InteropError
        If a store cannot be searched.
    """
    if (at is None) == (area is None):
        raise MilError("what is asked about is a place (`at`), or a region (`area`)")
    sources, troubles = find_usable(stores, encoder_id=encoder_id, grid_id=grid_id)
    if troubles:
        name, error = next(iter(troubles.items()))
        raise InteropError(f"{counted(len(troubles), 'store')} cannot be searched, the first {name}: {error}")
    index = TileIndex.read([*sources.values()])
    rows = index.tile_at(slide_id, *at) if at is not None else index.tiles_within(slide_id, shapely.make_valid(area))
    return index.similar(rows, count)


def unit_vectors(parts: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.float16]:
    """Features of slides, one behind the other, standardised over all of them and of length 1."""
    dim = parts[0].shape[1]
    count, mean, variance = moments((part[block] for part in parts for block in blocks(*part.shape)), dim)
    spread, middle = np.sqrt(variance), mean.astype(np.float32)
    # What never varies says nothing.
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)
    out, first = np.empty((count, dim), np.float16), 0
    for part in parts:
        for block in blocks(*part.shape):
            wide = (part[block].astype(np.float32) - middle) * scale
            wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
            out[first : first + len(wide)] = wide
            first += len(wide)
    return out
