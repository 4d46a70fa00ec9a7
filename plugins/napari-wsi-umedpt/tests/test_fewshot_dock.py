"""The few-shot dock, used as a pathologist uses it: painted, learned, saved, opened again."""

import numpy as np
import pytest
from wsi_umedpt.annotations.labels import read_drawn_labels, read_points
from wsi_umedpt.mil.linear_probe import Probe
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.docks.few_shot import FewShotDock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera
from tests.support.planted import MPP, TUMOUR
from tests.support.tiny import colour_store


@pytest.fixture
def store(planted, tmp_path):
    return colour_store(tmp_path / "planted.zarr", planted.slide, TileSpec(size_px=100, mpp=MPP))


def docked(viewer, store, slide, qtbot):
    add_layers(viewer, open_path(store, pytest.fail, slide=slide))
    dock = FewShotDock(viewer)
    viewer.window.add_dock_widget(dock)
    qtbot.waitUntil(lambda: dock.slide is not None)
    return dock


@pytest.fixture
def dock(viewer, store, planted, qtbot):
    return docked(viewer, store, planted.slide, qtbot)


def quiet(dock) -> bool:
    return not (dock._background.busy or dock._teaching.busy or dock._reading.busy)


def few(dock) -> dict[int, str]:
    left, top, right, bottom = TUMOUR
    x, y = (dock.slide.grid.xy + 50).T
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    rows = [np.flatnonzero(inside)[[0, 3, 12, 15]], np.setdiff1d(np.flatnonzero(~inside), [3])[::60]]
    return {int(row): name for some, name in zip(rows, ("Tumor", "Other"), strict=True) for row in some}


def taught(dock, qtbot):
    qtbot.waitUntil(lambda: dock.taught is not None and quiet(dock))


def test_painted_tiles_teach_the_slide(dock, qtbot):
    """Keys choose classes, the brush labels, the slide is coloured, an undo is learned from too."""
    from qtpy.QtCore import Qt

    dock.label()
    layer = dock.labelling.layer
    assert layer.mode == "paint"
    assert dock._viewer.layers.selection.active is layer
    labels = few(dock)
    cells = dock.slide.cells
    canvas = dock._viewer.window._qt_viewer.canvas.native
    for number, name in ((1, "Tumor"), (2, "Other")):
        qtbot.keyClick(canvas, getattr(Qt.Key, f"Key_{number}"))
        assert (layer.selected_label, dock.classes.current) == (number, number)
        for tile, label in labels.items():
            if label == name:
                layer.paint(np.argwhere(cells.tile == tile)[0], number)
    taught(dock, qtbot)
    assert cells.labels(layer.data, dock.classes.names) == labels
    assert [dock.classes.table.item(row, 2).text() for row in range(2)] == ["4", str(len(labels) - 4)]
    names = dock.taught.probe.classes
    middle = dock.taught.chances[[row for row, name in labels.items() if name == "Tumor"]]
    assert (middle.argmax(axis=1) == names.index("Tumor")).all()
    assert "Other slides will be harder" in dock.words.text()
    assert dock._colours in dock._viewer.layers
    before = dock.taught
    layer.undo()
    qtbot.waitUntil(lambda: dock.taught is not before and quiet(dock))
    assert sum(dock.taught.probe.about["labelled"].values()) == len(labels) - 1


def test_colours_lie_on_their_tiles(dock, qtbot):
    """Where a tile is on the slide its colour is, to half a pixel."""
    dock.labelling.label(few(dock))
    taught(dock, qtbot)
    tile = next(row for row, name in few(dock).items() if name == "Tumor")
    row, col = np.argwhere(dock.slide.cells.tile == tile)[0]
    where = dock._colours.data_to_world((row, col))
    assert where == pytest.approx(tuple(dock.slide.place.to_world(dock.slide.grid.xy[tile] + 50.0)), abs=1e-6)
    assert dock._colours.metadata[KEY].kind == "features"
    red, green, blue, alpha = dock._colours.data[row, col]
    assert (red, green, blue) == dock.classes.colours[0]
    assert alpha > 100
    dock.column.setCurrentIndex(dock.column.findText("probability of Other"))
    dock._show_colours()
    chance = dock.taught.chances[tile, dock.taught.probe.classes.index("Other")]
    assert dock._colours.data[row, col, 3] == pytest.approx(255 * chance, abs=1)


def test_glass_beside_the_tiles_is_no_label(dock, qtbot):
    """Paint on a tile that cannot be read, or beside the grid, does not stay."""
    dock.label()
    bad = np.argwhere(dock.slide.cells.tile < 0)
    dock.labelling.layer.paint(bad[0], 1)
    qtbot.waitUntil(lambda: not dock.labelling.layer.data.any())
    assert dock.labelling.labels == {}


