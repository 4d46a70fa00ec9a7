"""What is opened by hand is read beside the window, one after the other; what a script opens is read at once.

A reader of napari's gives layers back, and the window waits for them. So that it need not, a reader gives back nothing
and the layers come when they are read, but only where a hand asked: a script goes on with the layers.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from napari.layers import Layer
from qtpy.QtCore import QObject, QThread, QTimer
from wsi_umedpt.errors import WsiError

from napari_wsi_umedpt._background import Background
from napari_wsi_umedpt._telling import tell_error

if TYPE_CHECKING:
    from napari_wsi_umedpt._layers import LayerTuple

_DRAWN_MS = 20
"""In which the window draws a layer, before it gets the next."""
Read = Callable[[], "Iterable[LayerTuple]"]
Then = Callable[[list[Layer]], Any]


class _Asked(NamedTuple):
    prepare: Callable[[], Read]
    doing: str
    then: Then


def by_hand() -> bool:
    """Whether the window's event loop turns, so that it is not a script that asks."""
    return bool(QThread.currentThread().loopLevel())


def window_of(viewer: Any) -> Any:
    """Qt's window; what napari gives to a dock may be a proxy that hides it."""
    return getattr(viewer, "__wrapped__", viewer).window._qt_window


def to_canvas(viewer: Any) -> None:
    """Let the canvas have the keys, which choose classes and tools there."""
    window_of(viewer)._qt_viewer.canvas.native.setFocus()


class Opener(QObject):
    """Opens layers in one window, and ends with it; see `Opener.of`."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(window_of(viewer))
        self._viewer, self._background = viewer, Background()
        self._waiting: deque[_Asked] = deque()
        self._busy = False
        self.destroyed.connect(partial(_let_go, self._waiting, self._background))

    @classmethod
    def of(cls, viewer: Any) -> "Opener":
        """The opener of a viewer's window."""
        found: Opener | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    def open(self, prepare: Callable[[], Read], doing: str, then: Then = lambda _: None) -> None:
        """Read layers, and add them once what was asked for before is shown; errors are told.

        Parameters
        ----------
        prepare
            Called in the window's thread when it is its turn; makes what reads, in a thread.
        doing
            Words for the user meanwhile.
        then
            Is given the layers once they are in the viewer.
        """
        self._waiting.append(_Asked(prepare, doing, then))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._waiting:
            return
        asked = self._waiting.popleft()
        try:
            make = partial(_make, asked.prepare())
            if by_hand():
                self._viewer.status = f"{asked.doing} ..."
                self._background.run(make, partial(self._add, asked.then, []), self._failed, doing=asked.doing)
                return
            layers = make()
        except (WsiError, OSError) as error:
            self._failed(error)
            return
        self._add(asked.then, [], layers)

    def _add(self, then: Then, added: list[Layer], left: list[Layer]) -> None:
        if left:
            # Loaded by what read them, beside the window.
            from napari_wsi_umedpt._keeper import Keeper
            from napari_wsi_umedpt._viewer import add_layer

            Keeper.of(self._viewer)
            add_layer(self._viewer, left[0])
            added, left = [*added, left[0]], left[1:]
        if left and by_hand():
            # One after the other: the first of its kind takes napari a while.
            QTimer.singleShot(_DRAWN_MS, partial(self._add, then, added, left))
        elif left:
            self._add(then, added, left)
        else:
            self._viewer.status = ""
            then(added)
            self._next()

    def _failed(self, error: Exception) -> None:
        self._viewer.status = ""
        tell_error(error)
        self._next()


def _make(read: Read) -> list[Layer]:
    import napari_wsi_umedpt._keeper  # noqa: F401 - here, as the window need not wait for it

    layers = [Layer.create(*layer) for layer in read()]
    for layer in layers:
        if layer.multiscale:
            # What the window's thread asks for first, thumbnail and overview, is then in the cache.
            for level in layer.data[-2:]:
                level[:, :]
    return layers


def _let_go(waiting: "deque[_Asked]", background: Background, *_: Any) -> None:
    waiting.clear()
    background.forget()
