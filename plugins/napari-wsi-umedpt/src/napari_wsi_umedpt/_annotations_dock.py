"""The dock for regions that people draw: a class for each, to and from files."""

from pathlib import Path
from typing import Any

from napari.layers import Shapes
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QPushButton, QVBoxLayout
from wsi_umedpt.annotationfiles.annotation import Origin
from wsi_umedpt.errors import AnnotationError, WsiError
from wsi_umedpt.objects import PALETTE

from napari_wsi_umedpt._annotations import annotations_of, layer_annotations, shapes_layer, write_annotations
from napari_wsi_umedpt._dock import Dock
from napari_wsi_umedpt._layers import Place, shown_by
from napari_wsi_umedpt._telling import tell, tell_error
from napari_wsi_umedpt._viewer import add_layers, camera, current_place

_FILTER = "QuPath GeoJSON (*.geojson *.geojson.gz)"
_READ = "Annotations (*.geojson *.geojson.gz *.json *.xml *.annotations)"
"""Of QuPath, ASAP, ImageScope and HALO."""
_CLASSES = ("Tumor", "Stroma", "Necrosis", "Immune cells", "Ignore*")
"""QuPath's own first classes, so that they mean the same there."""


class AnnotationsDock(Dock):
    """Draw regions, give them classes, exchange them with QuPath."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.classes = QComboBox()
        self.classes.setEditable(True)
        self.classes.addItems(list(_CLASSES))
        self.classes.setToolTip("Of what is drawn next; type to add one")
        self.classes.currentTextChanged.connect(self._next_class)
        self.bounds = QCheckBox("Files count from the slide's bounds, as QuPath does")
        self.bounds.setChecked(True)
        self.bounds.setToolTip(
            "Some scanners state which part of a slide they scanned (MRXS, SCN), and QuPath shows that part alone.\n"
            "Off: positions in files count from the corner of the whole slide, as with QuPath's option --no-crop."
        )
        layout = QVBoxLayout(self)
        form = QFormLayout()
        form.addRow("Class", self.classes)
        layout.addLayout(form)
        for text, does in (
            ("New layer to draw in", self.new_layer),
            ("Give this class to what is selected", self.classify),
            ("Open annotations ...", self._choose_file),
            ("Save layer as GeoJSON ...", self._choose_target),
        ):
            button = QPushButton(text)
            button.clicked.connect(does)
            layout.addWidget(button)
        layout.addWidget(self.bounds)
        layout.addStretch(1)

    def _origin(self) -> Origin | None:
        return None if self.bounds.isChecked() else "level-0"

    def _colour(self) -> tuple[float, ...]:
        index = self.classes.findText(self.classes.currentText())
        if index < 0:  # being typed: it will be the last
            index = self.classes.count()
        return tuple(part / 255 for part in PALETTE[index % len(PALETTE)])

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

    def _next_class(self, name: str | None = None) -> None:
        """Make what is drawn next of the chosen class."""
        active = self._viewer.layers.selection.active
        if isinstance(active, Shapes) and "class" in active.features and not active.selected_data:
            active.feature_defaults["class"] = self.classes.currentText()
            active.current_edge_color = [*self._colour(), 1.0]
            active.current_face_color = [*self._colour(), 0.15]

    def classify(self) -> None:
        """Give the chosen class to the selected shapes."""
        layer, name = self._layer(), self.classes.currentText().strip()
        if layer is None:
            return
        rows = sorted(layer.selected_data)
        if not rows:
            tell("Select shapes first.")
            return
        features = layer.features.copy()
        features["class"] = [name if n in rows else old for n, old in enumerate(_names(features, len(layer.data)))]
        layer.features = features
        edges, faces = layer.edge_color, layer.face_color
        edges[rows], faces[rows] = [*self._colour(), 1.0], [*self._colour(), 0.15]
        layer.edge_color, layer.face_color = edges, faces

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


def _names(features: Any, count: int) -> list[Any]:
    return list(features["class"]) if "class" in features else [""] * count
