"""More of the same, found by a right click in a window that is shown."""

import json
import re
import shutil

import numpy as np
import pytest
from qtpy.QtWidgets import QLabel
from wsi_umedpt.slides.tiling import TileSpec

from napari_wsi_umedpt.layers.build import shown_by
from napari_wsi_umedpt.logic.field import ASKED, current_store
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.context_menu import ContextMenu
from napari_wsi_umedpt.window.viewer import add_layers, camera
from tests.support.planted import MPP, TUMOUR
from tests.support.tiny import colour_store

RIGHT = "3"
SPEC = TileSpec(size_px=100, mpp=MPP)
INSIDE = 1250, 650
"""A place in the tumour, level-0 px."""


@pytest.fixture
def folder(planted, other, tmp_path):
    """Two slides with their results, as a case list: in one tumour is violet, in the other white is darker."""
    folder = tmp_path / "cases"
    folder.mkdir()
    for name, known in (("planted", planted), ("other", other)):
        slide = folder / f"{name}.svs"
        shutil.copy(known.slide, slide)
        colour_store(folder / f"{name}.zarr", slide, SPEC)
    return folder


def open_slide_of(hands, folder) -> None:
    slide = folder / "planted.svs"
    add_layers(hands.viewer, open_path(folder / "planted.zarr", pytest.fail, slide=slide))
    hands.wait(200)
    hands.viewer.reset_view()


def choose(hands, text: str) -> None:
    """Click on an entry of the menu that a right click opened."""
    menu = ContextMenu.of(hands.viewer).menu
    hands.until(menu.isVisible)
    (action,) = [action for action in menu.actions() if action.text() == text]
    hands.click(hands.on(menu, menu.actionGeometry(action)))


def near(place, words: str) -> bool:
    """Whether the status bar says a place of the slide, within a canvas px."""
    said = re.fullmatch(r"x ([\d,]+) y ([\d,]+) px", words)
    numbers = [int(part.replace(",", "")) for part in said.groups()] if said else [-99, -99]
    return bool(np.abs(np.array(numbers) - place).max() <= 3)


def in_tumour(dock) -> np.ndarray:
    left, top, right, bottom = TUMOUR
    middles = np.array([(one.x + one.side / 2, one.y + one.side / 2) for one in dock.found])
    return ((middles > (left, top)) & (middles < (right, bottom))).all(axis=1)


def test_a_right_click_on_a_tile_finds_its_like(hands, folder):
    """The tiles of the tumour come first; a click on a picture goes there; all get a label by one button."""
    open_slide_of(hands, folder)
    hands.click(hands.on_canvas(*INSIDE), button=RIGHT)
    choose(hands, "Find tiles like this")
    dock = hands.dock("Find alike")
    hands.until(lambda: len(dock.found) == 40)
    assert in_tumour(dock)[:12].sum() > 9  # of the fifteen others that there are
    (mark,) = [layer for layer in hands.viewer.layers if layer.name == ASKED]
    (low, high) = mark.data[0].min(axis=0) / MPP + 0.5, mark.data[0].max(axis=0) / MPP + 0.5
    assert (low <= INSIDE[::-1]).all()
    assert (high >= INSIDE[::-1]).all()
    assert high - low == pytest.approx([100, 100])
    hands.until(lambda: not dock._reading.busy)
    hands.keep_picture("alike")
    item = dock.gallery.list.visualItemRect(dock.gallery.list.item(0))
    hands.click(hands.on(dock.gallery.list.viewport(), item))
    one = dock.found[0]
    hands.until(
        lambda: (
            camera(hands.viewer).center[-2:]
            == pytest.approx(((one.y + one.side / 2 - 0.5) * MPP, (one.x + one.side / 2 - 0.5) * MPP))
        )
    )
    middle = round(one.x + one.side / 2), round(one.y + one.side / 2)
    hands.move(hands.on_canvas(*middle))
    # As napari's thread, which tests are without, says it.
    said = {"layer_base": "tissue", "source_type": "", "plugin": "", "coordinates": " [225.5 525.5]: 0"}
    hands.viewer.status = said
    hands.until(lambda: any(near(middle, label.text()) for label in hands.window.statusBar().findChildren(QLabel)))
    assert dock.gallery.chosen == []
    for number in (0, 2):  # which goes nowhere
        item = dock.gallery.list.visualItemRect(dock.gallery.list.item(number))
        hands._do("keydown", "ctrl")
        hands.click(hands.on(dock.gallery.list.viewport(), item))
        hands._do("keyup", "ctrl", releases=1)
    assert dock.gallery.chosen == [0, 2]
    assert dock.label_button.text() == "Label 2"
    dock.name.setCurrentText("Two of them")
    hands.click(dock.label_button)
    few = hands.dock("Few-shot classifier")
    hands.until(lambda: {*few.labelling.labels} == {dock.found[0].row, dock.found[2].row})
    hands.dock("Find alike")
    dock.gallery.list.clearSelection()
    dock.name.setCurrentText("Violet")
    hands.click(dock.label_button)
    file = folder / "planted.labels.json"
    hands.until(file.exists)
    hands.until(lambda: [label for _, _, label in json.loads(file.read_text())["points"]] == ["Violet"] * 40)
    hands.until(lambda: len(few.labelling.labels) == 40)
    assert set(few.labelling.labels) == {one.row for one in dock.found}


