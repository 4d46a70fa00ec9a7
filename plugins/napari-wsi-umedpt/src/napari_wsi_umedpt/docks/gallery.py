"""Rows of small pictures of tiles; a click on one says which."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QApplication, QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_wsi_umedpt.logic.tile_pictures import Picture

_SHOWN_PX = 64
_LINE_PX = 15
_ROW = Qt.ItemDataRole.UserRole
_ADDING = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
"""With which a click chooses a tile, and goes nowhere."""


class Gallery(QWidget):
    """Tiles under a title.

    Parameters
    ----------
    title
        Title that names the tiles.
    clicked
        Called with the tile's row of the grid.
    rows
        Rows of pictures, one below the other; four pictures each in a dock of usual width.
    chosen
        Called when others are chosen, by clicks with Ctrl or Shift; None where none can be.
    """

    def __init__(
        self, title: str, clicked: Callable[[int], None], rows: int = 2, chosen: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self._clicked, self._choosing, self._rows = clicked, chosen is not None, rows
        self.title = QLabel(title)
        self.title.setWordWrap(True)
        self.list = QListWidget()
        self.list.setViewMode(QListWidget.ViewMode.IconMode)
        self.list.setIconSize(QSize(_SHOWN_PX, _SHOWN_PX))
        self.list.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.list.setMovement(QListWidget.Movement.Static)
        self._lay_out(lines=1)
        self.list.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.itemClicked.connect(self._go)
        if chosen is not None:
            self.list.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
            self.list.itemSelectionChanged.connect(chosen)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.title)
        layout.addWidget(self.list)
        self.hide()

    @property
    def rows(self) -> list[int]:
        """Rows, in the grid, of the tiles that are shown."""
        return [int(self.list.item(n).data(_ROW)) for n in range(self.list.count())]

    @property
    def chosen(self) -> list[int]:
        """Rows of the tiles that are chosen, in the order that they are shown in."""
        return [row for n, row in enumerate(self.rows) if self._choosing and self.list.item(n).isSelected()]

    def show_tiles(
        self,
        rows: Sequence[int],
        words: Sequence[str],
        pictures: Sequence[Picture] | None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Show tiles with a word below each, grey squares where there are no pictures; without tiles nothing.

        Parameters
        ----------
        names
            Second line below each tile, as much as there is room for; all of it is its tip.
        """
        self.list.clear()
        self._lay_out(lines=1 if names is None else 2)
        self.setVisible(bool(len(rows)))
        for n, (row, word) in enumerate(zip(rows, words, strict=True)):
            item = QListWidgetItem(_icon(None if pictures is None else pictures[n]), word)
            if names is not None:
                short = self.list.fontMetrics().elidedText(names[n], Qt.TextElideMode.ElideMiddle, _SHOWN_PX)
                item.setToolTip(names[n])
                item.setText(f"{word}\n{short}")
            item.setData(_ROW, int(row))
            self.list.addItem(item)

    def show_pictures(self, pictures: Sequence[Picture]) -> None:
        """Show the pictures of the tiles that are shown; what was chosen meanwhile stays so."""
        for n, picture in enumerate(pictures):
            self.list.item(n).setIcon(_icon(picture))

    def _lay_out(self, lines: int) -> None:
        height = _SHOWN_PX + 5 + lines * _LINE_PX
        self.list.setGridSize(QSize(_SHOWN_PX + 5, height))
        self.list.setFixedHeight(self._rows * height + 8)

    def _go(self, item: QListWidgetItem) -> None:
        if self._choosing and QApplication.keyboardModifiers() & _ADDING:
            return
        if self._choosing:
            self.list.clearSelection()
        self._clicked(int(item.data(_ROW)))


def _icon(picture: Any) -> QIcon:
    rgb = np.full((_SHOWN_PX, _SHOWN_PX, 3), 150, np.uint8) if picture is None else np.ascontiguousarray(picture)
    height, width = rgb.shape[:2]
    image = QImage(rgb.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    return QIcon(QPixmap.fromImage(image))
