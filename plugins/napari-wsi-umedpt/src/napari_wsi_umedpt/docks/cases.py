"""The dock that goes through a folder of slides: open, next, previous; a state and a note for each.

``Alt-Right`` is the next slide, ``Alt-Left`` the one before. States and notes are written while they are typed. A slide
that cannot be opened is marked with the reason and passed over; what is shown, and noted, stays until another is there.
"""

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
)

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.layers.build import LayerTuple
from napari_wsi_umedpt.logic.cases import CaseList, State
from napari_wsi_umedpt.opening.load import RESULTS, open_path
from napari_wsi_umedpt.reader import ask_for_slide
from napari_wsi_umedpt.window.notifications import Reports, tell, words_of
from napari_wsi_umedpt.window.one_slide import Showing, finish
from napari_wsi_umedpt.window.viewer import add_layers, ours

_LABELS: dict[State, str] = {"unseen": "&Unseen", "seen": "&Seen", "done": "&Done", "doubtful": "Dou&btful"}
"""Labels of buttons; each with a key of its own, with Alt: by d alone "done" was taken for "doubtful"."""
_TABLE_PX = 130
"""Height at least of the list: a head and four slides."""
_REFUSED = "cannot be opened"
_REFUSED_COLOUR = QColor(230, 80, 80)


