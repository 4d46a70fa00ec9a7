"""Closing the window loses nothing: one question, of what runs and what is not saved; none where there is neither."""

import contextlib
import threading
from pathlib import Path

import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_wsi_umedpt.logic.analysis import Analysed, Request
from napari_wsi_umedpt.window import runs
from napari_wsi_umedpt.window.closing import Afterwards, Closing, Unsaved
from napari_wsi_umedpt.window.runs import Runs
from tests.support.hands import BOTH_SCREENS, Hands


@pytest.fixture
def endless(monkeypatch) -> threading.Event:
    """An analysis that goes on until it is stopped or released; it embeds four tiles a second."""
    released = threading.Event()

    def analyse(request, progress):
        progress.enter("Embedding tiles:", range(4000))
        progress.tiles_done(2, 4000)
        while not progress.stopping and not released.wait(0.05):
            progress.tiles_done(progress.done + 1, 4000) if progress.done < 3999 and not progress.stopping else None
        return Analysed(request.store, progress.stopping, "2 of 4,000 tiles are kept.")

    monkeypatch.setattr(runs, "analyse", analyse)
    return released


def begin(hands: Hands, tmp_path: Path) -> Runs:
    runs = Runs.of(hands.viewer)
    runs.start(Request(slide=tmp_path / "first.svs", out=tmp_path, model="any"))
    hands.until(lambda: runs.current.progress.done > 3)
    return runs


def close(hands: Hands):
    """By the keys of the menu."""
    hands.click(hands.canvas)
    hands._do("key", "ctrl+w")  # whose release goes nowhere: the window is gone by then


def question(hands: Hands) -> QMessageBox:
    hands.until(lambda: any(box.isVisible() for box in hands.window.findChildren(QMessageBox)))
    hands.wait(150)
    return next(box for box in hands.window.findChildren(QMessageBox) if box.isVisible())


def answer(hands: Hands, words: str):
    hands.click(next(button for button in question(hands).buttons() if button.text() == words))


def closed(hands: Hands) -> bool:
    """Whether the window went its way; Qt may have deleted it already."""
    try:
        return not hands.window.isVisible()
    except RuntimeError:
        return True


@pytest.fixture(autouse=True)
def gone(hands):
    """The window is gone in the end, and napari's fixture need not close it once more."""
    yield
    hands.wait(100)
    with contextlib.suppress(RuntimeError):
        hands.window.isVisible()
        return
    vars(hands.viewer.window).pop("_qt_window")


def test_nothing_is_asked_where_nothing_is_lost(hands, planted):
    """Layers that can be opened again are no reason to ask."""
    QTimer.singleShot(0, lambda: hands.viewer.open(str(planted.slide), plugin="napari-wsi-umedpt"))
    hands.until(lambda: len(hands.viewer.layers) == 1)
    close(hands)
    hands.until(lambda: closed(hands))


@BOTH_SCREENS
def test_a_run_and_what_is_not_saved_are_named_in_one_question(hands, tmp_path, endless):
    """Cancel leaves all as it is; to stop keeps what was done, saves, and closes the window."""
    runs, saved = begin(hands, tmp_path), []
    Closing.of(hands.viewer).ask(lambda: [] if saved else [Unsaved("12 regions <b>", lambda: not saved.append(1))])
    close(hands)
    words = question(hands).text()
    assert "first.svs. Embedding tiles:" in words
    assert "12 regions &lt;b&gt;" in words
    hands.keep_picture("closing")
    answer(hands, "Cancel")
    hands.wait(200)
    assert not closed(hands)
    assert runs.current is not None
    assert not saved
    close(hands)
    assert len([box for box in hands.window.findChildren(QMessageBox) if box.isVisible()]) <= 1
    run = runs.current
    question(hands)
    answer(hands, "Stop and keep what is done")
    hands.until(lambda: closed(hands) and run.ended)
    assert saved == [1]
    assert run.result.stopped


def test_a_run_goes_on_without_its_window(hands, tmp_path, endless):
    """A small window shows it, and can stop it; both end with the run."""
    runs = begin(hands, tmp_path)
    done = runs.current.progress.done
    close(hands)
    answer(hands, "Go on in the background")
    hands.until(lambda: closed(hands))
    (left,) = (top for top in QApplication.topLevelWidgets() if isinstance(top, Afterwards))
    hands.until(left.isVisible)
    hands.until(lambda: runs.current.progress.done > done + 3)
    assert left.words.text().startswith("first.svs: Embedding tiles:")
    endless.set()
    hands.until(
        lambda: not any(isinstance(top, Afterwards) and top.isVisible() for top in QApplication.topLevelWidgets())
    )


def test_what_cannot_be_saved_keeps_the_window(hands):
    """It is closed only where the user says that it need not be saved."""
    Closing.of(hands.viewer).ask(lambda: [Unsaved("a drawing", lambda: False)])
    close(hands)
    answer(hands, "Close")
    hands.wait(300)
    assert not closed(hands)
    close(hands)
    hands.click(question(hands).checkBox())
    answer(hands, "Close")
    hands.until(lambda: closed(hands))
