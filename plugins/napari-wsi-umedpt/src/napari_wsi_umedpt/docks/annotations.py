"""The dock for regions that people draw: a class for each, to and from files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
)
from wsi_umedpt.annotations import Origin
from wsi_umedpt.errors import AnnotationError, WsiError
from wsi_umedpt.messages import counted
from wsi_umedpt.store import PALETTE

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.docks.class_list import swatch
from napari_wsi_umedpt.docks.correcting import CorrectPanel
from napari_wsi_umedpt.layers.build import Colour, Place, shown_by
from napari_wsi_umedpt.layers.shapes import PASSING, Rgb, classify, colour_of, draw_next, layer_meta
from napari_wsi_umedpt.logic.annotations import annotations_of, layer_annotations, shapes_layer, write_annotations
from napari_wsi_umedpt.opening.opener import to_canvas
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.regions import last_drawn_in
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place

_FILTER = "QuPath GeoJSON (*.geojson *.geojson.gz)"
_READ = "Annotations (*.geojson *.geojson.gz *.json *.xml *.annotations)"
"""Suffixes of files of QuPath, ASAP, ImageScope and HALO."""
_CLASSES = ("Tumor", "Stroma", "Necrosis", "Immune cells", "Ignore*")
"""QuPath's own first classes, so that they mean the same there."""
_TOOLS = (
    ("Move", "pan_zoom", "Move the slide; the space bar does so while it is held"),
    ("Select", "select", "Click on a shape to select it, drag to move it"),
    ("Polygon", "add_polygon", "Click corner after corner; a double click ends it, Escape gives it up"),
    ("Freehand", "add_polygon_lasso", "Draw around it with the button held"),
    ("Rectangle", "add_rectangle", "Drag from corner to corner"),
    ("Ellipse", "add_ellipse", "Drag from corner to corner of the box around it"),
    ("Reshape", "direct", "Click on a shape, then drag its corners"),
)
"""Words, napari's modes, and what each does."""
_TOOLS_ACROSS = 3
_NAME_PX = 300
_NO_CLASS = "no class"
UNCLASSIFIED: Colour = (255, 255, 0)


