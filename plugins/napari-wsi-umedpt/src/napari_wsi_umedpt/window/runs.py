"""Analyses of a window: each belongs to its slide, goes on whatever dock is closed, and is seen in the status bar.

`Runs` starts and stops them and remembers how the last of each slide ended; `RunStrip` shows the one that is at work,
with a way to cancel it; `RunLayers` shows over the slide, and over no other, which tiles are done and what was made.

Read top to bottom: `Run`, `Runs`, `RunStrip`, `RunLayers`.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QWidget
from superqt import QElidingLabel
from wsi_umedpt.slides import TileGrid

from napari_wsi_umedpt.layers.build import LayerTuple, Place
from napari_wsi_umedpt.layers.run_results import Status, layers_of
from napari_wsi_umedpt.logic.analysis import Analysed, AnalysisProgress, Request, analyse, kept_of
from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.logic.field import current_slide, current_store
from napari_wsi_umedpt.opening.load import RESULTS
from napari_wsi_umedpt.opening.opener import Opener, window_of
from napari_wsi_umedpt.window.closing import Closing
from napari_wsi_umedpt.window.notifications import tell_error, words_of
from napari_wsi_umedpt.window.viewer import add_layers, same_selected

_POLL_MS = 150
_MOST_STOPPING_S = 1.8
"""Seconds after which a stopped run is let go of: its reading or loading ends by itself, and writes nothing."""
_SEEN_MS = 10_000
"""Milliseconds for which the status bar shows how a run ended."""
_STRIP_PX = 400


@dataclass(eq=False)
class Run:
    """One analysis: what was asked, how it goes, how it ended."""

    request: Request
    progress: AnalysisProgress = field(default_factory=AnalysisProgress)
    result: Analysed | None = None
    error: Exception | None = None
    stopped_at: float | None = None
    """Time of the request to stop, seconds of the monotonic clock."""
    ended_at: float | None = None
    shown: int = 0
    """Number of its results that were put over its slide."""

    @property
    def ended(self) -> bool:
        """True once it is not at work any more."""
        return self.result is not None or self.error is not None

    @property
    def name(self) -> str:
        """Name of its slide."""
        return self.request.slide.name

    @property
    def words(self) -> str:
        """Description of the progress, or the result."""
        if self.error is not None:
            return f"It could not be done; what was whole before still is. {words_of(self.error)}"
        return self.progress.words if self.result is None else self.result.words


class Runs(QObject):
    """The analyses of one window, one at a time; see `Runs.of`."""

    changed = Signal()
    """Signal of progress, and of the begin and end of a run."""
    model_made = Signal(object)
    """Path of a model that was made in this window, to be chosen from now on."""

    def __init__(self, viewer: Any) -> None:
        window = window_of(viewer)
        super().__init__(window)
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self.current: Run | None = None
        self.last: dict[Path, Run] = {}
        """Last run by the slide's path, ended or not."""
        self.folders: dict[Path, str] = {}
        """Folder of results by the slide's path, if somebody chose one."""
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)
        self._background: set[Background] = set()
        self._strip = RunStrip(self)
        window.statusBar().insertPermanentWidget(1, self._strip)  # before napari's activities
        self._layers = RunLayers(self, viewer)
        Closing.of(viewer).runs = self
        self.destroyed.connect(partial(_let_go, self._background))

    @classmethod
    def of(cls, viewer: Any) -> "Runs":
        """Runs of a viewer's window."""
        found: Runs | None = window_of(viewer).findChild(cls)
        return found or cls(viewer)

    def folder_of(self, slide: Path) -> str:
        """Folder of a slide's results: as chosen, or that of the results that are looked at, or one beside it."""
        store = current_store(self._viewer)
        return self.folders.get(slide) or str(slide.parent / RESULTS if store is None else store.parent)

    def start(self, request: Request) -> Run:
        """Begin a run, or go on with what it was stopped in; there must be none at work."""
        assert self.current is None  # noqa: S101 - the button is off
        run = self.current = self.last[request.slide] = Run(request)
        thread = Background()  # of its own: one that was let go of reports nothing
        self._background.add(thread)
        thread.run(partial(analyse, request, run.progress), partial(self._done, run), partial(self._failed, run))
        self._timer.start()
        self.changed.emit()
        return run

    def stop(self) -> None:
        """Stop the run that is at work; what is durable stays."""
        if self.current is not None and self.current.stopped_at is None:
            self.current.progress.stop()
            self.current.stopped_at = time.monotonic()
            self.changed.emit()

    def _poll(self) -> None:
        run = self.current
        if run is not None and run.stopped_at is not None and time.monotonic() - run.stopped_at > _MOST_STOPPING_S:
            self._done(run, Analysed(run.request.store, True, kept_of(run.request, run.progress)))
        self.changed.emit()

    def _done(self, run: Run, result: Analysed) -> None:
        if not run.ended:
            run.result = result
            self._end(run)

    def _failed(self, run: Run, error: Exception) -> None:
        if not run.ended:
            run.error = error
            self._end(run)
            tell_error(error)

    def _end(self, run: Run) -> None:
        run.ended_at = time.monotonic()
        if self.current is run:
            self.current = None
            self._timer.stop()
        self.changed.emit()


