"""The dock of slide classifiers: a prediction, what it rests on, and what it would be without a region."""

from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.layers import Layer, Shapes
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
)

from napari_wsi_umedpt.docks.base import Dock, Offer
from napari_wsi_umedpt.docks.gallery import Gallery
from napari_wsi_umedpt.layers.live_heatmap import HeatmapState, TileRasterizer, add_state, heatmap_state, show_state
from napari_wsi_umedpt.layers.shapes import NOT_YET, PASSING, draw_next, draw_one, layer_meta
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.logic.classifier import ATTENTION, SlideClassifier, extremes, open_classifier
from napari_wsi_umedpt.logic.field import current_slide, current_store, go_to_square, pictures_of
from napari_wsi_umedpt.logic.newest import Newest
from napari_wsi_umedpt.logic.regions import ALONE, COLOURS, LEFT_OUT, chosen_tiles, drawn_areas
from napari_wsi_umedpt.logic.verdict import verdict
from napari_wsi_umedpt.window.notifications import Reports, tell
from napari_wsi_umedpt.window.viewer import add_layers, camera, same_selected

if TYPE_CHECKING:
    from wsi_umedpt.mil import Judgement

    from napari_wsi_umedpt.logic.tile_pictures import TilePictures

_TILES = 8
"""Number of tiles in each gallery."""
_INVITATION = "Choose a slide classifier: a model.json that <i>wsi-umedpt mil train</i> made."
_NO_FEATURES = "{} has no results open. A classifier needs its features, computed for the whole slide."
_DRAWN_MS = 20
"""Milliseconds in which the window draws what is new."""
_COLOURS = {
    True: "Bright tiles are those that the model looked at most, by rank.",
    False: "Green tiles speak for <b>{}</b>, pink ones against it.",
}


def _state(column: str, values: npt.NDArray[np.float32], rasterizer: TileRasterizer) -> HeatmapState:
    return heatmap_state(values, rasterizer, "percentile" if column == ATTENTION else "signed")


