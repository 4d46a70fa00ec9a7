"""What somebody meets who has read nothing: every step is a thing that is seen, and clicked on."""

import os
import shutil

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QTimer
from qtpy.QtWidgets import QPushButton

from napari_wsi_umedpt.docks.base import Dock, frame_of_dock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.opening.load import open_path, results_beside
from napari_wsi_umedpt.window.tool_bar import ToolBar
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place, text_overlay
from napari_wsi_umedpt.window.window import TOOLS
from tests.support.hands import BOTH_SCREENS
from tests.support.planted import NUCLEUS

MIDDLE = np.array([(NUCLEUS[0] + NUCLEUS[2]) / 2, (NUCLEUS[1] + NUCLEUS[3]) / 2])


def drop(hands, path):
    QTimer.singleShot(0, lambda: hands.viewer.open(str(path), plugin="napari-wsi-umedpt"))


def kinds(hands) -> list[str]:
    return [layer.metadata[KEY].kind for layer in hands.viewer.layers]


def docks(hands, tab: str) -> list[Dock]:
    return [dock for dock in hands.window.findChildren(Dock) if dock.tab == tab and dock.isVisible()]


def button(dock, text: str) -> QPushButton:
    return next(one for one in dock.findChildren(QPushButton) if one.text() == text)


def choose_in_menu(hands, name: str, entry: str):
    bar = hands.window.menuBar()
    action = next(one for one in bar.actions() if one.text().replace("&", "") == name)
    hands.click(hands.on(bar, bar.actionGeometry(action)))
    menu = action.menu()
    hands.until(menu.isVisible)
    hands.click(hands.on(menu, menu.actionGeometry(next(one for one in menu.actions() if one.text() == entry))))


@BOTH_SCREENS
def test_a_slide_comes_with_what_was_found_on_it(hands, planted, tmp_path):
    """Its results lie in `out` beside it; without any, the legend offers to find nuclei. The canvas says what to do."""
    words = text_overlay(hands.viewer)
    assert words.text == "Drag a slide here, or open one with the menu Slide."
    hands.wait(200)
    hands.keep_picture("empty")
    slide = shutil.copy(planted.slide, tmp_path / "planted.svs")
    alone = shutil.copy(planted.slide, tmp_path / "alone.svs")
    shutil.copytree(planted.store, tmp_path / "out" / "planted.zarr")
    drop(hands, alone)
    hands.until(lambda: kinds(hands) == ["slide"])
    (legend,) = docks(hands, "Legend")
    hands.until(lambda: legend.offer.isVisible())
    hands.keep_picture("nothing-found-yet")
    hands.click(legend.offer.button)
    hands.until(lambda: len(docks(hands, "Analyse")) == 1)
    drop(hands, slide)
    hands.until(lambda: set(kinds(hands)) == {"slide", "heatmap", "objects", "tiles", "tissue"})
    assert legend.offer.isHidden()


def test_results_of_another_slide_of_that_name_do_not_come(hands, planted, other, tmp_path, told):
    """They are not this slide's, whatever they are called; of regions the newest comes, where all was not analysed."""
    slide = shutil.copy(planted.slide, tmp_path / "planted.svs")
    shutil.copytree(other.store, tmp_path / "planted.zarr")
    drop(hands, slide)
    hands.until(lambda: kinds(hands) == ["slide"])
    hands.wait(300)
    assert kinds(hands) == ["slide"]
    assert not told
    shutil.rmtree(tmp_path / "planted.zarr")
    for age, name in enumerate(("planted.region-00000002.zarr", "planted.region-00000001.zarr")):
        made = shutil.copytree(planted.store, tmp_path / "out" / name)
        os.utime(made, (1e9 - age, 1e9 - age))
    assert [path.name[-6] for path in results_beside(tmp_path / "planted.svs")] == ["2", "1"]


