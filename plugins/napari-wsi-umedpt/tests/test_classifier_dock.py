"""The dock of slide classifiers, used as a pathologist uses it."""

import shutil

import numpy as np
import pytest
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.docks.classifier import ClassifierDock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.layers.shapes import layer_meta
from napari_wsi_umedpt.logic.annotations import annotations_of, layer_annotations, write_annotations
from napari_wsi_umedpt.logic.classifier import ATTENTION
from napari_wsi_umedpt.logic.regions import ALONE, LEFT_OUT
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera
from tests.support.planted import TUMOUR
from tests.support.tiny import PLANTED_KIND, slide_classifier


@pytest.fixture
def model_file(tmp_path):
    return slide_classifier(tmp_path / "grade" / "model.json")


@pytest.fixture
def dock(viewer, planted, qtbot):
    """The planted slide with its results, and the dock."""
    add_layers(viewer, open_path(planted.store, pytest.fail))
    made = ClassifierDock(viewer)
    viewer.window.add_dock_widget(made)
    return made


def quiet(dock) -> bool:
    return not (dock._background.busy or dock._judging.busy or dock._rest.isActive() or dock._reading.busy)


def wait_for_judgement(dock, qtbot):
    qtbot.waitUntil(lambda: dock.judgement is not None and quiet(dock))


def draw_box(dock, kind, left, top, right, bottom):
    dock.draw(kind)
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    dock._regions.add([dock.classifier.place.to_world(corners)], shape_type="polygon")


def test_a_slide_is_judged_and_explained(dock, model_file, planted, qtbot):
    """The prediction of the model, heatmaps in their place, galleries that lead to their tiles."""
    dock.open(model_file)
    wait_for_judgement(dock, qtbot)
    bag = SlideStore.open(planted.store).features()
    expected = SlideModel.load(model_file).forecast([bag.features])[0]
    assert dock.judgement.forecasts[0].predicted == pytest.approx(expected.predicted, abs=1e-6)
    assert f"called {expected.answer}" in dock.details.text()
    attention, contribution = (dock._heats[name] for name in (ATTENTION, "contribution"))
    assert (attention.visible, contribution.visible) == (False, True)
    heat, grid = contribution.metadata[KEY].heat, dock.classifier.tiles.grid
    shares = SlideModel.load(model_file).explain(bag.features)
    assert heat.at(bag.xy + grid.side / 2) == pytest.approx(shares.contribution[:, 0], abs=1e-6)
    x, y = heat.origin_xy
    corner = contribution.data_to_world((0, 0))
    assert corner == pytest.approx(((y + 63.5) * 0.5, (x + 63.5) * 0.5))
    ranked = bag.index[np.argsort(-shares.contribution[:, 0], kind="stable")]
    assert dock.top.rows[0] == ranked[0]
    assert dock.bottom.rows[0] == ranked[-1]
    dock.top.list.itemClicked.emit(dock.top.list.item(0))
    middle = dock.classifier.place.to_world(grid.xy[ranked[0]] + grid.side / 2)
    assert camera(dock._viewer).center[-2:] == pytest.approx(tuple(middle))
    dock.column.setCurrentIndex(0)
    qtbot.waitUntil(lambda: quiet(dock))
    assert (attention.visible, contribution.visible) == (True, False)
    assert dock.top.rows[0] == bag.index[shares.attention.argmax()]
    assert dock.top.title.text() == "Looked at most"


def test_what_is_looked_at_comes_first(dock, model_file, qtbot):
    """Prediction and the heatmap that is seen; then the hidden one and the tiles, each time."""
    seen = []
    show = dock._show_heat

    def watch(column):
        show(column)
        seen.append((column, dock.words.text().startswith("<h3>status"), bool(dock.top.rows)))

    dock._show_heat = watch
    dock.open(model_file)
    wait_for_judgement(dock, qtbot)
    contribution = dock.classifier.columns[1]
    assert seen == [(contribution, True, False), (ATTENTION, True, False)]
    assert dock.top.rows
    before = dock._heats[ATTENTION].data
    draw_box(dock, LEFT_OUT, *TUMOUR)
    qtbot.waitUntil(lambda: len(seen) == 4 and quiet(dock))
    assert [column for column, *_ in seen[2:]] == [contribution, ATTENTION]
    assert np.isnan(dock._heats[ATTENTION].data).sum() > np.isnan(before).sum()


def test_a_heatmap_that_is_chosen_at_once_is_shown(dock, model_file, qtbot):
    """Before it was its turn; and what the user draws in stays selected when layers come."""
    active = dock._viewer.layers.selection.active
    assert active is not None
    dock.open(model_file)
    qtbot.waitUntil(lambda: dock.judgement is not None)
    dock.column.setCurrentIndex(0)
    qtbot.waitUntil(lambda: quiet(dock))
    assert {name: layer.visible for name, layer in dock._heats.items()} == {ATTENTION: True, "contribution": False}
    assert dock.top.title.text() == "Looked at most"
    assert dock._viewer.layers.selection.active is active


