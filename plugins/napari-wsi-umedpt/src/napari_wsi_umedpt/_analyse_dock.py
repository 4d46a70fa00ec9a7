"""The dock that analyses the slide, or a region of it: embeds tiles and looks for objects, beside the window."""

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from napari.layers import Layer, Shapes
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
    QVBoxLayout,
)
from wsi_umedpt.errors import OptionError, WsiError

from napari_wsi_umedpt._analysed import Status, layers_of, same_thing, shown_of
from napari_wsi_umedpt._analysis import (
    Analysed,
    ModelChoice,
    Request,
    Watch,
    analyse,
    models,
    own_model,
    region_of,
)
from napari_wsi_umedpt._annotations import shapes_layer
from napari_wsi_umedpt._annotations_dock import layer_meta
from napari_wsi_umedpt._background import Background
from napari_wsi_umedpt._dock import Dock
from napari_wsi_umedpt._layers import LayerTuple
from napari_wsi_umedpt._navigation import frame_of
from napari_wsi_umedpt._opening import RESULTS
from napari_wsi_umedpt._regions import drawn_areas
from napari_wsi_umedpt._stage import current_slide, current_store
from napari_wsi_umedpt._telling import tell, tell_error
from napari_wsi_umedpt._viewer import add_layers, camera, canvas_size, ours, same_selected

WHOLE, FIELD, DRAWN = "whole slide", "visible field", "drawn regions"
_OWN = "own model ..."
_LAYER = "regions to analyse"
_POLL_MS = 150
_DRAWN_MS = 500
_NAME = Qt.ItemDataRole.UserRole


