"""The dock that shows tiles, or slides, as points: those that look alike lie together, and are labelled together."""

import threading
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QProgressBar, QPushButton
from wsi_umedpt.errors import WsiError
from wsi_umedpt.plotting import PointColours

from napari_wsi_umedpt.docks.base import Offer
from napari_wsi_umedpt.docks.going import GoingDock
from napari_wsi_umedpt.docks.map_canvas import MapCanvas
from napari_wsi_umedpt.logic.autosave_place import LABELS, Kept
from napari_wsi_umedpt.logic.feature_map import (
    BY_LABEL,
    BY_SLIDE,
    SCOPES,
    ShownMap,
    colours_by_labels,
    colours_by_scores,
    colours_by_slide,
    make_map,
    outlines,
    score_columns,
)
from napari_wsi_umedpt.logic.few_shot import TeachableTiles, open_teachable
from napari_wsi_umedpt.logic.field import current_slide, current_store, mark_chosen
from napari_wsi_umedpt.logic.kept_labels import KeptLabels, read_kept_labels
from napari_wsi_umedpt.logic.newest import Newest
from napari_wsi_umedpt.window.labelling import Session
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.tile_labelling import TileLabelling
from napari_wsi_umedpt.window.viewer import current_place

if TYPE_CHECKING:
    from wsi_umedpt.mil import MapProgress, MapSettings

_HELP = (
    "A point is a tile; those that look alike lie together. Click on one to go there, or draw a line around some to "
    "label them."
)
_LACKING = "There is nothing to compare yet: the features of this slide must be computed."
_MAKE, _STOP = "Make the map", "Stop"
_PCA, _UMAP = "principal components", "UMAP"
_NO_UMAP = "UMAP needs a package: pip install 'wsi-umedpt[map]'"
_MOST = (5_000, 20_000, 100_000)
_POLL_MS = 150
_Opened = tuple[TeachableTiles, KeptLabels]


class _Making:
    """A map that is being made: how far it is, and a way to stop it; a thread writes what the window reads."""

    def __init__(self) -> None:
        self.doing, self.share = "", 0.0
        self.stop = threading.Event()

    def told(self, doing: str, share: float) -> None:
        """Keep how far it is."""
        self.doing, self.share = doing, share


