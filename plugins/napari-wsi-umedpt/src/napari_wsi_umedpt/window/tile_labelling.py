"""Labels of tiles in one window: painted with napari's brush, a cell a tile."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QTimer

from napari_wsi_umedpt.layers.build import KEY, Shown, class_colormap
from napari_wsi_umedpt.logic.alike import TilesOf, label_found
from napari_wsi_umedpt.logic.autosave_place import LABELS
from napari_wsi_umedpt.logic.tile_labels import Painted
from napari_wsi_umedpt.window.labelling import Labelling

_LAYER = "labelled tiles"
_PAINTING = ("paint", "fill", "polygon")


class TileLabelling(Labelling):
    """Labels of the tiles of the slide that is shown."""

    what, suffix = "tiles", LABELS

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self._seen: Painted | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.settle)

    def end(self) -> None:
        """Take the labels out of the window; they are kept."""
        super().end()
        self._seen = None

    @property
    def labels(self) -> dict[int, str]:
        """Labels of tiles, by row of the grid."""
        if self.session is None or self.layer is None:
            return {}
        found: dict[int, str] = self.session.slide.cells.labels(self.layer.data, self.names)
        return found

    def work(self, number: int) -> None:
        """Let the user paint tiles of a class, 1 the first."""
        layer = self.shown_layer()
        self._viewer.layers.selection.active = layer
        layer.mode = "paint"
        self.choose(number)

    @property
    def works(self) -> bool:
        """Return whether a click paints."""
        return self.layer is not None and self.layer in self._viewer.layers and self.layer.mode in _PAINTING

    def stop(self) -> None:
        """Let a click move the slide."""
        if self.layer is not None:
            self.layer.mode = "pan_zoom"

    def choose(self, number: int) -> None:
        """Make what is painted next of a class, 1 the first; 0 takes labels away."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self.layer.selected_label = number
            if not self.works:
                self.layer.mode = "paint"

    def shown_layer(self) -> Labels:
        """The layer that tiles are painted in; there must be a session."""
        if self.layer is not None and self.layer in self._viewer.layers:
            return self.layer
        assert self.session is not None  # noqa: S101 - asked for once a slide is there
        cells, place = self.session.slide.cells, self.session.slide.place
        layer = Labels(
            np.zeros(cells.tile.shape, np.uint8), name=_LAYER, opacity=0.7, colormap=class_colormap(self.colours),
            metadata={KEY: Shown("annotations", place, name=_LAYER)}, **place.meta(cells.step, cells.origin),
        )  # fmt: skip
        layer.brush_size = 1
        self._viewer.add_layer(layer)
        self._bind_keys(layer)
        self._seen = layer.data.copy()
        # A shown layer tells of strokes by `paint`, before it has them where they are no mouse's; of an undo by
        # `set_data`, as a hidden one does of all.
        for event in (layer.events.paint, layer.events.set_data, layer.events.data):
            event.connect(lambda _: self._soon.start())
        layer.events.mode.connect(lambda _: self.working.emit(self.works))
        self.layer = layer
        return layer

    def _show(self, labels: Mapping[int, str]) -> None:
        assert self.session is not None  # noqa: S101 - asked for once a slide is there
        layer, painted = self.shown_layer(), self.session.slide.cells.painted(labels, self.names)
        layer.colormap, layer.data = class_colormap(self.colours), painted
        self._seen = painted.copy()

    def _renamed(self) -> None:
        if self.layer is not None:
            self.layer.colormap = class_colormap(self.colours)

    def label_everywhere(self, tiles: Sequence[TilesOf], name: str) -> None:
        """Give tiles a class, on slides that are not shown too: theirs are there when those are opened.

        Raises
        ------
        AnnotationError
            If there are more classes than keys.
        """
        for of in tiles:
            slide = self.session.slide if self.session is not None else None
            if slide is not None and (slide.store.path, slide.bag.grid_id) == (of.store, of.grid_id):
                self.label({**self.labels, **dict.fromkeys(of.rows, name)})
            else:
                key = ("alike", of.store, name, tuple(of.rows))
                self._keeper.keep(key, f"labels of tiles of {of.store.stem}", partial(label_found, of, name))

    def settle(self) -> None:
        """Take notice of what was painted until now; paint beside the tiles does not stay."""
        self._soon.stop()
        layer, session = self.layer, self.session
        if layer is None or session is None or self._seen is None or np.array_equal(layer.data, self._seen):
            return
        beside = (session.slide.cells.tile < 0) & (layer.data > 0)
        if beside.any():
            layer.data[beside] = 0
            layer.refresh()
        self._seen = np.array(layer.data, np.uint8)
        self._edited()
