"""The dock that learns from a few labelled tiles: paint, and the whole slide is coloured at once."""

from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QGridLayout, QLabel, QPushButton
from wsi_umedpt.annotations import Point
from wsi_umedpt.errors import DataError, ProbeError, WsiError
from wsi_umedpt.objects import PALETTE

from napari_wsi_umedpt._classlist import ClassList
from napari_wsi_umedpt._dock import Dock
from napari_wsi_umedpt._fewshot import (
    Taught,
    Teachable,
    colours_of,
    features_of,
    open_teachable,
    save_probe,
    teach,
)
from napari_wsi_umedpt._gallery import Gallery
from napari_wsi_umedpt._keeping import LABELS, Home, Kept
from napari_wsi_umedpt._keptlabels import TileLabels, read_tile_labels, write_tile_labels
from napari_wsi_umedpt._layers import KEY, Colour, Shown, class_colormap
from napari_wsi_umedpt._newest import Newest
from napari_wsi_umedpt._opener import to_canvas
from napari_wsi_umedpt._stage import current_store, go_to_tile, pictures_of
from napari_wsi_umedpt._telling import Reports, tell, tell_error
from napari_wsi_umedpt._tilelabels import points_of, read_labels, tiles_at, write_points, write_regions
from napari_wsi_umedpt._viewer import current_place, same_selected

_START = "Open a slide's results (.zarr): what is learned from are the features in them."
_HELP = (
    "<b>Label tiles</b>, then click or paint tiles of the first class; press 2 and paint the second. "
    "0 takes a label away, Ctrl-Z undoes."
)
_LIKELIEST = "likeliest class (pale: unsure)"
_NOTHING = ProbeError("nothing was learned yet: label tiles of two classes first")
_MOST_CLASSES = 9
_FIRST = ("Tumor", "Other")


