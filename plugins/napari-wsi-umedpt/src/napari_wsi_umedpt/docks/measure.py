"""The dock that measures and counts: rulers, regions live, hotspots, all of it to a table."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QTableWidgetItem,
)
from wsi_umedpt.annotations import Annotation as Region
from wsi_umedpt.segmentation import HOTSPOT_MM2, Hotspot, RegionCounts, find_hotspots

from napari_wsi_umedpt.docks.base import Dock
from napari_wsi_umedpt.docks.case_report import seen_case
from napari_wsi_umedpt.docks.region_table import region_table
from napari_wsi_umedpt.layers.build import Place, Shown, shown_by
from napari_wsi_umedpt.layers.measures import (
    HOTSPOT,
    HOTSPOT_COLOUR,
    RULER,
    hotspot_layer,
    hotspot_words,
    ruler_layer,
    tell_lengths,
)
from napari_wsi_umedpt.layers.shapes import PASSING, is_being_drawn, layer_meta
from napari_wsi_umedpt.logic.measuring import Counted, RegionTable, details, layer_regions, row_words, save_tables
from napari_wsi_umedpt.logic.newest import Newest
from napari_wsi_umedpt.logic.snapshot import save_report
from napari_wsi_umedpt.opening.opener import to_canvas
from napari_wsi_umedpt.window.notifications import tell
from napari_wsi_umedpt.window.regions import add_circle, passing_layer
from napari_wsi_umedpt.window.viewer import (
    add_layers,
    camera,
    canvas_size,
    current_place,
    look_at,
    ours,
    same_selected,
)

_LIVE_MS = 60
"""Between two counts while the hand moves."""
_POLYGONS = ("add_polygon", "add_polygon_lasso")
_ROW_PX, _MOST_ROWS = 24, 6
_NO_CLASS = "none"
_SEEN = 0.6
"""Share of the canvas's height that a hotspot which is gone to takes."""
_TABLES, _PAGES = "Tables (*.csv *.parquet)", "Pages (*.html)"
_NO_RESULTS = "A report is of results. Look for nuclei with the dock Analyse first, or open the results of this slide."
_INVITATION = "Draw regions with the dock Draw: their size, and what lies in them, is shown here while you draw."
_NO_SLIDE = "Open a slide first: lengths need to know its scale."
_NO_OBJECTS = "No objects are shown to find hotspots of. Look for nuclei with the dock Analyse first."


