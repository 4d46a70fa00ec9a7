"""Two windows that look at the same place: the second slide is turned as the first lies, and each follows the other.

The second slide's layers are turned, and not the camera, which napari cannot turn in two dimensions; their data stay as
they are. So places of the canvas are no longer places of that slide: `on_slide` in `window.viewer` turns them back.
"""

from typing import Any

import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QApplication

from napari_wsi_umedpt.layers.build import shown_by
from napari_wsi_umedpt.logic.registration import Rigid
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.viewer import camera, current_place, look_at, on_slide, ours, turn_layer, turn_of


def open_viewers() -> list[Any]:
    """Viewers of all windows that are open, that which was at the front last behind the others."""
    kinds = {type(one) for one in QApplication.topLevelWidgets() if hasattr(one, "_qt_viewer")}
    return [one._qt_viewer.viewer for kind in kinds for one in kind._instances if one.isVisible()]


def is_open(viewer: Any) -> bool:
    """Return whether the window of a viewer is open."""
    return any(one is viewer for one in open_viewers())


def viewer_beside(viewer: Any) -> Any | None:
    """Another window in which a slide is open; None if there is none."""
    mine = getattr(viewer, "__wrapped__", viewer)
    others = [one for one in open_viewers() if one is not mine and current_place(one) is not None]
    return others[-1] if others else None


class Link(QObject):
    """Turns the second slide as the first lies, and moves each view with the other, until undone or a window closes.

    Parameters
    ----------
    first, second
        Viewers.
    registration
        Turn and shift from the first slide to the second.
    """

    def __init__(self, first: Any, second: Any, registration: Rigid) -> None:
        super().__init__(window_of(first))
        self.registration = registration
        self._viewers = getattr(first, "__wrapped__", first), getattr(second, "__wrapped__", second)
        self._place = current_place(self._viewers[1])
        self._following = False
        self._followed: list[tuple[Any, Any]] = []
        self._matrix = turn_of(self._viewers[0]) @ registration.matrix_to_first
        self._turn(self._matrix)
        for one, call in zip(self._viewers, (self._first_moved, self._second_moved), strict=True):
            self._follow_event(camera(one).events.center, call)
            self._follow_event(camera(one).events.zoom, call)
        self._follow_event(self._viewers[1].layers.events.inserted, self._came)
        self._first_moved()

    def _follow_event(self, emitter: Any, call: Any) -> None:
        emitter.connect(call)
        self._followed.append((emitter, call))

    def undo(self, *_: Any) -> None:
        """Let each move alone; the second slide lies as it was scanned again, with the same place in its middle."""
        if not self._followed:
            return
        while self._followed:
            emitter, call = self._followed.pop()
            emitter.disconnect(call)
        second = self._viewers[1]
        if is_open(second):
            middle = on_slide(second, camera(second).center[-2:])
            self._turn(np.eye(3))
            look_at(second, middle)

    def _turn(self, matrix: Any) -> None:
        for layer, _ in list(ours(self._viewers[1])):
            turn_layer(layer, matrix)

    def _came(self, event: Any) -> None:
        """A layer of the second slide is turned as the others are; another slide was not registered."""
        shown = shown_by(event.value)
        if shown is None:
            return
        if self._place is None or not shown.place.same_slide(self._place):
            self.undo()
        else:
            turn_layer(event.value, self._matrix)

    def _first_moved(self, event: Any = None) -> None:
        self._follow(*self._viewers)

    def _second_moved(self, event: Any = None) -> None:
        self._follow(*self._viewers[::-1])

    def _follow(self, moved: Any, other: Any) -> None:
        if self._following:
            return
        if not is_open(other):
            self.undo()
            return
        self._following = True
        try:
            seen, follows = camera(moved), camera(other)
            follows.zoom = seen.zoom
            follows.center = (*follows.center[:-2], *seen.center[-2:])
        finally:
            self._following = False
