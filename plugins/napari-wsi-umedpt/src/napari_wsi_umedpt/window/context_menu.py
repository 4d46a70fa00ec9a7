"""Menu of a right click on the slide: offers for the place that was clicked, and of the region that it lies in."""

from typing import Any, TypeAlias

import numpy as np
import shapely
from qtpy.QtCore import QObject, QPoint
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QMenu
from shapely.geometry.base import BaseGeometry

from napari_wsi_umedpt.docks.base import open_dock
from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.shapes import layer_meta
from napari_wsi_umedpt.logic.field import current_store
from napari_wsi_umedpt.logic.regions import drawn_areas
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.clicks import RIGHT, on_click
from napari_wsi_umedpt.window.viewer import current_place, ours

Asked: TypeAlias = tuple[float, float] | BaseGeometry
"""A place, or a region, level-0 px."""
OFFERS = (("Find tiles like this", "Find tiles like this region", "Find alike"),)
"""Texts for a place, and for a region; the dock whose `find` is asked."""


class ContextMenu(QObject):
    """The menu of one window; see `ContextMenu.of`."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(window_of(viewer))
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self.menu = QMenu(window_of(viewer))
        self._viewer.mouse_drag_callbacks.append(on_click(self._clicked, RIGHT))

    @classmethod
    def of(cls, viewer: Any) -> "ContextMenu":
        """Menu of a viewer's window."""
        found: ContextMenu | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    def _clicked(self, world: tuple[float, float]) -> None:
        place = current_place(self._viewer)
        if place is None or current_store(self._viewer) is None:
            return
        x, y = place.to_slide(np.array(world)).tolist()
        region = self._region_at(place, x, y)
        self.menu.clear()
        for of_place, of_region, dock in OFFERS:
            self._offer(of_place, dock, (x, y))
            if region is not None:
                self._offer(of_region, dock, region)
        self.menu.popup(QPoint(QCursor.pos()))

    def _offer(self, text: str, dock: str, asked: Asked) -> None:
        self.menu.addAction(text).triggered.connect(lambda *_: open_dock(self._viewer, dock).find(asked))

    def _region_at(self, place: Place, x: float, y: float) -> BaseGeometry | None:
        """The smallest region that was drawn around a place."""
        holding = [
            area
            for layer, shown in ours(self._viewer)
            if shown.kind == "annotations" and layer.visible and hasattr(layer, "shape_type")
            for _, area in drawn_areas(layer.data, layer_meta(layer), place)
            if area.contains(shapely.Point(x, y))
        ]
        return min(holding, key=lambda area: float(area.area), default=None)
