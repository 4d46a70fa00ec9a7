"""Nuclei that a pathologist puts right teach a head, with mouse and keys in a window that is shown."""

import json

import numpy as np
import pytest
from wsi_umedpt.cli.correct import correct
from wsi_umedpt.io import checkpoint
from wsi_umedpt.store import SlideStore
from wsi_umedpt.store.objects_io import read_objects

from napari_wsi_umedpt.docks.analyse import AnalyseDock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.layers.shapes import CORRECTED
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.opening.opener import window_of
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.painted import MISSING, NONE_THERE, WRONG, circle, own_head, paint

NAME = "nuclei (corrections)"


@pytest.fixture
def painted(tmp_path):
    return paint(tmp_path)


@pytest.fixture
def panel(hands, painted, own_folder, monkeypatch):
    """What the dock Draw shows once "Correct and learn" is pressed, over the painted slide; lessons are short."""
    monkeypatch.setattr("wsi_umedpt.pipeline.lesson._ROUNDS", 3)
    own_head(own_folder / "heads")
    add_layers(hands.viewer, open_path(painted.store, pytest.fail, slide=painted.slide))
    dock = hands.dock("Annotations")
    hands.viewer.reset_view()
    hands.wait(400)  # until it is known that nothing was drawn on it before
    hands.click(dock.correct_button)
    hands.until(lambda: dock.correcting.heads.count() > 0)
    return dock.correcting


def press(hands, button) -> None:
    """Click on a button of the dock, wherever it was scrolled to."""
    area = button
    while not hasattr(area, "ensureWidgetVisible"):
        area = area.parentWidget()
    area.ensureWidgetVisible(button)
    hands.wait(60)
    hands.click(button)


def layer_of(hands):
    return hands.viewer.layers[NAME]


def names(hands) -> list[str]:
    layer = layer_of(hands)
    return list(layer.features["class"].iloc[: layer.nshapes])


def draw_around(hands, centre, radius) -> None:
    ring = circle(tuple(centre), radius)
    hands.drag([hands.on_canvas(*corner) for corner in [*ring, ring[0]]])


def corrected(hands, panel, painted) -> None:
    """All nuclei of the view put right: one is added, one drawn anew, one taken away."""
    press(hands, panel.correct_button)
    count = len(painted.centres)
    assert names(hands) == [CORRECTED] + ["nucleus"] * count  # one is missing, and one is none
    draw_around(hands, painted.centres[MISSING], painted.radii[MISSING])
    hands.until(lambda: len(names(hands)) == count + 2)
    draw_around(hands, painted.centres[WRONG], painted.radii[WRONG])
    hands.wait(100)
    assert len(names(hands)) == count + 2  # it took the place of the wrong one
    press(hands, panel._dock.tools["select"])
    hands.click(hands.on_canvas(*NONE_THERE))
    assert len(layer_of(hands).selected_data) == 1
    hands.press("Delete")
    hands.until(lambda: len(names(hands)) == count + 1)
    assert "1 region" in panel.drawn.text()
    assert f"{count} nuclei" in panel.drawn.text()


