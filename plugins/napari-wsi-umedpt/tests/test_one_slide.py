"""One slide is shown at a time, and everybody sees which."""

import gc
import shutil
import weakref

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMessageBox

from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.logic.annotations import Annotation, write_annotations
from napari_wsi_umedpt.opening.opener import window_of
from tests.support.hands import Hands

PLUGIN = "napari-wsi-umedpt"


def drop(hands: Hands, *paths):
    """As somebody does with the mouse."""
    QTimer.singleShot(0, lambda: hands.viewer.open([str(path) for path in paths], plugin=PLUGIN))


def kinds(viewer) -> list[str]:
    return [layer.metadata[KEY].kind for layer in viewer.layers]


def stores(viewer) -> set[str]:
    return {layer.metadata[KEY].store.name for layer in viewer.layers if layer.metadata[KEY].store}


def shown(hands: Hands, name: str, count: int):
    """Wait until a slide is shown by so many layers."""
    hands.until(lambda: hands.window.windowTitle().startswith(name) and len(hands.viewer.layers) == count)
    hands.wait(150)


def question(hands: Hands) -> QMessageBox:
    """The question that is on the screen."""
    hands.until(lambda: any(box.isVisible() for box in hands.window.findChildren(QMessageBox)))
    hands.wait(150)
    return next(box for box in hands.window.findChildren(QMessageBox) if box.isVisible())


def answer(hands: Hands, words: str):
    hands.click(next(button for button in question(hands).buttons() if button.text() == words))


def test_another_slide_takes_the_place_of_the_first(hands, planted, other, told):
    """With its results; its name, as people wrote it, stands in the title and on the canvas. The first is let go of."""
    drop(hands, planted.store)
    shown(hands, "planted.svs", 5)
    first = weakref.ref(hands.viewer.layers[0].metadata[KEY].slide)
    before = hands.picture()
    drop(hands, other.slide)
    shown(hands, other.slide.name, 1)
    assert hands.viewer.canvas.overlays.text.text == other.slide.name
    assert hands.viewer.canvas.overlays.text.visible
    after = hands.picture()
    assert (before != after).any(axis=2).mean() > 0.05
    drop(hands, other.store)  # results of the slide that is shown come over it
    shown(hands, other.slide.name, 5)
    assert kinds(hands.viewer)[0] == "slide"
    hands.keep_picture("one-slide")
    assert not told
    gc.collect()
    assert first() is None, "its file is still open, and what was read of it in memory"


def test_the_same_slide_twice_is_one(hands, planted, told):
    """Nothing is shown twice, and it is said; results that are opened again are read again."""
    drop(hands, planted.slide)
    shown(hands, "planted.svs", 1)
    drop(hands, planted.slide)
    hands.until(lambda: bool(told))
    assert told[-1].message == "planted.svs is open already."
    assert len(hands.viewer.layers) == 1
    for _ in range(2):
        drop(hands, planted.store)
        hands.wait(400)
        hands.until(lambda: kinds(hands.viewer) == ["slide", "heatmap", "objects", "tiles", "tissue"])
        hands.wait(200)
    assert len(hands.viewer.layers) == 5


def test_results_of_another_slide_are_asked_about(hands, planted, other):
    """They never lie over a slide that they are not of: it is left, or their own slide takes its place."""
    drop(hands, planted.slide)
    shown(hands, "planted.svs", 1)
    drop(hands, other.store)
    assert "other.zarr holds results of another slide" in question(hands).text()
    hands.keep_picture("another-slide")
    answer(hands, "Leave it")
    hands.wait(300)
    assert kinds(hands.viewer) == ["slide"]
    assert hands.window.windowTitle().startswith("planted.svs")
    drop(hands, other.store)
    answer(hands, "Show their own slide")
    shown(hands, other.slide.name, 5)
    assert stores(hands.viewer) == {"other.zarr"}


def test_a_slide_with_results_beside_it_takes_the_place_of_another(hands, planted, other, tmp_path):
    """Without a question: it is a slide that was opened, and its results come with it."""
    slide = shutil.copy(other.slide, tmp_path / "other.svs")
    shutil.copytree(other.store, tmp_path / "out" / "other.zarr")
    drop(hands, planted.slide)
    shown(hands, "planted.svs", 1)
    drop(hands, slide)
    shown(hands, "other.svs", 5)
    assert stores(hands.viewer) == {"other.zarr"}
    hands.dock("Slides and results").open(planted.slide)
    shown(hands, "planted.svs", 1)


def test_two_slides_lie_side_by_side_when_asked_for(hands, planted, other):
    """Each in its window; neither lies over the other."""
    drop(hands, planted.slide)
    shown(hands, "planted.svs", 1)
    drop(hands, other.store)
    answer(hands, "In a window beside")
    import napari

    hands.until(lambda: len(type(hands.viewer)._instances) == 2)
    (beside,) = (viewer for viewer in type(hands.viewer)._instances if viewer is not hands.viewer)
    hands.until(lambda: len(beside.layers) == 5)
    assert kinds(hands.viewer) == ["slide"]
    left, right = hands.window.frameGeometry(), window_of(beside).frameGeometry()
    assert not left.intersects(right)
    assert napari.current_viewer() is not None


def test_what_was_drawn_follows_its_slide(hands, planted, other, tmp_path):
    """Not to be seen while another slide is shown, on top again when its own comes back."""
    square = np.array([[100, 100], [900, 100], [900, 900], [100, 900.0]])
    write_annotations(tmp_path / "drawn.geojson", [Annotation(((square,),), "Tumor")])
    drop(hands, planted.slide, tmp_path / "drawn.geojson")
    shown(hands, "planted.svs", 2)
    drop(hands, other.slide)
    hands.until(lambda: hands.window.windowTitle().startswith(other.slide.name))
    hands.until(lambda: not any(layer.visible for layer in hands.viewer.layers if layer.name == "drawn"))
    drop(hands, planted.slide)
    shown(hands, "planted.svs", 2)
    assert hands.viewer.layers[-1].name == "drawn"
    assert hands.viewer.layers[-1].visible


def test_a_script_that_opens_another_slide_replaces_the_first(viewer, planted, other):
    """Without a question."""
    viewer.open(str(planted.store), plugin=PLUGIN)
    viewer.open(str(other.store), plugin=PLUGIN)
    assert kinds(viewer) == ["slide", "heatmap", "objects", "tiles", "tissue"]
    assert stores(viewer) == {"other.zarr"}
    assert viewer.title == f"{other.slide.name} - wsi_umedpt"
    viewer.layers.clear()
    assert viewer.title == "napari"
