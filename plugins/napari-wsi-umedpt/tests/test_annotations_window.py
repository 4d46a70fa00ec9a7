"""Annotations as a pathologist draws them, with a mouse in a window that is shown."""

import json
import shutil

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from wsi_umedpt.store.objects import PALETTE

from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.logic.annotations import read_annotations
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window import autosave
from napari_wsi_umedpt.window.autosave import Keeper
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place
from tests.support.hands import BOTH_SCREENS

ONE = [(300, 300), (600, 300), (600, 550), (300, 550)]
TWO = [(1500, 300), (1800, 300), (1800, 550), (1500, 550)]
THREE = [(300, 1000), (600, 1000), (600, 1300), (300, 1300)]


@pytest.fixture
def store(planted, tmp_path):
    """Results in a folder of their own."""
    return shutil.copytree(planted.store, tmp_path / "results" / "planted.zarr")


@pytest.fixture
def dock(hands, planted, store):
    """The dock over the planted slide, with a layer to draw in."""
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    dock = hands.dock("Annotations")
    hands.viewer.reset_view()
    hands.wait(400)  # until it is known that nothing was drawn on it before
    hands.click(dock.draw_button)
    hands.wait(100)
    return dock


def layer_of(hands):
    return hands.viewer.layers["annotations"]


def choose(hands, dock, name: str) -> None:
    """By mouse, in the list that opens."""
    box = dock.classes.rect()
    hands.click(hands.on(dock.classes, QPoint(box.right() - 8, box.center().y())))
    hands.wait(150)
    view = dock.classes.view()
    row = view.visualRect(view.model().index(dock.classes.findText(name), 0))
    hands.click(hands.on(view.viewport(), row))
    hands.wait(150)


def classes(hands) -> list[str]:
    return list(layer_of(hands).features["class"])


def colours(hands) -> list[tuple[int, ...]]:
    return [tuple(round(float(part) * 255) for part in row[:3]) for row in layer_of(hands).edge_color]


def rectangle(hands, corners) -> None:
    hands.drag([hands.on_canvas(*corners[0]), hands.on_canvas(*corners[2])])
    hands.wait(60)


@BOTH_SCREENS
def test_the_class_that_is_chosen_is_that_of_the_next_shape(hands, dock):
    """A Tumor polygon, then Stroma, R and a rectangle: the second is Stroma, in its colour, the first still Tumor."""
    hands.draw(ONE)
    assert classes(hands) == ["Tumor"]
    choose(hands, dock, "Stroma")
    hands.click(hands.on_canvas(1000, 150))  # the canvas has the keys
    hands.press("Escape")
    hands.press("r")
    rectangle(hands, TWO)
    assert classes(hands) == ["Tumor", "Stroma"]
    assert colours(hands) == [PALETTE[0], PALETTE[1]]
    hands.keep_picture("annotations")


def test_the_class_that_is_chosen_is_given_to_what_is_selected(hands, dock):
    """Select the first in selection mode, choose Necrosis: that one alone changes, and the next is Necrosis too."""
    hands.draw(ONE)
    hands.press("r")
    rectangle(hands, TWO)
    hands.press("5")
    hands.click(hands.on_canvas(450, 420))
    assert layer_of(hands).selected_data == {0}
    choose(hands, dock, "Necrosis")
    assert classes(hands) == ["Necrosis", "Tumor"]
    assert colours(hands) == [PALETTE[2], PALETTE[0]]
    hands.click(hands.on_canvas(1650, 420))  # a Tumor: its colour is not that of the next
    hands.press("r")
    rectangle(hands, THREE)
    assert classes(hands) == ["Necrosis", "Tumor", "Necrosis"]
    assert colours(hands)[2] == PALETTE[2]


