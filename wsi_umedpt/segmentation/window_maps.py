"""Vectors of objects: an encoder's maps of windows in, for each object their mean over what its outline encloses.

Each pixel of an object is looked up in the window whose middle is nearest, as the border of a window sees less of
what lies around; so an object that several windows see has one vector, and no object is cut where windows end.
Maps are kept as long as objects to come may lie in their windows. Lengths are px of the windows.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from wsi_umedpt.segmentation.window_layout import WindowLayout
from wsi_umedpt.store.objects import Objects

_AT_ONCE_PX = 1 << 20
"""Area of the objects, as their bounds have it, that are looked up together."""

Maps = tuple[npt.NDArray[np.float16], ...]
"""Maps of one window: (h / stride, w / stride, channel) for each stride."""
Vectors = npt.NDArray[np.float16]
"""(object, dim)"""
_Places = npt.NDArray[np.int64]


class WindowMaps:
    """Maps of those windows of a slide that objects to come may lie in.

    Parameters
    ----------
    layout
        Positions of the windows.
    channels
        Number of channels of the map of each stride.
    """

    def __init__(self, layout: WindowLayout, channels: Mapping[int, int]) -> None:
        self._layout, self._channels = layout, dict(channels)
        self._size, self._stride = layout.spec.size_px, layout.spec.stride
        cells = layout.xy // self._stride
        self._at = np.full((cells.max(axis=0, initial=-1) + 1)[::-1], -1, np.int64)
        """(row, col) of the lattice that windows lie on: the window there, or -1 where its maps are not kept."""
        self._kept: dict[int, Maps] = {}

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return sum(self._channels.values())

    def add(self, window: int, maps: Maps) -> None:
        """Keep the maps of a window."""
        found = {s: m.shape[-1] for s, m in zip(self._channels, maps, strict=True)}
        if found != self._channels:
            raise ValueError(f"maps have {found} channels by stride, expected {self._channels}")
        col, row = self._layout.xy[window] // self._stride
        self._at[row, col] = window
        self._kept[window] = maps

    def drop_above(self, y: int) -> None:
        """Forget windows that end above a row: no object to come reaches there."""
        for window in [w for w in self._kept if self._layout.xy[w, 1] + self._size <= y]:
            col, row = self._layout.xy[window] // self._stride
            del self._kept[window]
            self._at[row, col] = -1

    def vectors(self, objects: Objects) -> Vectors:
        """Mean of every map over each object, one map behind the other.

        Parameters
        ----------
        objects
            All of them in windows whose maps are kept.
        """
        out = np.zeros((len(objects), self.dim), np.float16)
        for rows in _blocks(objects, self._layout.scale):
            out[rows] = self._of(objects.taken(np.arange(rows.start, rows.stop)))
        return out

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that an object of the same windows needs to go on as this one."""
        kept = [*self._kept.values()]
        maps = {f"stride{s}": np.stack([m[k] for m in kept]) for k, s in enumerate(self._channels)} if kept else {}
        return {"windows": np.array([*self._kept], np.int64), **maps}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where the one stood that gave this state."""
        for place, window in enumerate(state["windows"].tolist()):
            self.add(window, tuple(state[f"stride{s}"][place] for s in self._channels))

    def _of(self, objects: Objects) -> npt.NDArray[np.float64]:
        count, scale = len(objects), self._layout.scale
        owner, x, y = pixels_within(objects.outline.astype(np.float64) / scale, objects.starts)
        window = self._window_of(x, y)
        owner, x, y, window = (values[window >= 0] for values in (owner, x, y, window))
        # Of an object so thin that no pixel's middle lies in it, or in no window, the pixel that is nearest to both.
        lost = np.flatnonzero(np.bincount(owner, minlength=count) == 0)
        near = [self._nearest(*xy) for xy in np.floor(objects.centroid[lost] / scale).astype(np.int64).tolist()]
        more = np.array(near, np.int64).reshape(-1, 3).T
        owner = np.concatenate([owner, lost])
        x, y, window = (np.concatenate(pair) for pair in zip((x, y, window), more, strict=True))
        used, slot = _numbered(window, len(self._layout.xy))
        left, top = self._layout.xy[window].T
        pixels = np.bincount(owner, minlength=count)[:, None]
        means = []
        for k, stride in enumerate(self._channels):
            across = self._size // stride
            cell = (slot * across + (y - top) // stride) * across + (x - left) // stride
            cells, column = _numbered(cell, len(used) * across**2)
            weight = sparse.csr_array((np.ones(len(owner)), (owner, column)), shape=(count, len(cells)))
            place, within = np.divmod(cells, across**2)
            edges = np.searchsorted(place, np.arange(len(used) + 1))
            flat = [self._kept[w][k].reshape(across**2, -1) for w in used.tolist()]
            parts = [m[within[a:b]] for m, (a, b) in zip(flat, itertools.pairwise(edges.tolist()), strict=True)]
            means.append(weight @ np.concatenate(parts).astype(np.float64) / pixels)
        return np.concatenate(means, axis=1)

    def _window_of(self, x: _Places, y: _Places) -> _Places:
        """The window in which each pixel is looked up, or -1 where no window that is kept holds it."""
        size, stride = self._size, self._stride
        margin = (size - stride) // 2  # of a window, where its neighbour begins to be nearer
        col, row = (x - margin) // stride, (y - margin) // stride
        out = np.full(len(x), -1, np.int64)
        most = -(-margin // stride)
        reach = range(-most, most + 1)
        for right, down in sorted(itertools.product(reach, reach), key=lambda by: (by[0] ** 2 + by[1] ** 2, by)):
            todo = np.flatnonzero(out < 0)
            if not len(todo):
                break
            c, r = col[todo] + right, row[todo] + down
            there = (c >= 0) & (r >= 0) & (c < self._at.shape[1]) & (r < self._at.shape[0])
            across, below = x[todo] - c * stride, y[todo] - r * stride
            there &= (across >= 0) & (across < size) & (below >= 0) & (below < size)
            out[todo[there]] = self._at[r[there], c[there]]
        return out

    def _nearest(self, x: int, y: int) -> tuple[int, int, int]:
        """The pixel (x, y) of a window that is kept, and the window, nearest to a pixel that lies in none."""
        kept, last = np.array([*self._kept]), self._size - 1
        low = self._layout.xy[kept]
        inside = np.clip((x, y), low, low + last)
        best = int(np.abs(inside - (x, y)).max(axis=1).argmin())
        return int(inside[best, 0]), int(inside[best, 1]), int(kept[best])


def pixels_within(outline: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]) -> tuple[_Places, _Places, _Places]:
    """Pixels whose middles lie in outlines, those of all at once.

    Parameters
    ----------
    outline : (point, 2)
        Corners of all outlines, px; each ring is open, and filled where it is entered an odd number of times.
    starts : (outline + 1,)
        Start of each outline.

    Returns
    -------
    owner, x, y : int64 (pixel,)
        The outline and the place of each pixel, sorted by them: first by outline, then by row.
    """
    after = np.arange(1, len(outline) + 1)
    after[starts[1:] - 1] = starts[:-1]
    begin, end = outline, outline[after]
    first, past = (np.ceil(f(begin[:, 1], end[:, 1]) - 0.5).astype(np.int64) for f in (np.minimum, np.maximum))
    edge, row = _ranges(first, past)
    x = begin[edge, 0] + (row + 0.5 - begin[edge, 1]) * (
        (end[edge, 0] - begin[edge, 0]) / (end[edge, 1] - begin[edge, 1])
    )
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[edge]
    order = np.lexsort((x, row, owner))  # a row enters an outline as often as it leaves it
    left, right = (np.ceil(x[order[at::2]] - 0.5).astype(np.int64) for at in (0, 1))
    span, column = _ranges(left, right)
    enters = order[::2][span]
    return owner[enters], column, row[enters]


def _numbered(values: _Places, below: int) -> tuple[_Places, _Places]:
    """Values that occur, sorted, and which of them each is; a count instead of a sort, as they are many and small."""
    there = np.zeros(below, bool)
    there[values] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[values]


def _ranges(first: _Places, past: _Places) -> tuple[_Places, _Places]:
    """Whole numbers from `first` to before `past`, one range behind the other, and the range of each."""
    count = past - first
    of = np.repeat(np.arange(len(count)), count)
    return of, first[of] + np.arange(len(of)) - (np.cumsum(count) - count)[of]


def _blocks(objects: Objects, scale: float) -> Iterator[slice]:
    """Rows of objects that are together of about `_AT_ONCE_PX`, or one that is larger."""
    low, high = np.split(objects.boxes(), 2, axis=1)
    area = np.cumsum(np.prod((high - low) / scale + 1, axis=1, dtype=np.float64))
    first = 0
    while first < len(objects):
        done = area[first - 1] if first else 0.0
        past = max(first + 1, int(np.searchsorted(area, done + _AT_ONCE_PX, "right")))
        yield slice(first, past)
        first = past
