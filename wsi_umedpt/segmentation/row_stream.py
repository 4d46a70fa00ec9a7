"""Stream of finished rows of a slide to its objects and its label image, in bounded memory.

A front (connected pixels that are likelier object than not) is separated and outlined once its
last row is there, so that no object is cut where one strip of rows ends and the next begins, and
each is counted once. What is still open waits with its rows; a front higher than `MAX_ROWS`
is cut, as nothing else would bound the memory.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.segmentation.blending import Rows
from wsi_umedpt.segmentation.polygons import Placement, outlined
from wsi_umedpt.segmentation.watershed import HALF, separate
from wsi_umedpt.store.objects import Objects

MAX_ROWS = 2048
_GROUP_PX = 1024
"""Fronts are taken together, side by side, up to about this width."""

Boxes = npt.NDArray[np.float32]


class Found(NamedTuple):
    """Objects and labels that came out with some rows."""

    objects: Objects
    labels: npt.NDArray[np.uint8]
    """(rows, width) class + 1 of the objects, 0 elsewhere: the next rows of the label image. Where two
    objects touch, the seam between them is 0."""


class Stitcher:
    """Separates objects out of rows that come from top to bottom.

    Parameters
    ----------
    classes
        Classes of objects; the probabilities' channels are theirs, then one of borders if `border`.
    border
        True if the last channel is the border between objects, whatever their class.
    scale, mpp
        Level-0 px per px of the rows, and um/px of the rows.
    min_um2
        Smaller objects are dropped.
    vouched
        See `separate`.
    """

    def __init__(
        self, width: int, classes: tuple[str, ...], *, border: bool, scale: float, mpp: float, min_um2: float = 10.0,
        vouched: bool = False,
    ) -> None:  # fmt: skip
        channels = len(classes) + border
        self._classes, self._border = classes, border
        self._scale, self._mpp, self._vouched = scale, mpp, vouched
        self._min_px = max(1, round(min_um2 / mpp**2))
        self._top = 0
        self._chances = np.zeros((channels, 0, width), np.uint8)
        self._image = np.zeros((0, width, 3), np.uint8)
        self._labels = np.zeros((0, width), np.uint8)
        self._centres = np.zeros((0, 2), np.float32)

    @property
    def top(self) -> int:
        """First row in which objects to come may lie."""
        return self._top

    def add(self, rows: Rows, centres: Boxes, *, last: bool = False) -> Found:
        """Take the next rows.

        Parameters
        ----------
        rows
            They begin where the ones before ended.
        centres : float32 (box, 2)
            x, y of boxes that a detector found, px: all whose centre lies in these rows.
        last
            True if these are the slide's last rows.
        """
        if rows.top != self._top + len(self._image):
            raise ValueError(f"rows from {rows.top} on do not follow those until {self._top + len(self._image)}")
        self._chances = np.concatenate([self._chances, rows.chances], axis=1)
        self._image = np.concatenate([self._image, rows.image])
        self._labels = np.concatenate([self._labels, np.zeros(rows.image.shape[:2], np.uint8)])
        self._centres = np.concatenate([self._centres, centres])
        if not len(self._image):  # OpenCV knows no empty pictures
            return Found(Objects.empty(self._classes), self._labels)
        front = self._front()
        count, parts, stats, _ = cv2.connectedComponentsWithStats((front >= HALF).astype(np.uint8), connectivity=8)
        is_open = np.zeros(count, bool)
        if not last:
            is_open[parts[-1]] = True
            is_open &= len(front) - stats[:, cv2.CC_STAT_TOP] < MAX_ROWS
        is_open[0] = False
        ready = np.flatnonzero(~is_open)[1:]
        found = [self._taken(front, parts, stats, group) for group in _groups(stats, ready)]
        objects = Objects.joined(found, self._classes)
        return Found(objects, self._dropped(parts, stats, is_open))

    def state(self) -> dict[str, Any]:
        """All that a stitcher of the same settings needs to go on as this one."""
        return {
            "top": np.array(self._top), "chances": self._chances, "image": self._image, "labels": self._labels,
            "centres": self._centres,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the stitcher stood that gave this state."""
        for name, value in state.items():
            setattr(self, f"_{name}", int(value) if name == "top" else value)

    def _front(self) -> npt.NDArray[np.uint8]:
        total = self._chances.sum(axis=0, dtype=np.uint16)
        front: npt.NDArray[np.uint8] = np.minimum(total, 255).astype(np.uint8)
        return front

    def _taken(
        self, front: npt.NDArray[np.uint8], parts: npt.NDArray[np.int32], stats: npt.NDArray[np.int32],
        group: npt.NDArray[np.intp],
    ) -> Objects:  # fmt: skip
        """Separate some whole fronts, outline their objects and draw them into the label rows."""
        left, top = stats[group, :2].min(axis=0)
        right, bottom = (stats[group, :2] + stats[group, 2:4]).max(axis=0)
        where = np.s_[top:bottom, left:right]
        mine = np.zeros(len(stats), bool)
        mine[group] = True
        inside = mine[parts[where]]
        chances = self._chances[:, top:bottom, left:right]
        inner = chances[: len(self._classes)].max(axis=0)
        x, y = self._centres.T - [[left], [self._top + top]]
        here = (x >= 0) & (x < right - left) & (y >= 0) & (y < bottom - top)
        centres = np.stack([x[here], y[here]], 1) if len(self._centres) else None
        labels = separate(
            np.where(inside, front[where], 0), np.where(inside, inner, 0), centres,
            min_px=self._min_px, vouched=self._vouched,
        )  # fmt: skip
        image = self._image[where]
        objects = outlined(
            labels, image, self._shared(chances), self._classes,
            Placement((int(left), int(self._top + top)), self._scale, self._mpp),
        )  # fmt: skip
        values = np.concatenate([[0], objects.class_index + 1]).astype(np.uint8)
        drawn = np.where(_seams(labels), 0, values[labels])
        self._labels[where] = np.where(labels > 0, drawn, self._labels[where])
        return objects

    def _shared(self, chances: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Chances of the classes, the border's shared out among them: (class, h, w)."""
        if not self._border:
            return chances
        each = chances[:-1].astype(np.float32)
        total = each.sum(axis=0)
        share = np.where(total > 0, each / np.maximum(total, 1), 1 / len(each))
        out: npt.NDArray[np.uint8] = np.minimum(each + share * chances[-1], 255).astype(np.uint8)
        return out

    def _dropped(
        self, parts: npt.NDArray[np.int32], stats: npt.NDArray[np.int32], is_open: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.uint8]:
        """Forget all rows above the first open front, and closed fronts below; the label rows that are dropped."""
        kept = int(stats[is_open, 1].min()) if is_open.any() else len(self._image)
        done = self._labels[:kept]
        self._top += kept
        self._chances = np.where(is_open[parts[kept:]], self._chances[:, kept:], 0).astype(np.uint8)
        self._image, self._labels = self._image[kept:].copy(), self._labels[kept:].copy()
        self._centres = self._centres[self._centres[:, 1] >= self._top]
        return done


def _groups(stats: npt.NDArray[np.int32], ready: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    """Fronts from left to right, in groups about `_GROUP_PX` wide."""
    order = ready[np.argsort(stats[ready, 0], kind="stable")]
    for _, group in _split(order, stats[order, 0] // _GROUP_PX):
        yield group


def _split(values: npt.NDArray[np.intp], keys: npt.NDArray[np.int32]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    edges = np.flatnonzero(np.diff(keys, prepend=-1, append=np.iinfo(np.int32).max))
    for start, end in itertools.pairwise(edges):
        yield int(keys[start]), values[start:end]


def _seams(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is another object's."""
    out = np.zeros(labels.shape, bool)
    for a, b, view in (
        (labels[:-1], labels[1:], out[:-1]),
        (labels[:, :-1], labels[:, 1:], out[:, :-1]),
        (labels[:-1, :-1], labels[1:, 1:], out[:-1, :-1]),
        (labels[:-1, 1:], labels[1:, :-1], out[:-1, 1:]),
    ):
        view |= (a != b) & (a > 0) & (b > 0)
    return out
