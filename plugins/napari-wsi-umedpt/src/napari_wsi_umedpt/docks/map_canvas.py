"""The picture of a map: dots to click on, and to draw a line around."""

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from qtpy.QtCore import QPointF, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

Places = npt.NDArray[np.floating]
Colours = npt.NDArray[np.uint8]
_MARGIN_PX, _NEAR_PX, _MOVED_PX = 8, 8, 4
_LEAST_PX = 220
_DOT_PX, _SMALL_PX, _SELECTED_PX = 4, 2, 5
_MANY = 3000
"""Points from which dots are small."""
_INK = (20, 20, 20)


class MapCanvas(QWidget):
    """Points on white; those that are selected are larger, with a dark edge."""

    clicked = Signal(int)
    """The point of that number was clicked on."""
    selected = Signal(object)
    """A line was drawn around these points: int64 (point,), none where it holds none."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumSize(_LEAST_PX, _LEAST_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self._places: Places = np.zeros((0, 2))
        self._colours: Colours = np.zeros((0, 3), np.uint8)
        self._chosen = np.zeros(0, np.int64)
        self._line: list[QPointF] = []
        self._image: QImage | None = None

    def show_points(self, places: Places, colours: Colours) -> None:
        """Show points, (point, 2) with y upwards, in colours (point, 3)."""
        self._places, self._colours = np.asarray(places, np.float64), colours
        self._chosen = np.zeros(0, np.int64)
        self._changed()

    def recolour(self, colours: Colours) -> None:
        """Show the same points in other colours."""
        self._colours = colours
        self._changed()

    def select(self, points: npt.NDArray[np.int64]) -> None:
        """Show which points are selected."""
        self._chosen = points
        self._changed()

    def at(self) -> Places:
        """(point, 2) px of the points on this widget, x before y."""
        if not len(self._places):
            return self._places
        low, high = self._places.min(axis=0), self._places.max(axis=0)
        room = min(self.width(), self.height()) - 2 * _MARGIN_PX
        scale = room / max(float((high - low).max()), 1e-12)
        middle = np.array([self.width(), self.height()]) / 2
        return np.asarray((self._places - (low + high) / 2) * (scale, -scale) + middle)

    def _changed(self) -> None:
        self._image = None
        self.update()

    # ---- drawing ----

    def resizeEvent(self, event: Any) -> None:
        """Draw anew."""
        super().resizeEvent(event)
        self._changed()

    def paintEvent(self, event: Any) -> None:
        """Draw the points, and the line that is being drawn around some."""
        painter = QPainter(self)
        if self._image is None:
            self._image = self._drawn()
        painter.drawImage(0, 0, self._image)
        if self._line:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(QPen(QColor(*_INK), 1.5, Qt.PenStyle.DashLine))
            painter.drawPolygon(QPolygonF(self._line))
        painter.end()

    def _drawn(self) -> QImage:
        rgb = np.full((max(self.height(), 1), max(self.width(), 1), 3), 255, np.uint8)
        at = self.at().round().astype(int)
        size = _DOT_PX if len(at) < _MANY else _SMALL_PX
        # In no order, or what comes last would hide what came before.
        order = np.random.default_rng(0).permutation(len(at))
        _dots(rgb, at[order], self._colours[order], size)
        chosen = self._chosen
        _dots(rgb, at[chosen], np.full((len(chosen), 3), _INK, np.uint8), _SELECTED_PX + 2)
        _dots(rgb, at[chosen], self._colours[chosen], _SELECTED_PX)
        height, width = rgb.shape[:2]
        return QImage(rgb.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()

    # ---- the mouse ----

    def mousePressEvent(self, event: Any) -> None:
        """Begin a line."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._line = [event.position()]

    def mouseMoveEvent(self, event: Any) -> None:
        """Go on with it."""
        if self._line:
            self._line.append(event.position())
            self.update()

    def mouseReleaseEvent(self, event: Any) -> None:
        """Select what lies within the line; where the mouse did not move, it was a click."""
        line, self._line = self._line, []
        self.update()
        if not line or not len(self._places):
            return
        corners, at = np.array([(one.x(), one.y()) for one in [*line, event.position()]]), self.at()
        if np.ptp(corners, axis=0).max() <= _MOVED_PX:
            away = np.linalg.norm(at - corners[0], axis=1)
            if away.min() <= _NEAR_PX:
                self.clicked.emit(int(away.argmin()))
            return
        inside = np.zeros(len(at), bool)
        if len(corners) > 2:
            area = shapely.make_valid(shapely.Polygon(corners))
            shapely.prepare(area)
            inside = shapely.contains_xy(area, at[:, 0], at[:, 1])
        self.selected.emit(np.flatnonzero(inside))


def _dots(rgb: Colours, at: npt.NDArray[np.int_], colours: Colours, size: int) -> None:
    """Draw squares of `size` px; the last lies uppermost."""
    height, width = rgb.shape[:2]
    low = -(size // 2)
    for dy in range(low, low + size):
        for dx in range(low, low + size):
            x, y = at[:, 0] + dx, at[:, 1] + dy
            there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            rgb[y[there], x[there]] = colours[there]
