"""What all docks share: they follow a viewer, let go of it when they are closed, and lie in tabs.

Docks one below the other make a window higher than its screen, so that one which is opened becomes a tab of those that
are open; the Navigator alone stays in sight. (napari 0.9 does not heed the manifest's `tabify`.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QScrollArea, QVBoxLayout, QWidget

from napari_wsi_umedpt._background import Background
from napari_wsi_umedpt._keeper import Keeper
from napari_wsi_umedpt._opener import window_of

_SCROLLED_PX = 320
"""Height at least of a dock that is scrolled: below the Navigator it would get next to nothing."""


class Dock(QWidget):
    """A widget beside a viewer.

    Parameters
    ----------
    napari_viewer
        The name by which napari gives it.
    """

    in_tabs = True
    """Whether it shares its place with others."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self._background = napari_viewer, Background()
        self._keeper = Keeper.of(napari_viewer)
        self._letting_go: list[Callable[[], Any]] = [self._background.forget]
        self._size_before: QSize | None = window_of(napari_viewer).size()
        # Qt's part of a widget goes first: what calls it later would meet nothing.
        self.destroyed.connect(partial(_call_all, self._letting_go))

    def showEvent(self, event: Any) -> None:
        """Find a place once it is shown for the first time."""
        super().showEvent(event)
        if self._size_before is not None:
            QTimer.singleShot(0, self._become_tab)  # napari is still about to place it

    def _become_tab(self) -> None:
        frame, window, size = frame_of_dock(self), self.window(), self._size_before
        self._size_before = None
        if not self.in_tabs or size is None or frame is None or not isinstance(window, QMainWindow):
            return  # floating, or in no window of napari's
        others = [
            other
            for dock in window.findChildren(Dock)
            if dock is not self and dock.in_tabs and (other := frame_of_dock(dock)) is not None
            if other.isVisible() and window.dockWidgetArea(other) == window.dockWidgetArea(frame)
        ]
        if others and frame not in window.tabifiedDockWidgets(others[-1]):
            window.tabifyDockWidget(others[-1], frame)
            frame.raise_()
            if not window.isMaximized() and not window.isFullScreen():
                # It grew for one dock below the other; it can shrink once they are laid out.
                QTimer.singleShot(0, partial(window.resize, size))

    def _scrolled(self, inside: QWidget) -> None:
        """Fill the dock with what is higher than there may be room."""
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setMinimumHeight(_SCROLLED_PX)
        area.setWidget(inside)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)

    def _follow(self, call: Callable[..., None], *emitters: Any) -> None:
        """Call a method whenever one of napari's emitters emits."""
        for emitter in emitters:
            emitter.connect(call)
            self._letting_go.append(partial(emitter.disconnect, call))

    def _follow_layers(self, call: Callable[..., None]) -> None:
        """Call a method whenever layers come or go."""
        self._follow(call, self._viewer.layers.events.inserted, self._viewer.layers.events.removed)


def frame_of_dock(dock: QWidget) -> QDockWidget | None:
    """What napari put a dock into."""
    found = dock.parentWidget()
    while found is not None and not isinstance(found, QDockWidget):
        found = found.parentWidget()
    return found


def _call_all(calls: list[Callable[[], Any]], *_: Any) -> None:
    while calls:
        calls.pop()()
