"""Few-shot labelling as a pathologist does it, with a mouse in a window that is shown."""

import numpy as np
import pytest
from conftest import MPP, TUMOUR
from tiny import colour_store
from wsi_umedpt.tiling import TileSpec

from napari_wsi_umedpt._opening import open_path
from napari_wsi_umedpt._viewer import add_layers


@pytest.fixture
def dock(hands, planted, tmp_path):
    """The dock over a slide whose tumour is of another colour."""
    store = colour_store(tmp_path / "planted.zarr", planted.slide, TileSpec(size_px=100, mpp=MPP))
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    dock = hands.dock("Few-shot classifier")
    hands.until(lambda: dock.slide is not None, timeout=30_000)
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


def test_clicked_tiles_are_counted_and_learned_from(hands, dock):
    """Four clicks, the key 2, five clicks: the counts follow each click, and the slide is coloured."""
    hands.click(dock.paint_button)
    for n, place in enumerate(middles(dock, True)[[0, 3, 12, 15]], start=1):
        hands.click(hands.on_canvas(*place))
        hands.until(lambda n=n: counts(dock) == [str(n), "0"], timeout=3000)
    hands.press("2")
    for n, place in enumerate(middles(dock, False)[:5], start=1):
        hands.click(hands.on_canvas(*place))
        hands.until(lambda n=n: counts(dock) == ["4", str(n)], timeout=3000)
    hands.until(lambda: dock.taught is not None and dock._colours in hands.viewer.layers)
    hands.until(lambda: dock.taught.probe.about["labelled"] == {"Other": 5, "Tumor": 4})
    hands.keep_picture("fewshot")


def test_labels_and_classes_are_undone_and_done_again(hands, dock):
    """Two tiles, a class renamed by double click: Ctrl-Z takes back one after the other, Ctrl-Shift-Z does it again."""
    hands.click(dock.paint_button)
    places = middles(dock, True)
    for place in places[[0, 3]]:
        hands.click(hands.on_canvas(*place))
    hands.until(lambda: counts(dock) == ["2", "0"], timeout=3000)
    table = dock.classes.table
    row = table.visualRect(table.model().index(1, 1))
    hands.click(hands.on(table.viewport(), row), times=2)
    hands.press("ctrl+a")
    hands.write("Stroma")
    hands.press("Return")
    assert dock.classes.names == ["Tumor", "Stroma"]
    hands.click(dock.paint_button)  # the canvas has the keys
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
    hands.click(dock.paint_button)
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
