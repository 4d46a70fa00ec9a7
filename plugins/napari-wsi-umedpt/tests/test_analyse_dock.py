"""The dock that analyses, used as a pathologist uses it; and the whole story, from a slide to a new window."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.run import Batch, run_slides
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.slides.tiling import TileSpec

from napari_wsi_umedpt.docks.analyse import DRAWN, FIELD, WHOLE, AnalyseDock
from napari_wsi_umedpt.docks.classifier import ClassifierDock
from napari_wsi_umedpt.docks.few_shot import FewShotDock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.logic.field import current_store
from napari_wsi_umedpt.logic.regions import LEFT_OUT
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.tiny import release, slide_classifier, tissue_slide

SIDE = 1200
"""Of the slide, px: about 560 tiles."""
CHUNK = 128
"""Rows of a chunk in these tests, so that a small slide has several."""


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", CHUNK)
        yield


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    return tissue_slide(tmp_path_factory.mktemp("slides") / "tissue.svs", SIDE)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return release(tmp_path_factory.mktemp("release") / "tiny.v1.json")


@pytest.fixture
def dock(viewer, slide, model, tmp_path, qtbot):
    """The slide, open, and the dock with a tiny model chosen."""
    add_layers(viewer, open_path(slide, pytest.fail))
    made = AnalyseDock(viewer)
    viewer.window.add_dock_widget(made)
    assert Path(made.folder.text()) == slide.parent / "out"
    qtbot.waitUntil(lambda: bool(made._models))
    made.add_model(model)
    qtbot.waitUntil(lambda: made.model.currentText() == f"umedpt:{model}")
    made.folder.setText(str(tmp_path / "out"))
    return made


def ended(dock, qtbot):
    qtbot.waitUntil(lambda: dock.result is not None and dock._runs.current is None)


def kinds(viewer) -> list[str]:
    return [layer.metadata[KEY].kind for layer in viewer.layers]


def draw_square(dock, *box):
    left, top, right, bottom = box
    dock.draw()
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    place = dock._viewer.layers[0].metadata[KEY].place
    dock._region_layer().add([place.to_world(corners)], shape_type="polygon")


def test_what_can_be_looked_for_is_offered(dock, qtbot):
    """Heads of the chosen model, and what they find; none where it has none."""
    assert [dock.heads.item(n).text() for n in range(dock.heads.count())] == ["nucleus"]
    assert dock.chosen_heads == ()
    dock.heads.item(0).setCheckState(Qt.CheckState.Checked)
    assert dock.chosen_heads == ("nuclei",)
    dock.model.setCurrentText("efficientnet_lite0.imagenet")
    dock._show_model()
    assert dock.chosen_heads == ()
    assert "finds no objects" in dock.heads.item(0).text()


def test_the_field_and_drawn_regions_are_asked_for(dock, told, qtbot):
    """In level-0 px, to where the slide ends."""
    dock.region.setCurrentText(WHOLE)
    assert dock.request().region == ()
    dock.region.setCurrentText(FIELD)
    ((left, top), _, (right, bottom), _) = dock.request().region[0]
    assert (top, bottom, left + right) == pytest.approx((0, SIDE, SIDE))
    dock._viewer.scene.camera.zoom *= 8
    qtbot.wait(50)
    ((left, top), _, (right, bottom), _) = dock.request().region[0]
    assert 0 < left < right < SIDE
    assert (left + right) / 2 == pytest.approx(SIDE / 2, abs=2)
    dock.region.setCurrentText(DRAWN)
    dock.start()
    assert "no region is drawn" in told[-1].message
    draw_square(dock, 300, 400, 900, 1000)
    assert dock.region.currentText() == DRAWN
    found = np.array(dock.request().region[0])
    assert (*found.min(0), *found.max(0)) == pytest.approx((300, 400, 900, 1000))


def test_the_window_goes_on_while_it_runs(dock, qtbot):
    """The event loop turns, the tiles that are done are seen, the bar moves."""
    from qtpy.QtCore import QTimer

    turns = []
    timer = QTimer()
    timer.timeout.connect(lambda: turns.append(1))
    timer.start(10)
    seen = []
    dock.start()
    assert not dock.run_button.isEnabled()

    def look() -> bool:
        layer = next((layer for layer in dock._viewer.layers if layer.name == "being analysed"), None)
        if layer is not None:
            seen.append((int((layer.data == 2).sum()), dock.bar.value()))
        return dock.result is not None and dock._runs.current is None

    qtbot.waitUntil(look)
    timer.stop()
    assert len(turns) > 20
    assert max(done for done, _ in seen) > min(done for done, _ in seen)
    assert "being analysed" not in [layer.name for layer in dock._viewer.layers]
    qtbot.waitUntil(lambda: {"features", "tiles", "tissue"} <= {*kinds(dock._viewer)})


def test_cancelled_and_gone_on_with_is_what_the_library_makes(dock, slide, model, tmp_path, qtbot):
    """Cancel after a chunk, go on: the store is the one that was never stopped."""
    dock.start()
    progress = dock.run.progress
    qtbot.waitUntil(lambda: progress.stage.startswith("Computing") and progress.done >= CHUNK + 64)
    dock.stop()
    ended(dock, qtbot)
    assert dock.result.stopped
    assert int(dock.words.text().removeprefix("Stopped. ").split(" of ")[0]) >= CHUNK
    assert dock.run_button.text() == "Go on"
    assert not (tmp_path / "out" / "tissue.zarr").exists()
    dock.start()
    ended(dock, qtbot)
    assert not dock.result.stopped
    assert dock.run_button.text() == "Run"
    encoder = load_encoder(f"umedpt:{model}", device="auto")
    jobs, _ = list_slides([str(slide)])
    task = EmbedTask(encoders=[encoder], tile_specs=[TileSpec(size_px=32, mpp=0.5)])
    (outcome,) = run_slides(jobs, task, Batch(out=tmp_path / "plain"))
    assert outcome.status == "done"
    ours, theirs = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "out" / "tissue.zarr", tmp_path / "plain" / "tissue.zarr")
    )
    assert ours == theirs


def test_errors_are_told(dock, told, tmp_path, qtbot):
    """In the words of our errors, and the dock is ready again."""
    (tmp_path / "file").write_text("x")
    dock.folder.setText(str(tmp_path / "file"))
    dock.start()
    qtbot.waitUntil(lambda: bool(told))
    assert "cannot be made" in told[0].message
    assert dock.run_button.isEnabled()
    dock.embed.setChecked(False)
    dock.start()
    assert "nothing is asked for" in told[-1].message


def test_the_whole_story(dock, slide, tmp_path, make_napari_viewer, told, qtbot):
    """Open, analyse a region, look; classify, leave a part out; teach by example, save; open all in a new window."""
    viewer = dock._viewer
    draw_square(dock, 250, 250, 950, 950)
    dock.heads.item(0).setCheckState(Qt.CheckState.Checked)
    dock.start()
    ended(dock, qtbot)
    store = dock.result.store
    assert ".region-" in store.name
    qtbot.waitUntil(lambda: {"features", "objects", "tiles"} <= {*kinds(viewer)})
    assert any(layer.name == "nuclei (region)" for layer in viewer.layers)
    assert current_store(viewer) == store

    model = slide_classifier(tmp_path / "run" / "model.json", replace(StoreSource.open(store).kind, format=""))
    judge = ClassifierDock(viewer)
    viewer.window.add_dock_widget(judge)
    judge.open(model)
    qtbot.waitUntil(lambda: judge.judgement is not None and judge.top.list.count() > 0)
    qtbot.waitUntil(lambda: not judge._reading.busy)
    whole = judge.judgement.tiles
    judge.draw(LEFT_OUT)
    corners = judge.classifier.place.to_world(np.array([[250, 250], [600, 250], [600, 600], [250, 600]]))
    judge._regions.add([corners], shape_type="polygon")
    qtbot.waitUntil(lambda: judge.judgement.tiles < whole)
    assert judge.top.list.count() > 0
    assert judge._pictures is not None, "tiles of a region are seen in the slide that is open"

    teach = FewShotDock(viewer)
    viewer.window.add_dock_widget(teach)
    qtbot.waitUntil(lambda: teach.slide is not None)
    rows = np.linspace(0, len(teach.slide.grid) - 1, 16).round().astype(int).tolist()
    labels = {row: ("Tumor", "Other")[n % 2] for n, row in enumerate(rows)}
    teach.labelling.label(labels)
    qtbot.waitUntil(lambda: teach.taught is not None and not teach._teaching.busy)
    outline = tmp_path / f"{store.name.removesuffix('.zarr')}.geojson"
    teach.save_labels(outline)
    teach.save_probe(tmp_path / "probe.json")
    assert json.loads((tmp_path / "probe.json").read_text())["classes"] == ["Other", "Tumor"]
    qtbot.waitUntil(lambda: not (teach._reading.busy or judge._reading.busy or judge._judging.busy))

    fresh = make_napari_viewer(show=True)
    add_layers(fresh, open_path(store, pytest.fail, slide=slide))
    assert {"slide", "objects", "tiles"} <= {*kinds(fresh)}
    again = FewShotDock(fresh)
    fresh.window.add_dock_widget(again)
    qtbot.waitUntil(lambda: again.slide is not None)
    again.open_labels(outline)
    qtbot.waitUntil(lambda: again.taught is not None and not again._reading.busy)
    assert again.labelling.labels == labels
    assert again.taught.chances == pytest.approx(teach.taught.chances, nan_ok=True)