class AnalyseDock(Dock):
    """Run encoders and heads on the slide that is open."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.result: Analysed | None = None
        self._models: dict[str, ModelChoice] = {}
        self._watch: Watch | None = None
        self._request: Request | None = None
        self._stopped: Request | None = None
        self._shown = 0
        self._status: tuple[Status, Layer] | None = None
        self._running, self._drawing = Background(), Background()
        self._letting_go += [self._running.forget, self._drawing.forget, self._stop_quietly]
        self._build()
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)
        self._follow_layers(self._propose_folder)
        self._propose_folder()
        # Once the dock is drawn: while the system loads torch, it lets nobody load what is first drawn.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(lambda: self._background.run(models, self._list))
        self._later.start(_DRAWN_MS)

    def _build(self) -> None:
        self.model = QComboBox()
        self.model.addItem("listing models ...")
        self.model.setEnabled(False)
        self.model.activated.connect(self._choose_model)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.about.setTextFormat(Qt.TextFormat.PlainText)
        self.embed = QCheckBox("Embed tiles")
        self.embed.setToolTip("What slide classifiers and few-shot learning need")
        self.embed.setChecked(True)
        self.heads = QListWidget()
        self.heads.setFixedHeight(150)
        self.heads.setWordWrap(True)
        self.heads.setSpacing(1)
        self.heads.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.region = QComboBox()
        self.region.addItems([WHOLE, FIELD, DRAWN])
        draw = QPushButton("Draw ...")
        draw.setToolTip("Draw around what is to be analysed; several regions may be drawn")
        draw.clicked.connect(lambda *_: self.draw())
        self.folder = QLineEdit()
        choose = QPushButton("...")
        choose.setMaximumWidth(36)
        choose.clicked.connect(lambda *_: self._choose_folder())
        form = QFormLayout()
        form.addRow("Model", self.model)
        form.addRow("", self.about)
        form.addRow("Look for", self.heads)
        form.addRow("", self.embed)
        form.addRow("Where", _row(self.region, draw))
        form.addRow("Results in", _row(self.folder, choose))
        self.run_button, self.stop_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.clicked.connect(lambda *_: self.start())
        self.stop_button.clicked.connect(lambda *_: self.stop())
        self.stop_button.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1)
        self.bar.setTextVisible(False)
        self.words = QLabel("What is computed goes into a store (.zarr), as the command line makes it.")
        self.words.setWordWrap(True)
        self.words.setMinimumHeight(54)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(_row(self.run_button, self.stop_button))
        layout.addWidget(self.bar)
        layout.addWidget(self.words)
        layout.addStretch(1)
        self.setMinimumWidth(340)
        for changed in (
            self.model.currentTextChanged, self.heads.itemChanged, self.embed.toggled,
            self.region.currentTextChanged, self.folder.textEdited,
        ):  # fmt: skip
            changed.connect(self._asks_anew)

    # ---- what is asked ----

    def _list(self, found: list[ModelChoice]) -> None:
        self._models = {choice.name: choice for choice in found}
        self.model.clear()
        self.model.addItems([*self._models, _OWN])
        self.model.setEnabled(True)
        self._show_model()

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
        self.about.setText(choice.about)
        for name, words in choice.heads.items():
            item = QListWidgetItem(f"{words} ({name})")
            item.setToolTip(f"<p>{escape(item.text())}</p>")  # of a file that somebody sent
            item.setData(_NAME, name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Unchecked)
            self.heads.addItem(item)
        if not choice.heads:
            self.heads.addItem("nothing: this model has no heads")
            self.heads.item(0).setFlags(Qt.ItemFlag.NoItemFlags)

    @property
    def chosen_heads(self) -> tuple[str, ...]:
        """Names of the heads that are ticked."""
        items = [self.heads.item(n) for n in range(self.heads.count())]
        return tuple(str(item.data(_NAME)) for item in items if item.checkState() == Qt.CheckState.Checked)

    def _propose_folder(self, event: Any = None) -> None:
        if self.folder.text() or self._watch is not None:
            return
        store, slide = current_store(self._viewer), current_slide(self._viewer)
        if store is not None:
            self.folder.setText(str(store.parent))
        elif slide is not None:
            self.folder.setText(str(slide.slide.path.parent / RESULTS))

    def _choose_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "A folder for results", self.folder.text())
        if name:
            self.folder.setText(name)
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
        layer.mode = "add_polygon_lasso"
        self.region.setCurrentText(DRAWN)

    def _region_layer(self) -> Shapes | None:
        """The layer that regions are drawn in, or else the selected one."""
        active = self._viewer.layers.selection.active
        if isinstance(active, Shapes):
            return active
        return next((layer for layer in self._viewer.layers if layer.name == _LAYER), None)

    def request(self) -> Request:
        """What is asked for now.

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
            seen = camera(self._viewer)
            frame = frame_of(tuple(seen.center[-2:]), seen.zoom, canvas_size(self._viewer), place)
            left, top = max(frame.x, 0), max(frame.y, 0)
            right, bottom = min(frame.x + frame.width, place.size[0]), min(frame.y + frame.height, place.size[1])
            if left >= right or top >= bottom:
                raise OptionError("nothing of the slide is in view")
            return region_of([[(left, top), (right, top), (right, bottom), (left, bottom)]])
        layer = self._region_layer()
        areas = [] if layer is None else [area for _, area in drawn_areas(layer.data, layer_meta(layer), place)]
        if not areas:
            raise OptionError("no region is drawn: press Draw, and draw around what is to be analysed")
        parts = [part for area in areas for part in getattr(area, "geoms", [area])]
        return region_of([part.exterior.coords[:-1] for part in parts])

    def _asks_anew(self, *_: Any) -> None:
        """Something else is asked for: what was stopped is not gone on with by the button."""
        if self._watch is None:
            self._stopped = None
            self.run_button.setText("Run")

    # ---- running ----

    def start(self) -> None:
        """Run, or go on with what was stopped."""
        if self._watch is not None:
            return
        try:
            request = self._stopped or self.request()
        except WsiError as error:
            tell_error(error)
            return
        watch = self._watch = Watch()
        self._request, self.result, self._shown = request, None, 0
        self.run_button.setEnabled(False)
        self.stop_button.setEnabled(True)
        self._timer.start()
        self._running.run(partial(analyse, request, watch), self._ended, self._failed)

    def stop(self) -> None:
        """Stop after the batch that is worked on; what is durable stays."""
        if self._watch is not None:
            self._watch.stop()
            self.stop_button.setEnabled(False)
            self._poll()

    def _stop_quietly(self) -> None:
        if self._watch is not None:
            self._watch.stop()

    def _poll(self) -> None:
        watch = self._watch
        if watch is None:
            return
        self.words.setText(watch.words)
        self.bar.setRange(0, watch.total)  # 0 to 0 moves without an end
        self.bar.setValue(watch.done)
        self._show_status(watch)
        self._show_made(watch)

    def _ended(self, result: Analysed) -> None:
        watch = self._end()
        self.result = result
        self.words.setText(result.words)
        if result.stopped:
            self._stopped = self._request
            self.run_button.setText("Go on")
            return
        self._stopped = None
        self.run_button.setText("Run")
        if watch is not None:
            self._show_made(watch)

    def _failed(self, error: Exception) -> None:
        self._end()
        self.words.setText("It could not be done; what was whole before still is.")
        tell_error(error)

    def _end(self) -> Watch | None:
        self._timer.stop()
        watch, self._watch = self._watch, None
        self.run_button.setEnabled(True)
        self.stop_button.setEnabled(False)
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        if self._status is not None and self._status[1] in self._viewer.layers:
            self._viewer.layers.remove(self._status[1])
        self._status = None
        return watch

    # ---- what is seen ----

    def _show_status(self, watch: Watch) -> None:
        slide = current_slide(self._viewer)
        grid, done = watch.grid, watch.done
        if slide is None or grid is None or self._request is None or slide.slide.path != self._request.slide:
            return
        if self._status is not None and self._status[0].grid is grid:
            status, layer = self._status
            if layer in self._viewer.layers:
                layer.data = status.picture(done)
            return
        if self._status is not None and self._status[1] in self._viewer.layers:
            self._viewer.layers.remove(self._status[1])
        status = Status(grid, slide.place)
        with same_selected(self._viewer):
            (layer,) = add_layers(self._viewer, [status.layer(done)])
        self._status = status, layer

    def _show_made(self, watch: Watch) -> None:
        """Show what entered the store since the last look."""
        request = self._request
        if request is None or self._shown >= len(watch.made):
            return
        fresh = watch.made[self._shown :]
        self._shown = len(watch.made)

        def read() -> list[LayerTuple]:
            return [layer for one in fresh for layer in layers_of(one, request)]

        # One after the other: of work that is asked for later the results would replace these.
        reader = Background()
        self._letting_go.append(reader.forget)
        reader.run(read, partial(self._add, request.slide))

    def _add(self, slide_path: Path, layers: list[LayerTuple]) -> None:
        slide = current_slide(self._viewer)
        if slide is None or slide.slide.path != slide_path:
            tell(f"{slide_path.name} was analysed; open its results to look at them.")
            return
        fresh = {(shown.kind, shown.store, shown.name): layer for layer in layers if (shown := shown_of(layer))}
        for layer, shown in list(ours(self._viewer)):
            if any(same_thing(shown, shown_of(one)) for one in fresh.values()):
                self._viewer.layers.remove(layer)

        def add() -> None:
            with same_selected(self._viewer):
                add_layers(self._viewer, fresh.values())

        # Layers that come in the same turn of the event loop in which others went have crashed OpenGL.
        QTimer.singleShot(0, add)


def _row(*widgets: Any) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row