def test_corrected_nuclei_teach_a_head_that_finds_more(hands, panel, painted, tmp_path, own_folder):
    """Correct, learn, read the gain, save: the head is that of Python and of the command line, and finds nuclei."""
    corrected(hands, panel, painted)
    press(hands, panel.learn_button)
    assert panel.cancel_button.isEnabled()
    hands.until(lambda: panel.lesson is not None)
    assert panel.lesson.windows > 5
    assert panel.lesson.words in panel.verdict.text()
    assert f"{panel.lesson.before:.2f} before, {panel.lesson.after:.2f} after" in panel.verdict.text()
    hands.keep_picture("correct")
    press(hands, panel.save_button)
    hands.until(lambda: panel.saved is not None)
    mine = own_folder / "heads" / "nuclei_corrected.json"
    assert panel.saved == mine
    # The same from a file of what was drawn, by the command.
    hands.viewer.layers.selection.active = layer_of(hands)
    panel._dock.save(tmp_path / "drawn.geojson")
    there = tmp_path / "there.json"
    release = own_folder / "heads" / "nuclei.json"
    correct(painted.slide, corrections=tmp_path / "drawn.geojson", out=there, head="nuclei", model=f"umedpt:{release}")
    here, said = (checkpoint.load(path) for path in (mine, there))
    for key in ("head.weight", "head.bias"):
        assert np.array_equal(here[0][f"heads.nuclei_corrected.{key}"], said[0][f"heads.there.{key}"])
    assert here[1]["taught"] == said[1]["taught"]
    # It is at hand in the dock Analyse, and finds nuclei in what is seen.
    analyse = hands.dock("Analyse")
    assert isinstance(analyse, AnalyseDock)
    hands.until(lambda: f"umedpt:{mine}" in analyse._models)
    hands.dock("Annotations")
    press(hands, panel.view_button)
    hands.until(lambda: panel._runs.current is None and bool(panel._runs.last))
    hands.until(lambda: "nuclei_corrected (region)" in hands.viewer.layers)
    hands.keep_picture("correct-found")
    shown = hands.viewer.layers["nuclei_corrected (region)"].metadata[KEY]
    assert len(shown.objects) == len(read_objects(SlideStore.open(shown.store), "nuclei_corrected")[0])
    assert shown.store.name.startswith("painted.region-")


def test_corrections_are_undone_kept_and_never_moved_by_the_frame(hands, panel, painted):
    """Ctrl-Z takes back a new outline with the one it replaced; the frame is not dragged; all is there again."""
    corrected(hands, panel, painted)
    count = len(painted.centres) + 1
    layer = layer_of(hands)
    frame = layer.data[0].copy()
    at = hands.on_canvas(62, 62)  # between nuclei
    hands.click(at)
    assert not layer.selected_data
    hands.drag([at, at + type(at)(40, 30)])
    assert np.array_equal(layer.data[0], frame)
    after = [corners.copy() for corners in layer.data]
    for _ in range(2):
        hands.press("ctrl+z")
    hands.until(lambda: layer.nshapes == count + 1)  # the false one is back, the small one too
    for _ in range(2):
        hands.press("ctrl+shift+z")
    hands.until(lambda: layer.nshapes == count)
    for one, two in zip(layer.data, after, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    kept = painted.store.parent / "painted.annotations.geojson"
    hands.until(lambda: kept.exists() and len(json.loads(kept.read_text())["features"]) == count)
    hands.viewer.layers.clear()
    hands.wait(200)
    add_layers(hands.viewer, open_path(painted.store, pytest.fail, slide=painted.slide))
    hands.until(lambda: NAME in hands.viewer.layers)
    assert names(hands) == [CORRECTED] + ["nucleus"] * (count - 1)
    hands.until(lambda: f"{count - 1} nuclei" in panel.drawn.text())


def test_a_lesson_is_cancelled_and_what_is_wrong_is_said(hands, panel, painted, told):
    """Nothing to learn from; a lesson that is stopped; a name that another head has."""
    assert not panel.learn_button.isEnabled()
    press(hands, panel.correct_button)
    press(hands, panel.learn_button)
    press(hands, panel.cancel_button)
    hands.until(lambda: "Stopped" in panel.verdict.text() or panel.lesson is not None)
    hands.until(lambda: panel._progress is None)
    if panel.lesson is None:
        press(hands, panel.learn_button)
        hands.until(lambda: panel.lesson is not None)
    panel.name.setText("nuclei")
    press(hands, panel.save_button)
    hands.until(lambda: panel._dock.notice.isVisible())
    assert "nuclei already" in panel._dock.notice.words.text()
    assert panel.saved is None
    assert not window_of(hands.viewer).findChildren(AnalyseDock)