@pytest.mark.parametrize("clicks", [1, 2])
def test_a_shape_that_is_given_up_leaves_nothing(hands, dock, tmp_path, clicks):
    """Escape after a corner or two: what is drawn then has its own class and colour, here and in the file."""
    hands.draw(ONE)
    for corner in TWO[:clicks]:
        hands.click(hands.on_canvas(*corner))
    hands.press("Escape")
    choose(hands, dock, "Stroma")
    hands.click(hands.on_canvas(1000, 150))
    hands.press("Escape")
    hands.press("p")
    hands.draw(THREE)
    layer = layer_of(hands)
    assert classes(hands) == ["Tumor", "Stroma"]
    assert len(layer.edge_color) == len(layer.face_color) == len(layer.text.values) == 2
    dock.save(tmp_path / "a.geojson")
    found = {one.name: one.colour for one in read_annotations(tmp_path / "a.geojson")}
    assert found == {"Tumor": PALETTE[0], "Stroma": PALETTE[1]}


@pytest.mark.parametrize("corners", [1, 2, 3])
def test_a_polygon_that_another_tool_interrupts_is_no_line(hands, dock, corners):
    """A corner, two or three, then R: what was drawn so far is a polygon, or nothing, and never a line."""
    for corner in ONE[:corners]:
        hands.click(hands.on_canvas(*corner))
    hands.press("r")
    rectangle(hands, TWO)
    left = ["polygon"] if corners > 2 else []
    assert layer_of(hands).shape_type == [*left, "rectangle"]
    assert classes(hands) == ["Tumor"] * (len(left) + 1)
    if left:
        assert len(layer_of(hands).data[0]) == corners


def test_every_edit_is_undone_and_done_again(hands, dock):
    """Drawn, drawn, another class, moved, removed, the layer removed: Ctrl-Z six times, and all of it again."""
    layer = layer_of(hands)
    hands.draw(ONE)
    hands.press("r")
    rectangle(hands, TWO)
    hands.press("5")
    hands.click(hands.on_canvas(450, 420))
    choose(hands, dock, "Stroma")
    hands.click(hands.on_canvas(450, 420))
    hands.drag([hands.on_canvas(450, 420), hands.on_canvas(450, 820)])
    assert layer.data[0][:, 0].mean() > 300
    hands.press("Delete")
    assert len(layer.data) == 1
    states = [[2, ["Stroma", "Tumor"]], [2, ["Stroma", "Tumor"]], [2, ["Tumor", "Tumor"]], [1, ["Tumor"]], [0, []]]
    for count, names in states:
        hands.press("ctrl+z")
        assert (len(layer.data), classes(hands)) == (count, names)
    hands.press("ctrl+z")
    assert "nothing to undo" in hands.viewer.status
    for count, names in [*states[::-1][1:], [1, ["Tumor"]]]:
        hands.press("ctrl+shift+z")
        assert (len(layer.data), classes(hands)) == (count, names)
    hands.viewer.layers.remove(layer)  # the waste basket
    hands.wait(300)
    assert "annotations" not in hands.viewer.layers
    hands.press("ctrl+z")
    assert classes(hands) == ["Tumor"]


def kept(store) -> list[dict]:
    path = store.with_name("planted.annotations.geojson")
    return json.loads(path.read_text())["features"] if path.exists() else []


def test_what_is_drawn_is_found_again(hands, dock, store, planted):
    """Written beside the results with each shape, read when the slide is shown again: class, colour, place, layer."""
    hands.draw(ONE)
    hands.until(lambda: len(kept(store)) == 1)
    choose(hands, dock, "Stroma")
    hands.click(hands.on_canvas(1000, 150))
    hands.press("Escape")
    hands.press("r")
    rectangle(hands, TWO)
    hands.until(lambda: len(kept(store)) == 2)
    assert "Saved as you draw" in dock.words.text()
    before = [np.array(shape) for shape in layer_of(hands).data]
    hands.viewer.layers.clear()
    hands.wait(200)
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    hands.until(lambda: "annotations" in hands.viewer.layers)
    assert classes(hands) == ["Tumor", "Stroma"]
    assert colours(hands) == [PALETTE[0], PALETTE[1]]
    for one, two in zip(before, layer_of(hands).data, strict=True):
        assert two == pytest.approx(one, abs=0.01)
    hands.press("ctrl+z")
    assert len(layer_of(hands).data) == 2  # what was read is no edit
    hands.viewer.layers.selection.active = layer_of(hands)
    hands.click(hands.on_canvas(1000, 150))
    hands.press("r")
    rectangle(hands, THREE)
    hands.until(lambda: len({feature["id"] for feature in kept(store)} - {""}) == 3)
    assert not Keeper.of(hands.viewer).unsaved()


