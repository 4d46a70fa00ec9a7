"""The dock that analyses the slide, or a region of it: embeds tiles and looks for objects, beside the window."""

from html import escape
from pathlib import Path
from typing import Any

from napari.layers import Shapes
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
)
from wsi_umedpt.errors import OptionError, WsiError

from napari_wsi_umedpt.docks.annotations import UNCLASSIFIED
from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.layers.shapes import draw_next, draw_one, layer_meta
from napari_wsi_umedpt.logic.analysis import Analysed, ModelChoice, Request, models, own_model, region_of
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.logic.field import current_slide, seen_channels, seen_part
from napari_wsi_umedpt.logic.regions import drawn_areas
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.runs import Run, Runs
from napari_wsi_umedpt.window.viewer import add_layers, camera

WHOLE, FIELD, DRAWN = "whole slide", "visible field", "drawn regions"
_OWN = "own model ..."
_LAYER = "regions to analyse"
_DRAWN_MS = 500
_WHAT_IS_MADE = "Tick what to look for, and press Run."
_LISTING = "listing models ..."
_LIST_PX = 118
_BOXES = "QListWidget::indicator:unchecked { border: 1px solid #9aa4ae; }"
"""Else their boxes are as dark as the list."""
_REGION_CLASS = "Region*"
"""QuPath's class for the place that somebody worked in."""
_NAME = Qt.ItemDataRole.UserRole


