"""The classes that tiles or cells are labelled with: key, colour, name and how many there are of each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_wsi_umedpt.layers.build import Colour

_ROW_PX, _SWATCH_PX = 26, 14


class ClassList(QWidget):
    """Classes, numbered from 1; one is chosen.

    Parameters
    ----------
    names
        To begin with.
    palette
        Colours, given in turn.
    most
        Classes at most.
    counted
        Counts of each class, a column each.
    """

    changed = Signal()
    """A class was added or renamed."""
    chosen = Signal(int)
    """The user chose the class of that number."""

    def __init__(self, names: Sequence[str], palette: Sequence[Colour], most: int, counted: Sequence[str]) -> None:
        super().__init__()
        self._palette, self._most, self._counted = palette, most, len(counted)
        self.table = QTableWidget(0, 2 + len(counted))
        self.table.setHorizontalHeaderLabels(["Key", "Class", *counted])
        self.table.verticalHeader().hide()
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QTableWidget.SelectionMode.SingleSelection)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        for column in (0, *range(2, 2 + len(counted))):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.entry = QLineEdit()
        self.entry.setPlaceholderText("another class")
        self.entry.returnPressed.connect(self._add_typed)
        add = QPushButton("Add")
        add.clicked.connect(lambda *_: self._add_typed())
        row = QHBoxLayout()
        row.addWidget(self.entry)
        row.addWidget(add)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addLayout(row)
        self.add(names)
        self.select(1)
        self.table.cellClicked.connect(lambda row, _: self.chosen.emit(row + 1))
        self.table.itemChanged.connect(self._renamed)

    @property
    def names(self) -> list[str]:
        """Names of the classes, in order."""
        return [self.table.item(row, 1).text() for row in range(self.table.rowCount())]

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of the classes."""
        return tuple(self._palette[row % len(self._palette)] for row in range(self.table.rowCount()))

    @property
    def current(self) -> int:
        """Number of the chosen class; 0 where none is."""
        return max(0, int(self.table.currentRow()) + 1)

    def select(self, number: int) -> None:
        """Choose a class; 0 chooses none."""
        if number:
            self.table.selectRow(number - 1)
        else:
            self.table.clearSelection()
            self.table.setCurrentItem(None)

    def add(self, names: Iterable[str]) -> None:
        """Add classes that are not there yet, as long as there is a key for each."""
        fresh = [name for name in names if name and name not in self.names]
        self.table.blockSignals(True)
        for name in fresh[: self._most - self.table.rowCount()]:
            row = self.table.rowCount()
            self.table.insertRow(row)
            self.table.setRowHeight(row, _ROW_PX)
            for column, text in enumerate((str(row + 1), name, *["0"] * self._counted)):
                item = QTableWidgetItem(text)
                if column != 1:
                    item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
                self.table.setItem(row, column, item)
            # As a swatch: a background would be hidden in the row that is chosen.
            self.table.item(row, 1).setIcon(swatch(self.colours[row]))
        self.table.blockSignals(False)
        self.table.setFixedHeight((self.table.rowCount() + 1) * _ROW_PX + 8)
        if fresh:
            self.changed.emit()

    def put(self, names: Iterable[str]) -> None:
        """Show these classes and no others; emits nothing."""
        chosen = self.current
        self.table.blockSignals(True)
        self.table.setRowCount(0)
        self.table.blockSignals(False)
        self.blockSignals(True)
        self.add(names)
        self.blockSignals(False)
        self.select(min(chosen, self.table.rowCount()))

    def count(self, labels: Iterable[str]) -> None:
        """Show how many are labelled with each class, in the first column of counts."""
        self.show_counts(Counter(labels), 0)

    def show_counts(self, counts: Mapping[str, int], column: int) -> None:
        """Show counts of classes, in a column of counts."""
        self.table.blockSignals(True)
        for row, name in enumerate(self.names):
            self.table.item(row, 2 + column).setText(f"{counts.get(name, 0):,}")
        self.table.blockSignals(False)

    def _add_typed(self) -> None:
        self.add([self.entry.text().strip()])
        self.entry.clear()
        self.select(self.table.rowCount())
        self.chosen.emit(self.table.rowCount())

    def _renamed(self, item: QTableWidgetItem) -> None:
        if item.column() != 1:
            return
        name, others = item.text().strip(), [n for row, n in enumerate(self.names) if row != item.row()]
        if not name or name in others:  # two classes of one name would be one
            name = next(f"class {k}" for k in range(item.row() + 1, 99) if f"class {k}" not in others)
        self.table.blockSignals(True)
        item.setText(name)
        self.table.blockSignals(False)
        self.changed.emit()


def swatch(colour: Colour) -> QIcon:
    """A square of a colour, which is the same in a row that is selected: Qt tints it there."""
    pixels, icon = QPixmap(_SWATCH_PX, _SWATCH_PX), QIcon()
    pixels.fill(QColor(*colour))
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected):
        icon.addPixmap(pixels, mode)
    return icon
