"""Opening: what a person opens is read beside the window, one after the other; what a script opens is read at once.

A reader of napari's gives layers back, and the window waits for them. So that it need not, a reader gives back nothing
and the layers come when they are read, but only where a hand asked: a script goes on with the layers.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from napari.layers import Layer
from qtpy.QtCore import QObject, QThread, QTimer
from qtpy.QtWidgets import QMessageBox
from wsi_umedpt.errors import WsiError

from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.window.notifications import tell, tell_error

if TYPE_CHECKING:
    from napari_wsi_umedpt.layers.build import LayerTuple, Place
    from napari_wsi_umedpt.window.one_slide import Change

_DRAWN_MS = 20
"""Milliseconds in which the window draws a layer, before it gets the next."""
Read = Callable[[], "Iterable[LayerTuple | Layer]"]
Then = Callable[[list[Layer]], Any]


class _Asked(NamedTuple):
    prepare: Callable[[], Read]
    doing: str
    then: Then
    beside: bool
    below: "Place | None"
    failed: Callable[[Exception], Any]
    results: bool


def by_hand() -> bool:
    """Return whether the window's event loop runs, so that it is not a script that asks."""
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
        self.doing = ""
        """Description of what is read now."""
        self.destroyed.connect(partial(_let_go, self._waiting, self._background))

    @classmethod
    def of(cls, viewer: Any) -> "Opener":
        """The opener of a viewer's window."""
        found: Opener | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    def open(
        self, prepare: Callable[[], Read], doing: str, then: Then = lambda _: None, *, beside: bool = False,
        below: "Place | None" = None, failed: Callable[[Exception], Any] = tell_error, results: bool = False,
    ) -> None:  # fmt: skip
        """Read layers, and show them once what was asked for before is shown.

        What is shown of another slide goes; before results take the place of another slide, it is asked.

        Parameters
        ----------
        prepare
            Called in the window's thread when it is its turn; makes what reads, in a thread.
        doing
            Words for the user meanwhile.
        then
            Is given the layers that are new once they are in the viewer.
        beside
            Show another slide in a window of its own, and leave this one as it is.
        below
            Layers that results belong to: nothing is shown if another slide is looked at by then.
        failed
            Called with errors.
        results
            True if results were chosen and not a slide, which comes with its own.
        """
        self._waiting.append(_Asked(prepare, doing, then, beside, below, failed, results))
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
                self.doing = asked.doing
                self._viewer.status = f"{asked.doing} ..."
                self._background.run(make, partial(self._show, asked), partial(self._failed, asked), doing=asked.doing)
                return
            layers = make()
        except (WsiError, OSError) as error:
            self._failed(asked, error)
            return
        self._show(asked, layers)

    def _show(self, asked: _Asked, layers: list[Layer]) -> None:
        # Loaded by what read them, beside the window.
        from napari_wsi_umedpt.window.one_slide import Showing, change_for
        from napari_wsi_umedpt.window.viewer import current_place

        Showing.of(self._viewer)
        change = change_for(self._viewer, layers)
        self.doing = self._viewer.status = ""
        if asked.below is not None and not ((now := current_place(self._viewer)) and now.same_slide(asked.below)):
            self._next()
        elif change.instead_of is not None and asked.beside:
            self._show_beside(layers)
        elif change.instead_of is not None and asked.results and by_hand():
            self._ask(asked, change, layers)
        else:
            self._put(asked, change)

    def _put(self, asked: _Asked, change: "Change[Layer]") -> None:
        from napari_wsi_umedpt.window.viewer import slide_name

        for layer in change.go:
            self._viewer.layers.remove(layer)
        if not change.come:
            tell(f"{slide_name(self._viewer)} is open already.")
        add = partial(self._add, asked, [], change.come, change.instead_of is not None)
        if change.go and by_hand():
            # Layers that come in the same turn of the event loop in which others went have crashed OpenGL.
            QTimer.singleShot(_DRAWN_MS, add)
        else:
            add()

    def _ask(self, asked: _Asked, change: "Change[Layer]", layers: list[Layer]) -> None:
        """Results of another slide do not come over this one; what is wanted instead is asked."""
        from napari_wsi_umedpt.layers.build import shown_by
        from napari_wsi_umedpt.window.viewer import slide_name

        store = next(shown.store for layer in layers if (shown := shown_by(layer)) and shown.store is not None)
        box = QMessageBox(window_of(self._viewer))
        box.setWindowTitle("Results of another slide")
        box.setText(f"{store.name} holds results of another slide than the one that is open.")
        box.setInformativeText(f"Open now: {slide_name(self._viewer)}. They cannot be shown over it.")
        instead = box.addButton("Show their own slide", QMessageBox.ButtonRole.AcceptRole)
        beside = box.addButton("In a window beside", QMessageBox.ButtonRole.ActionRole)
        box.addButton("Leave it", QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(instead)

        def answered(*_: Any) -> None:
            clicked = box.clickedButton()
            box.deleteLater()
            if clicked is instead:
                self._put(asked, change)
            else:
                if clicked is beside:
                    self._show_beside(layers)
                self._next()

        box.finished.connect(answered)
        box.open()

    def _show_beside(self, layers: list[Layer]) -> None:
        from napari_wsi_umedpt.window.window import window_beside

        other = window_beside(self._viewer)
        Opener.of(other).open(lambda: lambda: layers, "", lambda _: other.reset_view())

    def _add(self, asked: _Asked, added: list[Layer], left: list[Layer], other: bool) -> None:
        if left:
            # Loaded by what read them, beside the window.
            from napari_wsi_umedpt.window.autosave import Keeper
            from napari_wsi_umedpt.window.viewer import add_layer, same_selected

            Keeper.of(self._viewer)
            # What comes unasked leaves what somebody draws in selected.
            with same_selected(self._viewer) if asked.below is not None else nullcontext():
                add_layer(self._viewer, left[0])
            added, left = [*added, left[0]], left[1:]
        if left and by_hand():
            # One after the other: the first of its kind takes napari a while.
            QTimer.singleShot(_DRAWN_MS, partial(self._add, asked, added, left, other))
        elif left:
            self._add(asked, added, left, other)
        else:
            from napari_wsi_umedpt.window.one_slide import finish

            finish(self._viewer)
            if other:
                self._viewer.reset_view()
            asked.then(added)
            self._next()

    def _failed(self, asked: _Asked, error: Exception) -> None:
        self.doing = self._viewer.status = ""
        asked.failed(error)
        self._next()


def _make(read: Read) -> list[Layer]:
    import napari_wsi_umedpt.window.autosave  # noqa: F401 - here, as the window need not wait for it

    layers = [layer if isinstance(layer, Layer) else Layer.create(*layer) for layer in read()]
    for layer in layers:
        if layer.multiscale:
            # What the window's thread asks for first, thumbnail and overview, is then in the cache.
            for level in layer.data[-2:]:
                level[:, :]
    return layers


def _let_go(waiting: "deque[_Asked]", background: Background, *_: Any) -> None:
    waiting.clear()
    background.forget()