class ClassifierDock(Dock):
    """Judge the slide, or a part of it."""

    tab = "Classify"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.classifier: SlideClassifier | None = None
        self.judgement: Judgement | None = None
        self.seconds = 0.0
        """Seconds that the last judgement took, from the request to the screen."""
        self._path: Path | None = None
        self._asked: Path | None = None
        self._whole: Judgement | None = None
        self._regions: Shapes | None = None
        self._heats: dict[str, Layer] = {}
        self._states: dict[str, HeatmapState] = {}
        self._pictures: TilePictures | None = None
        self._rasterizer: TileRasterizer | None = None
        self._networks = (0, 0)
        self._reports = Reports()
        self._judging, self._reading = Newest(self._cannot_judge), Newest(self.tell_error)
        self._letting_go += [self._judging.forget, self._reading.forget]
        self._build()
        self._timer = QTimer(self)
        self._timer.setInterval(100)
        self._timer.timeout.connect(self._tell_progress)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_DRAWN_MS)
        self._rest.timeout.connect(self._show_rest)
        self._follow_layers(self._layers_changed)

    def _build(self) -> None:
        choose = QPushButton("Choose model ...")
        choose.clicked.connect(self._choose)
        self.words = QLabel(_INVITATION)
        self.words.setWordWrap(True)
        self.words.setTextFormat(Qt.TextFormat.RichText)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.details = QLabel()
        self.details.setWordWrap(True)
        self.details.setTextFormat(Qt.TextFormat.RichText)
        self.details.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.details.hide()
        self.details_button = QPushButton("Details")
        self.details_button.setToolTip("Probabilities, how much networks differ, what sets and intervals promise")
        self.details_button.setCheckable(True)
        self.details_button.toggled.connect(self.details.setVisible)
        self.column = QComboBox()
        self.column.setToolTip("What is drawn over the slide, and what the tiles below are ranked by")
        self.column.currentTextChanged.connect(self._show_column)
        self.colours = QLabel()
        self.colours.setWordWrap(True)
        self.top = Gallery("", self._go_to)
        self.bottom = Gallery("", self._go_to)
        self.offer = Offer(self._viewer, "Analyse", "Compute features ...")
        layout = self._scrolling()
        layout.addWidget(choose)
        layout.addWidget(self.offer)
        layout.addWidget(self.words)
        layout.addWidget(self.details_button)
        layout.addWidget(self.details)
        layout.addLayout(self._region_buttons())
        form = QFormLayout()
        form.addRow("Show", self.column)
        layout.addLayout(form)
        layout.addWidget(self.colours)
        layout.addWidget(self.top)
        layout.addWidget(self.bottom)
        layout.addStretch(1)

    def _region_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        for text, tip, does in (
            ("Leave out ...", "Draw around pen or a fold: the prediction follows", partial(self.draw, LEFT_OUT)),
            ("Only this ...", "Draw around what alone is to be judged", partial(self.draw, ALONE)),
            ("Whole slide", "Forget the regions", self.forget_regions),
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda *_, does=does: does())
            row.addWidget(button)
        return row

    # ---- the model ----

    def open(self, path: Path) -> None:
        """Judge the slide that is looked at by a model, and every slide that is opened from now on."""
        self._path, self._asked = path, None
        self._load()

    def _choose(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "A slide classifier", "", "Slide classifier (model.json *.json)")
        if name:
            self.open(Path(name))

    def _load(self) -> None:
        store, path = current_store(self._viewer), self._path
        if path is None or (store is not None and store == self._asked):
            return
        self._forget_slide()
        self._asked = store
        if store is None:
            slide = current_slide(self._viewer)
            self.offer.say(_NO_FEATURES.format(slide.place.slide_id) if slide else "")
            self.words.setText("" if slide else "No slide is open.")
            return
        self.offer.say("")
        self._networks = (0, 0)
        self.words.setText(f"Reading {path.name} and the features of {store.name} ...")
        self._timer.start()
        self._background.run(lambda: open_classifier(path, store, self._progress), self._opened, self._cannot_open)

    def _progress(self, done: int, total: int) -> None:
        self._networks = done, total  # from a thread: the timer shows it

    def _tell_progress(self) -> None:
        if not self._background.busy:
            self._timer.stop()
        elif (total := self._networks[1]) and self._asked:
            self.words.setText(f"Network {self._networks[0]} of {total} looks at {self._asked.name} ...")

    def _cannot_open(self, error: Exception) -> None:
        self.words.setText(f"{self._path.name if self._path else 'The model'} cannot judge this slide.")
        self.tell_error(error)

    def _opened(self, classifier: SlideClassifier) -> None:
        if classifier.store != current_store(self._viewer):
            self._asked = None
            self._load()  # another slide was opened meanwhile
            return
        self.classifier = classifier
        self._pictures = pictures_of(self._viewer, classifier.place, classifier.tiles.grid, self._reports)
        self._rasterizer = TileRasterizer(classifier.tiles)
        self.column.blockSignals(True)
        self.column.clear()
        self.column.addItems([ATTENTION, *(f"contribution to {name}" for name in classifier.columns[1:])])
        self.column.setCurrentIndex(len(classifier.columns) - 1 if len(classifier.columns) == 2 else 1)
        self.column.blockSignals(False)
        self.judge()

    # ---- judging ----

    def judge(self, event: Any = None) -> None:
        """Judge what the regions leave, beside the window; the newest request is what is shown."""
        classifier = self.classifier
        if classifier is None or self._rasterizer is None or getattr(event, "action", None) in NOT_YET:
            return
        began = perf_counter()
        drawn = [] if self._regions is None else drawn_areas(
            self._regions.data, layer_meta(self._regions), classifier.place
        )  # fmt: skip
        columns, rasterizer = [ATTENTION, self._contribution()], self._rasterizer

        def work() -> tuple["Judgement", dict[str, HeatmapState]]:
            chosen = chosen_tiles(drawn, classifier.xy, classifier.tiles.grid.side) if drawn else None
            found = classifier.judge(chosen)
            return found, {name: _state(name, classifier.values(found, chosen, name), rasterizer) for name in columns}

        self._judging.ask(work, lambda result: self._judged(result[0], result[1], began))

    def _judged(self, found: "Judgement", states: dict[str, HeatmapState], began: float) -> None:
        classifier = self.classifier
        if classifier is None or current_store(self._viewer) != classifier.store:
            return  # the slide went, perhaps in this very turn of the event loop
        self.judgement, self._states = found, states
        if found.tiles == len(classifier.index):
            self._whole = found
        said = verdict(classifier.model, found, self._whole or found, len(classifier.index))
        self.words.setText(said.plain)
        self.details.setText(said.details)
        first = not self._heats
        self._show_heat(self._column())
        self.seconds = perf_counter() - began
        if first:
            self._rest.start()  # new layers take napari a while: one at a time
        else:
            self._show_rest()  # before the window is drawn, which is then done once

    def _cannot_judge(self, error: Exception) -> None:
        self.words.setText("<h3>No prediction</h3>")
        self.details.setText("")
        self.judgement = None
        if self.classifier is not None and self._rasterizer is not None and self._heats:
            unknown = np.full(len(self.classifier.tiles.grid), np.nan, np.float32)
            self._states = {name: _state(name, unknown, self._rasterizer) for name in (ATTENTION, self._contribution())}
            self._show_heat(self._column())
            self._show_rest()
        self.tell_error(error)

    def _contribution(self) -> str:
        """The output whose contributions are drawn: the chosen one, or the first."""
        if self.classifier is None:
            return ATTENTION
        return self.classifier.columns[max(1, int(self.column.currentIndex()))]

    def _column(self) -> str:
        return ATTENTION if self.column.currentIndex() <= 0 else self._contribution()

    # ---- what is seen ----

    def _show_column(self, text: str) -> None:
        if self.classifier is None:
            return
        shown = self._column() == ATTENTION
        for name, layer in self._heats.items():
            layer.visible = (name == ATTENTION) is shown
        if self._contribution() in self._states:
            self._show_heat(self._column())  # it may not have been its turn yet
            self._show_galleries()
        else:
            self.judge()

    def _show_rest(self) -> None:
        """The heatmap that is hidden, and the tiles."""
        for column in [*self._states]:
            if column != self._column():
                self._show_heat(column)
        self._show_galleries()

    def _show_heat(self, column: str) -> None:
        classifier, state = self.classifier, self._states.get(column)
        if classifier is None or state is None:
            return
        kind = ATTENTION if column == ATTENTION else "contribution"
        layer = self._heats.get(kind)
        name = f"{classifier.name}: {column}"
        if layer is not None and layer in self._viewer.layers:
            layer.name = name
            show_state(layer, state)
            return
        visible = (column == ATTENTION) is (self._column() == ATTENTION)
        with same_selected(self._viewer):
            self._heats[kind] = add_state(
                self._viewer, state, classifier.tiles, classifier.place, name, store=classifier.store, visible=visible
            )
        self._keep_regions_on_top()

    def _show_galleries(self) -> None:
        classifier, column = self.classifier, self._column()
        if classifier is None or (state := self._states.get(column)) is None:
            return
        attended = column == ATTENTION
        what = classifier.speaks_for(column)
        self.colours.setText(_COLOURS[attended].format(what))
        self.top.title.setText("Looked at most" if attended else f"Speak most for <b>{what}</b>")
        self.bottom.title.setText("Looked at least" if attended else f"Speak most against <b>{what}</b>")
        top, bottom = extremes(state.values, _TILES)
        words = [f"{state.values[row]:.2g}" for row in (*top, *bottom)]
        for gallery, rows, some in ((self.top, top, words[: len(top)]), (self.bottom, bottom, words[len(top) :])):
            if gallery.rows != rows:
                gallery.show_tiles(rows, some, None)
        if (pictures := self._pictures) is None:
            self.colours.setText(f"{self.colours.text()} The slide itself is not open: its tiles cannot be shown.")
            return

        def show(found: list[Any]) -> None:
            self.top.show_tiles(top, words[: len(top)], found[: len(top)])
            self.bottom.show_tiles(bottom, words[len(top) :], found[len(top) :])

        self._reading.ask(lambda: pictures.read([*top, *bottom]), show)

    def _go_to(self, row: int) -> None:
        if self.classifier is not None:
            go_to_square(self._viewer, self.classifier.place, self.classifier.tiles.grid, row)

    # ---- regions ----

    def draw(self, kind: str) -> None:
        """Let the user draw a region that is left out, or judged alone."""
        if self.classifier is None:
            tell("Choose a model first.")
            return
        if self._regions is None or self._regions not in self._viewer.layers:
            made = shapes_layer([], self.classifier.place, "regions judged", camera(self._viewer).zoom)
            made[1]["metadata"][PASSING] = True
            (self._regions,) = add_layers(self._viewer, [made])
            self._regions.events.data.connect(self.judge)
        layer = self._regions
        self._viewer.layers.selection.active = layer
        layer.selected_data = set()
        red, green, blue = COLOURS[kind]
        draw_next(layer, kind, (red / 255, green / 255, blue / 255))
        draw_one(layer, "add_polygon_lasso")

    def forget_regions(self) -> None:
        """Judge the whole slide again."""
        if self._regions is not None and self._regions in self._viewer.layers:
            self._viewer.layers.remove(self._regions)
        self._regions = None
        self.judge()

    def _keep_regions_on_top(self) -> None:
        if self._regions is not None and self._regions in self._viewer.layers:
            layers = self._viewer.layers
            layers.move(layers.index(self._regions), len(layers))

    # ---- another slide ----

    def _layers_changed(self, event: Any = None) -> None:
        if self._path is None:
            return
        if self._regions is not None and self._regions not in self._viewer.layers:
            self._regions = None
            self.judge()
        if self._asked is None or current_store(self._viewer) != self._asked:
            # Once the layers of a slide are all there, and not while others are taken away.
            QTimer.singleShot(0, self._load)
        elif self.classifier and self._pictures is None and current_slide(self._viewer) is not None:
            self._pictures = pictures_of(self._viewer, self.classifier.place, self.classifier.tiles.grid, self._reports)
            self._show_galleries()

    def _forget_slide(self) -> None:
        self._judging.forget()
        self._reading.forget()
        self.classifier = self.judgement = self._whole = self._pictures = None
        for layer in (*self._heats.values(), self._regions):
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._regions = None
        self._heats, self._states = {}, {}
        self.details.setText("")
        for gallery in (self.top, self.bottom):
            gallery.show_tiles([], [], None)
            gallery.title.setText("")
        self.colours.setText("")