class CasesDock(Dock):
    """Slides of a folder, one after the other."""

    tab = "Cases"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        Showing.of(napari_viewer)
        self._reports = Reports()
        self.cases: CaseList | None = None
        self.number: int | None = None
        """Number of the case that is shown."""
        self._asked: int | None = None
        self._refused: dict[int, str] = {}
        """Reasons why cases could not be opened."""
        choose = QPushButton("Open folder ...")
        choose.clicked.connect(self._choose)
        self.summary = QLabel("No folder is open.")
        self.summary.setWordWrap(True)
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Slide", "State", "Note"])
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setWordWrap(False)
        self.table.setMinimumHeight(_TABLE_PX)
        self.table.verticalHeader().hide()
        for column in (0, 1):
            self.table.horizontalHeader().setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.table.cellClicked.connect(lambda row, _: self._clicked(row))
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # no key selects a slide that is not shown
        self.states = {state: QPushButton(label) for state, label in _LABELS.items()}
        state_row = QHBoxLayout()
        for state, button in self.states.items():
            button.setCheckable(True)
            button.setAutoExclusive(True)
            button.setMinimumWidth(1)
            button.clicked.connect(partial(self._choose_state, state))
            state_row.addWidget(button)
        self.note = QLineEdit()
        self.note.setPlaceholderText("note on the slide that is shown")
        self.note.textEdited.connect(lambda note: self.review(note=note))
        before, after = QPushButton("Previous"), QPushButton("Next")
        before.setToolTip("Alt-Left")
        after.setToolTip("Alt-Right")
        before.clicked.connect(lambda: self.step(-1))
        after.clicked.connect(lambda: self.step(1))
        layout = self._scrolling()
        layout.addWidget(choose)
        layout.addWidget(self.summary)
        layout.addWidget(self.table)
        row = QHBoxLayout()
        row.addWidget(before)
        row.addWidget(after)
        self.pinned.addLayout(state_row)
        self.pinned.addWidget(self.note)
        self.pinned.addLayout(row)
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
        self.cases, self.number, self._refused = cases, None, {}
        self._fill()
        unseen = [n for n, case in enumerate(self.cases.cases) if case.state == "unseen"]
        self.show_case(unseen[0] if unseen else 0, by=1)

    def _choose(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "A folder of slides")
        if name:
            self.open(Path(name))

    def _fill(self) -> None:
        if self.cases is None:
            return
        self.table.setRowCount(len(self.cases))
        for row, case in enumerate(self.cases.cases):
            why = self._refused.get(row)
            texts = (case.name, _REFUSED, why) if why else (case.name, case.state, case.note)
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
                item.setToolTip(text)
                if why:
                    item.setForeground(_REFUSED_COLOUR)
                self.table.setItem(row, column, item)
        self.summary.setText(self.cases.summary)
        self.summary.setToolTip(f"States and notes are in {self.cases.file}")

    def _choose_state(self, state: State, *_: Any) -> None:
        self.review(state=state)

    def review(self, *, state: State | None = None, note: str | None = None) -> None:
        """Set the state or the note of the slide that is shown; written at once, beside the window."""
        cases = self.cases
        if cases is None or self.number is None or not cases.change(self.number, state=state, note=note):
            return

        self._keeper.keep(("cases", cases.folder), f"states and notes of {cases.folder.name}", cases.write)
        self._show_review()
        self._fill()

    def _show_review(self) -> None:
        if self.cases is None or self.number is None:
            return
        case = self.cases.cases[self.number]
        self.states[case.state].setChecked(True)
        if self.note.text().strip() != case.note:
            self.note.setText(case.note)
        self.table.selectRow(self.number)

    # ---- going through it ----

    def _clicked(self, row: int) -> None:
        if row != (self.number if self._asked is None else self._asked):
            self.show_case(row)

    def step(self, by: int) -> None:
        """Open the next slide, or the one before; those that cannot be opened are passed over."""
        self.notice.put_away()  # also where a key asks
        self._step(by)

    def _step(self, by: int) -> None:
        if self.cases is None:
            tell("Open a folder of slides first.")
            return
        at = self._asked if self._asked is not None else self.number
        to = None if at is None else self.cases.next_of(at, by)
        while to is not None and to in self._refused:
            to = self.cases.next_of(to, by)
        if to is None:
            self._stay()
            tell("This is the last slide." if by > 0 else "This is the first slide.")
        else:
            self.show_case(to, by=by)

    def show_case(self, number: int, by: int = 0) -> None:
        """Open a slide in place of the one that is shown.

        Parameters
        ----------
        by
            Step to the next case if it cannot be opened: 1 forwards, -1 backwards, 0 nowhere.
        """
        if self.cases is None or (path := self.cases.cases[number].path) is None:
            return
        case, self._asked = self.cases.cases[number], number
        self.table.selectRow(number)
        self._viewer.status = f"Opening {case.name} ..."
        self._background.run(
            lambda: open_path(path, self._reports, slide=case.slide, missing=ask_for_slide),
            partial(self._came, number),
            partial(self._not_opened, number, by),
        )

    def _came(self, number: int, layers: list[LayerTuple]) -> None:
        self._asked, self.number = None, number
        if self._refused.pop(number, None):
            self._fill()
        self._show_review()
        self._replace(layers)

    def _not_opened(self, number: int, by: int, error: Exception) -> None:
        """Mark it, and go on; where there is nothing to go on to, what is shown stays."""
        self._refused[number] = words_of(error)
        self.tell_error(error)
        self._fill()
        if self._asked != number:
            return  # another one was asked for meanwhile
        if by and self.cases is not None and self.cases.next_of(number, by) is not None:
            self._step(by)
            return
        self._stay()

    def _stay(self) -> None:
        """Keep what is shown."""
        self._asked, self._viewer.status = None, ""
        if self.number is not None:
            self.table.selectRow(self.number)

    def _replace(self, layers: list[LayerTuple]) -> None:
        for layer, shown in list(ours(self._viewer)):
            if shown.kind != "annotations":
                self._viewer.layers.remove(layer)

        def add() -> None:
            add_layers(self._viewer, layers)
            finish(self._viewer)
            self._viewer.reset_view()
            self._viewer.status = ""
            case = self.cases.cases[self.number] if self.cases and self.number is not None else None
            if layers and case and case.state == "unseen":
                self.review(state="seen")

        # Layers that come in the same turn of the event loop in which others went have crashed OpenGL.
        QTimer.singleShot(0, add)