def test_suggested_tiles_are_gone_to(dock, qtbot):
    """Pictures of the least sure ones; a click goes there and painting can go on."""
    dock.label()
    dock.labelling.label(few(dock))
    taught(dock, qtbot)
    assert dock.gallery.rows == dock.taught.next
    dock.gallery.list.itemClicked.emit(dock.gallery.list.item(0))
    middle = dock.slide.place.to_world(dock.slide.grid.xy[dock.taught.next[0]] + 50.0)
    assert camera(dock._viewer).center[-2:] == pytest.approx(tuple(middle))
    assert dock._viewer.layers.selection.active is dock.labelling.layer


def test_one_class_is_too_few(dock, qtbot):
    """Nothing is learned or drawn until there are two; nothing can be saved then."""
    dock.labelling.label({0: "Tumor"})
    assert dock.taught is None
    assert "Two classes are needed" in dock.words.text()
    dock.labelling.label(few(dock))
    taught(dock, qtbot)
    dock.labelling.label({0: "Tumor"})
    assert dock.taught is None
    assert dock._colours is None


def test_saved_and_opened_again(dock, store, planted, tmp_path, told, make_napari_viewer, qtbot):
    """A fresh window learns the same from the files, and the command line from the probe."""
    labels = few(dock)
    dock.labelling.label(labels)
    taught(dock, qtbot)
    table, regions, probe = (tmp_path / name for name in ("labels.csv", "planted.geojson", "tumour.json"))
    dock.save_labels(table)
    dock.save_labels(regions)
    dock.save_probe(probe)
    assert "wsi-umedpt probe predict" in told[-1].message
    assert len(read_points(table)) == len(labels)
    assert {region.label for region in read_drawn_labels(regions, "planted").regions} == {"Tumor", "Other"}
    assert Probe.load(probe).weight == pytest.approx(dock.taught.probe.weight)
    dock.write_scores()
    qtbot.waitUntil(lambda: "Kept in the results" in told[-1].message)
    assert read_scores(SlideStore.open(store), "few-shot")[0] == pytest.approx(dock.taught.chances, nan_ok=True)
    fresh = docked(make_napari_viewer(show=True), store, planted.slide, qtbot)
    for path in (table, regions):
        fresh.open_labels(path)
        taught(fresh, qtbot)
        assert fresh.labelling.labels == labels
        assert fresh.taught.chances == pytest.approx(dock.taught.chances, nan_ok=True)


def test_files_that_do_not_fit_are_refused(dock, tmp_path, told, qtbot):
    """In the words of our errors; the labels stay."""
    labels = few(dock)
    dock.labelling.label(labels)
    taught(dock, qtbot)
    (tmp_path / "labels.csv").write_text("slide_id,x,y,label\nelse,1,2,Tumor\n")
    dock.open_labels(tmp_path / "labels.csv")
    assert "it is of else" in told[-1].message
    dock.save_probe(tmp_path / "probe.txt")
    assert "saved as .json" in told[-1].message
    assert dock.labelling.labels == labels


def test_labels_are_there_again_with_their_slide(dock, store, planted, qtbot):
    """Going through slides and back loses no label."""
    labels = few(dock)
    dock.labelling.label(labels)
    taught(dock, qtbot)
    for layer in list(dock._viewer.layers):
        if layer.metadata[KEY].kind != "annotations":
            dock._viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: dock.slide is None)
    assert dock.labelling.layer is None
    add_layers(dock._viewer, open_path(store, pytest.fail, slide=planted.slide))
    qtbot.waitUntil(lambda: dock.slide is not None)
    taught(dock, qtbot)
    assert dock.labelling.labels == labels


def test_results_that_cannot_teach_are_refused(viewer, planted, told, qtbot):
    """The planted store does not say what made its features."""
    add_layers(viewer, open_path(planted.store, pytest.fail, slide=planted.slide))
    dock = FewShotDock(viewer)
    viewer.window.add_dock_widget(dock)
    qtbot.waitUntil(lambda: bool(told))
    assert "do not say their 'card'" in told[0].message
    assert "nothing to learn from" in dock.offer.words.text()
    dock.label()
    assert dock.labelling.layer is None


def test_classes_are_named_by_the_user(dock, qtbot):
    """Added, renamed, never two of one name."""
    dock.labelling.label(few(dock))
    taught(dock, qtbot)
    dock.classes.entry.setText("Necrosis")
    dock.classes.entry.returnPressed.emit()
    assert dock.classes.names == ["Tumor", "Other", "Necrosis"]
    assert dock.labelling.layer.selected_label == 3
    dock.classes.table.item(1, 1).setText("Stroma")
    qtbot.waitUntil(lambda: quiet(dock) and dock.taught is not None and "Stroma" in dock.taught.probe.classes)
    dock.classes.table.item(2, 1).setText("Stroma")
    assert len({*dock.classes.names}) == 3
