"""A person at mouse and keyboard: real events of the X server, in a window that is shown.

Layers and docks behave otherwise where nothing is shown or nobody clicks: napari's labels emit `paint` when a shown
layer is painted on and `set_data` when a hidden one is; a line edit tells of its end when it loses the focus; what
lies over a button takes its click. So these tests move the pointer and press keys with xdotool, and look at the
screen. Under Xvfb alone (see `make test`): on a desktop they would take its mouse.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject, QPoint, QRect
from qtpy.QtGui import QGuiApplication, QImage
from qtpy.QtWidgets import QApplication, QMainWindow, QWidget

from napari_wsi_umedpt.docks.base import Dock, open_dock
from napari_wsi_umedpt.window.viewer import camera, canvas_size, current_place, turn_of

LAPTOP, MONITOR = (1280, 720), (1920, 1080)
"""(width, height) of screens."""
BOTH_SCREENS = pytest.mark.parametrize("window_size", [LAPTOP, MONITOR], ids=["1280x720", "1920x1080"], indirect=True)
"""For tests in which the layout matters; others are as true on one screen, and take half the time."""
_SETTLED_MS = 40
"""In which the window has done what an event asks for."""
_LEFT = "1"
_RELEASES = (QEvent.Type.MouseButtonRelease, QEvent.Type.KeyRelease)
_NEAR_PX = 12
"""Within which two clicks may be a double one."""


def xdotool_is_missing() -> str:
    """Why no hands can be had; empty where they can."""
    if not os.environ.get("DISPLAY"):
        return "no X display: run it under xvfb-run"
    return "" if shutil.which("xdotool") else "xdotool is not installed: see tools/qt_libs.sh"


class _Arrivals(QObject):
    """Counts the releases of buttons and keys that reached one of our windows."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        QApplication.instance().installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Count, and let it pass; windows get each event before their widgets do."""
        if event.type() in _RELEASES and watched.isWindowType() and not getattr(event, "isAutoRepeat", bool)():
            self.count += 1
        return False


