"""Cells by few clicks as a pathologist does it, with a mouse in a window that is shown."""

import json

import numpy as np
import pytest
from qtpy.QtCore import QPoint
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.store import SlideStore, read_object_scores

from napari_wsi_umedpt.docks import analyse
from napari_wsi_umedpt.docks.base import frame_of_dock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.layers.run_results import shown_of
from napari_wsi_umedpt.logic.analysis import ModelChoice
from napari_wsi_umedpt.logic.navigation import magnification_of
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.tool_bar import ToolBar
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.cells import bare_store, cell_store, types
from tests.support.hands import BOTH_SCREENS


@pytest.fixture
def store(planted, tmp_path):
    with open_slide(planted.slide) as slide:
        return cell_store(tmp_path / "planted.zarr", slide)


@pytest.fixture
def dock(hands, planted, store):
    """The dock over a slide with nuclei of two types."""
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    dock = hands.dock("Cells")
    hands.until(lambda: dock.slide is not None)
    hands.viewer.reset_view()
    return dock


def click_cells(hands, dock, kind: int, count: int, first: int = 0) -> None:
    for row in np.flatnonzero(types() == kind)[first : first + count].tolist():
        hands.click(hands.on_canvas(*dock.slide.field.objects.centroid[row].tolist()))


def column(dock, number: int) -> list[str]:
    return [dock.classes.table.item(row, number).text() for row in range(len(dock.classes.names))]


def learned_from(dock, *counts: int) -> bool:
    return dock.taught is not None and [*dock.taught.probe.about["labelled"].values()] == [*counts]


def test_cells_are_there_once_they_were_found(hands, planted, tmp_path, told, monkeypatch):
    """Without nuclei the dock leads to Analyse, where they are ticked, and calls nothing an error; then it is ready."""
    heads = {"nuclei": "nuclei; try these first", "cells": "blood cells"}
    monkeypatch.setattr(analyse, "models", lambda: [ModelChoice("model", "about", heads)])
    path = tmp_path / "planted.zarr"
    with open_slide(planted.slide) as slide:
        bare_store(path, slide)
        add_layers(hands.viewer, open_path(path, pytest.fail, slide=planted.slide))
        dock = hands.dock("Cells")
        hands.until(dock.offer.isVisible)
        hands.click(dock.offer.button)
        bar = ToolBar.of(hands.window)
        hands.until(bar.buttons["Analyse"].isChecked)
        (other,) = hands.window.findChildren(analyse.AnalyseDock)
        hands.until(lambda: other.chosen_heads == ("nuclei",))
        cell_store(path, slide)
    found = [layer for layer in open_path(path, pytest.fail, slide=planted.slide) if shown_of(layer).kind == "objects"]
    add_layers(hands.viewer, found)
    hands.click(bar.button("Cells"))
    hands.until(lambda: dock.slide is not None)
    hands.wait(100)
    assert dock.offer.isHidden()
    assert dock.notice.isHidden()
    assert told == []


def test_a_click_beside_a_cell_means_it(hands, dock, told):
    """Up to some px of the screen: cells are small, and nobody meets each outline; what is far from all means none."""
    hands.click(dock.label_button)
    objects = dock.slide.field.objects
    corner = hands.on_canvas(*objects.outline[: objects.starts[1]].min(0).tolist())
    hands.click(corner - QPoint(4, 4))
    hands.until(lambda: [*dock.labelling.labels] == [0])
    hands.click(corner - QPoint(60, 60))
    hands.until(lambda: len(told) == 1)
    assert [*dock.labelling.labels] == [0]


@BOTH_SCREENS
def test_clicked_cells_are_learned_from_and_all_are_counted(hands, dock):
    """Three clicks, the key 2, three clicks: all are coloured, the legend has as many; a drag moves the slide."""
    hands.click(dock.label_button)
    click_cells(hands, dock, 0, 3)
    hands.press("2")
    click_cells(hands, dock, 1, 3)
    hands.until(lambda: learned_from(dock, 3, 3))
    hands.until(lambda: column(dock, 3) == ["50", "50"])
    assert column(dock, 2) == ["3", "3"]
    assert dock._colours in hands.viewer.layers
    shown = dock._colours.metadata[KEY]
    assert np.bincount(shown.objects.objects.class_index).tolist() == [50, 50]
    hands.keep_picture("cells")
    picture = dock.gallery.list.visualItemRect(dock.gallery.list.item(0))
    dock.gallery.list.itemClicked.emit(dock.gallery.list.itemAt(picture.center()))
    assert 20 <= magnification_of(hands.viewer.scene.camera.zoom) <= 40
    hands.viewer.reset_view()
    hands.wait()
    before = hands.viewer.scene.camera.center
    at = hands.on_canvas(1200, 1400)
    hands.drag([at, at + type(at)(60, 0)])
    assert hands.viewer.scene.camera.center != before
    assert column(dock, 2) == ["3", "3"]
    legend = hands.dock("Legend")
    assert any("50" in entry.numbers for block in legend._blocks if block._legend for entry in block._legend.entries())


