"""What a hand opens is read beside the window; what a script opens is there at once."""

import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from wsi_umedpt.errors import SlideError
from wsi_umedpt.slides.sample_data import sample_path, sample_slide
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.docks import cases as cases_dock
from napari_wsi_umedpt.docks import slides as slides_dock
from napari_wsi_umedpt.docks.cases import CasesDock
from napari_wsi_umedpt.docks.slides import SlidesDock, locate_slide
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.layers.multiscale import Level
from napari_wsi_umedpt.logic.annotations import Annotation, write_annotations
from napari_wsi_umedpt.opening import load
from napari_wsi_umedpt.opening.opener import by_hand
from tests.support.patience import MOST_MS

PLUGIN = "napari-wsi-umedpt"


def watched(monkeypatch, module, name) -> list[int]:
    """Threads in which something is called."""
    threads, real = [], getattr(module, name)

    def call(*given, **named):
        threads.append(threading.get_ident())
        return real(*given, **named)

    monkeypatch.setattr(module, name, call)
    return threads


def drop(viewer, *paths):
    """As a hand does it: within the event loop, one call for all."""
    QTimer.singleShot(0, lambda: viewer.open([str(path) for path in paths], plugin=PLUGIN))


def kinds(viewer) -> list[str]:
    return [layer.metadata[KEY].kind for layer in viewer.layers]


def test_a_script_has_its_layers_at_once(viewer, planted):
    """It goes on with them."""
    assert not by_hand()
    assert [layer.name for layer in viewer.open(str(planted.slide), plugin=PLUGIN)] == ["planted"]


def test_what_is_dropped_is_read_beside_the_window(viewer, qtbot, planted, monkeypatch, told):
    """Slide and store, the search for the slide too; the layers come in their order, with a scale bar."""
    opened = watched(monkeypatch, load, "open_slide")
    looked = watched(monkeypatch, load, "find_slide")
    drop(viewer, planted.store)
    qtbot.waitUntil(lambda: len(viewer.layers) == 5)
    assert kinds(viewer) == ["slide", "heatmap", "objects", "tiles", "tissue"]
    assert viewer.canvas.overlays.scale_bar.visible
    assert len(opened) == len(looked) == 1
    assert threading.get_ident() not in {*opened, *looked}
    assert not told


def test_thumbnail_and_overview_are_read_beside_the_window(viewer, qtbot, planted, monkeypatch):
    """They lie in the cache before the window asks for them."""
    first, real = {}, Level._read

    def read(level, *box):
        first.setdefault(level.scale, threading.get_ident())
        return real(level, *box)

    monkeypatch.setattr(Level, "_read", read)
    drop(viewer, planted.slide)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert {4, 8} <= first.keys()
    assert threading.get_ident() not in (first[4], first[8])


def test_what_is_dropped_together_comes_in_order(viewer, qtbot, planted, tmp_path, told):
    """Annotations lie on the slide that was dropped with them; what cannot be read is reported, and the rest comes."""
    square = np.array([[100, 100], [300, 100], [300, 300], [100, 300.0]])
    write_annotations(tmp_path / "a.geojson", [Annotation(((square,),), "Tumor")])
    (tmp_path / "broken.svs").write_bytes(b"II*\0" + bytes(300))
    drop(viewer, planted.slide, tmp_path / "broken.svs", tmp_path / "a.geojson")
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert kinds(viewer) == ["slide", "annotations"]
    (error,) = told
    assert "no reader opens broken.svs" in error.message


def test_annotations_without_a_slide_are_refused_in_words(viewer, qtbot, tmp_path, told):
    """And what is dropped next is opened."""
    write_annotations(tmp_path / "a.geojson", [])
    drop(viewer, tmp_path / "a.geojson")
    qtbot.waitUntil(lambda: bool(told))
    assert "Open its slide first" in told[-1].message


def test_a_window_may_be_closed_meanwhile(make_napari_viewer, qtbot, planted, monkeypatch, told):
    """What comes then is dropped."""
    viewer = make_napari_viewer(show=True)
    reading, closed = threading.Event(), threading.Event()
    real = load.open_slide

    def slow(*given, **named):
        reading.set()
        closed.wait(MOST_MS / 1000)
        return real(*given, **named)

    monkeypatch.setattr(load, "open_slide", slow)
    drop(viewer, planted.slide, planted.store)
    qtbot.waitUntil(reading.is_set)
    viewer.close()
    qtbot.wait(50)
    closed.set()
    qtbot.wait(500)
    assert not viewer.layers
    assert not told


def test_a_lost_slide_is_read_beside_the_window(viewer, qtbot, planted, tmp_path, monkeypatch):
    """And takes the thumbnail's place when it is."""
    alone = tmp_path / "far" / "away" / "planted.zarr"
    shutil.copytree(planted.store, alone)
    viewer.open(str(alone), plugin=PLUGIN)
    assert kinds(viewer)[0] == "thumbnail"
    checked = watched(monkeypatch, load, "check_is_slide_of")
    QTimer.singleShot(0, lambda: locate_slide(viewer, SlideStore.open(alone), planted.slide))
    qtbot.waitUntil(lambda: kinds(viewer)[0] == "slide")
    assert "thumbnail" not in kinds(viewer)
    assert len(checked) == 1
    assert threading.get_ident() not in checked


def test_docks_look_into_folders_and_stores_beside_the_window(viewer, qtbot, planted, monkeypatch):
    """A folder of slides is listed, and what else a store holds is read, in threads."""
    listed = watched(monkeypatch, cases_dock, "CaseList")
    read = watched(monkeypatch, slides_dock, "further")
    cases, slides = CasesDock(viewer), SlidesDock(viewer)
    for dock in (cases, slides):
        qtbot.addWidget(dock)
    cases.open(planted.store.parent)
    qtbot.waitUntil(lambda: slides.more.count() == 4)
    assert len(listed) == 1
    assert read
    assert threading.get_ident() not in {*listed, *read}


def test_the_sample_is_shown_before_its_slide_is_downloaded(viewer, qtbot, tmp_path, monkeypatch, told):
    """Results over their thumbnail at once; the slide takes its place, or a message says why it cannot be had."""
    try:
        cached = sample_slide()
    except (SlideError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the sample slide is not to be had: {error}")
    monkeypatch.setenv("WSI_UMEDPT_CACHE", str(tmp_path / "empty"))
    asked, online = [], threading.Event()

    def download() -> Path:
        asked.append(threading.get_ident())
        if len(asked) == 1:
            raise SlideError("the sample slide cannot be downloaded")
        online.wait(MOST_MS / 1000)
        return Path(shutil.copy(cached, sample_path()))

    monkeypatch.setattr("wsi_umedpt.slides.sample_slide", download)

    def open_sample() -> None:
        viewer.layers.clear()
        QTimer.singleShot(0, lambda: viewer.open_sample(PLUGIN, "demo"))

    open_sample()
    qtbot.waitUntil(lambda: bool(told))
    assert "cannot be downloaded" in told[-1].message
    assert kinds(viewer)[0] == "thumbnail"
    open_sample()
    qtbot.waitUntil(lambda: len(asked) == 2)
    assert kinds(viewer)[0] == "thumbnail"
    assert "objects" in kinds(viewer)
    online.set()
    qtbot.waitUntil(lambda: kinds(viewer)[0] == "slide")
    assert "thumbnail" not in kinds(viewer)
    assert threading.get_ident() not in asked