def _let_go(threads: set[Background], *_: Any) -> None:
    for thread in threads:
        thread.forget()


class RunStrip(QWidget):
    """The run that is at work, in the status bar: whose it is, how it goes, and a button to cancel it."""

    def __init__(self, runs: Runs) -> None:
        super().__init__()
        self._runs = runs
        self._seen: Run | None = None
        self.words = QElidingLabel()
        self.words.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.words.setFixedWidth(_STRIP_PX)
        self.bar = QProgressBar()
        self.bar.setFixedWidth(110)
        self.bar.setTextVisible(False)
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop; what was done is kept")
        self.cancel.clicked.connect(lambda *_: runs.stop())
        row = QHBoxLayout(self)
        row.setContentsMargins(6, 0, 6, 0)
        for widget in (self.words, self.bar, self.cancel):
            row.addWidget(widget)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_SEEN_MS)
        self._later.timeout.connect(self.hide)
        runs.changed.connect(self._show)
        self.hide()

    def _show(self) -> None:
        run = self._runs.current
        if run is not None:
            self._seen = run
            self._later.stop()
            self.bar.setRange(0, run.progress.total)  # 0 to 0 moves without an end
            self.bar.setValue(run.progress.done)
            self.cancel.setEnabled(run.stopped_at is None)
        elif self._seen is not None and not self._later.isActive():
            self._later.start()
        for widget in (self.bar, self.cancel):
            widget.setVisible(run is not None)
        if (run := run or self._seen) is not None:
            self.words.setText(f"{run.name}: {run.words}")
            self.words.setToolTip(run.words)
            self.show()


class RunLayers(QObject):
    """Puts a run over its slide, and over no other: tiles that are done while it is at work, then what it made."""

    def __init__(self, runs: Runs, viewer: Any) -> None:
        super().__init__(runs)
        self._runs, self._viewer = runs, viewer
        self._slide: Path | None = None
        self._status: tuple[Status, Layer] | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_POLL_MS)
        self._soon.timeout.connect(self._show)
        runs.changed.connect(self._show)
        events = viewer.layers.events
        events.inserted.connect(self._layers_changed)
        self.destroyed.connect(partial(_disconnect, events.inserted, self._layers_changed))

    def _layers_changed(self, event: Any = None) -> None:
        # Once all layers of a slide are there: results that were made while another was looked at come now.
        if self._runs.last:
            self._soon.start()

    def _show(self) -> None:
        slide = current_slide(self._viewer)
        path = None if slide is None else slide.slide.path
        run = None if path is None else self._runs.last.get(path)
        if path != self._slide:
            self._slide = path
            if run is not None:
                run.shown = 0  # it was closed with all that lay over it
        if slide is not None and run is not None and not run.ended and (grid := run.progress.grid) is not None:
            self._show_status(grid, run.progress.done, slide.place)
        else:
            self._take_away()
        if slide is not None and run is not None and run.shown < len(run.progress.made):
            fresh, run.shown = run.progress.made[run.shown :], len(run.progress.made)

            def read(request: Request = run.request) -> list[LayerTuple]:
                return [layer for one in fresh for layer in layers_of(one, request)]

            Opener.of(self._viewer).open(lambda: read, f"Showing what was found in {run.name}", below=slide.place)

    def _show_status(self, grid: TileGrid, done: int, place: Place) -> None:
        if self._status is not None and self._status[1] not in self._viewer.layers:
            self._status = None
        if self._status is None or self._status[0].grid is not grid:
            self._take_away()
            status = Status(grid, place)
            with same_selected(self._viewer):
                (layer,) = add_layers(self._viewer, [status.layer(done)])
            self._status = status, layer
        else:
            status, layer = self._status
            layer.data = status.picture(done)

    def _take_away(self) -> None:
        if self._status is not None and self._status[1] in self._viewer.layers:
            self._viewer.layers.remove(self._status[1])
        self._status = None


def _disconnect(emitter: Any, call: Any, *_: Any) -> None:
    emitter.disconnect(call)
