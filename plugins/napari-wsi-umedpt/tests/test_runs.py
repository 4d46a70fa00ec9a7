"""A run belongs to its slide: it is seen and can be cancelled whatever is open, loses nothing, and is gone on with."""

import time
from pathlib import Path

import pytest
from qtpy.QtCore import QPoint, QTimer
from qtpy.QtWidgets import QPushButton
from torch import nn

from napari_wsi_umedpt.docks.analyse import AnalyseDock
from napari_wsi_umedpt.docks.base import frame_of_dock
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.window.runs import Runs, RunStrip
from tests.support.hands import BOTH_SCREENS, Hands
from tests.support.tiny import release, tissue_slide

PLUGIN = "napari-wsi-umedpt"
SIDE = 960
"""Of the slide: fewer tiles than a chunk of a store holds."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("slides")
    return tissue_slide(folder / "first.svs", SIDE), tissue_slide(folder / "second.svs", 700)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return release(tmp_path_factory.mktemp("release") / "tiny.v1.json")


@pytest.fixture
def slowly(monkeypatch):
    """A network that takes its time, as large ones do."""
    real = nn.Conv2d.forward

    def forward(layer, pixels):
        time.sleep(0.003)
        return real(layer, pixels)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)


def open_slide(hands: Hands, path: Path):
    QTimer.singleShot(0, lambda: hands.viewer.open(str(path), plugin=PLUGIN))
    hands.until(lambda: hands.window.windowTitle().startswith(path.name))
    hands.wait(200)


def analyse(hands: Hands, model: Path):
    """The dock, with a tiny model chosen."""
    dock = hands.dock("Analyse")
    hands.until(lambda: bool(dock._models))
    dock.add_model(model)
    hands.until(lambda: dock.model.currentText() == f"umedpt:{model}")
    return dock


def strip_of(hands: Hands) -> RunStrip:
    return hands.window.findChild(RunStrip)


@BOTH_SCREENS
def test_a_run_outlives_its_dock_and_is_cancelled_at_once(hands, slides, model, slowly, tmp_path):
    """Progress and Cancel stay in view; it stops within two seconds, and what was embedded is kept and gone on with."""
    first, second = slides
    open_slide(hands, first)
    dock = analyse(hands, model)
    dock.folder.setText(str(tmp_path / "out"))
    dock._keep_folder(dock.folder.text())
    hands.click(dock.run_button)
    runs = Runs.of(hands.viewer)
    hands.until(lambda: runs.current is not None and runs.current.progress.done > 70)
    strip = strip_of(hands)
    assert "left" in strip.words.text()
    hands.click(frame_of_dock(dock).title.findChild(QPushButton, "QTitleBarCloseButton"))
    hands.until(lambda: not hands.window.findChildren(AnalyseDock))
    hands.wait(200)
    assert runs.current is not None
    assert strip.isVisible()
    assert hands.window.rect().contains(strip.mapTo(hands.window, QPoint(0, 0)))
    assert strip.words.text().startswith("first.svs: Computing features of tiles:")
    hands.keep_picture("run-without-its-dock")
    run = runs.current
    hands.click(strip.cancel)
    hands.until(lambda: run.ended)
    assert run.ended_at - run.stopped_at < 2
    kept = int(run.result.words.removeprefix("Stopped. ").split(" of ")[0].replace(",", ""))
    assert 64 <= kept < 1024

    dock = hands.dock("Analyse")
    hands.until(lambda: bool(dock._models))
    assert (dock.run_button.text(), dock.folder.text()) == ("Go on", str(tmp_path / "out"))
    open_slide(hands, second)
    assert (dock.run_button.text(), dock.folder.text()) == ("Run", str(second.parent / "out"))
    assert "Tick what to look for" in dock.words.text()
    open_slide(hands, first)
    assert (dock.run_button.text(), dock.folder.text()) == ("Go on", str(tmp_path / "out"))
    assert "are kept" in dock.words.text()
    hands.click(dock.run_button)
    hands.until(lambda: runs.current is not None and runs.current.progress.done > 0)
    assert runs.current.progress.done >= kept
    hands.until(lambda: runs.current is None)
    assert not dock.result.stopped
    hands.until(lambda: "features" in [layer.metadata[KEY].kind for layer in hands.viewer.layers])


def test_a_run_goes_on_while_another_slide_is_looked_at(hands, slides, model, slowly, tmp_path):
    """Nothing of it lies over that slide; it is said whose it is; its results are there when its slide comes back."""
    first, second = slides
    open_slide(hands, first)
    dock = analyse(hands, model)
    dock.folder.setText(str(tmp_path / "out"))
    hands.click(dock.run_button)
    runs = Runs.of(hands.viewer)
    hands.until(lambda: "being analysed" in [layer.name for layer in hands.viewer.layers])
    open_slide(hands, second)
    hands.until(lambda: [layer.name for layer in hands.viewer.layers] == ["second"])
    assert not dock.run_button.isEnabled()
    assert dock.words.text().startswith("first.svs is being analysed")
    assert not dock.stop_button.isEnabled()
    hands.keep_picture("run-of-another-slide")
    hands.until(lambda: runs.current is None)
    hands.wait(500)
    assert [layer.name for layer in hands.viewer.layers] == ["second"]
    assert strip_of(hands).words.text().startswith("first.svs: Done:")
    assert dock.run_button.isEnabled()
    open_slide(hands, first)
    hands.until(lambda: "features" in [layer.metadata[KEY].kind for layer in hands.viewer.layers])
