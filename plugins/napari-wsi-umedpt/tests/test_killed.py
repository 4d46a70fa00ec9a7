"""What is kept survives a process that is killed: every file is as it was before or after, never less."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napari_wsi_umedpt._cases import CaseList
from napari_wsi_umedpt._keeping import ANNOTATIONS, LABELS, Home, Kept
from napari_wsi_umedpt._keptlabels import read_tile_labels
from napari_wsi_umedpt._keptlayers import read_sheets
from napari_wsi_umedpt._layers import Place

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

from wsi_umedpt.annotations import Point
from napari_wsi_umedpt._cases import CaseList
from napari_wsi_umedpt._drawn import Drawing
from napari_wsi_umedpt._keeping import ANNOTATIONS, LABELS, Home, Kept
from napari_wsi_umedpt._keptlabels import TileLabels, write_tile_labels
from napari_wsi_umedpt._keptlayers import Sheet, read_sheets, write_sheets
from napari_wsi_umedpt._layers import Place

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
        tuple(square + k for k in range(count)), ("polygon",) * count, (1.0,) * count,
        np.ones((count, 4), np.float32), np.ones((count, 4), np.float32),
        pd.DataFrame({"class": [f"at {n}"] * count, "id": [f"shape {k}" for k in range(count)]}),
    )
    meta = {"shape_type": list(drawing.kinds), "features": drawing.features, "edge_color": drawing.edges}
    write_sheets(annotations, home, [Sheet("mine", drawing, meta)])
    points = tuple(Point("a", k, k, f"at {n}", "") for k in range(count))
    write_tile_labels(labels, home, TileLabels((f"at {n}",), points))
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
        labels, refused = read_tile_labels(Kept(LABELS), home)
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
