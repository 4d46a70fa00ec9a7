"""A slide whose every place is known, its results, and a napari that leaves the user's settings alone."""

import gc
import importlib
import os
import tempfile
from pathlib import Path

# Before napari is imported: tests have settings of their own.
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp(prefix="napari-settings-")) / "settings.yaml")

import platformdirs
import pytest
from hypothesis import settings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import write_pyramid

from tests.support.hands import LAPTOP, Hands, xdotool_is_missing
from tests.support.patience import be_patient
from tests.support.planted import MPP, NUCLEUS, Known, make_store, picture, squares
from tests.support.screens import VirtualScreen, can_be_had

settings.register_profile("no-clock", deadline=None)  # a busy machine breaks no law
settings.load_profile("no-clock")
SCREEN = pytest.StashKey[VirtualScreen]()


def pytest_configure(config: pytest.Config) -> None:
    """Workers of pytest-xdist, and runs without a display, get a screen of their own where one can be had."""
    is_worker, has_workers = hasattr(config, "workerinput"), bool(config.getoption("numprocesses", None))
    if can_be_had() and (is_worker or not (has_workers or os.environ.get("DISPLAY"))):
        config.stash[SCREEN] = VirtualScreen()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The screen ends with the tests."""
    if SCREEN in config.stash:
        config.stash[SCREEN].close()


@pytest.fixture
def planted(planted_once: Known) -> Known:
    """The slide and its store, in folders of their own beside each other; what another test kept is gone."""
    for path in planted_once.store.parent.glob("planted*.*json"):
        path.unlink()
    return planted_once


@pytest.fixture(scope="session")
def planted_once(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """The slide and its store."""
    folder = tmp_path_factory.mktemp("planted")
    slide = write_pyramid(folder / "planted.svs", picture(), mpp=MPP, quality=98, subsampling="444")
    (folder / "results").mkdir()
    objects = squares([NUCLEUS, (1100, 500, 1130, 530), (1200, 600, 1230, 630)], [1, 0, 0])
    with open_slide(slide) as opened:
        store = make_store(folder / "results" / "planted.zarr", opened, objects)
    return Known(slide, store)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Another slide of the same size, and its store."""
    folder = tmp_path_factory.mktemp("other")
    slide = write_pyramid(folder / "Präparat Nr 3 ü.svs", 255 - picture() // 2, mpp=MPP, quality=98, subsampling="444")
    (folder / "results").mkdir()
    with open_slide(slide) as opened:
        store = make_store(folder / "results" / "other.zarr", opened, squares([NUCLEUS], [1]))
    return Known(slide, store)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Garbage is collected whenever a layer goes, and tests remove many: what was imported need not be looked at."""
    for name in ("napari.qt", "mil.inference.interactive", "mil.linear_probe", "tasks.multihead"):
        importlib.import_module(name if name.startswith("napari") else f"wsi_umedpt.{name}")
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the plugin writes down of slides goes into a folder of the test's."""
    folder = tmp_path / "user-data"
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: str(folder))
    return folder


@pytest.fixture
def qtbot(qtbot, monkeypatch):
    """pytest-qt's, with the patience that a loaded machine needs."""
    be_patient(qtbot, monkeypatch)
    return qtbot


@pytest.fixture
def viewer(make_napari_viewer, qtbot):
    """A window that is shown, as nothing is drawn in one that is not."""
    made = make_napari_viewer(show=True)
    made.window.resize(900, 700)
    qtbot.wait(50)
    return made


@pytest.fixture
def opened(viewer, planted, qtbot):
    """The planted slide and its results, open."""
    from napari_wsi_umedpt.opening.load import open_path
    from napari_wsi_umedpt.window.viewer import add_layers

    add_layers(viewer, open_path(planted.store, pytest.fail))
    qtbot.wait(50)
    return viewer


@pytest.fixture(params=[LAPTOP], ids=["1280x720"])
def window_size(request) -> tuple[int, int]:
    """(width, height) of a laptop's screen; see `BOTH_SCREENS` for tests in which the layout matters."""
    return request.param


@pytest.fixture
def hands(make_napari_viewer, qtbot, monkeypatch, window_size) -> Hands:
    """The window of `wsi-umedpt view`, as large as a screen, with somebody at its mouse and keys."""
    import napari

    from napari_wsi_umedpt.window.window import window

    if missing := xdotool_is_missing():
        pytest.skip(missing)
    monkeypatch.setattr(napari, "Viewer", lambda **given: make_napari_viewer(**{"show": True, **given}))
    made = Hands(window(), qtbot, window_size)
    made.window.showNormal()
    made.window.setGeometry(0, 0, *window_size)
    made.window.raise_()
    made.window.activateWindow()
    qtbot.waitUntil(made.window.isActiveWindow)
    qtbot.wait(100)
    yield made
    made.release()


@pytest.fixture
def model():
    """A viewer without a window: needs neither Qt nor a screen."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def told(monkeypatch):
    """Notifications that the user got."""
    from napari.utils.notifications import notification_manager

    said = []
    monkeypatch.setattr(notification_manager, "dispatch", said.append)
    return said
