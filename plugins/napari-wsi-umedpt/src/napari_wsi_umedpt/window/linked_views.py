"""Two windows that look at the same place: where one goes, the other follows."""

from typing import Any

import numpy as np
from qtpy.QtCore import QObject

from napari_wsi_umedpt.logic.registration import Rigid
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.viewer import camera, current_place


def open_viewers(viewer: Any) -> list[Any]:
    """Viewers of all windows that are open, that which was at the front last behind the others."""
    return [one._qt_viewer.viewer for one in type(window_of(viewer))._instances if one.isVisible()]


def viewer_beside(viewer: Any) -> Any | None:
    """Another window in which a slide is open; None if there is none."""
    mine = getattr(viewer, "__wrapped__", viewer)
    others = [one for one in open_viewers(mine) if one is not mine and current_place(one) is not None]
    return others[-1] if others else None


class Link(QObject):
    """Moves each of two views with the other, until it is undone or a window closes.

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
        self._following = False
        self._followed = [
            (emitter, call)
            for one, call in zip(self._viewers, (self._first_moved, self._second_moved), strict=True)
            for emitter in (camera(one).events.center, camera(one).events.zoom)
        ]
        for emitter, call in self._followed:
            emitter.connect(call)
        self._first_moved()

    def undo(self, *_: Any) -> None:
        """Let each move alone."""
        while self._followed:
            emitter, call = self._followed.pop()
            emitter.disconnect(call)

    def _first_moved(self, event: Any = None) -> None:
        first, second = self._viewers
        self._follow(first, second, self.registration.to_second)

    def _second_moved(self, event: Any = None) -> None:
        first, second = self._viewers
        self._follow(second, first, self.registration.to_first)

    def _follow(self, moved: Any, other: Any, convert: Any) -> None:
        if self._following:
            return
        if not any(one is other for one in open_viewers(moved)):
            self.undo()
            return
        self._following = True
        try:
            seen, follows = camera(moved), camera(other)
            follows.zoom = seen.zoom
            middle = convert(np.array(seen.center[-2:], np.float64))
            follows.center = (*follows.center[:-2], *middle.tolist())
        finally:
            self._following = False
