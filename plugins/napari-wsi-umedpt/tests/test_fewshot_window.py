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
