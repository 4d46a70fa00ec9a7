"""Base of the docks that learn from a few labels: label, and the whole slide is coloured at once."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
from napari.layers import Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QGridLayout, QLabel, QPushButton
from wsi_umedpt.errors import DataError, ProbeError, WsiError
from wsi_umedpt.store import PALETTE

from napari_wsi_umedpt.docks.base import Dock, Offer
from napari_wsi_umedpt.docks.class_list import ClassList
from napari_wsi_umedpt.docks.gallery import Gallery
from napari_wsi_umedpt.layers.build import Colour
from napari_wsi_umedpt.logic.autosave_place import Kept
from napari_wsi_umedpt.logic.field import current_slide, current_store, go_to_square, pictures_of
from napari_wsi_umedpt.logic.kept_labels import KeptLabels, read_kept_labels
from napari_wsi_umedpt.logic.newest import Newest
from napari_wsi_umedpt.logic.teachable import NothingToTeach, Taught, save_probe
from napari_wsi_umedpt.logic.tile_labels import write_points
from napari_wsi_umedpt.opening.opener import to_canvas
from napari_wsi_umedpt.window.labelling import MOST_CLASSES, Labelling, Session
from napari_wsi_umedpt.window.notifications import Reports, tell
from napari_wsi_umedpt.window.viewer import current_place

_START = "Open a slide first."
Buttons = tuple[tuple[str, str, Callable[[], None]], ...]
"""Text, tip, and what is done."""


class TeachingDock(Dock):
    """Teach a classifier by example; of what, is its heirs'."""

    labels_of: ClassVar[type[Labelling]]
    counted: ClassVar[tuple[str, ...]]
    """Columns of the list of classes that are counted; the first is of labels."""
    from_where: ClassVar[str]
    """Source of the features, in a word."""
    lacking: ClassVar[str]
    """Sentence where there is nothing to learn from."""
    remedy: ClassVar[str]
    """Text of the button that leads to the remedy."""
    help: ClassVar[str]
    """Instruction for labelling."""
    tips: ClassVar[tuple[str, str]]
    """Tips of the choice of the source, and of the button that labels."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.labelling = self.labels_of.of(napari_viewer)
        self.slide: Any = None
        """Tiles or cells that are taught (see `napari_wsi_umedpt.logic.teachable.Teachable`), or None."""
        self.taught: Taught | None = None
        self.seconds = 0.0
        """Duration of the last fit, from the request to the screen."""
        self._asked: Path | None = None
        self._failure = ""
        """Reason why the store that was asked for could not be read; it may hold more when layers come."""
        self._table: list[Colour] = []
        self._colours: Layer | None = None
        self._pictures: Any = None
        self._reports = Reports()
        self._teaching, self._reading = Newest(self.tell_error), Newest(self.tell_error)
        self._letting_go += [self._teaching.forget, self._reading.forget]
        self._build()
        self.labelling.changed.connect(self._labels_changed)
        self.labelling.chosen.connect(self.classes.select)
        self.labelling.working.connect(self.label_button.setChecked)
        self.label_button.setChecked(self.labelling.works)
        self._follow_layers(self._layers_changed)
        QTimer.singleShot(0, self._layers_changed)

    # ---- what heirs say ----

    @abstractmethod
    def _open(self, store: Path, choice: Any) -> Any:
        """Read what is taught, in a thread; `choice` is one of `_choices`, or None."""

    @abstractmethod
    def _choices(self, slide: Any) -> tuple[list[tuple[str, Any]], Any]:
        """List the sources that can be learned from, in words, and the one that is."""

    @abstractmethod
    def _learn(self, labels: dict[int, str]) -> Callable[[], Taught] | None:
        """Make the work that learns, in a thread; None where labels are too few."""

    @abstractmethod
    def _shown_colours(self, slide: Any) -> Layer | None:
        """The layer in which another dock of this kind showed what was learned."""

    @abstractmethod
    def _show_colours(self) -> None:
        """Show what was learned."""

    def _prepare_remedy(self, analyse: Any) -> None:
        """Choose in the dock Analyse what is lacking."""

    def _shown_options(self, taught: Taught) -> None:
        """Offer other ways of showing what was learned."""

    @abstractmethod
    def _buttons(self) -> Buttons:
        """For files, and for what is done with what was learned."""

    # ---- widgets ----

    def _build(self) -> None:
        self.features = QComboBox()
        self.features.setToolTip(self.tips[0])
        self.features.activated.connect(self._choose_features)
        self.classes = ClassList(self.labelling.names, PALETTE, MOST_CLASSES, self.counted)
        self.classes.setToolTip("Double-click on a class to rename it")
        self.classes.changed.connect(lambda: self.labelling.name_classes(self.classes.names))
        self.classes.chosen.connect(self.choose_class)
        self.label_button = QPushButton(f"Label {self.labels_of.what}")
        self.label_button.setToolTip(self.tips[1])
        self.label_button.setCheckable(True)
        self.label_button.clicked.connect(self._take_up)
        self.words = QLabel(_START)
        self.words.setWordWrap(True)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.words.setMinimumHeight(66)
        self.options = QFormLayout()
        """Ways of showing what was learned; heirs fill it."""
        self.gallery = Gallery("Least sure of these: label them next", self._go_to)
        self.offer = Offer(self._viewer, "Analyse", self.remedy, self._prepare_remedy)
        form = QFormLayout()
        form.addRow(self.from_where, self.features)
        layout = self._scrolling()
        layout.addWidget(self.offer)
        layout.addLayout(form)
        layout.addWidget(self.classes)
        layout.addWidget(self.label_button)
        layout.addWidget(self.words)
        layout.addLayout(self.options)
        layout.addWidget(self.gallery)
        grid = QGridLayout()
        for n, (text, tip, does) in enumerate(self._buttons()):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda *_, does=does: does())
            grid.addWidget(button, n // 2, n % 2)
        layout.addLayout(grid)
        layout.addStretch(1)

    # ---- the slide ----

    def _layers_changed(self, event: Any = None) -> None:
        store = current_store(self._viewer)
        if store != self._asked or store is None or self._failure:
            # Once the layers of a slide are all there, and not while others are taken away.
            QTimer.singleShot(0, self._open_store)
        elif self.slide and self._pictures is None:
            self._pictures = pictures_of(self._viewer, self.slide.place, self.slide.squares, self._reports)
            self._show_next()

    def _open_store(self, choice: Any = None) -> None:
        store = current_store(self._viewer)
        if store is not None and store == self._asked and choice is None and not self._failure:
            return
        self._forget_slide()
        known, self._failure = self._failure if store == self._asked else "", ""
        self._asked = store
        lacking = store is None and current_slide(self._viewer) is not None
        self.offer.say(self.lacking if lacking else "")
        if store is None:
            self.words.setText("" if lacking else _START)
            return
        session = self.labelling.session
        if choice is None and session is not None and session.slide.store.path == store:
            self._show_slide(session.slide)  # labelled before this dock was opened
            return
        self.labelling.end()
        self.words.setText(f"Reading the {self.from_where.lower()} of {store.name} ...")
        file = Kept(self.labelling.suffix)
        place = current_place(self._viewer)
        home = self._keeper.home(place) if place is not None and place.fingerprint else None
        writer = self._keeper.writer

        def read() -> tuple[Session, KeptLabels, list[DataError]]:
            slide = self._open(store, choice)
            writer.flush()  # what was labelled last
            kept, refused = read_kept_labels(file, home) if home is not None else (KeptLabels(), [])
            return Session(slide, home, file), kept, refused

        self._background.run(read, self._opened, lambda error: self._cannot_open(error, known))

    def _cannot_open(self, error: Exception, known: str) -> None:
        self._failure = str(error)
        self.words.setText("")
        self.offer.say(self.lacking)
        if not isinstance(error, NothingToTeach) and self._failure != known:
            self.tell_error(error)

    def _opened(self, found: tuple[Session, KeptLabels, list[DataError]]) -> None:
        session, kept, refused = found
        for error in refused:
            self.tell_error(error)
        self.labelling.begin(session, kept)
        self._show_slide(session.slide)

    def _show_slide(self, slide: Any) -> None:
        self.slide = slide
        self._pictures = pictures_of(self._viewer, slide.place, slide.squares, self._reports)
        known, chosen = self._choices(slide)
        self.features.clear()
        for text, choice in known:
            self.features.addItem(text, choice)
        self.features.setCurrentIndex([choice for _, choice in known].index(chosen))
        self._colours = self._shown_colours(slide)
        self.words.setText(self.help)
        self.classes.put(self.labelling.names)
        self.teach()

    def _choose_features(self, index: int) -> None:
        if self.slide is not None:
            self._open_store(self.features.itemData(index))

    # ---- labelling ----

    def _take_up(self, taken: bool) -> None:
        if taken:
            self.label()
        else:
            self.labelling.stop()
        self.label_button.setChecked(self.labelling.works)

    def label(self) -> None:
        """Let the user label with the chosen class."""
        if self.slide is None:
            tell(self.lacking)
            return
        self.labelling.work(self.classes.current)
        to_canvas(self._viewer)

    def choose_class(self, number: int) -> None:
        """Make what is labelled next of a class, 1 the first; 0 takes labels away."""
        if number <= len(self.classes.names):
            self.classes.select(number)
            self.labelling.choose(number)

    def _labels_changed(self) -> None:
        self.notice.put_away()
        if [*self.labelling.names] != self.classes.names:
            self.classes.put(self.labelling.names)
        self.teach()

    # ---- learning ----

    def teach(self) -> None:
        """Learn from what is labelled, beside the window."""
        slide, labels = self.slide, self.labelling.labels
        if slide is None:
            return
        began = perf_counter()
        self.classes.count(labels.values())
        learn = self._learn(labels)
        if learn is None:
            self.taught = None
            self._teaching.forget()
            self._take_away_colours()
            self.words.setText(f"{self.help}<br>Two classes are needed." if labels else self.help)
            return
        # As the classes are called now: they may have other names once this is learned.
        table = dict(zip(self.classes.names, self.classes.colours, strict=True))

        def learned(taught: Taught) -> None:
            self._table = [table.get(name, PALETTE[k % len(PALETTE)]) for k, name in enumerate(taught.probe.classes)]
            self._learned(taught, began)

        self._teaching.ask(learn, learned)

    def _learned(self, taught: Taught, began: float) -> None:
        if current_store(self._viewer) != self._asked:
            return  # the slide went in this turn of the event loop: a layer now would be all that is there
        self.taught = taught
        self.words.setText(taught.words)
        self._shown_options(taught)
        self._show_colours()
        self.seconds = perf_counter() - began
        self._show_next()

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
        words = [f"{np.nanmax(taught.chances[row]):.0%}" for row in rows]
        if pictures is None:
            self.gallery.show_tiles(rows, words, None)
        else:
            self._reading.ask(lambda: pictures.read(rows), lambda found: self.gallery.show_tiles(rows, words, found))

    def _go_to(self, row: int) -> None:
        if self.slide is not None:
            go_to_square(self._viewer, self.slide.place, self.slide.squares, row)

    # ---- files ----

    def open_labels(self, path: Path) -> None:
        """Read labels of this slide from a file, and learn from them."""
        if self.slide is None:
            tell(self.lacking)
            return
        try:
            self.labelling.label(self.slide.read_labels(path))
        except (WsiError, OSError) as error:
            self.tell_error(error)

    def save_labels(self, path: Path) -> None:
        """Save labels as points (.csv) or regions (.geojson)."""
        slide, labels, what = self.slide, self.labelling.labels, self.labelling.what
        if slide is None or not labels:
            tell(f"Label some {what} first.")
            return
        slide_id, more = slide.store.slide_id, ""
        try:
            if path.suffix.lower() == ".csv":
                others = write_points(path, slide.points_of(labels), slide_id)
                more = f", and kept {others} of other slides" if others else ""
            else:
                slide.write_regions(path, labels, dict(zip(self.classes.names, self.classes.colours, strict=True)))
        except (WsiError, OSError) as error:
            self.tell_error(error)
            return
        tell(f"Saved {len(labels)} labelled {what} to {path}{more}.")

    def save_probe(self, path: Path) -> None:
        """Save what was learned, for other slides."""
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            self._tell_nothing()
            return
        try:
            save_probe(taught, path)
        except (WsiError, OSError) as error:
            self.tell_error(error)
            return
        folder = slide.store.path.parent
        tell(f"Saved {path}. On all slides of a folder: wsi-umedpt probe predict {folder} -p {path}")

    def write_scores(self) -> None:
        """Write the probabilities of all into the store, as `probe predict` does."""
        slide, taught = self.slide, self.taught
        if slide is None or taught is None:
            self._tell_nothing()
            return
        said = f"Kept in the results as the scores {taught.probe.name!r}: {slide.store.path.name}"
        self._background.run(lambda: slide.keep_scores(taught), lambda _: tell(said))

    def _tell_nothing(self) -> None:
        self.tell_error(ProbeError(f"nothing was learned yet: label {self.labelling.what} of two classes first"))

    def _choose_labels(self) -> None:
        name, _ = QFileDialog.getOpenFileName(
            self, f"Labels of {self.labelling.what}", "",
            "Labels (*.csv *.geojson *.geojson.gz *.json *.xml *.annotations)",
        )  # fmt: skip
        if name:
            self.open_labels(Path(name))

    def _choose_labels_target(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save labels", self._proposed("labels.csv"), "Points (*.csv);;QuPath GeoJSON (*.geojson)",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )  # fmt: skip
        if name:
            self.save_labels(Path(name))

    def _choose_probe_target(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save classifier", self._proposed("probe.json"), "Probe (*.json)")
        if name:
            self.save_probe(Path(name))

    def _proposed(self, name: str) -> str:
        return name if self.slide is None else str(self.slide.store.path.parent / name)

    def _forget_slide(self) -> None:
        self._teaching.forget()
        self._reading.forget()
        self._take_away_colours()
        self.slide = self.taught = self._pictures = None
        self.features.clear()
        self.classes.count(())