class AnnotationsDock(Dock):
    """Draw regions, give them classes, exchange them with QuPath."""

    tab = "Draw"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._drawn_in: Shapes | None = None
        """Layer whose tool is shown."""
        self.tools = {mode: _tool(text, tip) for text, mode, tip in _TOOLS}
        self.classes = QComboBox()
        self.classes.setToolTip("Of what is drawn next, and of shapes that are selected")
        for name in _CLASSES:
            self._add_class(name)
        self.classes.addItem(swatch(UNCLASSIFIED), _NO_CLASS)
        self.classes.textActivated.connect(self.choose_class)
        self.entry = QLineEdit()
        self.entry.setPlaceholderText("another class")
        self.entry.returnPressed.connect(self._add_typed)
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)  # names may be long
        self.words.setTextFormat(Qt.TextFormat.PlainText)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.bounds = QCheckBox("Positions in files as QuPath has them")
        self.bounds.setChecked(True)
        self.bounds.setToolTip(
            "Some scanners state which part of a slide they scanned (MRXS, SCN), and QuPath shows that part alone.\n"
            "Off: positions in files count from the corner of the whole slide, as with QuPath's option --no-crop."
        )
        layout = self._scrolling()
        layout.addLayout(self._tool_buttons())
        form = QFormLayout()
        form.addRow("Class", self.classes)
        layout.addLayout(form)
        class_row, undo_row, file_row = QHBoxLayout(), QHBoxLayout(), QHBoxLayout()
        class_row.addWidget(self.entry)
        _button("Add", self._add_typed, class_row)
        layout.addLayout(class_row)
        _button("Undo", self._keeper.undo, undo_row).setToolTip("Ctrl-Z")
        _button("Redo", self._keeper.redo, undo_row).setToolTip("Ctrl-Shift-Z")
        _button("Delete", self.delete, undo_row).setToolTip("What is selected; the key Delete does the same")
        layout.addLayout(undo_row)
        self.draw_button = _button("New layer", self.new_layer, file_row)
        self.draw_button.setToolTip("An empty layer to draw in, apart from what is drawn already")
        _button("Open ...", self._choose_file, file_row).setToolTip("Annotations of QuPath, ASAP, ImageScope or HALO")
        _button("Save ...", self._choose_target, file_row).setToolTip("The selected layer, for QuPath (GeoJSON)")
        layout.addLayout(file_row)
        layout.addWidget(self.bounds)
        layout.addWidget(self.words)
        self.correcting = CorrectPanel(napari_viewer, self)
        self.correcting.hide()
        self.correct_button = QPushButton("Correct and learn")
        self.correct_button.setCheckable(True)
        self.correct_button.setToolTip("Nuclei that you put right teach the head that found them")
        self.correct_button.toggled.connect(self.correcting.setVisible)
        layout.addWidget(self.correct_button)
        layout.addWidget(self.correcting)
        layout.addStretch(1)
        self._chosen = self.classes.currentText()
        self._follow(self._layer_chosen, napari_viewer.layers.selection.events.active)
        self._letting_go.append(partial(self._follow_tool_of, None))
        self._keeper.changed.connect(self._tell_where)
        self._layer_chosen()

    def _tool_buttons(self) -> QGridLayout:
        grid = QGridLayout()
        for n, (mode, button) in enumerate(self.tools.items()):
            button.clicked.connect(lambda *_, mode=mode: self.take_tool(mode))
            grid.addWidget(button, n // _TOOLS_ACROSS, n % _TOOLS_ACROSS)
        return grid

    def _origin(self) -> Origin | None:
        return None if self.bounds.isChecked() else "level-0"

    # ---- classes ----

    def choose_class(self, name: str) -> None:
        """Make what is drawn next of a class, and what is selected too."""
        name = "" if name == _NO_CLASS else name.strip()
        self._chosen = name
        if name and self.classes.findText(name, Qt.MatchFlag.MatchExactly) < 0:
            self._add_class(name)
        self.classes.setCurrentText(name or _NO_CLASS)
        active = self._active()
        if active is not None and active.selected_data:
            classify(active, active.selected_data, name, self._colour(active))
        self._next_class()

    def _add_typed(self) -> None:
        if name := self.entry.text().strip():
            self.entry.clear()
            self.choose_class(name)

    def _add_class(self, name: str) -> None:
        self.classes.addItem(swatch(PALETTE[self.classes.count() % len(PALETTE)]), name)

    def _colour(self, layer: Shapes) -> Rgb:
        """Colour of the chosen class: that which it has in a layer already, or its own."""
        if not self._chosen:
            red, green, blue = UNCLASSIFIED
        elif (known := colour_of(layer, self._chosen)) is not None:
            return known
        else:
            red, green, blue = PALETTE[self.classes.findText(self._chosen) % len(PALETTE)]
        return red / 255, green / 255, blue / 255

    def _next_class(self) -> None:
        """Make what is drawn next in the layer that is selected of the chosen class."""
        if (active := self._active()) is not None:
            draw_next(active, self._chosen, self._colour(active))

    def _active(self) -> Shapes | None:
        """The layer that is selected, if annotations are drawn in it."""
        active = self._viewer.layers.selection.active
        ours = isinstance(active, Shapes) and "class" in active.features and not active.metadata.get(PASSING)
        return active if ours else None

    # ---- tools ----

    def take_tool(self, mode: str) -> None:
        """Draw, select or move from now on, in the layer that is selected or else the last one of annotations."""
        layer = self._active() or last_drawn_in(self._viewer)
        if layer is None:
            layer = self.new_layer()
        if layer is not None:
            self._viewer.layers.selection.active = layer
            layer.mode = mode
            to_canvas(self._viewer)
        self._show_tool()

    def delete(self) -> None:
        """Remove the shapes that are selected."""
        if (active := self._active()) is not None:
            active.remove_selected()

    def _layer_chosen(self, event: Any = None) -> None:
        active = self._active()
        self._tell_where()
        self._follow_tool_of(active)
        self._next_class()
        self._show_tool()

    def _follow_tool_of(self, layer: Shapes | None) -> None:
        if self._drawn_in is not None:
            self._drawn_in.events.mode.disconnect(self._show_tool)
        self._drawn_in = layer
        if layer is not None:
            layer.events.mode.connect(self._show_tool)

    def _show_tool(self, event: Any = None) -> None:
        """Press the button of the tool that is at hand."""
        mode = "pan_zoom" if self._drawn_in is None else str(self._drawn_in.mode)
        for name, button in self.tools.items():
            button.setChecked(name == mode)

    # ---- layers ----

    def _place_of(self, layer: Shapes) -> Place | None:
        """Place of the slide that a layer was drawn on, which need not be the one that is looked at."""
        shown = shown_by(layer)
        return shown.place if shown is not None else current_place(self._viewer)

    def _layer(self) -> Shapes | None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Shapes):
            return active
        tell("Select a layer of shapes first.")
        return None

    def new_layer(self) -> Shapes | None:
        """Add an empty layer over the slide, ready to draw polygons; None where no slide is open."""
        place = current_place(self._viewer)
        if place is None:
            tell("Open a slide first: annotations need to know its scale.")
            return None
        (layer,) = add_layers(self._viewer, [shapes_layer([], place, zoom=camera(self._viewer).zoom)])
        self._next_class()
        layer.mode = "add_polygon"
        to_canvas(self._viewer)
        return layer

    def _tell_where(self, *_: Any) -> None:
        place = current_place(self._viewer)
        self.bounds.setVisible(place is not None and place.corner != (0, 0))  # else both are the same
        trouble, where = self._keeper.trouble, self._keeper.where
        if trouble:
            self.words.setText(f"NOT SAVED, save it yourself:\n{trouble}")
        elif where:
            self.words.setText(f"Saved as you draw, in\n{self._place_of_file(Path(where))}")
        else:
            self.words.setText("Regions are saved as you draw them.\n")
        self.words.setToolTip(trouble or where)

    def _place_of_file(self, path: Path) -> str:
        """A file's name, where it is called like its slide, as far as there is room for it."""
        place = current_place(self._viewer)
        if place is None or not path.name.startswith(self._keeper.home(place).name):
            return "your data folder"
        return str(self.words.fontMetrics().elidedText(path.name, Qt.TextElideMode.ElideMiddle, _NAME_PX))

    # ---- files ----

    def open(self, path: Path) -> None:
        """Show a file of annotations over the slide."""
        place = current_place(self._viewer)
        try:
            if place is None:
                raise AnnotationError(f"{path.name} holds positions in pixels of a slide. Open its slide first.")
            add_layers(self._viewer, annotations_of(path, place, origin=self._origin(), tell=tell))
        except (WsiError, OSError) as error:
            self.tell_error(error)

    def save(self, path: Path) -> None:
        """Write the selected layer for QuPath."""
        layer = self._layer()
        if layer is None or (place := self._place_of(layer)) is None:
            return
        try:
            found = layer_annotations(layer.data, layer_meta(layer), place)
            write_annotations(path, found, place.corner if self.bounds.isChecked() else (0, 0))
        except (WsiError, OSError) as error:
            self.tell_error(error)
            return
        tell(
            f"Saved {counted(len(found), 'annotation')}: {path.name}. In QuPath, drag the file onto the slide. ({path})"
        )

    def _choose_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open annotations", "", _READ)
        if name:
            self.open(Path(name))

    def _choose_target(self) -> None:
        active = self._viewer.layers.selection.active
        place = self._place_of(active) if isinstance(active, Shapes) else None
        proposed = "annotations.geojson" if place is None else str(self._keeper.home(place).beside("geojson"))
        chosen, _ = QFileDialog.getSaveFileName(self, "Save annotations", proposed, _FILTER)
        if chosen:
            self.save(Path(chosen))


def _button(text: str, does: Callable[[], Any], layout: Any) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda *_: does())
    layout.addWidget(button)
    return button


def _tool(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setCheckable(True)
    button.setToolTip(tip)
    button.setMinimumWidth(1)
    return button
