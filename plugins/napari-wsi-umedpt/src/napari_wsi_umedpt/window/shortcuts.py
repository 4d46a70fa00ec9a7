"""List of keys, on F1: those of the plugin, and those of napari that help to look at slides and to draw on them."""

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QDialog, QHeaderView, QMenu, QShortcut, QTableWidget, QTableWidgetItem, QVBoxLayout

from napari_wsi_umedpt.logic.navigation import MAGNIFICATIONS
from napari_wsi_umedpt.opening.opener import window_of

KEYS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Look",
        (
            *((f"Alt-{n}", f"{power:g}x") for n, power in enumerate(MAGNIFICATIONS, 1)),
            ("Alt-0", "the whole slide"),
            ("Space", "held: move the slide, whatever tool is at hand"),
        ),
    ),
    (
        "Case list",
        (
            ("Alt-Right", "next slide"),
            ("Alt-Left", "slide before"),
            ("Alt-U", "unseen"),
            ("Alt-S", "seen"),
            ("Alt-D", "done"),
            ("Alt-B", "doubtful"),
        ),
    ),
    (
        "Draw",
        (
            ("P", "polygon"),
            ("Shift-P", "freehand"),
            ("R", "rectangle"),
            ("E", "ellipse"),
            ("5", "select shapes"),
            ("Delete", "remove what is selected"),
            ("Escape", "give up, or end, a shape"),
        ),
    ),
    ("Label tiles, or cells", (("1 to 9", "class"), ("0", "remove a label"))),
    (
        "Undo",
        (
            ("Ctrl-Z", "undo the last change on this slide"),
            ("Ctrl-Shift-Z", "redo"),
            ("Ctrl-Y", "redo"),
        ),
    ),
    ("Window", (("F1", "this list; again, away with it"), ("Ctrl-M", "show or hide the menus"))),
)
"""Groups of keys, and what each does."""
_KEY = "F1"
_SIZE = 420, 560
_ROW_PX = 24


class KeyList(QDialog):
    """The list; it may stay open while one works."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(window_of(viewer))
        self.setWindowTitle("Keys")
        self.resize(*_SIZE)
        rows = [row for title, keys in KEYS for row in ((title, ""), *keys)]
        self.table = QTableWidget(len(rows), 2)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        for number, (key, does) in enumerate(rows):
            self.table.setRowHeight(number, _ROW_PX)
            for column, text in enumerate((key, does)):
                item = QTableWidgetItem(text)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled)
                if not does:
                    font = item.font()
                    font.setBold(True)
                    item.setFont(font)
                self.table.setItem(number, column, item)
        QVBoxLayout(self).addWidget(self.table)

        QShortcut(QKeySequence(_KEY), self).activated.connect(self.close)

    @classmethod
    def toggle(cls, viewer: Any) -> None:
        """Show the list of a window, or put it away."""
        found: KeyList | None = window_of(viewer).findChild(cls)
        shown = found or cls(viewer)
        shown.setVisible(not shown.isVisible())


def add_to_menu(viewer: Any, menu: QMenu) -> None:
    """Add an entry that shows the list, with its key."""
    menu.addSeparator()
    entry = menu.addAction("Keys ...")
    entry.setShortcut(QKeySequence(_KEY))
    entry.triggered.connect(lambda *_: KeyList.toggle(viewer))