def test_a_region_finds_its_like_in_all_cases(hands, folder, told):
    """A region that was drawn is asked about as one; a click on a tile of another slide opens that slide there."""
    cases = hands.dock("Case list")
    cases.open(folder)
    hands.until(lambda: cases.number == 0 and current_store(hands.viewer) == folder / "other.zarr")
    draw = hands.dock("Annotations")
    hands.viewer.reset_view()
    draw.take_tool("add_rectangle")
    hands.drag([hands.on_canvas(1010, 410), hands.on_canvas(1390, 790)])
    hands.until(lambda: any(len(layer.data) for layer in hands.viewer.layers if shape_of(layer)))
    draw.take_tool("pan_zoom")
    hands.click(hands.on_canvas(*INSIDE), button=RIGHT)
    choose(hands, "Find tiles like this region")
    dock = hands.dock("Find alike")
    hands.until(lambda: "tiles of 2 slides, most like this region" in dock.words.text())  # unasked, as there is a list
    hands.until(lambda: not dock._reading.busy)
    items = [dock.gallery.list.item(n) for n in range(dock.gallery.list.count())]
    assert [item.text().split("\n")[1] for item in items] == [one.slide_id for one in dock.found]
    dock.scope.setCurrentIndex(0)
    dock.scope.activated.emit(0)
    hands.until(lambda: "tiles of this slide, most like" in dock.words.text())
    assert {one.slide_id for one in dock.found} == {"other"}
    assert "\n" not in dock.gallery.list.item(0).text()
    dock.scope.setCurrentIndex(1)
    dock.scope.activated.emit(1)
    hands.until(lambda: "tiles of 2 slides, most like" in dock.words.text())
    hands.until(lambda: not dock._reading.busy)
    hands.keep_picture("alike-of-two-slides")
    number = next(n for n, one in enumerate(dock.found) if one.slide_id == "planted")
    dock.gallery.list.scrollToItem(dock.gallery.list.item(number))
    dock.gallery.list.itemClicked.emit(dock.gallery.list.item(number))
    hands.until(lambda: current_store(hands.viewer) == folder / "planted.zarr")
    one = dock.found[number]
    hands.until(
        lambda: (
            camera(hands.viewer).center[-2:]
            == pytest.approx(((one.y + one.side / 2 - 0.5) * MPP, (one.x + one.side / 2 - 0.5) * MPP))
        )
    )
    dock.label_all("Alike")
    slides = {one.slide_id for one in dock.found}
    hands.until(lambda: all((folder / f"{name}.labels.json").exists() for name in slides))
    assert any("as Alike" in one.message for one in told)


def shape_of(layer) -> bool:
    shown = shown_by(layer)
    return shown is not None and shown.kind == "annotations" and hasattr(layer, "shape_type")
