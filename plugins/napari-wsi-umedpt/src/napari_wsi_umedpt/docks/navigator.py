"""The dock to move with: magnifications, an overview with the field's frame, a place to go to, a screenshot.

``Alt-1`` to ``Alt-6`` are 1.25x to 40x, ``Alt-0`` shows the whole slide.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, Qt, QTimer
from qtpy.QtGui import QColor, QImage, QPainter, QPen
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from wsi_umedpt.errors import OptionError, WsiError

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.logic.navigation import MAGNIFICATIONS, magnification_of, parse_place, zoom_of
from napari_wsi_umedpt.logic.snapshot import check_picture, legend_of, save_snapshot
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.viewer import camera, current_place, field_of, field_title, look_at, ours, seen_pixels

_FRAME = QColor(220, 0, 0)
_BUTTON_PX = 44
_HIGHEST_PX, _LOWEST_PX = 320, 90
"""Most and least height of the overview: below it other docks need room."""
_SHARE = 0.22
"""Most share of the window's height that the overview takes."""
_SMALLEST_FRAME = 6.0
"""Least side of the frame on the overview, px: it must be seen at 40x."""


class NavigatorDock(Dock):
    """Move like on a microscope."""

    tab = "Navigator"

    in_tabs = False

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.magnification = QLabel()
        self.overview = Overview()
        self.overview.moved = self.go_to
        self.place = QLineEdit()
        self.place.setPlaceholderText("12000, 8500")
        self.place.returnPressed.connect(self._go)
        self.place.setToolTip("x, y in px of the slide, or in um")
        shot = QPushButton("Picture ...")
        shot.setToolTip("Save a picture of the field, with its overlays, scale bar and legend")
        shot.clicked.connect(self._choose_picture)
        go_to, row, column = QLabel("Go to"), QHBoxLayout(), QVBoxLayout()
        for widget in (go_to, self.place, shot):
            row.addWidget(widget)
        for words in (self.magnification, go_to):
            words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        column.addWidget(self.notice)
        column.addLayout(self._buttons())
        column.addWidget(self.magnification)
        column.addWidget(self.overview)
        column.addLayout(row)
        # No higher than it must be, as its neighbours take the rest: to a column of the dock's own napari adds space.
        layout = QGridLayout(self)
        layout.addLayout(column, 0, 0)
        layout.setSizeConstraint(QLayout.SizeConstraint.SetMinAndMaxSize)
        self._follow_layers(self._new_slide)
        seen = camera(napari_viewer).events
        self._follow(self._moved, seen.center, seen.zoom)
        self._bind()
        self._new_slide()

    def showEvent(self, event: Any) -> None:
        """Follow the window's height."""
        super().showEvent(event)
        self.overview.fit()
        self.window().installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Look at the window's events."""
        if event.type() == QEvent.Type.Resize:
            self.overview.fit()
        return False

    def _buttons(self) -> QGridLayout:
        grid = QGridLayout()
        for n, magnification in enumerate(MAGNIFICATIONS):
            button = QPushButton(f"{magnification:g}x")
            button.setToolTip(f"Alt-{n + 1}")
            button.clicked.connect(partial(self.magnify, magnification))
            button.setMinimumWidth(_BUTTON_PX)
            grid.addWidget(button, 0, n)
        return grid

    def _bind(self) -> None:
        for n, magnification in enumerate(MAGNIFICATIONS):
            self._viewer.bind_key(f"Alt-{n + 1}", lambda _, to=magnification: self.magnify(to), overwrite=True)
        self._viewer.bind_key("Alt-0", lambda viewer: viewer.reset_view(), overwrite=True)

    # ---- moving ----

    def magnify(self, magnification: float, *_: Any) -> None:
        """Show the field at a magnification, its middle staying where it is."""
        camera(self._viewer).zoom = zoom_of(magnification)

    def go_to(self, x: float, y: float) -> None:
        """Put a place into the middle of the field; level-0 px."""
        place = current_place(self._viewer)
        if place is not None:
            look_at(self._viewer, place.to_world(np.array([x, y])))

    def _go(self) -> None:
        place = current_place(self._viewer)
        if place is None:
            tell("No slide is open.")
            return
        try:
            self.go_to(*parse_place(self.place.text(), place))
        except OptionError as error:
            self.tell_error(error)

    def _moved(self, event: Any = None) -> None:
        seen, place = camera(self._viewer), current_place(self._viewer)
        if place is None:
            self.magnification.setText("")
            return
        viewport = field_of(self._viewer, place)
        middle = f"x {viewport.x + viewport.width / 2:,.0f}  y {viewport.y + viewport.height / 2:,.0f} px"
        self.magnification.setText(f"<b>{magnification_of(seen.zoom):.3g}x</b>&nbsp;&nbsp; {middle}")
        self.overview.show_frame(QRectF(viewport.x, viewport.y, viewport.width, viewport.height))

    # ---- the overview ----

    def _new_slide(self, event: Any = None) -> None:
        found = {shown.kind: (layer, shown) for layer, shown in ours(self._viewer)}
        layer, shown = found.get("slide") or found.get("thumbnail") or (None, None)
        if layer is None or shown is None:
            self.overview.show_picture(None, None)
        else:
            data = layer.data[-1] if layer.multiscale else layer.data
            self._background.run(lambda: np.asarray(data), partial(self.overview.show_picture, place=shown.place))
        self._moved()

    # ---- pictures ----

    def save_picture(self, path: Path) -> None:
        """Save the field as it is seen, with its overlays, its scale bar and a legend."""
        try:
            check_picture(path)
            save_snapshot(path, seen_pixels(self._viewer), legend_of(self._viewer.layers), field_title(self._viewer))
        except (WsiError, OSError) as error:
            self.tell_error(error)
            return
        tell(f"Saved {path}")

    def _choose_picture(self) -> None:
        place = current_place(self._viewer)
        name = f"{place.slide_id if place else 'field'}.png"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save picture", name, "Pictures (*.png *.tif)")
        if chosen:
            self.save_picture(Path(chosen))


