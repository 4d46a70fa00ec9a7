"""Rows of small pictures of tiles; a click on one says which."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_wsi_umedpt.logic.tile_pictures import Picture

_SHOWN_PX = 64
_ROW = Qt.ItemDataRole.UserRole


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
    """

    def __init__(self, title: str, clicked: Callable[[int], None], rows: int = 2) -> None:
        super().__init__()
        self.title = QLabel(title)
        self.title.setWordWrap(True)
        self.list = QListWidget()
        self.list.setViewMode(QListWidget.ViewMode.IconMode)
        self.list.setIconSize(QSize(_SHOWN_PX, _SHOWN_PX))
        self.list.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.list.setMovement(QListWidget.Movement.Static)
        self.list.setGridSize(QSize(_SHOWN_PX + 5, _SHOWN_PX + 20))
        self.list.setFixedHeight(rows * (_SHOWN_PX + 20) + 8)
        self.list.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.itemClicked.connect(lambda item: clicked(int(item.data(_ROW))))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.title)
        layout.addWidget(self.list)
        self.hide()

    @property
    def rows(self) -> list[int]:
        """Rows, in the grid, of the tiles that are shown."""
        return [int(self.list.item(n).data(_ROW)) for n in range(self.list.count())]

    def show_tiles(self, rows: Sequence[int], words: Sequence[str], pictures: Sequence[Picture] | None) -> None:
        """Show tiles with a word below each, grey squares where there are no pictures; without tiles nothing."""
        self.list.clear()
        self.setVisible(bool(len(rows)))
        for n, (row, word) in enumerate(zip(rows, words, strict=True)):
            item = QListWidgetItem(_icon(None if pictures is None else pictures[n]), word)
            item.setData(_ROW, int(row))
            self.list.addItem(item)


def _icon(picture: Any) -> QIcon:
    rgb = np.full((_SHOWN_PX, _SHOWN_PX, 3), 150, np.uint8) if picture is None else np.ascontiguousarray(picture)
    height, width = rgb.shape[:2]
    image = QImage(rgb.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    return QIcon(QPixmap.fromImage(image))