def test_corners_are_where_they_were_clicked_though_no_move_was_told(hands, dock):
    """As in a window that is busy while somebody draws: every corner is there once."""
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    places = [hands.canvas.mapFromGlobal(hands.on_canvas(*corner)) for corner in ONE]
    for place in places:
        QTest.mouseClick(hands.canvas, left, none, place)
        hands.wait()
    QTest.mouseDClick(hands.canvas, left, none, places[-1])
    drawings = Keeper.of(hands.viewer)._watch.drawings
    hands.until(lambda: len(drawings[layer_of(hands)]) == 1)
    (drawn,) = drawings[layer_of(hands)].shapes
    assert len(drawn) == len(ONE)
    seen = [
        hands.canvas.mapFromGlobal(hands.on_canvas(*place)) for place in current_place(hands.viewer).to_slide(drawn)
    ]
    assert [max(abs(a.x() - b.x()), abs(a.y() - b.y())) <= 1 for a, b in zip(seen, places, strict=True)] == [True] * 4


def test_one_failure_to_write_is_told_and_the_next_shape_is_written(hands, dock, store, monkeypatch, told):
    """Whatever failed: the thread that writes goes on, and nothing that is drawn is lost for it."""
    real = autosave.write_sheets
    failing = [IndexError("list index out of range")]

    def write(*given):
        if failing:
            raise failing.pop()
        return real(*given)

    monkeypatch.setattr(autosave, "write_sheets", write)
    hands.draw(ONE)
    hands.until(lambda: bool(told))
    assert "could not be kept: IndexError: list index out of range" in told[0].message
    assert not kept(store)
    hands.draw(TWO)
    hands.until(lambda: len(kept(store)) == 2)


def test_results_that_come_later_lie_below_what_is_drawn(hands, planted):
    """Or hundreds of nuclei would hide it."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    hands.dock("Annotations").new_layer()
    add_layers(hands.viewer, open_path(planted.store, pytest.fail)[1:])
    kinds = [layer.metadata[KEY].kind for layer in hands.viewer.layers]
    assert kinds == ["slide", "heatmap", "objects", "tiles", "tissue", "annotations"]


def test_edges_are_as_wide_on_the_screen_at_every_zoom(hands, dock):
    """Those of napari are as wide on the slide: at 40x they hide what they go around. It is no edit."""
    hands.draw(ONE)
    layer, seen = layer_of(hands), camera(hands.viewer)
    hands.until(lambda: len(classes(hands)) == 1 and not layer._is_creating)
    for times in (16, 1 / 64):
        seen.zoom *= times
        hands.until(lambda: 2 < layer.edge_width[0] * seen.zoom < 4.5)
        assert 2 < layer.current_edge_width * seen.zoom < 4.5
    Keeper.of(hands.viewer).undo()
    assert layer.nshapes == 0


def test_the_dock_says_where_drawings_are_saved(hands, planted):
    """Of a slide without results in the user's data folder, whose files have no names that a person reads."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    dock = hands.dock("Annotations")
    hands.viewer.reset_view()
    hands.click(dock.tools["add_polygon"])
    hands.draw(ONE)
    hands.until(lambda: dock.words.text() == "Saved as you draw, in\nyour data folder")
    assert dock.words.toolTip().endswith(".annotations.geojson")