class FewShotDock(Dock):
    """Teach a classifier of tiles by example."""

    tab = "Few-shot"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.slide: Teachable | None = None
        self.taught: Taught | None = None
        self.seconds = 0.0
        """That the last fit took, from the request to the screen."""
        self._asked: Path | None = None
        self._file = Kept(LABELS)
        self._home: Home | None = None
        self._beside: list[Point] = []
        """Labels of places that no tile of the features at hand holds."""
        self._state: tuple[Any, tuple[str, ...]] | None = None
        """What was labelled and how classes are called, as of the last edit."""
        self._seen: Any = None
        self._table: list[Colour] = []
        self._labels: Labels | None = None
        self._colours: Layer | None = None
        self._pictures: Any = None
        self._reports = Reports()
        self._teaching, self._reading = Newest(), Newest()
        self._letting_go += [self._teaching.forget, self._reading.forget]
        self._build()
        self._looked_at = QTimer(self)
        self._looked_at.setSingleShot(True)
        self._looked_at.timeout.connect(self._painted)
        self._follow_layers(self._layers_changed)
        QTimer.singleShot(0, self._layers_changed)

    def _build(self) -> None:
        self.features = QComboBox()
        self.features.setToolTip("Which of the features in the results are learned from")
        self.features.activated.connect(self._choose_features)
        self.classes = ClassList(_FIRST, PALETTE, _MOST_CLASSES)
        self.classes.setToolTip("Double-click on a class to rename it")
        self.classes.changed.connect(self._classes_changed)
        self.classes.chosen.connect(self.choose_class)
        self.paint_button = QPushButton("Label tiles")
        self.paint_button.setToolTip("Click or paint with the brush; keys 1 to 9 choose the class, 0 takes away")
        self.paint_button.clicked.connect(lambda *_: self.paint())
        self.words = QLabel(_START)
        self.words.setWordWrap(True)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.words.setMinimumHeight(96)
        self.column = QComboBox()
        self.column.activated.connect(lambda *_: self._show_colours())
        self.gallery = Gallery("Label these next (chance of the likeliest class)", self._go_to)
        form = QFormLayout()
        form.addRow("Features", self.features)
        shown = QFormLayout()
        shown.addRow("Show", self.column)
        layout = self._scrolling()
        layout.addLayout(form)
        layout.addWidget(self.classes)
        layout.addWidget(self.paint_button)
        layout.addWidget(self.words)
        layout.addLayout(shown)
        layout.addWidget(self.gallery)
        layout.addLayout(self._file_buttons())
        layout.addStretch(1)

    def _file_buttons(self) -> QGridLayout:
        grid = QGridLayout()
        buttons = (
            ("Open labels ...", "CSV of points, or GeoJSON of regions", self._choose_labels),
            ("Save labels ...", "CSV for `probe fit`, or GeoJSON for QuPath", self._choose_labels_target),
            ("Save probe ...", "For `wsi-umedpt probe predict` on other slides", self._choose_probe_target),
            ("Into results", "Write the probabilities of all tiles into the store", self.write_scores),
        )
        for n, (text, tip, does) in enumerate(buttons):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda *_, does=does: does())
            grid.addWidget(button, n // 2, n % 2)
        return grid

    # ---- the slide ----

    def _layers_changed(self, event: Any = None) -> None:
        store = current_store(self._viewer)
        if store != self._asked:
            # Once the layers of a slide are all there, and not while others are taken away.
            QTimer.singleShot(0, self._open_store)
        elif self.slide and self._pictures is None:
            self._pictures = pictures_of(self._viewer, self.slide.place, self.slide.grid, self._reports)
            self._show_next()

    def _open_store(self, choice: tuple[str, str] | None = None) -> None:
        store = current_store(self._viewer)
        if store == self._asked and choice is None:
            return
        self._forget_slide()
        self._asked = store
        if store is None:
            self.words.setText(_START)
            return
        grid_id, encoder_id = choice or (None, None)
        self.words.setText(f"Reading the features of {store.name} ...")
        self._file = Kept(LABELS)
        place = current_place(self._viewer)
        self._home = home = self._keeper.home(place) if place is not None and place.fingerprint else None
        file, writer = self._file, self._keeper.writer

        def read() -> tuple[Teachable, TileLabels, list[DataError]]:
            slide = open_teachable(store, grid_id, encoder_id)
            writer.flush()  # what was labelled last
            return slide, *(read_tile_labels(file, home) if home is not None else (TileLabels(), []))

        self._background.run(read, self._opened, self._cannot_open)

    def _cannot_open(self, error: Exception) -> None:
        self.words.setText("This slide has nothing to learn from.")
        tell_error(error)

    def _opened(self, found: tuple[Teachable, TileLabels, list[DataError]]) -> None:
        slide, kept, refused = found
        self.slide = slide
        for error in refused:
            tell_error(error)
        self._pictures = pictures_of(self._viewer, slide.place, slide.grid, self._reports)
        known = features_of(slide.store)
        self.features.clear()
        for grid_id, encoder_id in known:
            several = len({grid for grid, _ in known}) > 1
            self.features.addItem(f"{encoder_id}, {grid_id}" if several else encoder_id, (grid_id, encoder_id))
        self.features.setCurrentIndex(known.index((slide.bag.grid_id, slide.bag.encoder_id)))
        self.words.setText(_HELP)
        labels, self._beside = tiles_at(kept.points, slide.cells)
        self.classes.put(kept.classes or _FIRST)
        self.classes.add(sorted({*labels.values()} - {*self.classes.names}))
        if labels:
            self._label_layer().data = slide.cells.painted(labels, self.classes.names)
        self._state = self._now()
        if labels:
            self._painted()

    def _choose_features(self, index: int) -> None:
        if self.slide is not None:
            self._open_store(self.features.itemData(index))

    # ---- labelling ----

    def paint(self) -> None:
        """Let the user paint tiles of the chosen class."""
        if self.slide is None:
            tell("Open a slide's results first: they hold the features that are learned from.")
            return
        layer = self._label_layer()
        self._viewer.layers.selection.active = layer
        layer.mode = "paint"
        self.choose_class(self.classes.current)
        to_canvas(self._viewer)

    def choose_class(self, number: int) -> None:
        """Make what is painted next of a class, 1 the first; 0 takes labels away."""
        if number > len(self.classes.names):
            return
        self.classes.select(number)
        if self._labels is not None and self._labels in self._viewer.layers:
            self._labels.selected_label = number
            if self._labels.mode not in ("paint", "fill", "polygon"):
                self._labels.mode = "paint"

    def label(self, labels: dict[int, str]) -> None:
        """Call tiles, rows of the grid, by names; what they were called before is forgotten."""
        if self.slide is None:
            return
        self.classes.add(sorted({*labels.values()} - {*self.classes.names}))
        layer = self._label_layer()
        layer.data = self.slide.cells.painted(labels, self.classes.names)
        self._painted()

    def _label_layer(self) -> Labels:
        if self._labels is not None and self._labels in self._viewer.layers:
            return self._labels
        assert self.slide is not None  # noqa: S101 - asked for once a slide is there
        cells, place = self.slide.cells, self.slide.place
        layer = Labels(
            np.zeros(cells.tile.shape, np.uint8), name="labelled tiles", opacity=0.7,
            colormap=class_colormap(self.classes.colours),
            metadata={KEY: Shown("annotations", place, name="labelled tiles")}, **place.meta(cells.step, cells.origin),
        )  # fmt: skip
        layer.brush_size = 1
        self._viewer.add_layer(layer)
        for number in range(_MOST_CLASSES + 1):
            layer.bind_key(str(number), lambda _, to=number: self.choose_class(to), overwrite=True)
        self._seen = layer.data.copy()
        # A shown layer tells of strokes by `paint`, before it has them where they are no mouse's; of an undo by
        # `set_data`, as a hidden one does of all.
        for event in (layer.events.paint, layer.events.set_data, layer.events.data):
            event.connect(lambda _: self._looked_at.start())
        self._labels = layer
        return layer

    def _painted(self) -> None:
        layer, slide = self._labels, self.slide
        if layer is None or slide is None or np.array_equal(layer.data, self._seen):
            return
        beside = (slide.cells.tile < 0) & (layer.data > 0)
        self._seen = np.where(beside, 0, layer.data).astype(np.uint8)
        if beside.any():
            layer.data[beside] = 0
            layer.refresh()
        self._edited()
        self.teach()

    def _current(self) -> dict[int, str]:
        if self._labels is None or self.slide is None:
            return {}
        return self.slide.cells.labels(self._labels.data, self.classes.names)

    # ---- keeping ----

    def _now(self) -> tuple[Any, tuple[str, ...]]:
        assert self.slide is not None  # noqa: S101 - asked for once a slide is there
        cells = self.slide.cells.tile.shape
        painted = np.zeros(cells, np.uint8) if self._labels is None else np.array(self._labels.data, np.uint8)
        return painted, tuple(self.classes.names)

    def _edited(self) -> None:
        """Keep what was labelled, or how classes are called, as an edit that can be undone."""
        slide, before = self.slide, self._state
        if slide is None or before is None:
            return
        now = self._now()
        if np.array_equal(now[0], before[0]) and now[1] == before[1]:
            return
        self._state = now
        put = self._put_back
        self._keeper.did(slide.place, "labelling of tiles", partial(put, slide, before), partial(put, slide, now))
        self._keep()

    def _put_back(self, slide: Teachable, state: tuple[Any, tuple[str, ...]]) -> None:
        if self.slide is not slide:
            return  # its labels are of other features
        painted, names = state
        self.classes.put(names)
        layer = self._label_layer()
        layer.colormap = class_colormap(self.classes.colours)
        layer.data = painted.copy()
        self._seen, self._state = painted.copy(), state
        self._keep()
        self.teach()

    def _keep(self) -> None:
        slide, file, home = self.slide, self._file, self._home
        if slide is None or home is None:
            return
        points = (*points_of(self._current(), slide.grid, slide.store.slide_id), *self._beside)
        labels = TileLabels(tuple(self.classes.names), points)
        write = partial(write_tile_labels, file, home, labels)
        self._keeper.keep(("labels", home.place.fingerprint), f"labels of tiles of {home.name}", write)

    def _classes_changed(self) -> None:
        self._edited()
        if self._labels is not None and self._labels in self._viewer.layers:
            self._labels.colormap = class_colormap(self.classes.colours)
            self.teach()

    # ---- learning ----

    def teach(self) -> None:
        """Learn from what is labelled, beside the window."""
        slide, labels = self.slide, self._current()
        if slide is None:
            return
        began = perf_counter()
        self.classes.count(labels.values())
        if len({*labels.values()}) < 2:
            self.taught = None
            self._teaching.forget()
            self._take_away_colours()
            self.words.setText(f"{_HELP}<br>Two classes are needed." if labels else _HELP)
            return
        # As the classes are called now: they may have other names once this is learned.
        table = dict(zip(self.classes.names, self.classes.colours, strict=True))

        def learned(taught: Taught) -> None:
            self._table = [table[name] for name in taught.probe.classes]
            self._learned(taught, began)

        self._teaching.ask(lambda: teach(slide, labels), learned)

    def _learned(self, taught: Taught, began: float) -> None:
        if current_store(self._viewer) != self._asked:
            return  # the slide went in this turn of the event loop: a layer now would be all that is there
        self.taught = taught
        self.words.setText(taught.words)
        shown, classes = self.column.currentText(), list(taught.probe.classes)
        self.column.clear()
        self.column.addItems([_LIKELIEST, *(f"probability of {name}" for name in classes)])
        self.column.setCurrentIndex(max(0, self.column.findText(shown)))
        self._show_colours()
        self.seconds = perf_counter() - began
        self._show_next()

    def _show_colours(self) -> None:
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            return
        only = self.column.currentIndex() - 1
        data = colours_of(taught, slide.cells, self._table, only if only >= 0 else None)
        if self._colours is not None and self._colours in self._viewer.layers:
            self._colours.data = data
            return
        shown = Shown("features", slide.place, slide.store.path, "few-shot", tiles=slide.tiles)
        meta = slide.place.meta(slide.cells.step, slide.cells.origin)
        self._colours = Image(data, name="few-shot", rgb=True, opacity=0.45, metadata={KEY: shown}, **meta)
        with same_selected(self._viewer):
            self._viewer.add_layer(self._colours)
            if self._labels is not None and self._labels in self._viewer.layers:
                layers = self._viewer.layers
                layers.move(layers.index(self._labels), len(layers))

    def _take_away_colours(self) -> None:
        if self._colours is not None and self._colours in self._viewer.layers:
            self._viewer.layers.remove(self._colours)
        self._colours = None
        self.gallery.show_tiles([], [], None)

    def _show_next(self) -> None:
        taught, pictures = self.taught, self._pictures
        if taught is None:
            return
        rows = taught.next
        words = [f"{np.nanmax(taught.chances[row]):.2f}" for row in rows]
        if pictures is None:
            self.gallery.show_tiles(rows, words, None)
        else:
            self._reading.ask(lambda: pictures.read(rows), lambda found: self.gallery.show_tiles(rows, words, found))

    def _go_to(self, row: int) -> None:
        if self.slide is not None:
            go_to_tile(self._viewer, self.slide.place, self.slide.grid, row)

    # ---- files ----

    def open_labels(self, path: Path) -> None:
        """Read labels of this slide from a file, and learn from them."""
        slide = self.slide
        if slide is None:
            tell("Open a slide's results first.")
            return
        try:
            self.label(read_labels(path, slide.cells, slide.store.slide_id, slide.place.corner))
        except (WsiError, OSError) as error:
            tell_error(error)

    def save_labels(self, path: Path) -> None:
        """Save labels as points (.csv) or regions (.geojson)."""
        slide, labels = self.slide, self._current()
        if slide is None or not labels:
            tell("Label some tiles first.")
            return
        slide_id, more = slide.store.slide_id, ""
        try:
            if path.suffix.lower() == ".csv":
                others = write_points(path, points_of(labels, slide.grid, slide_id), slide_id)
                more = f", and kept {others} of other slides" if others else ""
            else:
                colours = dict(zip(self.classes.names, self.classes.colours, strict=True))
                write_regions(path, labels, slide.cells, colours, slide.place.corner)
        except (WsiError, OSError) as error:
            tell_error(error)
            return
        tell(f"Saved {len(labels)} labelled tiles to {path}{more}.")

    def save_probe(self, path: Path) -> None:
        """Save what was learned, for other slides."""
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            tell_error(_NOTHING)
            return
        try:
            save_probe(taught, path)
        except (WsiError, OSError) as error:
            tell_error(error)
            return
        folder = slide.store.path.parent
        tell(f"Saved {path}. On all slides of a folder: wsi-umedpt probe predict {folder} -p {path}")

    def write_scores(self) -> None:
        """Write the probabilities of all tiles into the store, as `probe predict` does."""
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            tell_error(_NOTHING)
            return

        def work() -> None:
            from wsi_umedpt.probe import score_store

            score_store(slide.store, taught.probe, slide.bag.encoder_id, slide.bag.grid_id)

        self._background.run(work, lambda _: tell(f"Wrote scores {taught.probe.name!r} into {slide.store.path.name}."))

    def _choose_labels(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, "Labels of tiles", "", "Labels (*.csv *.geojson *.geojson.gz *.json *.xml *.annotations)"
        )
        if name:
            self.open_labels(Path(name))

    def _choose_labels_target(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save labels", self._proposed(".csv"), "Points (*.csv);;QuPath GeoJSON (*.geojson)",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )  # fmt: skip
        if name:
            self.save_labels(Path(name))

    def _choose_probe_target(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save probe", "probe.json", "Probe (*.json)")
        if name:
            self.save_probe(Path(name))

    def _proposed(self, suffix: str) -> str:
        return f"labels{suffix}" if self.slide is None else str(self.slide.store.path.parent / f"labels{suffix}")

    def _forget_slide(self) -> None:
        self._painted()  # what was labelled last
        self._teaching.forget()
        self._reading.forget()
        self._take_away_colours()
        if self._labels is not None and self._labels in self._viewer.layers:
            self._viewer.layers.remove(self._labels)
        self.slide = self.taught = self._pictures = self._labels = self._seen = self._state = None
        self.features.clear()
        self.classes.count(())
