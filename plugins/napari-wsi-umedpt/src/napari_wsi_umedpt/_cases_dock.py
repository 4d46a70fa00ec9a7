"""The dock that goes through a folder of slides: open, next, previous; a state and a note for each.

``Alt-Right`` is the next slide, ``Alt-Left`` the one before.
"""

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from napari_wsi_umedpt._cases import STATES, CaseList
from napari_wsi_umedpt._dock import Dock
from napari_wsi_umedpt._layers import LayerTuple
from napari_wsi_umedpt._opening import RESULTS, open_path
from napari_wsi_umedpt._reader import ask_for_slide
from napari_wsi_umedpt._telling import Reports, tell, tell_error
from napari_wsi_umedpt._viewer import add_layers, current_place, ours


class CasesDock(Dock):
    """Slides of a folder, one after the other."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._reports = Reports()
        self.cases: CaseList | None = None
        self.number: int | None = None
        choose = QPushButton("Open folder ...")
        choose.clicked.connect(self._choose)
        self.summary = QLabel("No folder is open.")
        self.summary.setWordWrap(True)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["slide", "state", "note"])
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setWordWrap(False)
        for column in (0, 1):
            self.table.horizontalHeader().setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.table.cellDoubleClicked.connect(lambda row, _: self.show_case(row))
        self.state, self.note = QComboBox(), QLineEdit()
        self.state.addItems(list(STATES))
        self.state.textActivated.connect(lambda state: self.review(state=state))
        self.note.setPlaceholderText("note")
        self.note.editingFinished.connect(lambda: self.review(note=self.note.text()))
        before, after = QPushButton("Previous"), QPushButton("Next")
        before.setToolTip("Alt-Left")
        after.setToolTip("Alt-Right")
        before.clicked.connect(lambda: self.step(-1))
        after.clicked.connect(lambda: self.step(1))
        layout = QVBoxLayout(self)
        layout.addWidget(choose)
        layout.addWidget(self.summary)
        layout.addWidget(self.table)
        for widgets in ((self.state, self.note), (before, after)):
            row = QHBoxLayout()
            for widget in widgets:
                row.addWidget(widget)
            layout.addLayout(row)
        self.setMinimumWidth(345)
        napari_viewer.bind_key("Alt-Right", lambda _: self.step(1), overwrite=True)
        napari_viewer.bind_key("Alt-Left", lambda _: self.step(-1), overwrite=True)

    # ---- the list ----

    def open(self, folder: Path) -> None:
        """Open a folder, and its first slide that was not seen."""
        results = folder / RESULTS
        self._background.run(
            lambda: CaseList(folder, results=results if results.is_dir() else None),
            self._opened,
            doing=f"Listing {folder.name}",
        )

    def _opened(self, cases: CaseList) -> None:
        self.cases, self.number = cases, None
        self._fill()
        unseen = [n for n, case in enumerate(self.cases.cases) if case.state == "unseen"]
        self.show_case(unseen[0] if unseen else 0)

    def _choose(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "A folder of slides")
        if name:
            self.open(Path(name))

    def _fill(self) -> None:
        if self.cases is None:
            return
        self.table.setRowCount(len(self.cases))
        for row, case in enumerate(self.cases.cases):
            for column, text in enumerate((case.slide_id, case.state, case.note)):
                item = QTableWidgetItem(text)
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
                self.table.setItem(row, column, item)
        self.summary.setText(f"{self.cases.summary}\n{self.cases.file}")

    def review(self, *, state: Any = None, note: str | None = None) -> None:
        """Set the state or the note of the slide that is open; written at once."""
        if self.cases is None or self.number is None:
            return
        try:
            self.cases.review(self.number, state=state, note=note)
        except OSError as error:
            tell_error(error)
        self._fill()

    # ---- going through it ----

    def step(self, by: int) -> None:
        """Open the next slide, or the one before."""
        if self.cases is None:
            tell("Open a folder of slides first.")
        elif self.number is not None:
            to = self.cases.next_of(self.number, by)
            if to is None:
                tell("This is the last slide." if by > 0 else "This is the first slide.")
            else:
                self.show_case(to)

    def show_case(self, number: int) -> None:
        """Open a slide in place of the one that is open; annotations that were drawn stay."""
        if self.cases is None or (path := self.cases.cases[number].path) is None:
            return
        case = self.cases.cases[number]
        self.number = number
        self.table.selectRow(number)
        self.state.setCurrentText(case.state)
        self.note.setText(case.note)
        self._viewer.status = f"Opening {case.slide_id} ..."
        self._background.run(
            lambda: open_path(path, self._reports, slide=case.slide, missing=ask_for_slide),
            self._replace,
            lambda error: self._not_opened(number, error),
        )

    def _not_opened(self, number: int, error: Exception) -> None:
        """Say why, and show nothing: a note on what is seen must not go to another case."""
        tell_error(error)
        if self.number == number:
            self._replace([])

    def _replace(self, layers: list[LayerTuple]) -> None:
        for layer, shown in list(ours(self._viewer)):
            if shown.kind != "annotations":
                self._viewer.layers.remove(layer)

        def add() -> None:
            add_layers(self._viewer, layers)
            self._show_drawn()
            self._viewer.reset_view()
            self._viewer.status = ""
            case = self.cases.cases[self.number] if self.cases and self.number is not None else None
            if layers and case and case.state == "unseen":
                self.review(state="seen")
                self.state.setCurrentText("seen")

        # Layers that come in the same turn of the event loop in which others went have crashed OpenGL.
        QTimer.singleShot(0, add)

    def _show_drawn(self) -> None:
        """Show what was drawn on this slide, above it, and hide what was drawn on others."""
        place = current_place(self._viewer)
        for layer, shown in list(ours(self._viewer)):
            if shown.kind == "annotations":
                layer.visible = shown.place == place
                if layer.visible:
                    self._viewer.layers.move(self._viewer.layers.index(layer), len(self._viewer.layers))