def test_the_prediction_follows_regions(dock, model_file, planted, qtbot):
    """Left out, moved, judged alone, forgotten: always what the model says of the tiles that are left."""
    dock.open(model_file)
    wait_for_judgement(dock, qtbot)
    whole = dock.judgement
    bag = SlideStore.open(planted.store).features()
    model = SlideModel.load(model_file)
    x, y = (bag.xy + 64).T
    left, top, right, bottom = TUMOUR
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)

    def judged_is(chosen) -> bool:
        expected = model.forecast([bag.features[chosen]])[0].predicted
        return dock.judgement is not None and dock.judgement.tiles == chosen.sum() and bool(
            np.allclose(dock.judgement.forecasts[0].predicted, expected, atol=1e-6)
        )  # fmt: skip

    draw_box(dock, LEFT_OUT, *TUMOUR)
    qtbot.waitUntil(lambda: judged_is(~inside))
    assert "Of the whole slide" in dock.words.text()
    heat = dock._heats["contribution"].metadata[KEY].heat
    assert np.isnan(heat.at(bag.xy[inside] + 64)).all()
    moved = (x > left + 128) & (x < right + 128) & (y > top) & (y < bottom)
    dock._regions.data = [dock._regions.data[0] + (0, 64)]
    qtbot.waitUntil(lambda: judged_is(~moved))
    draw_box(dock, ALONE, 600, 300, 2000, 900)
    alone = (x > 600) & (x < 2000) & (y > 300) & (y < 900)
    qtbot.waitUntil(lambda: judged_is(alone & ~moved))
    dock.forget_regions()
    qtbot.waitUntil(lambda: dock.judgement is not None and dock.judgement.tiles == whole.tiles)


def test_nothing_left_is_said_and_mended(dock, model_file, told, qtbot):
    """Where a region leaves no tile there is no prediction, and there is again once it is gone."""
    dock.open(model_file)
    wait_for_judgement(dock, qtbot)
    draw_box(dock, LEFT_OUT, -9, -9, 9999, 9999)
    qtbot.waitUntil(lambda: dock.judgement is None)
    assert "none of the" in told[-1].message
    assert "No prediction" in dock.words.text()
    assert all(np.isnan(layer.metadata[KEY].heat.values).all() for layer in dock._heats.values())
    assert not dock.top.rows
    assert not dock.bottom.rows
    dock._viewer.layers.remove(dock._regions)
    wait_for_judgement(dock, qtbot)
    assert np.isfinite(dock._heats["contribution"].metadata[KEY].heat.values).any()
    assert dock.top.rows


def test_regions_are_kept_as_annotations(dock, model_file, tmp_path, qtbot):
    """They can be saved for QuPath and opened again with their classes."""
    dock.open(model_file)
    wait_for_judgement(dock, qtbot)
    draw_box(dock, LEFT_OUT, *TUMOUR)
    place = dock.classifier.place
    found = layer_annotations(dock._regions.data, layer_meta(dock._regions), place)
    write_annotations(tmp_path / "regions.geojson", found)
    ((_, meta, _),) = annotations_of(tmp_path / "regions.geojson", place)
    assert meta["features"]["class"] == [LEFT_OUT]
    qtbot.waitUntil(lambda: quiet(dock))


def test_other_features_are_refused(dock, tmp_path, told, qtbot):
    """In a notification that says how they differ and which command makes the right ones."""
    kind = type(PLANTED_KIND)(**{**PLANTED_KIND.to_dict(), "encoder": "umedpt_lite0.v2", "dim": 5})
    dock.open(slide_classifier(tmp_path / "model.json", kind))
    qtbot.waitUntil(lambda: bool(told))
    assert "encoder enc instead of umedpt_lite0.v2" in told[0].message
    assert "wsi-umedpt embed SLIDE" in told[0].message
    assert "cannot judge this slide" in dock.words.text()
    assert dock.classifier is None


@pytest.mark.parametrize("content", ['{"kind": "probe"}', "no json"])
def test_what_is_no_model_is_refused(dock, tmp_path, told, qtbot, content):
    """In a notification; the window stays as it is."""
    (tmp_path / "model.json").write_text(content)
    dock.open(tmp_path / "model.json")
    qtbot.waitUntil(lambda: bool(told))
    assert dock.classifier is None


def test_another_slide_is_judged_when_it_is_opened(dock, model_file, planted, tmp_path, qtbot):
    """By the same model; regions and heatmaps of the one before are gone."""
    dock.open(model_file)
    wait_for_judgement(dock, qtbot)
    draw_box(dock, LEFT_OUT, *TUMOUR)
    qtbot.waitUntil(lambda: quiet(dock))
    old = [*dock._heats.values(), dock._regions]
    other = tmp_path / "other.zarr"
    shutil.copytree(planted.store, other)
    for layer in list(dock._viewer.layers):
        if layer.metadata[KEY].kind != "annotations":
            dock._viewer.layers.remove(layer)
    qtbot.wait(20)
    add_layers(dock._viewer, open_path(other, pytest.fail, slide=planted.slide))
    qtbot.waitUntil(lambda: dock.classifier is not None and dock.classifier.store == other)
    wait_for_judgement(dock, qtbot)
    assert not any(layer in dock._viewer.layers for layer in old)
    assert dock.judgement.tiles == len(dock.classifier.index)


def test_without_results_it_says_what_is_needed(viewer, planted, model_file, qtbot):
    """A slide alone has no features; nothing is computed."""
    made = ClassifierDock(viewer)
    viewer.window.add_dock_widget(made)
    made.open(model_file)
    assert "No slide is open" in made.words.text()
    add_layers(viewer, open_path(planted.slide, pytest.fail))
    qtbot.waitUntil(lambda: "has no results open" in made.offer.words.text())
    add_layers(viewer, open_path(planted.store, pytest.fail)[1:])
    qtbot.waitUntil(lambda: made.judgement is not None and quiet(made))
