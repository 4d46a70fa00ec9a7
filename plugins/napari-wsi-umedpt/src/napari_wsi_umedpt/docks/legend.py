"""The dock that says what colours mean, shows and hides classes, and describes what lies where the user clicks."""

from collections.abc import Callable
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
    QVBoxLayout,
    QWidget,
)
from wsi_umedpt.errors import WsiError

from napari_wsi_umedpt.docks.base import Dock, Offer, open_dock
from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.logic.annotations import objects_in, shapes_layer
from napari_wsi_umedpt.logic.field import current_slide, current_store, mark_object
from napari_wsi_umedpt.logic.legend import Entry, Legend, has_legend, object_outline_at, what_is_at
from napari_wsi_umedpt.window.clicks import does_something, on_click
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place, field_of, ours

_NOT_LISTED = ("slide", "thumbnail", "mark")
_LAST = {"heatmap": 1, "features": 2, "tiles": 3, "tissue": 4}
_INVITATION = "Click on the slide to read here what lies there."
_NOTHING = "Nothing was looked for on this slide yet."
_HOW_TO_EDIT = "Click on one, then choose its class."


class LegendDock(Dock):
    """Classes of all layers, and the place clicked last."""

    tab = "Legend"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._classes = QVBoxLayout()
        self._place: Place | None = None
        self.here = QLabel(_INVITATION)
        self.here.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.here.setWordWrap(True)
        self.here.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._blocks: list[_Block] = []
        self._letting_go.append(self._let_go_of_blocks)
        layout = self._scrolling()
        self.offer = Offer(napari_viewer, "Analyse", "Find nuclei ...", lambda analyse: analyse.tick_first())
        layout.addWidget(self.offer)
        layout.addWidget(self.here)
        layout.addLayout(self._classes)
        layout.addStretch(1)
        self._follow_layers(self.refresh)
        clicks, clicked = napari_viewer.mouse_drag_callbacks, on_click(self._clicked)
        clicks.append(clicked)
        self._letting_go.append(partial(clicks.remove, clicked))
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Write the legend anew."""
        place = current_place(self._viewer)
        if place != self._place:  # what was clicked on is gone
            self._place = place
            self.here.setText(_INVITATION)
        lacking = current_slide(self._viewer) is not None and current_store(self._viewer) is None
        self.offer.say(_NOTHING if lacking else "")
        self.here.setVisible(place is not None and not lacking)
        self._let_go_of_blocks()
        while (item := self._classes.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()  # or Qt, which shows later what came just now, shows it as a window
                widget.setParent(None)  # at once: one that is only marked for deletion is still painted
                widget.deleteLater()
        found = [(layer, shown) for layer, shown in reversed(list(ours(self._viewer))) if shown.kind not in _NOT_LISTED]
        for layer, _ in sorted(found, key=lambda one: _LAST.get(one[1].kind, 0)):  # what was found comes first
            self._blocks.append(_Block(self._viewer, layer, self.tell_error, self.refresh))
            self._classes.addWidget(self._blocks[-1])

    def _let_go_of_blocks(self) -> None:
        while self._blocks:
            self._blocks.pop().let_go()

    # ---- clicks ----

    def _clicked(self, world: tuple[float, float]) -> None:
        if not does_something(self._viewer):
            self.tell_place(world)

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
        self.here.show()
        # The bar has room for a line; all of it is in the dock.
        self._viewer.status = words.split("\n\n")[min(1, words.count("\n\n"))].split("\n")[0]
        mark_object(self._viewer, place, object_outline_at(list(self._viewer.layers), x, y))


class _Block(QWidget):
    """One layer, shown or not, and its classes."""

    def __init__(
        self, viewer: Any, layer: Any, failed: Callable[[Exception], None], changed: Callable[..., None]
    ) -> None:
        super().__init__()
        self._viewer, self._layer, self._failed = viewer, layer, failed
        self._head = QCheckBox(layer.name)
        self._head.setStyleSheet("font-weight: bold")
        self._head.setToolTip("Show this, or hide it")
        self._head.toggled.connect(lambda shown: setattr(layer, "visible", shown))
        self._inside = QWidget()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._head)
        layout.addWidget(self._inside)
        self._legend = Legend(layer) if has_legend(layer) else None
        if self._legend is not None:
            rows = QVBoxLayout(self._inside)
            rows.setContentsMargins(14, 0, 0, 6)
            grid = QGridLayout()
            for k, entry in enumerate(self._legend.entries()):
                self._add_row(self._legend, grid, k, entry)
            rows.addLayout(grid)
            if self._legend.can_fill:
                rows.addLayout(self._tools(self._legend))
        self._follows = [(layer.events.visible, self._shown)]
        if self._legend is not None:
            self._follows.append((layer.events.features, changed))  # its classes are others
        for emitter, call in self._follows:
            emitter.connect(call)
        self._shown()

    def let_go(self) -> None:
        """Follow the layer no more."""
        for emitter, call in self._follows:
            emitter.disconnect(call)

    def _shown(self, event: Any = None) -> None:
        self._head.blockSignals(True)
        self._head.setChecked(self._layer.visible)
        self._head.blockSignals(False)
        self._inside.setVisible(self._layer.visible and self._legend is not None)

    def _add_row(self, legend: Legend, grid: QGridLayout, k: int, entry: Entry) -> None:
        swatch, box = QPushButton(), QCheckBox(entry.name)
        swatch.setFixedSize(18, 18)
        swatch.setToolTip("Another colour ...")
        _paint(swatch, entry.colour)
        swatch.clicked.connect(partial(self._choose, legend, k, swatch))
        box.setChecked(entry.shown)
        box.toggled.connect(partial(legend.show, k))
        count = QLabel(entry.numbers)
        count.setAlignment(Qt.AlignmentFlag.AlignRight)
        for column, widget in enumerate((swatch, box, count)):
            grid.addWidget(widget, k, column)
        grid.setColumnStretch(1, 1)

    def _tools(self, legend: Legend) -> QHBoxLayout:
        filled, edit = QCheckBox("filled"), QPushButton("Edit those in view")
        filled.setChecked(legend.filled)
        filled.toggled.connect(legend.fill)
        edit.setToolTip("Change classes and outlines of what is in view, up to 2,000")
        edit.clicked.connect(lambda *_: self._edit(legend))
        row = QHBoxLayout()
        row.addWidget(filled)
        row.addStretch(1)
        row.addWidget(edit)
        return row

    def _choose(self, legend: Legend, k: int, swatch: QPushButton) -> None:
        chosen = QColorDialog.getColor(QColor(*legend.entries()[k].colour), self)
        if chosen.isValid():
            colour = chosen.red(), chosen.green(), chosen.blue()
            legend.recolour(k, colour)
            _paint(swatch, colour)

    def _edit(self, legend: Legend) -> None:
        what, seen = legend.what, camera(self._viewer)
        viewport = field_of(self._viewer, what.place)
        try:
            found = objects_in(what, viewport, [entry.colour for entry in legend.entries()])
        except WsiError as error:
            self._failed(error)
            return
        (layer,) = add_layers(self._viewer, [shapes_layer(found, what.place, f"{what.name} (edited)", seen.zoom)])
        layer.mode = "select"
        open_dock(self._viewer, "Annotations")
        tell(_HOW_TO_EDIT)


def _paint(swatch: QPushButton, colour: tuple[int, int, int]) -> None:
    swatch.setStyleSheet(f"background-color: rgb({colour[0]}, {colour[1]}, {colour[2]}); border: 1px solid gray")
