"""The Legend, used as a user does, in a window that is shown."""

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication, QWidget
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.docks.legend import LegendDock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.logic.legend import Legend
from napari_wsi_umedpt.window.viewer import camera, current_place
from tests.support.planted import NUCLEUS, UNREADABLE_TILE


def layer_of(viewer, kind):
    return next(layer for layer in viewer.layers if layer.metadata[KEY].kind == kind)


def test_the_legend_counts_and_hides(opened, qtbot):
    """Counts, densities per mm2 of tissue; a class that is hidden is not on the screen."""
    legend = Legend(layer_of(opened, "objects"))
    entries = legend.entries()
    area = legend.what.tissue_mm2
    assert [(e.name, e.count, e.shown) for e in entries] == [("tumour", 2, True), ("stroma", 1, True)]
    assert entries[0].per_mm2 == pytest.approx(2 / area)
    for layer in opened.layers:
        layer.visible = layer is legend.layer
    opened.canvas.overlays.scale_bar.visible = False
    middle = np.array([(NUCLEUS[0] + NUCLEUS[2]) / 2, (NUCLEUS[1] + NUCLEUS[3]) / 2])
    camera(opened).center = (0, *legend.what.place.to_world(middle))
    camera(opened).zoom = 4

    def stroma_seen() -> bool:
        qtbot.wait(80)
        shot = opened.screenshot(canvas_only=True, flash=False)[..., :3]
        return bool(shot.any())

    assert stroma_seen()
    legend.show(1, False)
    assert not stroma_seen()
    assert not legend.entries()[1].shown
    legend.recolour(1, (255, 0, 0))
    assert not stroma_seen()
    legend.show(1, True)
    assert stroma_seen()
    assert legend.entries()[1].colour == (255, 0, 0)
    legend.fill(True)
    assert stroma_seen()


def test_the_legend_dock_shows_all_classes(opened, qtbot):
    """A row a class; boxes hide it; it follows the layers."""
    from qtpy.QtWidgets import QCheckBox, QLabel

    dock = LegendDock(opened)
    qtbot.addWidget(dock)
    boxes = {box.text(): box for box in dock.findChildren(QCheckBox)}
    assert {"tumour", "stroma", "readable tile", "unreadable tile"} <= boxes.keys()
    boxes["tumour"].setChecked(False)
    assert layer_of(opened, "objects").colormap.color_dict[1][3] == 0
    assert any("per mm2" in label.text() for label in dock.findChildren(QLabel))
    opened.layers.remove(layer_of(opened, "objects"))
    assert "tumour" not in {box.text() for box in dock.findChildren(QCheckBox)}


class Windows(QObject):
    """All windows that were shown, also for a moment."""

    def __init__(self):
        super().__init__()
        self.shown = []
        QApplication.instance().installEventFilter(self)

    def eventFilter(self, watched, event):
        """Note it, and let it pass."""
        if event.type() == QEvent.Type.Show and isinstance(watched, QWidget) and watched.isWindow():
            self.shown.append(type(watched).__name__)
        return False


def test_no_part_of_the_legend_is_ever_a_window(opened, qtbot):
    """Though it is written anew before what came just now was shown."""
    dock = LegendDock(opened)
    opened.window.add_dock_widget(dock)
    qtbot.wait(50)
    windows = Windows()
    dock.refresh()
    dock.refresh()
    qtbot.wait(50)
    QApplication.instance().removeEventFilter(windows)
    assert windows.shown == []


def test_nothing_of_the_legend_lies_under_its_scroll_bar(opened, qtbot):
    """Counts and buttons are beside it, also in a dock as narrow as it may be."""
    from qtpy.QtWidgets import QScrollArea

    layer_of(opened, "objects").name = "nuclei, by a name that is longer than usual"
    dock = LegendDock(opened)
    qtbot.addWidget(dock)
    dock.resize(dock.minimumSizeHint().width(), 150)
    dock.show()
    qtbot.wait(50)
    area = dock.findChild(QScrollArea)
    assert area.verticalScrollBar().isVisible()
    assert area.widget().width() <= area.viewport().width()


def test_a_click_says_what_is_there(opened, qtbot):
    """The nucleus with class, score and measures; the tile; the heatmap's value; elsewhere the place alone."""
    dock = LegendDock(opened)
    qtbot.addWidget(dock)
    layer_of(opened, "heatmap").visible = True
    place = current_place(opened)
    dock.tell_place(tuple(place.to_world(np.array([NUCLEUS[0] + 20.0, NUCLEUS[1] + 20.0]))))
    words = dock.here.text()
    assert words.index("stroma (nuclei, object 0)") < words.index("tile ")
    for part in ("score 0.500", "area 1 um2", "perimeter 2 um", "circularity 3", "100% tissue", "probe: tumour: 0."):
        assert part in words
    grid = SlideStore.open(layer_of(opened, "tiles").metadata[KEY].store).grid()
    dock.tell_place(tuple(place.to_world(grid.xy[UNREADABLE_TILE] + 5)))
    assert "unreadable" in dock.here.text()
    dock.tell_place((1.0, 1.0))
    assert dock.here.text() == "x 2, y 2 px"
    dock.tell_place((-50.0, 1.0))
    assert dock.here.text() == "This is beside the slide."


def test_a_click_of_the_mouse_arrives(opened, qtbot):
    """A press and a release on the canvas; a drag is none."""
    dock = LegendDock(opened)
    qtbot.addWidget(dock)
    middle = np.array([(NUCLEUS[0] + NUCLEUS[2]) / 2, (NUCLEUS[1] + NUCLEUS[3]) / 2])
    camera(opened).center = (0, *current_place(opened).to_world(middle))
    camera(opened).zoom = 3
    qtbot.wait(80)
    canvas = opened.window._qt_viewer.canvas
    width, height = canvas._scene_canvas.size
    at = (width // 2, height // 2)
    canvas._scene_canvas.events.mouse_press(pos=at, modifiers=(), button=1)
    canvas._scene_canvas.events.mouse_release(pos=at, modifiers=(), button=1)
    qtbot.waitUntil(lambda: "stroma" in dock.here.text())


def test_those_in_view_can_be_edited(opened, qtbot, told):
    """As shapes, in their places; too many are refused in words."""
    from qtpy.QtWidgets import QPushButton

    dock = LegendDock(opened)
    qtbot.addWidget(dock)
    (edit,) = [b for b in dock.findChildren(QPushButton) if b.text() == "Edit those in view"]
    camera(opened).center = (0, *current_place(opened).to_world(np.array([NUCLEUS[0], NUCLEUS[1]])))
    camera(opened).zoom = 4
    qtbot.wait(50)
    edit.click()
    layer = opened.layers[-1]
    assert layer.name == "nuclei (edited)"
    assert list(layer.features["class"]) == ["stroma"]
    assert np.allclose(current_place(opened).to_slide(layer.data[0])[0], NUCLEUS[:2])
    camera(opened).center = (0, 1, 1)
    edit.click()
    assert "0 objects are in view" in told[-1].message
