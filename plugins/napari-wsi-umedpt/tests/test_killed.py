"""What is kept survives a process that is killed: every file is as it was before or after, never less."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.kept_regions import read_sheets
from napari_wsi_umedpt.logic.autosave_place import ANNOTATIONS, LABELS, Home, Kept
from napari_wsi_umedpt.logic.cases import CaseList
from napari_wsi_umedpt.logic.kept_labels import read_kept_labels
from tests.support.hands import xdotool_is_missing

PLACE = Place("a", (40_000, 40_000), 0.5, fingerprint="5" * 64)
KILLS = 6

_CHILD = """
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs

folder = Path(sys.argv[1])
platformdirs.user_data_dir = lambda *_, **__: str(folder / "user")

from wsi_umedpt.annotations.labels import Point
from napari_wsi_umedpt.logic.cases import CaseList
from napari_wsi_umedpt.layers.shapes import Drawing
from napari_wsi_umedpt.logic.autosave_place import ANNOTATIONS, LABELS, Home, Kept
from napari_wsi_umedpt.logic.kept_labels import KeptLabels, write_kept_labels
from napari_wsi_umedpt.layers.kept_regions import Sheet, read_sheets, write_sheets
from napari_wsi_umedpt.layers.build import Place

place = Place("a", (40_000, 40_000), 0.5, fingerprint="5" * 64)
home = Home(place, folder / "a.zarr")
annotations, labels = Kept(ANNOTATIONS), Kept(LABELS)
read_sheets(annotations, home)
labels.read(home)
cases = CaseList(folder)
square = np.array([[0, 0], [0, 9], [9, 9], [9, 0.0]])
n = int(sys.argv[2])
while True:
    n += 1
    count = 1 + n % 300
    drawing = Drawing(
        tuple(square + k for k in range(count)), ("polygon",) * count,
        np.ones((count, 4), np.float32), np.ones((count, 4), np.float32),
        pd.DataFrame({"class": [f"at {n}"] * count, "id": [f"shape {k}" for k in range(count)]}),
    )
    meta = {"shape_type": list(drawing.kinds), "features": drawing.features, "edge_color": drawing.edges}
    write_sheets(annotations, home, [Sheet("mine", drawing, meta)])
    points = tuple(Point("a", k, k, f"at {n}", "") for k in range(count))
    write_kept_labels(labels, home, KeptLabels((f"at {n}",), points))
    cases.review(0, note=f"at {n}")
    print(n, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.svs").write_bytes(b"the list alone is looked at")
    return tmp_path


def test_nothing_that_was_kept_is_lost_by_a_kill(folder):
    """Killed at random moments, again and again over the same files: the last edit that was written is there, whole."""
    chance, done = random.Random(0), 0
    home = Home(PLACE, folder / "a.zarr")
    for _ in range(KILLS):
        command = [sys.executable, "-c", _CHILD, str(folder), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()  # it has begun
            time.sleep(chance.uniform(0, 0.25))
            child.kill()
            rest = child.stdout.read().split()
        done = int(rest[-1]) if rest else done + 1
        layers, refused = read_sheets(Kept(ANNOTATIONS), home)
        assert not refused
        (found,) = layers.values()
        kept = {one.name for one in found}
        assert len(kept) == 1, "a file of two edits"
        at = int(kept.pop().removeprefix("at "))
        assert done <= at <= done + 1
        assert len(found) == 1 + at % 300
        labels, refused = read_kept_labels(Kept(LABELS), home)
        assert not refused
        assert labels.classes in {(f"at {n}",) for n in (done, done + 1)}
        assert len({point.label for point in labels.points}) == 1
        assert CaseList(folder).cases[0].note in {f"at {n}" for n in (done, done + 1)}
        done = at


def test_a_file_that_another_one_changed_is_not_written_over(folder):
    """Two windows draw on one slide: what each has drawn is there when it is opened again."""
    home = Home(PLACE, folder / "a.zarr")
    first, second = Kept(ANNOTATIONS), Kept(ANNOTATIONS)
    for window in (first, second):
        window.read(home)
    for window, name in ((first, "one"), (second, "two"), (first, "three")):
        feature = {
            "type": "Feature", "id": name, "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
        }  # fmt: skip
        window.write(home, {"type": "FeatureCollection", "features": [feature]}, "2026-01-01")
    layers, _ = read_sheets(Kept(ANNOTATIONS), home)
    assert {one.name for some in layers.values() for one in some} == {"three", "two"}


def test_a_damaged_file_is_told_and_left(folder):
    """What cannot be read is not written over; the next edit has a file of its own, and is found."""
    home = Home(PLACE, folder / "a.zarr")
    damaged = folder / "a.annotations.geojson"
    damaged.write_text('{"type": "FeatureCollection", "features": [')
    kept = Kept(ANNOTATIONS)
    layers, (refused,) = read_sheets(kept, home)
    assert not layers
    assert "a.annotations.geojson cannot be read, and is left as it is" in str(refused)
    kept.write(home, {"type": "FeatureCollection", "features": []}, "2026-01-01")
    assert damaged.read_text().endswith("[")
    assert (folder / "a.annotations-2.geojson").exists()


def test_a_folder_that_cannot_be_written_is_no_loss(folder):
    """Then it is the user's own, and found again there."""
    (folder / "results").write_text("a file where the folder should be")
    home = Home(PLACE, folder / "results" / "a.zarr")
    where = Kept(ANNOTATIONS).write(home, {"type": "FeatureCollection", "features": []}, "2026-01-01")
    assert where.parent.parent.name == "user-data"
    (found,), _ = Kept(ANNOTATIONS).read(home)
    assert found[0] == where


_WINDOW = """
import sys
from pathlib import Path

import numpy as np
import platformdirs

slide, store, folder = (Path(text) for text in sys.argv[1:4])
platformdirs.user_data_dir = lambda *_, **__: str(folder / "user")

import napari
from qtpy.QtCore import QTimer
from napari_wsi_umedpt.logic.annotations import shapes_layer
from napari_wsi_umedpt.window.autosave import Keeper
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers

viewer = napari.Viewer(show=True)
keeper = Keeper.of(viewer)
add_layers(viewer, open_path(store, print, slide=slide))
place = keeper._watch.shown_place()
timer, drawn = QTimer(), [0]


def draw():
    if not any(work.read for work in keeper._works.values()):
        return
    if "annotations" not in viewer.layers:
        add_layers(viewer, [shapes_layer([], place)])
    viewer.layers["annotations"].add_polygons(np.array([[0, 0], [0, 9], [9, 9.0]]) + drawn[0])
    drawn[0] += 1
    print(drawn[0], flush=True)


timer.timeout.connect(draw)
timer.start(200)
napari.run()
"""


@pytest.mark.skipif(bool(xdotool_is_missing()), reason="no screen")
def test_a_window_that_is_killed_loses_no_more_than_the_last_shape(planted, tmp_path):
    """A shape each fifth of a second, killed at a random moment: all are in the file, but perhaps the last one."""
    store = shutil.copytree(planted.store, tmp_path / "planted.zarr")
    command = [sys.executable, "-c", _WINDOW, str(planted.slide), str(store), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(8):
            child.stdout.readline()
        time.sleep(random.Random(1).uniform(0, 0.4))
        child.kill()
        drawn = 8 + len(child.stdout.read().split())
    found = json.loads((tmp_path / "planted.annotations.geojson").read_text())["features"]
    assert drawn - 1 <= len(found) <= drawn
