"""What all docks share: they follow a viewer, and let go of it when they are closed."""

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtWidgets import QWidget

from napari_wsi_umedpt._background import Background


class Dock(QWidget):
    """A widget beside a viewer.

    Parameters
    ----------
    napari_viewer
        The name by which napari gives it.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self._background = napari_viewer, Background()
        self._letting_go: list[Callable[[], Any]] = [self._background.forget]
        # Qt's part of a widget goes first: what calls it later would meet nothing.
        self.destroyed.connect(partial(_call_all, self._letting_go))

    def _follow(self, call: Callable[..., None], *emitters: Any) -> None:
        """Call a method whenever one of napari's emitters emits."""
        for emitter in emitters:
            emitter.connect(call)
            self._letting_go.append(partial(emitter.disconnect, call))

    def _follow_layers(self, call: Callable[..., None]) -> None:
        """Call a method whenever layers come or go."""
        self._follow(call, self._viewer.layers.events.inserted, self._viewer.layers.events.removed)


def _call_all(calls: list[Callable[[], Any]], *_: Any) -> None:
    while calls:
        calls.pop()()
