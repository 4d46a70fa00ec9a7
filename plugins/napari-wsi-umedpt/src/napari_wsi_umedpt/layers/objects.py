"""Objects of a slide (nuclei, cells) as a picture of classes, drawn where it is looked at.

Half a million polygons are too many for napari's Shapes (0.1 ms and 22 kB each), and few for
a raster that is drawn a field at a time. `Field` finds objects by place; `Field.draw` and
`Field.outline` paint them as class numbers, 0 where there is none and k + 1 where the k-th class is; `Field.at`
says which object lies at a place.

Positions are level-0 px from the slide's upper left corner, x before y.
"""

from copy import copy
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from wsi_umedpt.store import Objects

from napari_wsi_umedpt.layers.multiscale import Array, Window
from napari_wsi_umedpt.layers.thin_lines import BITS, LINE_OFFSETS

_CELL_PX = 512
"""Side of a cell of the index, level-0 px: some dozen nuclei."""
_DOTS_FROM = 16
"""Level-0 px per px from which objects are dots, if not before: there a nucleus is a pixel or two."""
_DOT_PX = 2
"""Side of an object, px, from which down it is a dot."""
_FILLED_FROM = 4
"""Level-0 px per px from which outlines would leave nothing of an object free."""
_FILL = ((0.5, 0.5),)
"""OpenCV's (0, 0) is the middle of the first pixel, ours its corner."""

Rows = npt.NDArray[np.int64]


class Field:
    """Objects and where they are. Never changed; safe to draw from several threads."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._boxes = objects.boxes()  # (object, 4) left, top, right, bottom
        sides = self._boxes[:, 2:] - self._boxes[:, :2]
        typical = float(np.median(sides.max(axis=1))) if len(objects) else 0.0
        self._dots_from = min(_DOTS_FROM, max(2.0, typical / _DOT_PX))
        # An object is listed where its middle is; those whose middle lies outside a window, and which reach into
        # it, are found by looking further around. Few are so large that it would cost the others: they are apart.
        self._reach = float(np.quantile(sides.max(axis=1), 0.999)) / 2 + 1 if len(objects) else 1.0
        large = (sides.max(axis=1) / 2 + 1 > self._reach) if len(objects) else np.zeros(0, bool)
        self._large = np.flatnonzero(large)
        middle = (self._boxes[:, :2] + self._boxes[:, 2:]) / 2
        cells = np.maximum(middle // _CELL_PX, 0).astype(np.int64)  # (object, 2)
        self._columns = int(cells[:, 0].max()) + 1 if len(objects) else 1
        self._lines = int(cells[:, 1].max()) + 1 if len(objects) else 1
        flat = cells[:, 1] * self._columns + cells[:, 0]
        self._order = np.argsort(flat, kind="stable")
        self._order = self._order[~large[self._order]]
        self._starts = np.searchsorted(flat[self._order], np.arange(self._columns * self._lines + 1))

    def __len__(self) -> int:
        return len(self.objects)

    def of_classes(self, objects: Objects) -> "Field":
        """The same objects in other classes: where they are need not be looked for again."""
        other = copy(self)
        other.objects = objects
        return other

    def within(self, left: float, top: float, right: float, bottom: float) -> Rows:
        """Rows of the objects whose box meets a rectangle, in their order."""
        rows = np.sort(self._near(left, top, right, bottom))
        box = self._boxes[rows]
        meets = (box[:, 0] <= right) & (box[:, 1] <= bottom) & (box[:, 2] >= left) & (box[:, 3] >= top)
        return np.asarray(rows[meets], np.int64)

    def _near(self, left: float, top: float, right: float, bottom: float) -> Rows:
        """All objects that may meet a rectangle, each once, and some that do not."""
        first_x, first_y = (max(0, int((low - self._reach) // _CELL_PX)) for low in (left, top))
        last_x = min(self._columns - 1, int((right + self._reach) // _CELL_PX))
        last_y = min(self._lines - 1, int((bottom + self._reach) // _CELL_PX))
        parts = [self._large]
        if last_x >= first_x:
            for line in range(first_y, last_y + 1):
                start = line * self._columns
                parts.append(self._order[self._starts[start + first_x] : self._starts[start + last_x + 1]])
        return np.concatenate(parts)

    def at(self, x: float, y: float, reach: float = 0.0) -> int | None:
        """Row of the object that a place means; None if there is none.

        Parameters
        ----------
        x, y
            Level-0 px.
        reach
            Distance, level-0 px; where no outline holds the place, the nearest one counts that is no further away.
        """
        starts, holding, beside = self.objects.starts, [], []
        for row in self.within(x - reach, y - reach, x + reach, y + reach).tolist():
            ring = self.objects.outline[starts[row] : starts[row + 1]].astype(np.float32)
            inside = cv2.pointPolygonTest(ring, (float(x), float(y)), True)
            if inside >= 0:
                holding.append((abs(cv2.contourArea(ring)), row))  # the smallest if several do
            elif -inside <= reach:
                beside.append((-inside, row))
        return min(holding or beside)[1] if holding or beside else None

    def draw(self, window: Window) -> Array:
        """Class numbers of a window, objects filled; see `napari_wsi_umedpt.layers.multiscale.Draw`."""
        return self._dots(window) if window.scale >= self._dots_from else self._polygons(window, filled=True)

    def outline(self, window: Window) -> Array:
        """The same, but where objects are large enough only their outlines are drawn."""
        return self.draw(window) if window.scale >= _FILLED_FROM else self._polygons(window, filled=False)

    def _polygons(self, window: Window, *, filled: bool) -> Array:
        scale, x, y, width, height = window
        out = np.zeros((height, width), np.uint8)
        edge = 2 * scale  # the line of one that ends just outside reaches in
        rows = self.within(x * scale - edge, y * scale - edge, (x + width) * scale + edge, (y + height) * scale + edge)
        shown = self.objects.taken(rows)
        corners = shown.outline / scale - (x, y)
        rings = [_rings(corners - offset, shown.starts) for offset in (_FILL if filled else LINE_OFFSETS)]
        for k in np.unique(shown.class_index).tolist():
            mine = np.flatnonzero(shown.class_index == k).tolist()
            for ring in rings:
                if filled:
                    cv2.fillPoly(out, [ring[i] for i in mine], k + 1, cv2.LINE_8, BITS)
                else:
                    cv2.polylines(out, [ring[i] for i in mine], True, k + 1, 1, cv2.LINE_8, BITS)
        return out

    def _dots(self, window: Window) -> Array:
        """A pixel for each object; where several share one, it is of the class that most are of."""
        scale, x, y, width, height = window
        rows = self._near(x * scale, y * scale, (x + width) * scale, (y + height) * scale)
        place = np.floor(self.objects.centroid[rows] / np.float32(scale)).astype(np.int32) - np.array([x, y], np.int32)
        inside = (place[:, 0] >= 0) & (place[:, 0] < width) & (place[:, 1] >= 0) & (place[:, 1] < height)
        classes = len(self.objects.classes)
        flat = (place[inside, 1] * width + place[inside, 0]) * classes + self.objects.class_index[rows[inside]]
        counts = np.bincount(flat, minlength=height * width * classes).reshape(-1, classes)
        out = np.where(counts.any(axis=1), counts.argmax(axis=1) + 1, 0)
        return np.asarray(out.reshape(height, width), np.uint8)


def _rings(corners: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int32]]:
    """Each object's corners, as OpenCV takes them."""
    return np.split(np.round(corners * 2**BITS).astype(np.int32), starts[1:-1]) if len(starts) > 1 else []