class MeasureDock(Dock):
    """Rulers, counts in regions, hotspots."""

    tab = "Measure"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.regions: list[Region] = []
        """Those of the slide that is shown, in the order of the table."""
        self.counts: list[RegionCounts] = []
        self.hotspot: Hotspot | None = None
        self._table, self._counting = RegionTable(), Newest(self.tell_error)
        self.ruler = QPushButton("Ruler")
        self.ruler.setCheckable(True)
        self.ruler.setToolTip("Drag along what is to be measured; rulers are not saved")
        self.ruler.clicked.connect(self.take_ruler)
        self.clear_button = QPushButton("Clear")
        self.clear_button.setToolTip("Take rulers and hotspots away")
        self.clear_button.clicked.connect(lambda *_: self.clear())
        self.table = region_table()
        self.table.cellClicked.connect(lambda row, _: self._choose(row))
        self.words = QLabel(_INVITATION)
        self.words.setWordWrap(True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.positive, self.label, self.area = QComboBox(), QComboBox(), QComboBox()
        self.positive.setToolTip("Class whose share of all objects is shown")
        self.positive.currentTextChanged.connect(self.recount)
        self.area.addItems([f"{area:g} mm2" for area in HOTSPOT_MM2])
        self.within = QCheckBox("in the region chosen above")
        self.find_button = QPushButton("Find hotspot")
        self.find_button.setToolTip("The circle of this area that holds most objects of this class")
        self.find_button.clicked.connect(lambda *_: self.find())
        self.found = QLabel()
        self.found.setTextFormat(Qt.TextFormat.PlainText)
        self.found.setWordWrap(True)
        self.keep_button = QPushButton("Keep as a region")
        self.keep_button.setToolTip("The circle is saved as what you draw is, and what lies in it is counted above")
        self.keep_button.clicked.connect(lambda *_: self.keep())
        self.keep_button.hide()
        self.save_button = QPushButton("Save tables ...")
        self.save_button.setToolTip("Regions and hotspots, as `wsi-umedpt export --regions` and --hotspots write them")
        self.save_button.clicked.connect(lambda *_: self._choose_target())
        self.report_button = QPushButton("Report ...")
        self.report_button.setToolTip("One page of this case: the view, regions, counts, heatmaps, what made them")
        self.report_button.clicked.connect(lambda *_: self._choose_report())
        self._lay_out()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.recount)
        shapes = self._keeper.shapes
        for signal in (shapes.edited, shapes.came, shapes.went):
            signal.connect(self._edited)
        for callbacks, call in (
            (napari_viewer.mouse_move_callbacks, self._moved), (napari_viewer.mouse_drag_callbacks, self._dragged),
        ):  # fmt: skip
            callbacks.append(call)
            self._letting_go.append(partial(callbacks.remove, call))
        self._letting_go.append(self._counting.forget)
        self._follow_layers(self._layers_changed)
        self._follow(self._show_tool, napari_viewer.layers.selection.events.active)
        self._objects: Shown | None = None
        self._counted: list[Any] = []
        """Layers of objects, lowest first."""
        self._letting_go.append(self._forget_layers)
        self._layers_changed()

    def _lay_out(self) -> None:
        column, tools, spot = self._scrolling(), QHBoxLayout(), QHBoxLayout()
        for button in (self.ruler, self.clear_button):
            tools.addWidget(button)
        column.addLayout(tools)
        column.addWidget(self.table)
        column.addWidget(self.words)
        form = QFormLayout()
        form.addRow("Positive", self.positive)
        for widget in (self.label, self.area):
            spot.addWidget(widget, 1)
        form.addRow("Hotspot", spot)
        column.addLayout(form)
        row = QHBoxLayout()
        row.addWidget(self.within)
        row.addStretch(1)
        row.addWidget(self.find_button)
        column.addLayout(row)
        column.addWidget(self.found)
        column.addWidget(self.keep_button)
        column.addStretch(1)
        files = QHBoxLayout()
        for button in (self.save_button, self.report_button):
            files.addWidget(button)
        self.pinned.addLayout(files)

    # ---- rulers ----

    def take_ruler(self, *_: Any) -> None:
        """Draw rulers from now on, or move the slide again."""
        layer, place = passing_layer(self._viewer, RULER), current_place(self._viewer)
        if layer is not None and layer.mode == "add_line" and layer == self._viewer.layers.selection.active:
            layer.mode = "pan_zoom"
        elif place is None:
            tell(_NO_SLIDE)
        else:
            if layer is None:
                (layer,) = add_layers(self._viewer, [ruler_layer(place, camera(self._viewer).zoom)])
                layer.events.mode.connect(self._show_tool)
            self._viewer.layers.selection.active = layer
            layer.mode = "add_line"
            to_canvas(self._viewer)
        self._show_tool()

    def clear(self) -> None:
        """Take rulers and hotspots away."""
        for name in (RULER, HOTSPOT):
            if (layer := passing_layer(self._viewer, name)) is not None:
                self._viewer.layers.remove(layer)
        self._forget_hotspot()

    def _forget_hotspot(self) -> None:
        self.found.setText("")
        self.keep_button.hide()
        self.hotspot = None

    def _show_tool(self, event: Any = None) -> None:
        layer = passing_layer(self._viewer, RULER)
        active = layer is not None and layer == self._viewer.layers.selection.active  # may be a proxy
        self.ruler.setChecked(active and layer is not None and layer.mode == "add_line")

    # ---- what changes ----

    def _edited(self, *_: Any) -> None:
        self._soon.start(0)

    def _moved(self, viewer: Any, event: Any) -> None:
        active = viewer.layers.selection.active
        if isinstance(active, Shapes) and is_being_drawn(active) and not self._soon.isActive():
            self._soon.start(_LIVE_MS)

    def _dragged(self, viewer: Any, event: Any) -> Any:
        yield
        while event.type == "mouse_move":
            self._moved(viewer, event)
            yield

    def _layers_changed(self, event: Any = None) -> None:
        self._forget_layers()
        self._counted = [layer for layer, shown in ours(self._viewer) if shown.objects is not None]
        for layer in self._counted:
            layer.events.visible.connect(self._objects_changed)
            layer.events.features.connect(self._classes_changed)
        self._objects_changed()

    def _forget_layers(self) -> None:
        while self._counted:
            events = self._counted.pop().events
            events.visible.disconnect(self._objects_changed)
            events.features.disconnect(self._classes_changed)

    def _classes_changed(self, event: Any = None) -> None:
        """Count anew; a circle that states a number of before goes."""
        if (old := passing_layer(self._viewer, HOTSPOT)) is not None:
            self._viewer.layers.remove(old)
        self._objects_changed()

    def _objects_changed(self, event: Any = None) -> None:
        found = [shown_by(layer) for layer in self._counted if layer.visible]
        objects = found[-1] if found else None
        if objects is not self._objects:
            self._objects = objects
            self._forget_hotspot()
            classes = objects.classes if objects is not None else ()
            for box, names in ((self.positive, (_NO_CLASS, *classes)), (self.label, classes)):
                chosen = box.currentText()
                box.blockSignals(True)
                box.clear()
                box.addItems(names)
                box.setCurrentIndex(max(box.findText(chosen), 0) if names else -1)
                box.blockSignals(False)
        self._edited()

    def _what(self, place: Place) -> Counted:
        positive = self.positive.currentText() if self.positive.currentIndex() > 0 else ""
        if (shown := self._objects) is None or shown.objects is None:
            return Counted(None, place.mpp)
        return Counted(shown.objects.objects, place.mpp, positive, shown.name)

    def recount(self, *_: Any) -> None:
        """Count again in what is drawn now, beside the window."""
        place = current_place(self._viewer)
        self.regions = [] if place is None else self._drawn(place)
        if (layer := passing_layer(self._viewer, RULER)) is not None:
            tell_lengths(layer)
        if place is None or not self.regions:
            self._counting.forget()  # or what is still counted would come back
            self._show([], [], None)
            return
        regions, what = self.regions, self._what(place)
        self._counting.ask(lambda: self._table.count(regions, what), lambda found: self._show(regions, found, what))

    def _drawn(self, place: Place) -> list[Region]:
        found = []
        for layer, shown in ours(self._viewer):
            if not isinstance(layer, Shapes) or shown.kind != "annotations" or layer.metadata.get(PASSING):
                continue
            if layer.visible and shown.place.same_slide(place):
                drawing = bool(layer._is_creating) and str(layer.mode) in _POLYGONS
                found += layer_regions(layer.data, layer_meta(layer), place, drawing=drawing)
        return found

    # ---- what is seen ----

    def _show(self, regions: list[Region], counts: list[RegionCounts], what: Counted | None) -> None:
        fresh = len(regions) != len(self.counts)
        changed = [n for n, (one, old) in enumerate(zip(counts, self.counts, strict=False)) if one != old]
        self.counts = counts
        self.table.setRowCount(len(regions))
        for row, (region, found) in enumerate(zip(regions, counts, strict=True)):
            for column, text in enumerate(row_words(row + 1, region, found)):
                item = QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.table.setItem(row, column, item)
            self.table.setRowHeight(row, _ROW_PX)
        self.table.setFixedHeight((min(max(len(regions), 1), _MOST_ROWS) + 1) * _ROW_PX + 4)
        if regions and (fresh or len(changed) == 1):  # the one that is drawn or edited is shown
            self.table.selectRow(len(regions) - 1 if fresh else changed[0])
        self._tell_chosen(what)

    def _tell_chosen(self, what: Counted | None) -> None:
        row = self.table.currentRow()
        if what is None or not 0 <= row < len(self.counts):
            self.words.setText(_INVITATION)
            return
        self.words.setText(details(self.counts[row], what))

    def _choose(self, row: int) -> None:
        """Tell of a region, and go there."""
        place = current_place(self._viewer)
        if place is None or not 0 <= row < len(self.regions):
            return
        self._tell_chosen(self._what(place))
        middle = self.regions[row].geometry.envelope.centroid
        self._go_to(place, middle.x, middle.y)

    def _go_to(self, place: Place, x: float, y: float) -> None:
        look_at(self._viewer, place.to_world(np.array([x, y])))

    # ---- hotspots ----

    def find(self) -> None:
        """Find the densest circle of the chosen class and area, and go there."""
        place = current_place(self._viewer)
        what = None if place is None else self._what(place)
        if place is None or what is None or (objects := what.objects) is None or not self.label.count():
            tell(_NO_OBJECTS)
            return
        label, area = self.label.currentText(), HOTSPOT_MM2[self.area.currentIndex()]
        row = self.table.currentRow()
        within = self.regions[row].geometry if self.within.isChecked() and 0 <= row < len(self.regions) else None
        mine = objects.taken(objects.class_index == objects.classes.index(label))
        self.found.setText("Looking ...")
        self._background.run(
            lambda: find_hotspots(mine, place.mpp, (area,), within), partial(self._show_hotspot, place, label)
        )

    def _show_hotspot(self, place: Place, label: str, found: list[Hotspot]) -> None:
        if (old := passing_layer(self._viewer, HOTSPOT)) is not None:
            self._viewer.layers.remove(old)
        self.hotspot = found[0] if found else None
        if self.hotspot is None:
            self.found.setText(f"There is no object of the class {label} there.")
            return
        self.found.setText(hotspot_words(self.hotspot))
        self.keep_button.show()
        seen = camera(self._viewer)
        seen.zoom = _SEEN * min(canvas_size(self._viewer)) / (2 * self.hotspot.radius_px * place.mpp)
        self._go_to(place, self.hotspot.x, self.hotspot.y)
        with same_selected(self._viewer):
            add_layers(self._viewer, [hotspot_layer(place, self.hotspot, seen.zoom)])

    def keep(self) -> None:
        """Make the hotspot a region of the class Hotspot: its counts follow when cells are classified anew."""
        place, spot = current_place(self._viewer), passing_layer(self._viewer, HOTSPOT)
        if place is None or spot is None:
            return
        (box,) = spot.data
        add_circle(self._viewer, place, box, "Hotspot", HOTSPOT_COLOUR)
        self._viewer.layers.remove(spot)
        self._forget_hotspot()

    # ---- tables ----

    def save(self, path: Path) -> None:
        """Write regions and hotspots as tables, beside the window."""
        place = current_place(self._viewer)
        if place is None:
            tell(_NO_SLIDE)
            return
        work = partial(save_tables, path, place.slide_id, self._drawn(place), self._what(place))
        self._background.run(work, self._told_saved, doing="Saving tables")

    def _told_saved(self, written: list[Path]) -> None:
        names = " and ".join(path.name for path in written)
        tell(f"Saved {names}" if written else "There is nothing to save: draw a region, or look for nuclei first.")

    def report(self, path: Path) -> None:
        """Write a page of the case that is shown, beside the window."""
        place = current_place(self._viewer)
        seen = None if place is None else seen_case(self._viewer, self._drawn(place), self._what(place))
        if seen is None:
            tell(_NO_RESULTS)
            return
        said = f"Saved {path.name}. Open it in a browser. ({path})"
        self._background.run(lambda: save_report(path, seen), lambda _: tell(said), doing="Writing a report")

    def _choose_target(self) -> None:
        if (chosen := self._target("Save tables", "regions.csv", _TABLES)) is not None:
            self.save(chosen)

    def _choose_report(self) -> None:
        if (chosen := self._target("Save report", "report.html", _PAGES)) is not None:
            self.report(chosen)

    def _target(self, title: str, suffix: str, kinds: str) -> Path | None:
        place = current_place(self._viewer)
        name = suffix if place is None else str(self._keeper.home(place).beside(suffix))
        chosen, _ = QFileDialog.getSaveFileName(self, title, name, kinds)
        return Path(chosen) if chosen else None
