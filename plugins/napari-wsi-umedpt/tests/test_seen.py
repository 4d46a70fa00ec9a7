"""What is seen is what is meant: docks, lines, colours and words, in a shown window, looked at and clicked on."""

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject, QPoint, QRect
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel, QLineEdit, QListWidget, QPushButton, QTabBar
from wsi_umedpt.slides.tissue import TissueMask

from napari_wsi_umedpt.layers.build import KEY, LONE_CLASS_COLOUR, TISSUE_COLOUR
from napari_wsi_umedpt.layers.multiscale import Window
from napari_wsi_umedpt.layers.objects import Field
from napari_wsi_umedpt.layers.thin_lines import TissueOutline
from napari_wsi_umedpt.logic.annotations import Annotation, shapes_layer
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.tool_bar import ToolBar
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place
from tests.support.hands import BOTH_SCREENS, Hands
from tests.support.planted import NUCLEUS, squares

DOCKS = (
    "Slides and results", "Case list", "Annotations", "Measure", "Stains", "Two slides", "Slide classifier",
    "Few-shot classifier", "Cells", "Find alike", "Analyse",
)  # fmt: skip
_CONTROLS = (QPushButton, QCheckBox, QComboBox, QLineEdit, QListWidget)
MIDDLE = np.array([(NUCLEUS[0] + NUCLEUS[2]) / 2, (NUCLEUS[1] + NUCLEUS[3]) / 2])


def show(hands: Hands, store):
    add_layers(hands.viewer, open_path(store, pytest.fail))
    hands.viewer.reset_view()
    hands.wait(300)


def look_at(hands: Hands, xy, zoom: float):
    seen = camera(hands.viewer)
    seen.zoom, seen.center = zoom, (0, *current_place(hands.viewer).to_world(np.asarray(xy, float)))
    hands.wait(300)


def layer_of(hands: Hands, kind: str):
    return next(layer for layer in hands.viewer.layers if layer.metadata[KEY].kind == kind)


def overprinted(dock) -> list[str]:
    """Controls of a dock that lie over each other."""
    found = [child for kind in _CONTROLS for child in dock.findChildren(kind) if child.isVisible()]
    found = [one for one in found if not any(one is not other and other.isAncestorOf(one) for other in found)]
    places = [QRect(one.mapTo(dock, QPoint(0, 0)), one.size()) for one in found]
    return [
        f"{type(one).__name__} {places[n]} over {type(found[m]).__name__} {places[m]}"
        for n, one in enumerate(found)
        for m in range(n)
        if found[m].parent() is one.parent() and places[n].adjusted(1, 1, -1, -1).intersects(places[m])
    ]


class Sizes(QObject):
    """All sizes that a window had, also for a moment."""

    def __init__(self, window):
        super().__init__(window)
        self.seen = {(window.width(), window.height())}
        window.installEventFilter(self)

    def eventFilter(self, watched, event):
        """Note it, and let it pass."""
        if event.type() == QEvent.Type.Resize:
            self.seen.add((event.size().width(), event.size().height()))
        return False


@BOTH_SCREENS
def test_docks_have_room_on_any_screen(hands, planted, window_size):
    """Nothing lies over something else, every button is read whole, the Navigator is there, the window never grows."""
    show(hands, planted.store)
    sizes = Sizes(hands.window)
    for name in DOCKS:
        dock = hands.dock(name)
        hands.wait(450)
        assert overprinted(dock) == []
        hands.keep_picture(name.lower().replace(" ", "-"))
        dock.notice.say("What went wrong, in words that need more than one line of a dock. " * 3)
        hands.wait(60)
        assert overprinted(dock) == []
        dock.notice.put_away()
    assert sizes.seen <= {window_size}
    navigator = hands.dock("Navigator")
    assert navigator.overview.height() >= 90
    assert overprinted(navigator) == []
    bar = ToolBar.of(hands.window)
    for tab in bar.buttons:
        one = bar.button(tab)
        assert one.isVisible()
        assert one.width() >= one.fontMetrics().horizontalAdvance(tab)
    tabs = [bar for bar in hands.window.findChildren(QTabBar) if bar.isVisible() and bar.count() > 1]
    assert tabs == []


def test_a_dock_scrolls_to_what_has_no_room(hands, planted):
    """Run and Cancel stay in view; the wheel over a list to choose from scrolls, and chooses nothing."""
    show(hands, planted.store)
    dock = hands.dock("Analyse")
    hands.until(lambda: bool(dock._models))
    hands.wait(300)
    for pinned in (dock.run_button, dock.stop_button, dock.words):
        assert hands.screen.contains(hands.on(pinned))
    before = dock.model.currentText()
    hands.move(dock.model)
    hands._do("click", "5")  # the wheel
    hands.wait(300)
    assert dock.model.currentText() == before
    dock.folder.parentWidget().parentWidget().parentWidget().ensureWidgetVisible(dock.folder)
    hands.wait(150)
    hands.click(dock.folder)
    assert dock.folder.hasFocus()


