"""Notices what is drawn: every edit of a layer of annotations, once it is done, as what there was and what there is.

napari tells of an edit in several events, some before it is done and some while the hand still moves. Those of one turn
of the event loop are one edit here. What napari leaves of shapes that were given up is taken away (`layers.shapes`).
"""

from functools import partial
from typing import Any

from napari.layers import Shapes
from qtpy.QtCore import QObject, QTimer, Signal

from napari_wsi_umedpt.layers.build import KEY, Place, Shown, shown_by
from napari_wsi_umedpt.layers.corrections import leave_field, take_places
from napari_wsi_umedpt.layers.shapes import (
    NOT_YET,
    Drawing,
    corner_where_pressed,
    interrupted,
    is_being_drawn,
    put_tool_away,
    show_next,
    take_other_tool,
    tidied,
    widen,
)
from napari_wsi_umedpt.logic.annotations import LINE_PX, shapes_layer
from napari_wsi_umedpt.window.viewer import camera, ours

_ZOOMED_MS = 150
"""Milliseconds after the last turn of the wheel."""
_DRAWING = "add_"
"""Begin of the names of modes in which shapes are drawn."""


class ShapeWatch(QObject):
    """Watches the layers of a viewer in which people draw over a slide.

    Parameters
    ----------
    viewer
        Not a proxy.
    parent
        With which it ends.
    """

    edited = Signal(object, object, object)
    """Layer, `Drawing` before and after; they are the same where the layer has another name alone."""
    came = Signal(object)
    """A layer in which something is drawn already."""
    went = Signal(object, object)
    """Layer and what is drawn in it."""

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.drawings: dict[Shapes, Drawing] = {}
        """Drawings of each layer, as of the last edit that is done."""
        self._changed: dict[Shapes, None] = {}
        self._modes: dict[Shapes, str] = {}
        self._interrupted: dict[Shapes, str] = {}
        self._putting = False
        """True while a drawing is put back, as it was."""
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.timeout.connect(self.settle)
        self._zoomed = QTimer(self)
        self._zoomed.setSingleShot(True)
        self._zoomed.setInterval(_ZOOMED_MS)
        self._zoomed.timeout.connect(self._widen)
        camera(viewer).events.zoom.connect(self._zooms)
        viewer.layers.events.inserted.connect(self._came)
        viewer.layers.events.removed.connect(self._went)
        for layer in viewer.layers:
            self._watch(layer)

    def shown_place(self) -> Place | None:
        """The slide that is shown; drawn regions alone show none."""
        found = [shown.place for _, shown in ours(self._viewer) if shown.kind != "annotations"]
        return found[-1] if found else None

    def settle(self) -> None:
        """Tell of what was edited until now."""
        self._settle.stop()
        changed, self._changed = [*self._changed], {}
        for layer in changed:
            if layer not in self.drawings or is_being_drawn(layer):
                continue  # it will tell of its end
            before = self.drawings[layer]
            if mode := self._interrupted.pop(layer, ""):
                interrupted(layer, mode)
            tidied(layer, len(before))
            if not self._putting and layer.mode.startswith(_DRAWING):
                take_places(layer, len(before))
            if layer.mode.startswith(_DRAWING) and layer.selected_data:
                # What napari leaves selected was not chosen: a class that is chosen now is of the next shape.
                layer.selected_data = set()
            self._changed.pop(layer, None)
            after = Drawing.of(layer)
            if len(after) > len(before):
                put_tool_away(layer)
            self.drawings[layer] = before if after.same(before) else after
            self.edited.emit(layer, before, self.drawings[layer])

    def put(self, layer: Shapes, drawing: Drawing) -> None:
        """Put a drawing into a layer; it counts as any other edit."""
        drawing.put(layer)
        show_next(layer)
        self._putting = True
        self.settle()
        self._putting = False

    # ---- layers ----

    def _zooms(self, event: Any = None) -> None:
        self._zoomed.start()

    def _widen(self) -> None:
        """Edges are as wide on the canvas at every zoom; napari's are as wide on the slide, and hide it at 40x."""
        for layer in self.drawings:
            if is_being_drawn(layer):
                self._zoomed.start()
            else:
                widen(layer, LINE_PX / camera(self._viewer).zoom / float(layer.scale[-1]))

    def _came(self, event: Any) -> None:
        layer = event.value
        self._watch(layer)
        if layer in self.drawings and layer.nshapes:
            self.came.emit(layer)

    def _watch(self, layer: Any) -> None:
        if not isinstance(layer, Shapes) or layer in self.drawings or layer.ndim != 2:
            return
        shown = shown_by(layer)
        if shown is None and (place := self.shown_place()) is not None and not layer.nshapes:
            # Made by napari's own button: what is drawn in it over a slide is as dear.
            _make_ours(layer, place, camera(self._viewer).zoom)
            shown = shown_by(layer)
        if shown is None or shown.kind != "annotations":
            return
        self.drawings[layer], self._modes[layer] = Drawing.of(layer), str(layer.mode)
        layer.mouse_drag_callbacks.insert(0, corner_where_pressed)
        events = layer.events
        events.mode.connect(self._took_tool)
        for one in (events.data, events.features, events.edge_color, events.face_color, events.name):
            one.connect(self._touched)
        # Selecting a shape makes its colour that of the next one.
        layer.selected_data.events.items_changed.connect(partial(_next_again, layer))
        layer.selected_data.events.items_changed.connect(leave_field(layer))
        self._zoomed.start()

    def _touched(self, event: Any) -> None:
        if getattr(event, "action", None) not in NOT_YET:
            self._changed[event.source] = None
            self._settle.start(0)

    def _took_tool(self, event: Any) -> None:
        layer = event.source
        take_other_tool(layer)
        mode, self._modes[layer] = self._modes.get(layer, ""), str(layer.mode)
        if layer._is_creating:
            self._interrupted[layer] = mode

    def _went(self, event: Any) -> None:
        layer = event.value
        if layer in self._changed:
            self.settle()  # what was drawn last before it went
        if (last := self.drawings.pop(layer, None)) is not None:
            for of in (self._changed, self._modes, self._interrupted):
                of.pop(layer, None)
            self.went.emit(layer, last)


def _next_again(layer: Shapes, *_: Any) -> None:
    show_next(layer)


def _make_ours(layer: Shapes, place: Place, zoom: float) -> None:
    """Make an empty layer of shapes one in which regions are drawn over a slide."""
    _, meta, _ = shapes_layer([], place, layer.name, zoom)
    layer.metadata[KEY] = Shown("annotations", place, name=layer.name)
    layer.features = meta["features"]
    layer.text = meta["text"]
    layer.current_edge_color, layer.current_face_color = meta["edge_color"], meta["face_color"]
    layer.current_edge_width = meta["edge_width"]