def test_everything_is_in_one_menu(hands, planted):
    """The menu Slide opens each dock by a click, in the place of the one before."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    does = {tool.tab: tool.does for group in TOOLS for tool in group}
    for tab in ("Draw", "Slides", "Draw"):
        choose_in_menu(hands, "Slide", does[tab])
        hands.until(lambda tab=tab: len(docks(hands, tab)) == 1)


@BOTH_SCREENS
def test_every_dock_is_one_click_away(hands, planted):
    """All buttons of the bar are on the screen; each shows its dock alone, or puts it away with what it holds."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    bar = ToolBar.of(hands.window)

    def shown() -> list[str]:
        return sorted(dock.tab for dock in hands.window.findChildren(Dock) if dock.in_tabs and dock.isVisible())

    assert all(bar.button(tab).isVisible() for tab in bar.buttons)
    hands.until(lambda: shown() == ["Legend"])
    for tab in ("Draw", "Cells", "Measure", "Draw"):
        hands.click(bar.button(tab))
        hands.until(lambda tab=tab: shown() == [tab])
        assert [name for name, one in bar.buttons.items() if one.isChecked()] == [tab]
    (draw,) = docks(hands, "Draw")
    draw.entry.setText("Granuloma")
    hands.click(bar.button("Draw"))
    hands.until(lambda: shown() == [])
    hands.click(bar.button("Draw"))
    hands.until(lambda: shown() == ["Draw"])
    assert docks(hands, "Draw") == [draw]
    assert draw.entry.text() == "Granuloma"
    hands.keep_picture("tools-of-the-bar")
    hands.click(frame_of_dock(draw).title.close_button)
    hands.until(lambda: not bar.buttons["Draw"].isChecked())


@BOTH_SCREENS
def test_the_class_of_a_nucleus_is_corrected(hands, planted):
    """From the legend: those in view are shapes, the dock Draw is there, a click selects, the list gives the class."""
    add_layers(hands.viewer, open_path(planted.store, pytest.fail))
    hands.wait(200)
    seen = camera(hands.viewer)
    seen.zoom, seen.center = 4, (0, *current_place(hands.viewer).to_world(MIDDLE))
    hands.wait(200)
    (legend,) = docks(hands, "Legend")
    hands.click(button(legend, "Edit those in view"))
    hands.until(lambda: len(docks(hands, "Draw")) == 1)
    hands.wait(300)
    (draw,) = docks(hands, "Draw")
    layer = hands.viewer.layers["nuclei (edited)"]
    assert draw.tools["select"].isChecked()
    hands.click(hands.on_canvas(*MIDDLE))
    assert layer.selected_data == {0}
    hands.click(draw.classes)
    view = draw.classes.view()
    hands.until(view.isVisible)
    row = view.visualRect(view.model().index(draw.classes.findText("Immune cells"), 0))
    hands.click(hands.on(view.viewport(), row))
    hands.until(lambda: list(layer.features["class"]) == ["Immune cells"])
    hands.keep_picture("corrected")
    hands.viewer.layers.clear()
    hands.wait(200)
    add_layers(hands.viewer, open_path(planted.store, pytest.fail))
    hands.until(lambda: "nuclei (edited)" in hands.viewer.layers)
    again = hands.viewer.layers["nuclei (edited)"]
    assert list(again.features["class"]) == ["Immune cells"]
    assert "".join(np.atleast_1d(again.text.values).astype(str)) == ""


@BOTH_SCREENS
def test_tools_are_buttons(hands, planted):
    """Drag a rectangle, select it, delete it, move the slide: by mouse alone; the button of the tool is pressed."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    hands.viewer.reset_view()
    dock = hands.dock("Annotations")
    hands.click(dock.tools["add_rectangle"])
    hands.drag([hands.on_canvas(300, 300), hands.on_canvas(700, 700)])
    layer = hands.viewer.layers["annotations"]
    hands.until(lambda: list(layer.shape_type) == ["rectangle"])
    assert list(layer.features["class"]) == ["Tumor"]
    hands.click(dock.tools["select"])
    hands.click(hands.on_canvas(500, 500))
    hands.until(lambda: layer.selected_data == {0})
    hands.keep_picture("tools")
    hands.click(button(dock, "Delete"))
    hands.until(lambda: layer.nshapes == 0)
    hands.click(dock.tools["pan_zoom"])
    before = camera(hands.viewer).center
    hands.drag([hands.on_canvas(900, 900), hands.on_canvas(1100, 1000)])
    assert camera(hands.viewer).center != before
    assert [mode for mode, one in dock.tools.items() if one.isChecked()] == ["pan_zoom"]


def test_after_a_region_is_drawn_the_mouse_moves_the_slide(hands, planted):
    """What is drawn to be analysed has QuPath's class for that, and the next click draws nothing."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    hands.viewer.reset_view()
    dock = hands.dock("Analyse")
    hands.click(button(dock, "Draw ..."))
    corners = [(300, 300), (900, 300), (900, 900), (300, 900)]
    hands.drag([hands.on_canvas(*corner) for corner in corners])
    layer = hands.viewer.layers["regions to analyse"]
    hands.until(lambda: layer.nshapes == 1 and layer.mode == "pan_zoom")
    assert list(layer.features["class"]) == ["Region*"]
    hands.click(hands.on_canvas(600, 600) + QPoint(3, 3))
    hands.wait(200)
    assert layer.nshapes == 1
    assert dock.region.currentText() == "drawn regions"
