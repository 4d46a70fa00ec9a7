"""Closing a window: one question, of what is running and what is not saved, and none where there is neither.

Whoever holds something that would be lost says so by `Closing.of(viewer).ask(what)`. A run can go on after its window
is gone, with a small window of its own to see and stop it; or it stops, and what it did is kept.

Read top to bottom: `Unsaved`, `Closing`, `Afterwards` (what is left of a window whose run goes on).
"""

import os
import time
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from qtpy.QtCore import QEvent, QObject, Qt, QThreadPool, QTimer
from qtpy.QtWidgets import QApplication, QCheckBox, QLabel, QMessageBox, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_wsi_umedpt.opening.opener import window_of

_MOST_S = 2.5
"""Seconds that closing waits for a run to stop; what it did is kept in any case."""
_POLL_MS = 20
_LAST_MS = 300
"""Milliseconds that the end of the program waits for threads that were let go of; what they read or load is unused."""


class Unsaved(NamedTuple):
    """Something that would be lost."""

    what: str
    """Description, as in "12 regions on slide.svs"."""
    save: Callable[[], bool]
    """Saves it; False if that was not done."""


class Closing(QObject):
    """Asks before a window closes; one for each window, see `Closing.of`."""

    def __init__(self, viewer: Any) -> None:
        window = window_of(viewer)
        super().__init__(window)
        self.ours = False
        """True if the window is of `wsi-umedpt view`: napari's own question is then asked no more."""
        self.runs: Any = None
        """Those of the window, once there are any; see `napari_wsi_umedpt.window.runs.Runs`."""
        self._viewer = viewer
        self._asked: list[Callable[[], list[Unsaved]]] = []
        self._sure = False
        self._box: QMessageBox | None = None
        self._napari_closes = window.close
        # What the menu and its keys call; it would ask napari's question before any event.
        window.close = self._called
        window.installEventFilter(self)

    @classmethod
    def of(cls, viewer: Any) -> "Closing":
        """Guard of a viewer's window."""
        found: Closing | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    def ask(self, what: Callable[[], list[Unsaved]]) -> Callable[[], None]:
        """Ask this, before the window closes, what is not saved; what is returned takes the question back."""
        self._asked.append(what)
        return lambda: self._asked.remove(what)

    # ---- how napari closes a window ----

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Look at the window's events: its close button asks as the menu does."""
        if event.type() != QEvent.Type.Close or self._sure or not event.spontaneous() or not self._mine():
            return False
        event.ignore()
        QTimer.singleShot(0, self._close_or_ask)  # not within the event
        return True

    def _called(self, quit_app: bool = False, confirm_need: bool = False) -> Any:
        if not confirm_need or not self._mine():  # by a script, which knows what it does; or none of our business
            return self._napari_closes(quit_app, confirm_need)
        self._close_or_ask(quit_app)
        return None

    def _mine(self) -> bool:
        return self.ours or bool(self._unsaved()) or self._run() is not None

    def _run(self) -> Any:
        return None if self.runs is None else self.runs.current

    def _unsaved(self) -> list[Unsaved]:
        return [one for what in self._asked for one in what()]

    # ---- the question ----

    def _close_or_ask(self, quit_app: bool = False) -> None:
        unsaved, run = self._unsaved(), self._run()
        if not unsaved and run is None:
            self._close(quit_app)
            return
        if self._box is not None:
            self._box.raise_()
            return
        box = self._box = QMessageBox(window_of(self._viewer))
        box.setWindowTitle("Close the window?")
        lines = [f"<b>Running:</b> {escape(run.name)}. {escape(run.words)}"] if run is not None else []
        lines += [f"<b>Not saved:</b> {escape(one.what)}" for one in unsaved]
        box.setText("".join(f"<p>{line}</p>" for line in lines))
        save = QCheckBox("Save what is not saved")
        save.setChecked(True)
        if unsaved:
            box.setCheckBox(save)
        does: dict[Any, Callable[[bool], None]] = {}
        role = QMessageBox.ButtonRole.AcceptRole
        if run is not None:
            does[box.addButton("Go on in the background", role)] = self._go_on
            does[box.addButton("Stop and keep what is done", role)] = self._stop
        else:
            does[box.addButton("Close", role)] = self._close
        box.setDefaultButton(next(iter(does)))
        box.setEscapeButton(box.addButton("Cancel", QMessageBox.ButtonRole.RejectRole))

        def answered(*_: Any) -> None:
            chosen = does.get(box.clickedButton())
            self._box = None
            box.deleteLater()
            if chosen is not None and (not save.isChecked() or all(one.save() for one in unsaved)):
                chosen(quit_app)

        box.finished.connect(answered)
        box.open()

    # ---- the answers ----

    def _close(self, quit_app: bool) -> None:
        self._sure = True
        self._napari_closes(quit_app, False)

    def _stop(self, quit_app: bool) -> None:
        """Out of sight at once; gone when the run has stopped, or could have."""
        until = time.monotonic() + _MOST_S
        self.runs.stop()
        window_of(self._viewer).hide()

        def look() -> None:
            if self._run() is None or time.monotonic() > until:
                self._close(quit_app)
            else:
                QTimer.singleShot(_POLL_MS, look)

        look()

    def _go_on(self, quit_app: bool) -> None:
        left = Afterwards(self.runs, lambda: self._close(quit_app))
        left.show()
        window_of(self._viewer).hide()


class Afterwards(QWidget):
    """Small window for a run that goes on without its window: its progress, and a button to stop it; ends with it."""

    def __init__(self, runs: Any, then: Callable[[], None]) -> None:
        super().__init__(runs.parent(), Qt.WindowType.Window)
        self._runs, self._then = runs, then
        self.setWindowTitle("wsi_umedpt goes on")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setMinimumWidth(420)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.stop = QPushButton("Stop and keep what is done")
        self.stop.clicked.connect(lambda *_: runs.stop())
        column = QVBoxLayout(self)
        for widget in (self.words, self.bar, self.stop):
            column.addWidget(widget)
        runs.changed.connect(self._show)
        self._show()

    def _show(self) -> None:
        run = self._runs.current
        if run is None:
            self._runs.changed.disconnect(self._show)
            QTimer.singleShot(0, self._then)
            return
        self.words.setText(f"{run.name}: {run.words}")
        self.bar.setRange(0, run.progress.total)
        self.bar.setValue(run.progress.done)

    def closeEvent(self, event: Any) -> None:
        """Closing it stops the run."""
        event.ignore()
        self._runs.stop()


def end_at_once() -> None:
    """Let the program end though threads that nobody waits for still read or load; to be called once, by `main`."""

    def last() -> None:
        if not QThreadPool.globalInstance().waitForDone(_LAST_MS):
            os._exit(0)

    QApplication.instance().aboutToQuit.connect(last)
