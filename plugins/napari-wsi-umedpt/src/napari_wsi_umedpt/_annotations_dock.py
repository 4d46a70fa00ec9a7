"""The dock for regions that people draw: a class for each, to and from files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.layers import Shapes
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
)
from wsi_umedpt.annotationfiles.annotation import Origin
from wsi_umedpt.errors import AnnotationError, WsiError
from wsi_umedpt.objects import PALETTE

from napari_wsi_umedpt._annotations import annotations_of, layer_annotations, shapes_layer, write_annotations
from napari_wsi_umedpt._dock import Dock
from napari_wsi_umedpt._drawn import PASSING, Rgb, classify, colour_of, draw_next
from napari_wsi_umedpt._layers import Colour, Place, shown_by
from napari_wsi_umedpt._opener import to_canvas
from napari_wsi_umedpt._telling import tell, tell_error
from napari_wsi_umedpt._viewer import add_layers, camera, current_place

_FILTER = "QuPath GeoJSON (*.geojson *.geojson.gz)"
_READ = "Annotations (*.geojson *.geojson.gz *.json *.xml *.annotations)"
"""Of QuPath, ASAP, ImageScope and HALO."""
_CLASSES = ("Tumor", "Stroma", "Necrosis", "Immune cells", "Ignore*")
"""QuPath's own first classes, so that they mean the same there."""
UNCLASSIFIED: Colour = (255, 255, 0)
_SWATCH_PX = 14