def test_a_correction_is_learned_and_undone(hands, dock):
    """A cell that is wrong gets the other class by a click; Ctrl-Z takes it back, and what was learned with it."""
    hands.click(dock.label_button)
    click_cells(hands, dock, 0, 2)
    hands.press("2")
    click_cells(hands, dock, 1, 2)
    hands.until(lambda: learned_from(dock, 2, 2))
    click_cells(hands, dock, 0, 1, first=5)  # said to be of the second class
    hands.until(lambda: learned_from(dock, 3, 2))
    row = int(np.flatnonzero(types() == 0)[5])
    assert dock.labelling.labels[row] == "Other"
    hands.press("ctrl+z")
    hands.until(lambda: learned_from(dock, 2, 2))
    hands.press("0")
    click_cells(hands, dock, 1, 1)
    hands.until(lambda: learned_from(dock, 1, 2))


def test_labels_of_cells_are_found_again(hands, dock, planted, store):
    """What is clicked once the dock is closed is kept, too; with the slide come its labels and what was learned."""
    hands.click(dock.label_button)
    click_cells(hands, dock, 0, 2)
    hands.press("2")
    click_cells(hands, dock, 1, 1)
    hands.until(lambda: learned_from(dock, 1, 2))
    hands.click(frame_of_dock(dock).title.close_button)
    hands.wait(300)
    click_cells(hands, dock, 1, 1, first=1)
    file = store.parent / "planted.cells.json"
    hands.until(lambda: file.exists() and len(json.loads(file.read_text())["points"]) == 4)
    hands.viewer.layers.clear()
    hands.wait(200)
    add_layers(hands.viewer, open_path(store, pytest.fail, slide=planted.slide))
    again = hands.dock("Cells")
    hands.until(lambda: learned_from(again, 2, 2))
    assert column(again, 2) == ["2", "2"]


def test_the_next_slide_is_classified_and_corrected(hands, dock, other, tmp_path, told):
    """Another slide is coloured by what was learned; all of the case list are classified by one button."""
    hands.click(dock.label_button)
    click_cells(hands, dock, 0, 3)
    hands.press("2")
    click_cells(hands, dock, 1, 3)
    hands.until(lambda: learned_from(dock, 3, 3))
    folder = tmp_path / "cases"
    folder.mkdir()
    with open_slide(other.slide) as slide:
        second = cell_store(folder / "other.zarr", slide, seed=1)
    cases = hands.dock("Case list")
    cases.open(folder)
    hands.until(lambda: cases.number == 0 and dock.slide is not None and dock.slide.store.path == second)
    dock = hands.dock("Cells")
    hands.until(lambda: dock.taught is not None and column(dock, 3) == ["50", "50"])
    assert column(dock, 2) == ["0", "0"]
    assert (dock.taught.chances.argmax(1) == dock.taught.probe.classes.index("Other")).tolist() == types(1).tolist()
    dock.classify_all()
    hands.until(lambda: any("Classified the cells of 1 of 1 slides" in one.message for one in told))
    chances, _ = read_object_scores(SlideStore.open(second), "cells")
    assert np.array_equal(chances, dock.taught.chances)
    dock.labelling.name_classes(["Mitosis", "Other"])  # on this slide
    hands.until(lambda: dock.words.text().endswith("Of classes that other slides have: 50 Tumor."))


def test_a_slide_without_cells_leads_to_their_search(hands, planted):
    """A sentence and a button, and no error."""
    add_layers(hands.viewer, open_path(planted.slide, pytest.fail))
    dock = hands.dock("Cells")
    hands.until(lambda: dock.offer.isVisible())
    assert "nuclei must be found" in dock.offer.words.text()
