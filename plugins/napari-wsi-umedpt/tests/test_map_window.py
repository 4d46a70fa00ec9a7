"""Tiles as points of a map, in a window that is shown: a line drawn around some labels them."""

import json

import numpy as np
import pytest
import shapely
from qtpy.QtCore import QPoint
from wsi_umedpt.mil import MapStoppedError

from napari_wsi_umedpt.docks import feature_map
from napari_wsi_umedpt.logic.field import CHOSEN, current_store
from napari_wsi_umedpt.window.viewer import camera
from tests.support.planted import MPP, TUMOUR
from tests.test_alike_window import folder, open_slide_of  # noqa: F401 - a fixture


def made_map(hands):
    """The dock, with a map by principal components."""
    dock = hands.dock("Map of tiles")
    dock.method.setCurrentIndex(1)
    hands.click(dock.button)
    hands.until(lambda: dock.shown is not None)
    hands.wait()
    hands.keep_picture("map-made")
    return dock


def tumour_points(dock) -> np.ndarray:
    """Points of tiles that lie in the violet square."""
    made = dock.shown.made
    left, top, right, bottom = TUMOUR
    return np.flatnonzero(((made.xy >= (left, top)) & (made.xy + made.sides[0] <= (right, bottom))).all(axis=1))


def draw_around(hands, dock, points) -> None:
    """Drag along a line a little outside of points."""
    at = shapely.MultiPoint(dock.canvas.at()[points]).convex_hull.buffer(6, quad_segs=2)
    corners = np.array(at.exterior.coords).clip(1, [dock.canvas.width() - 2, dock.canvas.height() - 2])
    hands.drag([hands.on(dock.canvas, QPoint(*corner)) for corner in corners.round().astype(int).tolist()])


def test_a_line_around_points_labels_their_tiles(hands, folder):  # noqa: F811
    """They are outlined on the slide, labelled by a button, undone by a key; a click on a point goes to its tile."""
    open_slide_of(hands, folder)
    dock = made_map(hands)
    assert "tiles of 1 slide by principal components" in dock.words.text()
    inside = tumour_points(dock)
    draw_around(hands, dock, inside)
    hands.until(lambda: len(dock.chosen) > 0)
    assert {*inside} <= {*dock.chosen}
    assert len(dock.chosen) < 2 * len(inside)
    (mark,) = [layer for layer in hands.viewer.layers if layer.name == CHOSEN]
    assert mark.shape_type == ["path"] * len(mark.data)
    corners = np.concatenate(mark.data)
    left, top, right, bottom = np.array(TUMOUR) * MPP
    assert (corners.min(axis=0) < (top + 30, left + 30)).all()
    assert (corners.max(axis=0) > (bottom - 30, right - 30)).all()
    dock.name.setCurrentText("Violet")
    hands.click(dock.label_button)
    file = folder / "planted.labels.json"
    hands.until(file.exists)
    rows = dock.shown.made.rows[dock.chosen].tolist()
    assert dock._labelling.labels == dict.fromkeys(rows, "Violet")
    assert "Violet" in dock.legend.text()
    hands.keep_picture("map")
    hands.click(hands.on_canvas(200, 200))
    hands.press("ctrl+z")
    hands.until(lambda: not dock._labelling.labels)
    hands.until(lambda: json.loads(file.read_text())["points"] == [])
    went = []
    dock.canvas.clicked.connect(went.append)
    hands.click(hands.on(dock.canvas, QPoint(*dock.canvas.at()[inside[0]].round().astype(int).tolist())))
    square = dock.shown.square(went[0])
    middle = (square.y + square.side / 2 - 0.5) * MPP, (square.x + square.side / 2 - 0.5) * MPP
    hands.until(lambda: camera(hands.viewer).center[-2:] == pytest.approx(middle))


def test_tiles_of_all_cases_and_slides_are_points(hands, folder, told):  # noqa: F811
    """Those of other slides are labelled in their own files; a click on one opens its slide; two slides are no map."""
    cases = hands.dock("Case list")
    cases.open(folder)
    hands.until(lambda: cases.number == 0 and current_store(hands.viewer) == folder / "other.zarr")
    dock = hands.dock("Map of tiles")
    dock.scope.setCurrentIndex(1)
    dock = made_map(hands)
    assert "tiles of 2 slides" in dock.words.text()
    assert dock.colour.currentText() == feature_map.BY_SLIDE
    made = dock.shown.made
    dock.choose(np.array([0, len(made) - 1]))
    assert "2 tiles of 2 slides" in dock.words.text()
    dock.label("Both")
    files = [folder / f"{name}.labels.json" for name in ("other", "planted")]
    hands.until(lambda: all(file.exists() for file in files))
    dock.canvas.clicked.emit(len(made) - 1)
    hands.until(lambda: current_store(hands.viewer) == dock.shown.store_of(len(made) - 1))
    dock.scope.setCurrentIndex(2)
    hands.click(dock.button)
    hands.until(lambda: any("2 points are no map" in one.message for one in told))


def test_a_map_is_stopped_by_its_button(hands, folder, monkeypatch):  # noqa: F811
    """Progress is shown meanwhile; the map before stays."""
    open_slide_of(hands, folder)

    def forever(store, others, settings, watch, **more):
        while not watch.stopped():
            watch.tell("Laying out", 0.25)
        raise MapStoppedError("the map was stopped")

    monkeypatch.setattr(feature_map, "make_map", forever)
    dock = hands.dock("Map of tiles")
    hands.click(dock.button)
    hands.until(lambda: dock.bar.value() == 250 and dock.bar.isVisible())
    assert dock.button.text() == "Stop"
    hands.click(dock.button)
    hands.until(lambda: dock.words.text() == "Stopped.")
    assert not dock.bar.isVisible()
    assert not dock.notice.isVisible()
