"""Splash screen until the window is there: a window of napari takes seconds to make. Quick to import, Qt alone."""

import sys
from pathlib import Path
from typing import Any

from qtpy.QtCore import QRect, Qt
from qtpy.QtGui import QColor, QFont, QPainter, QPixmap
from qtpy.QtWidgets import QApplication, QSplashScreen

_SIZE = 460, 150
_PAPER, _INK, _PALE = QColor(255, 255, 255), QColor(40, 40, 60), QColor(110, 110, 130)
_EOSIN, _HAEMATOXYLIN = QColor(226, 150, 184), QColor(92, 62, 140)


class Splash:
    """Says what is being opened, from now until the window is there.

    Parameters
    ----------
    paths
        Paths to open.
    """

    def __init__(self, paths: list[Path]) -> None:
        # Held, or it is gone. Named as napari names its own, which then ends with its last window.
        self._app = QApplication.instance() or QApplication(sys.argv[:1])
        self._app.setApplicationName("napari")
        self._screen = QSplashScreen(_picture(_words(paths)))
        self._screen.setWindowTitle("wsi_umedpt is coming")
        self._screen.show()
        for _ in range(3):  # shown, exposed, painted
            self._app.processEvents()

    def finish(self, viewer: Any) -> None:
        """Go away, as the window is there."""
        self._screen.finish(viewer.window._qt_window)


def _words(paths: list[Path]) -> str:
    if not paths:
        return "Starting ..."
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"Opening {paths[0].name}{more} ..."


def _picture(words: str) -> QPixmap:
    width, height = _SIZE
    made = QPixmap(width, height)
    made.fill(_PAPER)
    painter = QPainter(made)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(_EOSIN)
    painter.drawEllipse(28, 38, 84, 74)
    painter.setBrush(_HAEMATOXYLIN)
    painter.drawEllipse(56, 58, 34, 32)
    painter.setPen(_INK)
    painter.setFont(_font(20))
    painter.drawText(QRect(136, 38, width - 150, 36), Qt.AlignmentFlag.AlignVCenter, "wsi_umedpt")
    painter.setPen(_PALE)
    painter.setFont(_font(11))
    shown = painter.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, width - 160)
    painter.drawText(QRect(136, 78, width - 150, 30), Qt.AlignmentFlag.AlignVCenter, shown)
    painter.setPen(_PALE)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawRect(0, 0, width - 1, height - 1)
    painter.end()
    return made


def _font(points: int) -> QFont:
    font = QFont()
    font.setPointSize(points)
    return font