class Overview(QWidget):
    """The whole slide, small, with a frame where the field is; a click goes there."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumSize(160, _LOWEST_PX)
        self.setMaximumHeight(_LOWEST_PX)
        self._image: QImage | None = None
        self._place: Place | None = None
        self.frame = QRectF()
        self.moved: Any = lambda x, y: None

    def fit(self) -> None:
        """Take a share of the window's height."""
        window = self.window()
        room = min(self.screen().availableGeometry().height(), window.height())
        self.setFixedHeight(min(_HIGHEST_PX, max(_LOWEST_PX, round(room * _SHARE))))
        QTimer.singleShot(0, window.update)  # where its neighbour began stays painted otherwise

    def show_picture(self, pixels: npt.NDArray[np.uint8] | None, place: Place | None) -> None:
        """Show a slide; its picture covers it from the upper left corner on."""
        self._place = place
        self._image = None
        if pixels is not None:
            # Of a slide that is seen by its channels, one of them, in grey.
            rgb = np.ascontiguousarray(np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels[..., :3])
            rows, cols = rgb.shape[:2]
            self._image = QImage(rgb.tobytes(), cols, rows, 3 * cols, QImage.Format.Format_RGB888).copy()
        self.update()

    def show_frame(self, frame: QRectF) -> None:
        """Show where the field is, level-0 px."""
        self.frame = frame
        self.update()

    def _fit(self) -> tuple[float, float, float]:
        """Left, top and widget px per level-0 px."""
        if self._place is None:
            return 0.0, 0.0, 1.0
        width, height = self._place.size
        zoom = min(self.width() / width, self.height() / height)
        return (self.width() - width * zoom) / 2, (self.height() - height * zoom) / 2, zoom

    def paintEvent(self, event: Any) -> None:
        """Paint the slide and the frame."""
        if self._image is None or self._place is None:
            return
        left, top, zoom = self._fit()
        width, height = self._place.size
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        scale = max(1, round(max(self._place.size) / max(self._image.width(), self._image.height())))
        seen = QRectF(0, 0, min(self._image.width(), width / scale), min(self._image.height(), height / scale))
        painter.drawImage(QRectF(left, top, width * zoom, height * zoom), self._image, seen)
        frame = QRectF(
            left + self.frame.x() * zoom, top + self.frame.y() * zoom,
            self.frame.width() * zoom, self.frame.height() * zoom,
        )  # fmt: skip
        grown = [max(0.0, (_SMALLEST_FRAME - side) / 2) for side in (frame.width(), frame.height())]
        frame.adjust(-grown[0], -grown[1], grown[0], grown[1])
        painter.setPen(QPen(_FRAME, 2))
        painter.drawRect(frame)
        painter.end()

    def mousePressEvent(self, event: Any) -> None:
        """Go where the mouse is."""
        self._go(event)

    def mouseMoveEvent(self, event: Any) -> None:
        """Go along with the mouse while its button is held."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event)

    def _go(self, event: Any) -> None:
        if self._place is not None:
            left, top, zoom = self._fit()
            at = event.position() if hasattr(event, "position") else QPointF(event.pos())
            self.moved((at.x() - left) / zoom, (at.y() - top) / zoom)
