"""The dock that says what colours mean, shows and hides classes, and tells what lies where the user clicks."""

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QCheckBox,
    QColorDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from wsi_umedpt.errors import WsiError

from napari_wsi_umedpt._annotations import objects_in, shapes_layer
from napari_wsi_umedpt._dock import Dock
from napari_wsi_umedpt._layers import Place
from napari_wsi_umedpt._legend import Entry, Legend, has_legend, what_is_at
from napari_wsi_umedpt._navigation import frame_of
from napari_wsi_umedpt._telling import tell_error
from napari_wsi_umedpt._viewer import add_layers, camera, canvas_size, current_place

_MOVED_PX = 4
"""A click is a press and a release this near, canvas px."""
_WIDTH_PX = 300
_MOST_PX = 450
_AREA_PX = 150
_INVITATION = "Click on a nucleus or a tile."


class LegendDock(Dock):
    """Classes of all layers, and the place clicked last."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._classes = QVBoxLayout()
        self._place: Place | None = None
        self.here = QLabel(_INVITATION)
        self.here.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.here.setWordWrap(True)
        self.here.setAlignment(Qt.AlignmentFlag.AlignTop)
        inside = QWidget()
        inside.setLayout(self._classes)
        area = self._area = QScrollArea()
        area.setWidgetResizable(True)
        area.setMinimumHeight(_AREA_PX)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inside)
        layout = QVBoxLayout(self)
        self.setMinimumWidth(_WIDTH_PX)
        layout.addWidget(area, 2)
        layout.addWidget(self.here, 1)
        self._follow_layers(self.refresh)
        clicks = napari_viewer.mouse_drag_callbacks
        clicks.append(self._clicked)
        self._letting_go.append(partial(clicks.remove, self._clicked))
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Write the legend anew."""
        place = current_place(self._viewer)
        if place != self._place:  # what was clicked on is gone
            self._place = place
            self.here.setText(_INVITATION)
        while (item := self._classes.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.setParent(None)  # at once: one that is only marked for deletion is still painted
                widget.deleteLater()
        found = [layer for layer in reversed(self._viewer.layers) if has_legend(layer)]
        for layer in sorted(found, key=lambda layer: Legend(layer).what.kind == "tiles"):  # what was found comes first
            self._classes.addWidget(_Block(self._viewer, layer))
        self._classes.addStretch(1)
        # Beside the bar, or it lies over counts and buttons.
        bar_px = self._area.verticalScrollBar().sizeHint().width() + 2 * self._area.frameWidth()
        self._area.setMinimumWidth(min(self._classes.minimumSize().width() + bar_px, _MOST_PX))

    # ---- clicks ----

    def _clicked(self, viewer: Any, event: Any) -> Generator[None]:
        start = event.pos
        yield
        while event.type == "mouse_move":
            yield
        near = max(abs(a - b) for a, b in zip(start, event.pos, strict=True)) <= _MOVED_PX
        if near and event.button == 1:
            self.tell_place(tuple(event.position[-2:]))

    def tell_place(self, world: tuple[float, float]) -> None:
        """Say what lies at a place, (y, x) um."""
        place = current_place(self._viewer)
        if place is None:
            self.here.setText(_INVITATION)
            return
        x, y = place.to_slide(np.array(world)).tolist()
        inside = 0 <= x < place.size[0] and 0 <= y < place.size[1]
        words = what_is_at(list(self._viewer.layers), x, y) if inside else "This is beside the slide."
        self.here.setText(words)
        self._viewer.status = words.replace("\n\n", " | ").replace("\n", ", ")


class _Block(QWidget):
    """The classes of one layer."""

    def __init__(self, viewer: Any, layer: Any) -> None:
        super().__init__()
        self._viewer, self._legend = viewer, Legend(layer)
        head = QLabel(f"<b>{layer.name}</b>")
        grid = QGridLayout()
        for k, entry in enumerate(self._legend.entries()):
            self._add_row(grid, k, entry)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 6)
        layout.addWidget(head)
        layout.addLayout(grid)
        if self._legend.can_fill:
            layout.addLayout(self._tools())

    def _add_row(self, grid: QGridLayout, k: int, entry: Entry) -> None:
        swatch, box = QPushButton(), QCheckBox(entry.name)
        swatch.setFixedSize(18, 18)
        swatch.setToolTip("Another colour ...")
        _paint(swatch, entry.colour)
        swatch.clicked.connect(partial(self._choose, k, swatch))
        box.setChecked(entry.shown)
        box.toggled.connect(partial(self._legend.show, k))
        count = QLabel(entry.numbers)
        count.setAlignment(Qt.AlignmentFlag.AlignRight)
        for column, widget in enumerate((swatch, box, count)):
            grid.addWidget(widget, k, column)
        grid.setColumnStretch(1, 1)

    def _tools(self) -> QHBoxLayout:
        filled, edit = QCheckBox("filled"), QPushButton("Edit those in view")
        filled.toggled.connect(self._legend.fill)
        edit.setToolTip("A layer of shapes of the objects in view, up to 2,000")
        edit.clicked.connect(self._edit)
        row = QHBoxLayout()
        row.addWidget(filled)
        row.addStretch(1)
        row.addWidget(edit)
        return row

    def _choose(self, k: int, swatch: QPushButton) -> None:
        chosen = QColorDialog.getColor(QColor(*self._legend.entries()[k].colour), self)
        if chosen.isValid():
            colour = chosen.red(), chosen.green(), chosen.blue()
            self._legend.recolour(k, colour)
            _paint(swatch, colour)

    def _edit(self) -> None:
        what, seen = self._legend.what, camera(self._viewer)
        frame = frame_of(tuple(seen.center[-2:]), seen.zoom, canvas_size(self._viewer), what.place)
        try:
            found = objects_in(what, frame, [entry.colour for entry in self._legend.entries()])
        except WsiError as error:
            tell_error(error)
            return
        add_layers(self._viewer, [shapes_layer(found, what.place, f"{what.name} (edited)", seen.zoom)])


def _paint(swatch: QPushButton, colour: tuple[int, int, int]) -> None:
    swatch.setStyleSheet(f"background-color: rgb({colour[0]}, {colour[1]}, {colour[2]}); border: 1px solid gray")
