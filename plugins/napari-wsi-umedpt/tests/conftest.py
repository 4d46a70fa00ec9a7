"""A slide whose every place is known, its results, and a napari that leaves the user's settings alone."""

import gc
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

# Before napari is imported: tests have settings of their own.
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp(prefix="napari-settings-")) / "settings.yaml")

import numpy as np
import platformdirs
import pytest
from hands import Hands, xdotool_is_missing
from screens import VirtualScreen, can_be_had
from wsi_umedpt.found import write_objects
from wsi_umedpt.labels import LabelInfo, LabelWriter
from wsi_umedpt.objects import MEASURES, Objects
from wsi_umedpt.scores import write_scores
from wsi_umedpt.slide import Slide, open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.testing import write_pyramid
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import TissueMask

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


SIZE = 2300, 1700
"""Of the slide, px; no power of two divides it."""
MPP = 0.5
TUMOUR = 1000, 400, 1400, 800
"""Left, top, right, bottom of a square that is drawn on the slide, level-0 px."""
TUMOUR_COLOUR = 90, 30, 150
NUCLEUS = 1600, 900, 1660, 960
"""A square nucleus of the second class."""
SPEC = TileSpec(size_px=128, mpp=MPP)
STEP = 32
UNREADABLE_TILE = 3


class Known(NamedTuple):
    """What the tests have planted."""

    slide: Path
    store: Path


def picture() -> np.ndarray:
    """White glass, a square of tumour."""
    image = np.full((SIZE[1], SIZE[0], 3), 240, np.uint8)
    left, top, right, bottom = TUMOUR
    image[top:bottom, left:right] = TUMOUR_COLOUR
    return image


def squares(boxes: list[tuple[int, int, int, int]], classes: list[int]) -> Objects:
    """Square nuclei."""
    corners = np.array([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes], np.float32)
    n = len(boxes)
    return Objects(
        ("tumour", "stroma"),
        np.array(classes, np.uint8),
        np.linspace(0.5, 0.9, n).astype(np.float32),
        corners.mean(axis=1),
        np.tile(np.arange(1, len(MEASURES) + 1, dtype=np.float32), (n, 1)),
        np.arange(n + 1, dtype=np.int64) * 4,
        corners.reshape(-1, 2),
    )


def make_store(path: Path, slide: Slide, objects: Objects) -> Path:
    """A store with all that a store can hold."""
    mask = np.zeros((-(-SIZE[1] // STEP), -(-SIZE[0] // STEP)), bool)
    mask[6:40, 20:60] = True
    thumbnail = np.full((*mask.shape, 3), 200, np.uint8)
    tissue = TissueMask(mask, STEP, thumbnail, "planted", {})
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    readable = np.arange(len(grid)) != UNREADABLE_TILE
    with SlideStore.create(path, slide, tissue, grid) as store:
        writer = store.writer("enc", SPEC.grid_id, 4, {})
        writer.append(np.random.default_rng(0).random((len(grid), 4)).astype(np.float32), readable)
        writer.finish()
        store.set_status(SPEC.grid_id, (~readable).astype(np.uint8))
        info = LabelInfo(
            name="nuclei", shape=(SIZE[1], SIZE[0]), mpp=MPP, scale=1.0, classes=objects.classes,
            colours=((10, 200, 10), (200, 10, 200)),
        )  # fmt: skip
        labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        left, top, right, bottom = NUCLEUS
        labels[top:bottom, left:right] = 2
        writer = LabelWriter(store.mirrored("labels") / "nuclei", info)
        writer.append(labels)
        writer.finish()
        write_objects(store.mirrored("detections") / "nuclei", objects, {"head": "nuclei", "model": "planted"})
        store.commit()
    values = np.arange(len(grid), dtype=np.float32) / len(grid)
    values[UNREADABLE_TILE] = np.nan
    columns = {"columns": ["tumour", "other"], "model": {"name": "planted"}}
    write_scores(SlideStore.open(path), "probe", np.stack([values, 1 - values], axis=1), columns, SPEC.grid_id)
    return path


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
    (folder / "out").mkdir()
    objects = squares([NUCLEUS, (1100, 500, 1130, 530), (1200, 600, 1230, 630)], [1, 0, 0])
    with open_slide(slide) as opened:
        store = make_store(folder / "out" / "planted.zarr", opened, objects)
    return Known(slide, store)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Another slide of the same size, and its store."""
    folder = tmp_path_factory.mktemp("other")
    slide = write_pyramid(folder / "Präparat Nr 3 ü.svs", 255 - picture() // 2, mpp=MPP, quality=98, subsampling="444")
    (folder / "out").mkdir()
    with open_slide(slide) as opened:
        store = make_store(folder / "out" / "other.zarr", opened, squares([NUCLEUS], [1]))
    return Known(slide, store)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Garbage is collected whenever a layer goes, and tests remove many: what was imported need not be looked at."""
    import napari.qt  # noqa: F401
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the plugin writes down of slides goes into a folder of the test's."""
    folder = tmp_path / "user-data"
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: str(folder))
    return folder


@pytest.fixture
def viewer(make_napari_viewer, qtbot):
    """A window that is shown, as nothing is drawn in one that is not."""
    made = make_napari_viewer(show=True)
    made.window.resize(900, 700)
    qtbot.wait(50)
    return made


@pytest.fixture(params=[(1280, 720), (1920, 1080)], ids=["1280x720", "1920x1080"])
def window_size(request) -> tuple[int, int]:
    """(width, height) of a laptop's screen, and of a monitor's."""
    return request.param


@pytest.fixture
def hands(make_napari_viewer, qtbot, monkeypatch, window_size) -> Hands:
    """The window of `wsi-umedpt view`, as large as a screen, with somebody at its mouse and keys."""
    import napari

    from napari_wsi_umedpt._window import window

    if missing := xdotool_is_missing():
        pytest.skip(missing)
    monkeypatch.setattr(napari, "Viewer", lambda **given: make_napari_viewer(**{"show": True, **given}))
    made = Hands(window(), qtbot, window_size)
    made.window.showNormal()
    made.window.setGeometry(0, 0, *window_size)
    made.window.raise_()
    made.window.activateWindow()
    qtbot.waitUntil(made.window.isActiveWindow, timeout=5000)
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
    """What the user was told."""
    from napari.utils.notifications import notification_manager

    said = []
    monkeypatch.setattr(notification_manager, "dispatch", said.append)
    return said
