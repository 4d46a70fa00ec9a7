"""Labels of cells in one window: clicked, and filled with the colour of their class."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtCore import QTimer

from napari_wsi_umedpt.layers.build import KEY, Shown, class_colormap, objects_layer, objects_pyramid
from napari_wsi_umedpt.layers.objects import Field
from napari_wsi_umedpt.logic.autosave_place import CELL_LABELS
from napari_wsi_umedpt.window.clicks import TAKES_CLICKS, on_click
from napari_wsi_umedpt.window.labelling import Labelling, Session, disconnect
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.viewer import camera

_LAYER = "labelled cells"
_REACH_PX = 8
"""A click beside a cell means it up to so many px of the screen: nobody meets a small outline each time."""


class CellLabelling(Labelling):
    """Labels of the cells of the slide that is shown."""

    what, suffix = "cells", CELL_LABELS

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self._numbers: dict[int, int] = {}
        """The class of each labelled cell, by row; 1 the first."""
        self._number = 1
        self._clicks = on_click(self._clicked)
        self._look = QTimer(self)
        self._look.setSingleShot(True)
        self._look.timeout.connect(self._look_at_active)
        active = self._viewer.layers.selection.events.active
        active.connect(self._look_soon)
        self.destroyed.connect(partial(disconnect, active, self._look_soon))

    def end(self) -> None:
        """Take the labels out of the window; they are kept."""
        self.stop()
        super().end()
        self._numbers = {}

    def _first_names(self, session: Session) -> tuple[str, ...]:
        """On the next slide cells are called as on the last one."""
        return self.names

    @property
    def labels(self) -> dict[int, str]:
        """Labels of cells, by row of the objects."""
        if self.layer is None:
            return {}
        return {row: self.names[number - 1] for row, number in self._numbers.items()}

    @property
    def works(self) -> bool:
        """Return whether a click labels."""
        return self.layer is not None and bool(self.layer.metadata.get(TAKES_CLICKS))

    def work(self, number: int) -> None:
        """Let the user click on cells of a class, 1 the first; what is dragged moves the slide."""
        layer = self.shown_layer()
        layer.metadata[TAKES_CLICKS] = True
        layer.mode = "pan_zoom"
        self._viewer.layers.selection.active = layer
        if self._clicks not in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.append(self._clicks)
        self.choose(number)
        self.working.emit(True)

    def stop(self) -> None:
        """Let a click ask what lies there."""
        if self.layer is not None:
            self.layer.metadata[TAKES_CLICKS] = False
        if self._clicks in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._clicks)
        self.working.emit(False)

    def choose(self, number: int) -> None:
        """Make what is clicked next of a class, 1 the first; 0 takes labels away."""
        self._number = number

    def shown_layer(self) -> Labels:
        """The layer in which labelled cells are filled; there must be a session."""
        if self.layer is not None and self.layer in self._viewer.layers:
            return self.layer
        assert self.session is not None  # noqa: S101 - asked for once a slide is there
        self._numbers = {}
        place = self.session.slide.place
        shown = Shown("annotations", place, name=_LAYER, colours=self.colours)
        data, meta, kind = objects_layer(self._labelled(), shown)
        layer = Layer.create(data, {**meta, "metadata": {KEY: shown}}, kind)
        self._viewer.add_layer(layer)
        self._bind_keys(layer)
        self.layer = layer
        return layer

    def _look_soon(self, event: Any = None) -> None:
        self._look.start()  # a layer that is added is the active one for a moment

    def _look_at_active(self) -> None:
        if self.works and self._viewer.layers.selection.active is not self.layer:
            self.stop()

    def _labelled(self) -> Any:
        """The labelled cells as objects of their classes."""
        assert self.session is not None  # noqa: S101 - asked for once a slide is there
        rows = np.array(sorted(self._numbers), np.int64)
        return self.session.slide.objects_of(rows, [self._numbers[row] - 1 for row in rows.tolist()], self.names)

    def _show(self, labels: Mapping[int, str]) -> None:
        layer = self.shown_layer()
        number = {name: n for n, name in enumerate(self.names, start=1)}
        self._numbers = {row: number[name] for row, name in labels.items()}
        self._draw(layer)

    def _draw(self, layer: Any) -> None:
        assert self.session is not None  # noqa: S101 - asked for once a slide is there
        layer.colormap = class_colormap(self.colours)
        layer.data = objects_pyramid(Field(self._labelled()), self.session.slide.place, filled=True)

    def _renamed(self) -> None:
        if self.layer is not None:
            self._draw(self.layer)

    def _clicked(self, world: tuple[float, float]) -> None:
        session, layer = self.session, self.layer
        if session is None or layer is None or not self.works:
            return
        x, y = session.slide.place.to_slide(np.array(world)).tolist()
        place = session.slide.place
        row = session.slide.cell_at(x, y, _REACH_PX / camera(self._viewer).zoom / place.mpp)
        if row is None:
            tell("No cell was found there: click on the outline of one.")
            return
        if self._number:
            self._numbers[row] = self._number
        else:
            self._numbers.pop(row, None)
        self._draw(layer)
        self._edited()