class AnnotationsDock(Dock):
    """Draw regions, give them classes, exchange them with QuPath."""

    tab = "Draw"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.classes = QComboBox()
        self.classes.setEditable(True)
        self.classes.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.classes.setToolTip("Of what is drawn next, and of shapes that are selected; type to add one")
        self.classes.lineEdit().setPlaceholderText("no class")
        for name in _CLASSES:
            self._add_class(name)
        self.classes.textActivated.connect(self.choose_class)
        self.classes.lineEdit().editingFinished.connect(self._typed)
        self.words = QLabel()
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # names may be long
        self.words.setTextFormat(Qt.TextFormat.PlainText)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.bounds = QCheckBox("Files count from the slide's bounds, as QuPath does")
        self.bounds.setChecked(True)
        self.bounds.setToolTip(
            "Some scanners state which part of a slide they scanned (MRXS, SCN), and QuPath shows that part alone.\n"
            "Off: positions in files count from the corner of the whole slide, as with QuPath's option --no-crop."
        )
        layout = self._scrolling()
        form = QFormLayout()
        form.addRow("Class", self.classes)
        layout.addLayout(form)
        undo_row = QHBoxLayout()
        self.draw_button = _button("New layer to draw in", self.new_layer, layout)
        _button("Undo", self._keeper.undo, undo_row).setToolTip("Ctrl-Z")
        _button("Redo", self._keeper.redo, undo_row).setToolTip("Ctrl-Shift-Z")
        layout.addLayout(undo_row)
        _button("Open annotations ...", self._choose_file, layout)
        _button("Save layer as GeoJSON ...", self._choose_target, layout)
        layout.addWidget(self.bounds)
        layout.addWidget(self.words)
        layout.addStretch(1)
        self._chosen = self.classes.currentText()
        self._follow(self._next_class, napari_viewer.layers.selection.events.active)
        self._keeper.changed.connect(self._tell_where)
        self._tell_where()

    def _origin(self) -> Origin | None:
        return None if self.bounds.isChecked() else "level-0"

    # ---- classes ----

    def choose_class(self, name: str) -> None:
        """Make what is drawn next of a class, and what is selected too."""
        name = name.strip()
        self._chosen = name
        if name and self.classes.findText(name, Qt.MatchFlag.MatchExactly) < 0:
            self._add_class(name)
        self.classes.setCurrentText(name)
        active = self._active()
        if active is not None and active.selected_data:
            classify(active, active.selected_data, name, self._colour(active))
        self._next_class()

    def _typed(self) -> None:
        if self.classes.currentText().strip() != self._chosen:
            self.choose_class(self.classes.currentText())

    def _add_class(self, name: str) -> None:
        self.classes.addItem(_swatch(PALETTE[self.classes.count() % len(PALETTE)]), name)

    def _colour(self, layer: Shapes) -> Rgb:
        """Of the chosen class: that which it has in a layer already, or its own."""
        if not self._chosen:
            red, green, blue = UNCLASSIFIED
        elif (known := colour_of(layer, self._chosen)) is not None:
            return known
        else:
            red, green, blue = PALETTE[self.classes.findText(self._chosen) % len(PALETTE)]
        return red / 255, green / 255, blue / 255

    def _next_class(self, event: Any = None) -> None:
        """Make what is drawn next in the layer that is selected of the chosen class."""
        if (active := self._active()) is not None:
            draw_next(active, self._chosen, self._colour(active))

    def _active(self) -> Shapes | None:
        """The layer that is selected, if annotations are drawn in it."""
        active = self._viewer.layers.selection.active
        ours = isinstance(active, Shapes) and "class" in active.features and not active.metadata.get(PASSING)
        return active if ours else None

    # ---- layers ----

    def _place_of(self, layer: Shapes) -> Place | None:
        """Of the slide that a layer was drawn on, which need not be the one that is looked at."""
        shown = shown_by(layer)
        return shown.place if shown is not None else current_place(self._viewer)

    def _layer(self) -> Shapes | None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Shapes):
            return active
        tell("Select a layer of shapes first.")
        return None

    def new_layer(self) -> None:
        """Add an empty layer over the slide, ready to draw polygons."""
        place = current_place(self._viewer)
        if place is None:
            tell("Open a slide first: annotations need to know its scale.")
            return
        (layer,) = add_layers(self._viewer, [shapes_layer([], place, zoom=camera(self._viewer).zoom)])
        self._next_class()
        layer.mode = "add_polygon"
        to_canvas(self._viewer)

    def _tell_where(self, *_: Any) -> None:
        trouble, where = self._keeper.trouble, self._keeper.where
        if trouble:
            self.words.setText(f"NOT SAVED, save it yourself:\n{trouble}")
        elif where:
            self.words.setText(f"Saved by itself in\n{Path(where).name}")
        else:
            self.words.setText("What is drawn is saved by itself.\n")
        self.words.setToolTip(trouble or where)

    # ---- files ----

    def open(self, path: Path) -> None:
        """Show a file of annotations over the slide."""
        place = current_place(self._viewer)
        try:
            if place is None:
                raise AnnotationError(f"{path.name} holds positions in pixels of a slide. Open its slide first.")
            add_layers(self._viewer, annotations_of(path, place, origin=self._origin(), tell=tell))
        except (WsiError, OSError) as error:
            tell_error(error)

    def save(self, path: Path) -> None:
        """Write the selected layer for QuPath."""
        layer = self._layer()
        if layer is None or (place := self._place_of(layer)) is None:
            return
        try:
            found = layer_annotations(layer.data, layer_meta(layer), place)
            write_annotations(path, found, place.corner if self.bounds.isChecked() else (0, 0))
        except (WsiError, OSError) as error:
            tell_error(error)
            return
        tell(f"Saved {len(found)} annotations to {path}. In QuPath, drag the file onto the slide.")

    def _choose_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open annotations", "", _READ)
        if name:
            self.open(Path(name))

    def _choose_target(self) -> None:
        active = self._viewer.layers.selection.active
        place = self._place_of(active) if isinstance(active, Shapes) else None
        name = f"{place.slide_id if place else 'annotations'}.geojson"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save annotations", name, _FILTER)
        if chosen:
            self.save(Path(chosen))


def layer_meta(layer: Shapes) -> dict[str, Any]:
    """What `layer_annotations` needs to know of a layer."""
    names = ("shape_type", "features", "scale", "translate", "edge_color")
    return {name: getattr(layer, name) for name in names}


def _button(text: str, does: Callable[[], Any], layout: Any) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda *_: does())
    layout.addWidget(button)
    return button


def _swatch(colour: Colour) -> QIcon:
    pixels = QPixmap(_SWATCH_PX, _SWATCH_PX)
    pixels.fill(QColor(*colour))
    return QIcon(pixels)