def test_the_window_is_for_slides_at_first(hands, planted):
    """White around the slide, napari's own layer docks folded away, and where the menu finds them."""
    show(hands, planted.store)
    qt = hands.viewer.window._qt_viewer
    assert not qt.dockLayerList.isVisible()
    assert not qt.dockLayerControls.isVisible()
    corner = hands.canvas.mapTo(hands.window, QPoint(6, hands.canvas.height() - 6))
    assert (hands.picture()[corner.y(), corner.x()] == 255).all()
    qt.dockLayerList.toggleViewAction().trigger()
    assert qt.dockLayerList.isVisible()


@BOTH_SCREENS
def test_layers_are_shown_and_hidden_in_the_legend(hands, planted):
    """Each by its box, as napari's list is folded away; what its colours mean is there once it is shown."""
    show(hands, planted.store)
    dock = hands.dock("Legend")
    boxes = {box.text(): box for box in dock.findChildren(QCheckBox)}
    assert {"nuclei", "probe: tumour", "tissue"} <= boxes.keys()
    assert any("mm2" in label.text() for label in dock.findChildren(QLabel))
    heat = layer_of(hands, "heatmap")
    assert not heat.visible
    before = hands.picture()
    box = boxes["probe: tumour"]
    hands.click(hands.on(box, QPoint(8, box.height() // 2)))
    hands.until(lambda: heat.visible)
    hands.wait(300)
    assert heat.colorbar.visible
    bar = hands.canvas.mapTo(hands.window, QPoint(0, hands.canvas.height()))
    low = np.s_[bar.y() - 160 : bar.y() - 10, bar.x() + 10 : bar.x() + 40]
    assert (hands.picture()[low] != before[low]).any(axis=2).mean() > 0.3, "its colour bar is drawn"
    heat.visible = False
    assert not box.isChecked()


def test_filled_objects_stay_filled(hands, planted):
    """Whatever comes and goes; the box says so."""
    show(hands, planted.store)
    dock = hands.dock("Legend")

    def filled():
        return next(box for box in dock.findChildren(QCheckBox) if box.text() == "filled")

    hands.click(hands.on(filled(), QPoint(8, filled().height() // 2)))
    hands.until(lambda: filled().isChecked())
    hands.viewer.layers.remove(layer_of(hands, "heatmap"))
    hands.wait(200)
    assert filled().isChecked()


@BOTH_SCREENS
def test_the_object_that_was_clicked_is_marked(hands, planted):
    """By a yellow line; a click beside objects takes it away, and the status bar has room for its words."""
    show(hands, planted.store)
    dock = hands.dock("Legend")
    look_at(hands, MIDDLE, 4)

    def yellow() -> int:
        rgb = hands.picture().astype(int)
        return int(((rgb[..., 0] > 200) & (rgb[..., 1] > 200) & (rgb[..., 2] < 90)).sum())

    assert yellow() == 0
    hands.click(hands.on_canvas(*MIDDLE))
    hands.until(lambda: "stroma" in dock.here.text())
    hands.until(lambda: yellow() > 100)
    hands.keep_picture("clicked")
    words = [label for label in hands.window.statusBar().findChildren(QLabel) if label.isVisible() and label.text()]
    places = [QRect(label.mapToGlobal(QPoint(0, 0)), label.size()) for label in words]
    over = [(words[n].text(), words[m].text()) for n in range(len(words)) for m in range(n)
            if places[n].adjusted(1, 0, -1, 0).intersects(places[m])]  # fmt: skip
    assert over == []
    assert not hands.viewer.help
    hands.click(hands.on_canvas(*(MIDDLE + 100)))
    hands.until(lambda: yellow() == 0)


def test_objects_that_are_edited_have_no_names_over_them(hands, planted):
    """Hundreds of times the same word hides what is to be seen."""
    show(hands, planted.store)
    dock = hands.dock("Legend")
    look_at(hands, MIDDLE, 4)
    hands.click(next(button for button in dock.findChildren(QPushButton) if button.text() == "Edit those in view"))
    hands.until(lambda: hands.viewer.layers[-1].name == "nuclei (edited)")
    layer = hands.viewer.layers[-1]
    assert list(layer.features["class"]) == ["stroma"]
    assert "".join(np.atleast_1d(layer.text.values).astype(str)) == ""


def test_names_have_a_halo(hands, planted):
    """White px lie around a name that is written over dark tissue."""
    show(hands, planted.store)
    for layer in hands.viewer.layers:
        layer.visible = layer.metadata[KEY].kind == "slide"
    square = np.array([[1050, 700], [1350, 700], [1350, 780], [1050, 780.0]])
    place = current_place(hands.viewer)
    look_at(hands, (1200, 650), 3)
    before = hands.picture()
    add_layers(hands.viewer, [shapes_layer([Annotation(((square,),), "Immune cells")], place, zoom=3)])
    hands.wait(400)
    corner = hands.window.mapFromGlobal(hands.on_canvas(1050, 700))
    left, bottom = corner.x(), corner.y()
    words = np.s_[bottom - 22 : bottom - 3, left : left + 90]
    hands.keep_picture("names")
    assert (before[words] < 200).any(axis=2).all(), "the tissue is dark there"
    assert (hands.picture()[words] > 160).all(axis=2).sum() > 30


@BOTH_SCREENS
def test_empty_magnification_is_marked(hands, planted):
    """From where a px of the slide is larger than one of the canvas; not at the slide's own."""
    show(hands, planted.store)
    navigator = hands.dock("Navigator")
    buttons = {button.text(): button for button in navigator.findChildren(QPushButton)}
    words = hands.viewer.canvas.overlays.text
    hands.click(buttons["20x"])
    hands.wait(200)
    assert words.text == "planted.svs"
    hands.click(buttons["40x"])
    hands.until(lambda: "empty magnification: the slide holds no more detail than at 20x" in words.text)


def test_errors_stay_in_the_dock_with_their_cause_first(hands, tmp_path, told):
    """And are put away by their button, or by the next thing that is done in the dock; its click is not lost."""
    dock = hands.dock("Slides and results")
    dock.mpp.setText("half")
    dock.open(tmp_path / "a.png")
    hands.until(lambda: dock.notice.isVisible())
    assert dock.notice.words.text().startswith("um per px is a number")
    dock.tell_error(PermissionError(13, "Permission denied", str(tmp_path / "a.svs")))
    assert told[-1].message.startswith("Permission denied: a.svs (")
    hands.wait(200)
    hands.keep_picture("error")
    hands.click(dock.notice.away)
    hands.until(lambda: not dock.notice.isVisible())
    dock.mpp.setText("0.5")
    dock.open(tmp_path / "gone.svs")  # read beside the window
    hands.until(lambda: "gone.svs" in dock.notice.words.text() and dock.notice.isVisible())
    for name, fails, control in (
        ("Annotations", lambda dock: dock.open(tmp_path / "a.geojson"), lambda dock: dock.tools["pan_zoom"]),
        ("Few-shot classifier", lambda dock: dock.save_probe(tmp_path / "a.json"), lambda dock: dock.label_button),
        ("Slides and results", lambda dock: None, lambda dock: dock.beside),
    ):
        dock = hands.dock(name)
        fails(dock)
        hands.wait(200)
        assert dock.notice.isVisible()
        acted, button = [], control(dock)
        button.clicked.connect(acted.append)
        hands.click(hands.on(button, QPoint(10, button.height() // 2)))
        assert len(acted) == 1
        assert not dock.notice.isVisible()


def test_the_brush_goes_with_its_layer(hands, planted):
    """No circle is left on the canvas where what was painted on is gone."""
    show(hands, planted.store)
    layer = hands.viewer.add_labels(np.zeros((200, 200), np.uint8), scale=(5, 5), units=("um", "um"))
    layer.brush_size, layer.mode = 12, "paint"
    hands.click(hands.on_canvas(600, 600))
    hands.wait(150)
    brush = hands.viewer.canvas.overlays._brush_circle
    assert brush.visible
    hands.viewer.layers.remove(layer)
    hands.wait(150)
    assert not brush.visible
    assert hands.viewer.cursor.style == "standard"


@pytest.mark.parametrize("scale", [1, 2, 16, 32])
def test_lines_are_two_px_wide_at_every_scale(scale):
    """Around tissue and around objects, also where a pixel is as large as a cell of the mask."""
    mask = np.zeros((40, 40), bool)
    mask[8:32, 8:32] = True
    tissue = TissueOutline(TissueMask(mask, 16)).draw(Window(scale, 0, 0, 640 // scale, 640 // scale))
    objects = Field(squares([(128 * scale, 128 * scale, 512 * scale, 512 * scale)], [0])).outline(
        Window(scale, 0, 0, 640, 640)
    )
    # Objects of fewer px are filled; the mask's outline lies a part of a cell within it.
    for found, near, left in [(tissue, 8, 128), *([(objects, scale / 2, 128 * scale)] if scale < 4 else [])]:
        middle = len(found) // 2
        for across in (found[middle], found[:, middle]):
            at = np.flatnonzero(across)
            assert at.tolist() == [at[0], at[0] + 1, at[-1] - 1, at[-1]]
            assert (at[0] + 1) * scale == pytest.approx(left, abs=max(near, scale / 2))


def test_the_tissue_has_a_line_of_its_own_colour_without_stairs():
    """Within a cell of the mask's border, and no colour of objects; a slanted border is no staircase."""
    assert TISSUE_COLOUR != LONE_CLASS_COLOUR
    step = 16
    rows, cols = np.mgrid[:60, :60]
    mask = rows + cols > 50  # a border at 45 degrees
    found = TissueOutline(TissueMask(mask, step)).draw(Window(1, 200, 200, 400, 400))
    y, x = np.nonzero(found)
    away = np.abs((x + 200 + y + 200) - 51 * step) / np.sqrt(2)
    assert len(x) > 300
    assert away.max() < step
    assert away.std() < 2, "a staircase goes back and forth by half a cell"