class Hands:
    """Mouse and keys for one viewer.

    Parameters
    ----------
    viewer
        A napari viewer whose window is shown.
    qtbot
        pytest-qt's, which lets the window live.
    screen : (width, height)
        Beyond which nobody can click.
    """

    def __init__(self, viewer: Any, qtbot: Any, screen: tuple[int, int]) -> None:
        self.viewer, self._qtbot, self.screen = viewer, qtbot, QRect(0, 0, *screen)
        self._arrived = _Arrivals()
        self._last = QPoint(-_NEAR_PX, -_NEAR_PX)

    # ---- places ----

    @property
    def window(self) -> QMainWindow:
        """Qt's window; not held, or napari's fixture finds it alive at the end."""
        return getattr(self.viewer, "__wrapped__", self.viewer).window._qt_window

    @property
    def canvas(self) -> QWidget:
        """What layers are drawn on."""
        return self.viewer.window._qt_viewer.canvas.native

    def on_canvas(self, x: float, y: float) -> QPoint:
        """Where on the screen a place of the slide is, level-0 px."""
        turn = turn_of(self.viewer)  # a linked slide is
        world = turn[:2, :2] @ current_place(self.viewer).to_world(np.array([x, y])) + turn[:2, 2]
        seen = camera(self.viewer)
        down, right = (world - np.array(seen.center[-2:])) * seen.zoom + np.array(canvas_size(self.viewer)) / 2
        return self.canvas.mapToGlobal(QPoint(round(right), round(down)))

    def on(self, widget: QWidget, at: QPoint | QRect | None = None) -> QPoint:
        """Where on the screen a widget's middle is, or a place in it."""
        place = widget.rect().center() if at is None else at.center() if isinstance(at, QRect) else at
        return widget.mapToGlobal(place)

    # ---- mouse and keys ----

    def click(self, at: QWidget | QPoint, *, times: int = 1, button: str = _LEFT) -> None:
        """Click on a widget, or a place of the screen; whatever lies there gets it."""
        self._apart(at)
        words = ("mousemove", *self._xy(at), "click", "--repeat", str(times), "--delay", "40", button)
        self._do(*words, releases=times)

    def press(self, *keys: str) -> None:
        """Press keys, as in ``ctrl+z`` or ``Escape``."""
        for key in keys:
            self._do("key", key, releases=key.count("+") + 1)

    def write(self, text: str) -> None:
        """Type text."""
        self._do("type", "--delay", "12", text, releases=len(text))

    def move(self, at: QWidget | QPoint) -> None:
        """Move the pointer, and press nothing."""
        self._do("mousemove", *self._xy(at))

    def drag(self, places: Sequence[QPoint]) -> None:
        """Press the button at the first place, go to the others, let go at the last."""
        self._apart(places[0])
        self.move(places[0])
        self._do("mousedown", _LEFT)
        for start, end in itertools.pairwise(places):
            for part in (0.5, 1.0):
                self.move(start + (end - start) * part)
        self._do("mouseup", _LEFT, releases=1)

    def draw(self, corners: Sequence[tuple[float, float]], end: str = "") -> None:
        """Click the corners of a polygon, level-0 px; ends with a double click on the last one, or with a key."""
        for x, y in corners[:-1]:
            self.click(self.on_canvas(x, y))
        self.click(self.on_canvas(*corners[-1]), times=1 if end else 2)
        if end:
            self.press(end)

    def release(self) -> None:
        """Let go of all that is held, and put the pointer where it touches nothing."""
        self._do("mouseup", _LEFT)
        self._do("mousemove", "0", "0")
        QApplication.instance().removeEventFilter(self._arrived)

    def wait(self, ms: int = _SETTLED_MS) -> None:
        """Let the window live."""
        self._qtbot.wait(ms)

    def until(self, true: Any) -> None:
        """Let the window live until something is true."""
        self._qtbot.waitUntil(true)

    # ---- docks ----

    def dock(self, name: str) -> Dock:
        """Open a dock by its name in the menu Plugins, in the place of the others."""
        dock = open_dock(self.viewer, name)
        self.until(lambda: dock.isVisible() and dock._size_before is None and self.window.isAncestorOf(dock))
        self.until(lambda: self.window.rect().contains(QRect(dock.mapTo(self.window, QPoint(0, 0)), dock.size())))
        self.wait(150)
        return dock

    # ---- what is seen ----

    def picture(self) -> np.ndarray:
        """What is on the screen where the window is: (height, width, 3)."""
        self.wait(100)
        image = QGuiApplication.primaryScreen().grabWindow(0).toImage().convertToFormat(QImage.Format.Format_RGB888)
        rows = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
        whole = rows.reshape(image.height(), image.bytesPerLine())[:, : 3 * image.width()]
        whole = whole.reshape(image.height(), image.width(), 3)
        place = self.window.geometry()
        return whole[place.top() : place.bottom() + 1, place.left() : place.right() + 1].copy()

    def keep_picture(self, name: str) -> None:
        """Save what is on the screen into the folder that WINDOW_PICTURES names, if it names one."""
        if folder := os.environ.get("WINDOW_PICTURES"):
            from PIL import Image

            size = self.window.size()
            Path(folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.picture()).save(Path(folder) / f"{name}-{size.width()}x{size.height()}.png")

    # ---- xdotool ----

    def _apart(self, at: QWidget | QPoint) -> None:
        """Wait until a click where the last one was is no double click."""
        place = at if isinstance(at, QPoint) else self.on(at)
        if (place - self._last).manhattanLength() < _NEAR_PX:
            self.wait(QGuiApplication.styleHints().mouseDoubleClickInterval() + _SETTLED_MS)
        self._last = place

    def _xy(self, at: QWidget | QPoint) -> tuple[str, str]:
        place = at if isinstance(at, QPoint) else self.on(at)
        assert self.screen.contains(place), f"{place} is beside a screen of {self.screen.size()}"
        ratio = self.window.devicePixelRatio()
        return str(round(place.x() * ratio)), str(round(place.y() * ratio))

    def _do(self, *words: str, releases: int = 0) -> None:
        before = self._arrived.count
        # Beside the window, which must live meanwhile to take the events.
        with subprocess.Popen(["xdotool", *words], stderr=subprocess.PIPE, text=True) as doing:
            self._qtbot.waitUntil(lambda: doing.poll() is not None)
            assert doing.returncode == 0, doing.stderr.read() if doing.stderr else ""
        self._qtbot.waitUntil(lambda: self._arrived.count >= before + releases)
        self.wait(_SETTLED_MS)