class MapDock(GoingDock):
    """Tiles as points."""

    tab = "Map"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.shown: ShownMap | None = None
        self.chosen = np.zeros(0, np.int64)
        """Points that a line was drawn around."""
        self._making: _Making | None = None
        self._labelling = TileLabelling.of(napari_viewer)
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._tell_progress)
        self._colouring = Newest(self.tell_error)
        self._letting_go += [self._stop, self._colouring.forget]
        self._build()
        self._labelling.changed.connect(self._labels_changed)
        self._follow_layers(self._layers_changed)
        self._layers_changed()

    def _build(self) -> None:
        self.scope, self.method, self.most, self.colour = (QComboBox() for _ in range(4))
        self.scope.addItems(SCOPES)
        self.method.addItems([_UMAP, _PCA])
        self.method.setToolTip("UMAP keeps neighbours together; principal components take a second")
        for many in _MOST:
            self.most.addItem(f"{many:,} tiles at most", many)
        self.most.setCurrentIndex(1)
        self.most.setToolTip("Of more, a random sample is drawn, always the same")
        if not _has_umap():
            self.method.model().item(0).setEnabled(False)
            self.method.setItemText(0, f"{_UMAP} (not installed)")
            self.method.setCurrentIndex(1)
            self.method.setToolTip(_NO_UMAP)
        self.colour.activated.connect(lambda *_: self._recolour())
        self.button = QPushButton(_MAKE)
        self.button.clicked.connect(lambda *_: self._stop() if self._making else self.make())
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.hide()
        self.words, self.legend = QLabel(_HELP), QLabel()
        for label in (self.words, self.legend):
            label.setWordWrap(True)
        self.canvas = MapCanvas()
        self.canvas.clicked.connect(self._clicked)
        self.canvas.selected.connect(self.choose)
        self.offer = Offer(self._viewer, "Analyse", "Compute features ...")
        self.name = QComboBox()
        self.name.setEditable(True)
        self.name.addItems(self._labelling.names)
        self.label_button = QPushButton("Label selected")
        self.label_button.setToolTip("Give the tiles within the line this class, for the few-shot classifier")
        self.label_button.clicked.connect(lambda *_: self.label(self.name.currentText().strip()))
        form, row, making = QFormLayout(), QHBoxLayout(), QHBoxLayout()
        form.addRow("Points", self.scope)
        making.addWidget(self.method, 1)
        making.addWidget(self.most, 1)
        form.addRow("Layout", making)
        form.addRow("Colour", self.colour)
        row.addWidget(self.name, 1)
        row.addWidget(self.label_button)
        # The points uppermost, where they are seen on a small screen too.
        layout = self._scrolling()
        layout.addWidget(self.offer)
        layout.addWidget(self.canvas, 1)
        layout.addWidget(self.words)
        layout.addWidget(self.legend)
        layout.addLayout(form)
        make = QHBoxLayout()
        make.addWidget(self.button)
        make.addWidget(self.bar, 1)
        self.canvas.hide()
        self.pinned.setContentsMargins(8, 0, 8, 6)
        self.pinned.addLayout(make)
        self.pinned.addLayout(row)

    # ---- making ----

    def make(self) -> None:
        """Make the map that is asked for, beside the window."""
        store, place, scope = current_store(self._viewer), current_place(self._viewer), self.scope.currentIndex()
        if store is None or place is None:
            tell(_LACKING)
            return
        others = self.case_stores() if scope else []
        if scope and not others:
            tell("There is no case list: open a folder of slides in the dock Case list first.")
            return
        making = self._making = _Making()
        method, most = self.method.currentIndex(), int(self.most.currentData())
        keeper, begun = self._keeper, self._labelling.session is not None
        home = keeper.home(place) if place.fingerprint else None

        def work() -> tuple[ShownMap, list[tuple[str, str]], _Opened | None]:
            settings, watch = _asked(method, most, making)
            shown = make_map(store, others, settings, watch, of_slides=scope == 2)
            grid_id = next(shown.grid_ids[one] for one, path in shown.stores.items() if path == store)
            if begun or shown.made.of_slides:
                return shown, score_columns(store, grid_id), None
            teachable = open_teachable(store, grid_id, shown.encoder_id)
            keeper.writer.flush()
            kept = read_kept_labels(Kept(LABELS), home)[0] if home is not None else KeptLabels()
            return shown, score_columns(store, grid_id), (teachable, kept)

        def made(found: tuple[ShownMap, list[tuple[str, str]], _Opened | None]) -> None:
            shown, scores, opened = found
            if opened is not None and self._labelling.session is None and current_store(self._viewer) == store:
                self._labelling.begin(Session(opened[0], home, Kept(LABELS)), opened[1])
            self._show(shown, scores)

        self.button.setText(_STOP)
        self.bar.show()
        self.words.setText(_HELP)
        self._timer.start()
        self._background.run(work, lambda found: self._ended(making, partial(made, found)),
                             lambda error: self._ended(making, partial(self._cannot, making, error)))  # fmt: skip

    def _ended(self, making: _Making, then: Callable[[], None]) -> None:
        if self._making is making:
            self._making = None
            self._timer.stop()
            self.bar.hide()
            self.button.setText(_MAKE)
            then()

    def _cannot(self, making: _Making, error: Exception) -> None:
        if making.stop.is_set():
            self.words.setText("Stopped.")
        else:
            self.tell_error(error)

    def _stop(self) -> None:
        if self._making is not None:
            self._making.stop.set()

    def _tell_progress(self) -> None:
        if (making := self._making) is not None:
            self.bar.setValue(round(1000 * making.share))
            self.bar.setFormat(making.doing)

    def _show(self, shown: ShownMap, scores: list[tuple[str, str]]) -> None:
        self.shown, self.chosen = shown, np.zeros(0, np.int64)
        before = self.colour.currentText()
        self.colour.clear()
        self.colour.addItem(BY_SLIDE, None)
        if not shown.made.of_slides:
            self.colour.addItem(BY_LABEL, None)
            for name, column in scores:
                self.colour.addItem(f"{name}: {column}", (name, column))
        at = self.colour.findText(before)
        self.colour.setCurrentIndex(at if at >= 0 else int(len(shown.stores) == 1 and not shown.made.of_slides))
        self.label_button.setEnabled(not shown.made.of_slides)
        self.words.setText(shown.words)
        grey = np.full((len(shown.made), 3), 150, np.uint8)
        self.canvas.show_points(shown.made.places, grey)
        self.canvas.show()
        self._recolour()
        self._mark()

    # ---- colours ----

    def _recolour(self) -> None:
        shown, chosen = self.shown, self.colour.currentText()
        if shown is None:
            return
        if (scores := self.colour.currentData()) is not None:
            self._colouring.ask(lambda: colours_by_scores(shown, *scores), self._colour)
        elif chosen == BY_LABEL:
            labelling = self._labelling
            store = None if labelling.session is None else labelling.session.slide.store.path
            self._colour(colours_by_labels(shown, store, labelling.labels, labelling.names))
        else:
            self._colour(colours_by_slide(shown))

    def _colour(self, colours: PointColours) -> None:
        if self.shown is None or len(colours.rgb) != len(self.shown.made):
            return  # of a map that was shown before
        self.canvas.recolour(colours.rgb)
        swatch = '<span style="color: rgb{}">\u25cf</span> {}'
        title, entries = colours.legend
        self.legend.setText(
            f"{escape(title)}: " + " &nbsp; ".join(swatch.format(tuple(rgb), escape(text)) for rgb, text in entries)
        )

    def _labels_changed(self) -> None:
        known = [self.name.itemText(n) for n in range(self.name.count())]
        self.name.addItems([name for name in self._labelling.names if name not in known])
        if self.colour.currentText() == BY_LABEL:
            self._recolour()

    # ---- points ----

    def _clicked(self, point: int) -> None:
        if self.shown is not None:
            self.go_to(self.shown.store_of(point), self.shown.square(point))

    def choose(self, points: Any) -> None:
        """Choose points; their tiles are outlined on the slide that is shown."""
        if self.shown is None:
            return
        self.chosen = points
        self.canvas.select(points)
        self._mark()
        if not len(points):
            self.words.setText(self.shown.words)
            return
        slides = [self.shown.made.slide_ids[n] for n in np.unique(self.shown.made.slide[points])]
        if self.shown.made.of_slides:
            more = f" and {len(slides) - 8} more" if len(slides) > 8 else ""
            self.words.setText(f"Selected: {', '.join(slides[:8])}{more}")
        else:
            many = f" of {len(slides)} slides" if len(slides) > 1 else ""
            self.words.setText(f"Selected: {len(points):,} tiles{many}.")

    def _mark(self) -> None:
        store, place, shown = current_store(self._viewer), current_place(self._viewer), self.shown
        if place is None:
            return
        rings = [] if shown is None or store is None else outlines(shown, self.chosen, store)
        mark_chosen(self._viewer, place, rings)

    def label(self, name: str) -> None:
        """Give all tiles that are chosen a class; labels of other slides are there when they are opened."""
        if self.shown is None or not len(self.chosen) or not name:
            tell("Draw a line around some points of the map first." if name else "Name the class first.")
            return
        try:
            self._labelling.label_everywhere(self.shown.tiles(self.chosen), name)
        except WsiError as error:
            self.tell_error(error)
            return
        tell(f"Labelled {len(self.chosen):,} tiles as {name}: the dock Few-shot classifier learns from them.")

    def _layers_changed(self, event: Any = None) -> None:
        store = current_store(self._viewer)
        self.offer.say(_LACKING if store is None and current_slide(self._viewer) is not None else "")
        if self.shown is not None and store != getattr(self, "_marked", store):
            QTimer.singleShot(0, self._mark)  # once the layers of the slide are all there
        self._marked: Path | None = store


def _has_umap() -> bool:
    from wsi_umedpt.mil import has_umap

    return has_umap()


def _asked(method: int, most: int, making: _Making) -> "tuple[MapSettings, MapProgress]":
    from wsi_umedpt.mil import MapProgress, MapSettings

    settings = MapSettings(method="pca" if method else "umap", most=most)
    return settings, MapProgress(told=making.told, stopped=making.stop.is_set)
