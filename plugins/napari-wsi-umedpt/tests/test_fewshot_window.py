"""Few-shot labelling as a pathologist does it, with a mouse in a window that is shown."""

import json

import numpy as np
import pytest
from wsi_umedpt.slides.tiling import TileSpec

from napari_wsi_umedpt.docks.base import frame_of_dock
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.hands import BOTH_SCREENS
from tests.support.planted import MPP, TUMOUR
from tests.support.tiny import colour_store


@pytest.fixture
def dock(hands, planted, tmp_path):
    """The dock over a slide whose tumour is of another colour."""
    store = colour_store(tmp_path / "planted.zarr", planted.slide, TileSpec(size_px=100, mpp=MPP))
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    dock = hands.dock("Few-shot classifier")
    hands.until(lambda: dock.slide is not None)
    hands.viewer.reset_view()
    return dock


def middles(dock, inside: bool) -> np.ndarray:
    """Middles of tiles in the tumour, or outside of it, level-0 px."""
    left, top, right, bottom = TUMOUR
    middle = dock.slide.grid.xy + 50
    x, y = middle.T
    within = (x > left) & (x < right) & (y > top) & (y < bottom)
    return middle[within] if inside else middle[~within][20::45]


def counts(dock) -> list[str]:
    return [dock.classes.table.item(row, 2).text() for row in range(len(dock.classes.names))]


@BOTH_SCREENS
def test_clicked_tiles_are_counted_and_learned_from(hands, dock):
    """Four clicks, the key 2, five clicks: the counts follow each click, and the slide is coloured."""
    hands.click(dock.label_button)
    for n, place in enumerate(middles(dock, True)[[0, 3, 12, 15]], start=1):
        hands.click(hands.on_canvas(*place))
        hands.until(lambda n=n: counts(dock) == [str(n), "0"])
    hands.press("2")
    for n, place in enumerate(middles(dock, False)[:5], start=1):
        hands.click(hands.on_canvas(*place))
        hands.until(lambda n=n: counts(dock) == ["4", str(n)])
    hands.until(lambda: dock.taught is not None and dock._colours in hands.viewer.layers)
    hands.until(lambda: dock.taught.probe.about["labelled"] == {"Other": 5, "Tumor": 4})
    hands.keep_picture("fewshot")
    corner = hands.window.mapFromGlobal(hands.on_canvas(*place))
    painted = hands.picture()[corner.y() - 3 : corner.y() + 4, corner.x() - 3 : corner.x() + 4]
    assert (painted.min(axis=2) < 200).all(), "the tile is seen, and nothing lies on it"
    assert dock.label_button.isChecked()
    hands.click(dock.label_button)
    assert (dock.labelling.layer.mode, dock.label_button.isChecked()) == ("pan_zoom", False)


def test_labels_and_classes_are_undone_and_done_again(hands, dock):
    """Two tiles, a class renamed by double click: Ctrl-Z takes back one after the other, Ctrl-Shift-Z does it again."""
    hands.click(dock.label_button)
    places = middles(dock, True)
    for place in places[[0, 3]]:
        hands.click(hands.on_canvas(*place))
    hands.until(lambda: counts(dock) == ["2", "0"])
    table = dock.classes.table
    row = table.visualRect(table.model().index(1, 1))
    hands.click(hands.on(table.viewport(), row), times=2)
    hands.press("ctrl+a")
    hands.write("Stroma")
    hands.press("Return")
    assert dock.classes.names == ["Tumor", "Stroma"]
    hands.click(dock.label_button)  # the canvas has the keys
    states = [(["2", "0"], "Other"), (["1", "0"], "Other"), (["0", "0"], "Other")]
    for count, name in states:
        hands.press("ctrl+z")
        assert (counts(dock), dock.classes.names[1]) == (count, name)
    for count, name in [*states[::-1][1:], (["2", "0"], "Stroma")]:
        hands.press("ctrl+shift+z")
        assert (counts(dock), dock.classes.names[1]) == (count, name)


