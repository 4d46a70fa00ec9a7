"""Errors that a user of the window meets say what to do in the window."""

import threading
from pathlib import Path

import pytest
from PIL import Image
from qtpy.QtCore import QThreadPool
from wsi_umedpt.errors import SlideError, StoreError, WsiError
from wsi_umedpt.geometry import Mpp, checked_mpp
from wsi_umedpt.testing import tissue_image, write_pyramid

from napari_wsi_umedpt.logic.analysis import AnalysisProgress, Request, analyse
from napari_wsi_umedpt.logic.background import Background
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.notifications import Reports, tell_error, words_of
from tests.support.patience import MOST_MS
from tests.support.tiny import release, tissue_slide


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return f"umedpt:{release(tmp_path_factory.mktemp('release') / 'tiny.v1.json')}"


def refused(*, slide: Path, out: Path, model: str, mpp: float | None = None, heads: tuple[str, ...] = ()) -> WsiError:
    """Why a slide cannot be analysed."""
    with pytest.raises((SlideError, StoreError)) as caught:
        analyse(Request(slide=slide, out=out, model=model, mpp=mpp, heads=heads, device="cpu"), AnalysisProgress())
    return caught.value


def spoil(path: Path) -> Path:
    """Overwrite half of the file, between its ends."""
    body = bytearray(path.read_bytes())
    quarter = len(body) // 4
    body[quarter : 3 * quarter] = bytes(2 * quarter)
    path.write_bytes(body)
    return path


def without_scale(folder, model):
    Image.fromarray(tissue_image(64, 64)[0]).save(folder / "a.png")
    with pytest.raises(SlideError) as caught:
        open_path(folder / "a.png", pytest.fail)
    return caught.value


def absurd_scale(folder, model):
    with pytest.raises(SlideError) as caught:
        checked_mpp(Mpp(900.0, 900.0, "tiff"), "a.svs")
    return caught.value


def pixels_not_square(folder, model):
    with pytest.raises(SlideError) as caught:
        checked_mpp(Mpp(0.25, 0.5, "tiff"), "a.svs")
    return caught.value


def another_scale(folder, model):
    slide = tissue_slide(folder / "a.svs", 900)
    analyse(Request(slide=slide, out=folder, model=model, device="cpu"), AnalysisProgress())
    return refused(slide=slide, out=folder, model=model, mpp=0.4)


def too_coarse(folder, model):
    slide = write_pyramid(folder / "a.svs", tissue_image(600, 600)[0], mpp=2.0)
    return refused(slide=slide, out=folder, model=model)


def damaged(folder, model):
    return refused(slide=spoil(tissue_slide(folder / "a.svs", 1000)), out=folder, model=model)


CASES = {
    without_scale: ("states no physical pixel size", 'into "um per px" of the dock Slides and results, and open it'),
    absurd_scale: ("which no slide scanner has", "Write the true value"),
    pixels_not_square: ("Tiles would be distorted", "unless the tag is wrong. Write the true value"),
    another_scale: ("was made at 0.5 um/px", 'into "um per px" of the dock Slides and results, and open it there.'),
    too_coarse: ("the slide's finest level has 2 um/px", "Choose a model that takes coarser tiles."),
    damaged: ("cannot be read", "Copy it again, or draw a region that leaves that place out."),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_to_do_is_said_for_the_window(case, tmp_path, model, told):
    """The reason stays; no flag of the command line is named."""
    error = case(tmp_path, model)
    reason, remedy = CASES[case]
    tell_error(error)
    Reports()(error)
    for words in (words_of(error), *(one.message for one in told)):
        assert reason in words
        assert remedy in words
        assert "--" not in words
    assert len(told) == 2


def test_other_errors_keep_their_words():
    """Ours, the system's, anybody's."""
    assert words_of(StoreError("a.zarr holds nothing")) == "a.zarr holds nothing"
    assert words_of(FileNotFoundError(2, "No such file", "a.svs")) == "No such file: a.svs"
    assert words_of(ZeroDivisionError("x")) == "ZeroDivisionError: x"


def test_what_fails_once_its_dock_is_closed_is_told_without_the_dock(qtbot, told):
    """Whoever asked is gone; nobody may call it, and the user hears of it all the same."""
    goes_on, asked = threading.Event(), []
    background = Background(asked.append)

    def fail() -> None:
        goes_on.wait(MOST_MS / 1000)
        raise StoreError("a.zarr holds nothing")

    background.run(fail, asked.append)
    background.run(fail, asked.append, asked.append)
    background.forget()
    goes_on.set()
    qtbot.waitUntil(lambda: len(told) == 2)
    assert not asked
    assert told[0].message == "a.zarr holds nothing"


def test_on_one_core_nothing_waits_for_an_analysis(qtbot):
    """It takes a thread for minutes; what is opened meanwhile has another one."""
    pool, ended, opened = QThreadPool.globalInstance(), threading.Event(), []
    before = pool.maxThreadCount()
    pool.setMaxThreadCount(1)
    try:
        analysis = Background()
        analysis.run(lambda: ended.wait(MOST_MS / 1000), opened.append)
        Background().run(lambda: "a slide", opened.append)
        qtbot.waitUntil(lambda: opened == ["a slide"])
        ended.set()
        qtbot.waitUntil(lambda: not analysis.busy)
    finally:
        ended.set()
        pool.setMaxThreadCount(before)