class AnalyseDock(Dock):
    """Run encoders and heads on the slide that is open."""

    tab = "Analyse"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._runs = Runs.of(napari_viewer)
        self._models: dict[str, ModelChoice] = {}
        self._slide: Path | None = None
        self._anew = self._ticks_first = False
        self._build()
        self._runs.changed.connect(self._show_run)
        self._runs.model_made.connect(self.add_model)
        self._follow_layers(self._slide_changed)
        self._slide_changed()
        # Once the dock is drawn: while the system loads torch, it lets nobody load what is first drawn.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(lambda: self._background.run(models, self._list))
        self._later.start(_DRAWN_MS)

    def _build(self) -> None:
        self.heads = QListWidget()
        self.heads.setFixedHeight(_LIST_PX)
        self.heads.setWordWrap(True)
        self.heads.setSpacing(1)
        self.heads.setStyleSheet(_BOXES)
        self.heads.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._say_in_list(_LISTING)
        self.embed = QCheckBox("Prepare for Tiles, Alike and Classify")
        self.embed.setToolTip("Features: some hundred numbers for each tile, by which tiles are compared")
        self.embed.setChecked(True)
        self.region = QComboBox()
        self.region.addItems([WHOLE, FIELD, DRAWN])
        draw = QPushButton("Draw ...")
        draw.setToolTip("Draw around what is to be analysed; press it again for another region")
        draw.clicked.connect(lambda *_: self.draw())
        self.folder = QLineEdit()
        choose = QPushButton("...")
        choose.setToolTip("Choose a folder")
        choose.setMaximumWidth(36)
        choose.clicked.connect(lambda *_: self._choose_folder())
        self.model = QComboBox()
        self.model.addItem(_LISTING)
        self.model.setEnabled(False)
        self.model.activated.connect(self._choose_model)
        self.run_button, self.stop_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.clicked.connect(lambda *_: self.start())
        self.stop_button.clicked.connect(lambda *_: self.stop())
        self.stop_button.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1)
        self.bar.setTextVisible(False)
        self.words = QLabel(_WHAT_IS_MADE)
        self.words.setWordWrap(True)
        self.words.setMinimumHeight(38)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        layout, form = self._scrolling(), QFormLayout()
        form.addRow("Where", _row(self.region, draw))
        form.addRow("Results in", _row(self.folder, choose))
        form.addRow("Model", self.model)
        layout.addWidget(QLabel("Look for"))
        layout.addWidget(self.heads)
        layout.addWidget(self.embed)
        layout.addLayout(form)
        layout.addStretch(1)
        self.pinned.addLayout(_row(self.run_button, self.stop_button))
        self.pinned.addWidget(self.bar)
        self.pinned.addWidget(self.words)
        for changed in (
            self.model.currentTextChanged, self.heads.itemChanged, self.embed.toggled,
            self.region.currentTextChanged, self.folder.textEdited,
        ):  # fmt: skip
            changed.connect(self._asks_anew)
        self.folder.textEdited.connect(self._keep_folder)

    # ---- what is asked ----

    def _list(self, found: list[ModelChoice]) -> None:
        self._models = {choice.name: choice for choice in found}
        self.model.clear()
        self.model.addItems([*self._models, _OWN])
        self.model.setEnabled(True)
        self._show_model()
        self._anew = False  # nobody asked: a stopped run can be resumed
        self._show_run()

    def _choose_model(self, index: int) -> None:
        if self.model.itemText(index) == _OWN:
            self.model.setCurrentIndex(0)
            name, _ = QFileDialog.getOpenFileName(self, "A UMedPT model", "", "UMedPT release (*.json)")
            if name:
                self.add_model(Path(name))
        self._show_model()

    def add_model(self, path: Path) -> None:
        """Offer a UMedPT model of the user's, and choose it."""
        self._background.run(lambda: own_model(path), self._add_model)

    def _add_model(self, choice: ModelChoice) -> None:
        if choice.name not in self._models:
            self._models[choice.name] = choice
            self.model.insertItem(self.model.count() - 1, choice.name)
        self.model.setCurrentText(choice.name)
        self._show_model()

    def _show_model(self) -> None:
        choice = self._models.get(self.model.currentText())
        self.heads.clear()
        if choice is None:
            return
        self.model.setToolTip(f"<p>{escape(choice.about)}</p>")  # of a file that somebody sent
        for name, words in choice.heads.items():
            item = QListWidgetItem(words)
            item.setToolTip(f"<p>{escape(words)} ({escape(name)})</p>")
            item.setData(_NAME, name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Unchecked)
            self.heads.addItem(item)
        if self._ticks_first:
            self.tick_first()
        if not choice.heads:
            self._say_in_list("nothing: this model finds no objects")

    def tick_first(self) -> None:
        """Tick what is to be tried first, for who came to find nuclei; once models are listed."""
        self._ticks_first = True
        if (first := self.heads.item(0)) is not None and first.data(_NAME) is not None:
            first.setCheckState(Qt.CheckState.Checked)
            self._ticks_first = False

    def _say_in_list(self, words: str) -> None:
        item = QListWidgetItem(words)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        self.heads.addItem(item)

    @property
    def chosen_heads(self) -> tuple[str, ...]:
        """Names of the heads that are ticked."""
        items = [self.heads.item(n) for n in range(self.heads.count())]
        return tuple(str(item.data(_NAME)) for item in items if item.checkState() == Qt.CheckState.Checked)

    def _slide_changed(self, event: Any = None) -> None:
        """Another slide: its own folder, its own run."""
        found = current_slide(self._viewer)
        path = None if found is None else found.slide.path
        if path != self._slide:
            self._slide, self._anew = path, False
            self._show_run()
        if path is not None:
            self.folder.setText(self._runs.folder_of(path))

    def _keep_folder(self, text: str) -> None:
        if self._slide is not None:
            self._runs.folders[self._slide] = text

    def _choose_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "A folder for results", self.folder.text())
        if name:
            self.folder.setText(name)
            self._keep_folder(name)
            self._asks_anew()

    def draw(self) -> None:
        """Let the user draw a region that is to be analysed."""
        slide = current_slide(self._viewer)
        if slide is None:
            tell("Open a slide first.")
            return
        layer = self._region_layer()
        if layer is None:
            made = shapes_layer([], slide.place, _LAYER, camera(self._viewer).zoom)
            (layer,) = add_layers(self._viewer, [made])
        self._viewer.layers.selection.active = layer
        if layer.name == _LAYER:
            red, green, blue = UNCLASSIFIED
            draw_next(layer, _REGION_CLASS, (red / 255, green / 255, blue / 255))
        draw_one(layer, "add_polygon_lasso")
        self.region.setCurrentText(DRAWN)

    def _region_layer(self) -> Shapes | None:
        """The layer that regions are drawn in, or else the selected one."""
        active = self._viewer.layers.selection.active
        if isinstance(active, Shapes):
            return active
        return next((layer for layer in self._viewer.layers if layer.name == _LAYER), None)

    def request(self) -> Request:
        """Request for what is chosen now.

        Raises
        ------
        OptionError
            If it is nothing, or no slide is open.
        """
        slide = current_slide(self._viewer)
        if slide is None:
            raise OptionError("no slide is open: open one, as the pixels themselves are read")
        if self.model.currentText() not in self._models:
            raise OptionError("the models are still being listed")
        if not self.folder.text().strip():
            raise OptionError("no folder for the results is chosen")
        return Request(
            slide=slide.slide.path,
            mpp=slide.slide.mpp if slide.slide.mpp_source == "user" else None,
            channels=seen_channels(self._viewer),
            out=Path(self.folder.text().strip()),
            model=self.model.currentText(),
            embed=self.embed.isChecked(),
            heads=self.chosen_heads,
            region=self._region(slide.place),
            corner=slide.place.corner,
        )

    def _region(self, place: Any) -> tuple[tuple[tuple[float, float], ...], ...]:
        where = self.region.currentText()
        if where == WHOLE:
            return ()
        if where == FIELD:
            left, top, right, bottom = seen_part(self._viewer, place)
            return region_of([[(left, top), (right, top), (right, bottom), (left, bottom)]])
        layer = self._region_layer()
        areas = [] if layer is None else [area for _, area in drawn_areas(layer.data, layer_meta(layer), place)]
        if not areas:
            raise OptionError("no region is drawn: press Draw, and draw around what is to be analysed")
        parts = [part for area in areas for part in getattr(area, "geoms", [area])]
        return region_of([part.exterior.coords[:-1] for part in parts])

    def _asks_anew(self, *_: Any) -> None:
        """Forget the stopped run, as something else is asked for."""
        self._anew = True
        self._show_run()

    # ---- running ----

    @property
    def run(self) -> Run | None:
        """The last run of the slide that is shown, at work or ended."""
        return None if self._slide is None else self._runs.last.get(self._slide)

    @property
    def result(self) -> Analysed | None:
        """Result of the run."""
        return None if self.run is None else self.run.result

    @property
    def _stopped(self) -> Request | None:
        """The stopped run that the button resumes."""
        if self._anew or self.run is None or self.result is None or not self.result.stopped:
            return None
        return self.run.request

    def start(self) -> None:
        """Run, or go on with what was stopped."""
        if self._runs.current is not None:
            return
        try:
            request = self._stopped or self.request()
        except WsiError as error:
            self.tell_error(error)
            return
        self._anew = False
        self._runs.start(request)

    def stop(self) -> None:
        """Stop the run of this slide; what is durable stays."""
        if self.run is not None and self.run is self._runs.current:
            self._runs.stop()

    def _show_run(self) -> None:
        run, working = self.run, self._runs.current
        mine = working is not None and working is run
        self.run_button.setEnabled(working is None)
        self.run_button.setText("Go on" if self._stopped is not None and working is None else "Run")
        self.stop_button.setEnabled(mine and working is not None and working.stopped_at is None)
        self.bar.setRange(
            0, working.progress.total if mine and working is not None else 1
        )  # 0 to 0 moves without an end
        self.bar.setValue(working.progress.done if mine and working is not None else 0)
        if run is not None and (mine or working is None):
            self.words.setText(run.words)
        elif working is not None:
            self.words.setText(f"{working.name} is being analysed, one slide at a time: {working.words}")
        else:
            self.words.setText(_WHAT_IS_MADE)


def _row(*widgets: Any) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row