def test_labels_are_found_again(hands, dock, planted):
    """The slide goes right after the last click; with it come its labels, classes and what was learned."""
    store = dock.slide.store.path
    hands.click(dock.label_button)
    dock.classes.add(["Necrosis"])
    for place in middles(dock, True)[[0, 15]]:
        hands.click(hands.on_canvas(*place))
    hands.press("2")
    for place in middles(dock, False)[:2]:
        hands.click(hands.on_canvas(*place))
    hands.viewer.layers.clear()
    hands.until(lambda: dock.slide is None)
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    hands.until(lambda: dock.slide is not None and dock.taught is not None)
    assert counts(dock) == ["2", "2", "0"]
    assert dock.classes.names == ["Tumor", "Other", "Necrosis"]
    assert (store.parent / "planted.labels.json").exists()


def layers_called(hands, name: str) -> int:
    return sum(layer.name == name for layer in hands.viewer.layers)


def test_labels_that_are_painted_once_the_dock_is_closed_are_kept(hands, dock):
    """And undone; another dock goes on from there, in the same layers."""
    file = dock.slide.store.path.parent / "planted.labels.json"

    def kept() -> int:
        return len(json.loads(file.read_text())["points"]) if file.exists() else 0

    hands.click(dock.label_button)
    inside, outside = middles(dock, True), middles(dock, False)
    for place in inside[[0, 15]]:
        hands.click(hands.on_canvas(*place))
    hands.press("2")
    hands.click(hands.on_canvas(*outside[0]))
    hands.until(lambda: dock.taught is not None and layers_called(hands, "few-shot") == 1)
    hands.click(frame_of_dock(dock).title.close_button)
    hands.wait(300)
    for place in outside[1:4]:
        hands.click(hands.on_canvas(*place))
    hands.until(lambda: kept() == 6)
    hands.press("ctrl+z")
    hands.until(lambda: kept() == 5)
    again = hands.dock("Few-shot classifier")
    hands.until(lambda: again.taught is not None)
    assert counts(again) == ["2", "3"]
    assert (layers_called(hands, "labelled tiles"), layers_called(hands, "few-shot")) == (1, 1)


def test_a_layer_of_labels_that_is_removed_comes_again_by_an_undo(hands, dock):
    """Removed from napari's list while its slide is shown; its labels are no longer counted, nor learned from."""
    hands.click(dock.label_button)
    for place in middles(dock, True)[[0, 15]]:
        hands.click(hands.on_canvas(*place))
    hands.until(lambda: counts(dock) == ["2", "0"])
    hands.viewer.layers.remove(dock.labelling.layer)
    hands.until(lambda: counts(dock) == ["0", "0"])
    hands.click(dock.classes.table)
    hands.press("ctrl+z")
    hands.until(lambda: counts(dock) == ["2", "0"])
    assert layers_called(hands, "labelled tiles") == 1


def test_the_brush_is_seen_before_it_paints(hands, dock):
    """A circle as wide as a tile, around the pointer; it goes where the pointer goes."""
    hands.click(dock.label_button)
    rings = []
    for place in middles(dock, False)[[2, 3]]:
        hands.move(hands.on_canvas(*middles(dock, True)[0]))
        before = hands.picture()
        at = hands.on_canvas(*place)
        hands.move(at)
        hands.wait(150)
        changed = (hands.picture() != before).any(axis=2)
        seen = hands.window.mapFromGlobal(at)
        tile_px = hands.on_canvas(100, 0).x() - hands.on_canvas(0, 0).x()
        rows, cols = np.nonzero(changed)
        away = np.hypot(rows - seen.y(), cols - seen.x())
        rings.append(away[away < tile_px])
        hands.keep_picture("brush")
    for ring in rings:
        assert len(ring) > 40
        assert np.median(ring) == pytest.approx(tile_px / 2, abs=3)
