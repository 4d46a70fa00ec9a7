"""Maps of tiles and slides: neighbours stay neighbours, the same map comes out twice, and a map says what made it."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.mil.test_similar import laid
from tests.support.command_line import run_here
from tests.support.feature_files import make_store
from wsi_umedpt.errors import MilError, OptionError
from wsi_umedpt.interop import find_sources
from wsi_umedpt.mil import MapProgress, MapSettings, MapStoppedError, has_umap, map_slides, map_tiles
from wsi_umedpt.mil.map_colours import labels_of_points, scores_of_points
from wsi_umedpt.plotting import colours_of_names, colours_of_values
from wsi_umedpt.store.scores_io import write_scores

KINDS = 3
PCA = MapSettings(method="pca")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two slides of 60 and 30 tiles of three kinds, one unreadable each, and scores in both."""
    folder = tmp_path_factory.mktemp("map")
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(KINDS, 32)) * 3
    for name, count in (("one", 60), ("two", 30)):
        features = kinds[np.arange(count) % KINDS] + rng.normal(size=(count, 32)) / 4
        store = make_store(folder, name, xy=laid(count), features=features)
        scores = np.stack([np.arange(count) / count, np.ones(count)], 1).astype(np.float32)
        about = {"columns": ["place", "one"], "model": {"name": "planted"}}
        write_scores(store, "planted", scores, about, store.grid_ids[0])
    return folder


@pytest.fixture
def sources(folder):
    return [*find_sources([folder]).values()]


def apart(made, settled: float) -> None:
    """Each kind lies together: its tiles are nearer to their middle than to those of others."""
    kind = made.rows % KINDS
    middles = np.stack([made.places[kind == k].mean(0) for k in range(KINDS)])
    nearest = np.linalg.norm(made.places[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == kind).mean() >= settled


def test_tiles_of_a_kind_lie_together(sources):
    """Readable tiles of both slides, each with its place; the record says what made it."""
    made = map_tiles(sources, PCA)
    apart(made, 1.0)
    assert made.slide_ids == ("one", "two")
    assert np.bincount(made.slide).tolist() == [59, 29]
    assert np.array_equal(made.xy[made.slide == 0], laid(60)[np.arange(60) != 2])
    assert made.about["slides"]["one"]["tiles"] == 59
    assert len(made.about["slides"]["one"]["fingerprint"]) >= 16
    assert made.about["features"]["weights_sha256"] == "ab" * 32
    assert {"wsi_umedpt", "scikit-learn", "numpy"} <= made.about["libraries"].keys()
    assert made.words == "88 tiles of 2 slides by principal components"


def test_a_sample_is_shared_by_slides_and_comes_out_twice(sources):
    """As many of each slide as it has a share; the same with the same seed, others with another; rows in order."""
    few = MapSettings(method="pca", most=20)
    made, again = map_tiles(sources, few), map_tiles(sources, few)
    assert np.bincount(made.slide).tolist() == [13, 6]
    assert np.array_equal(made.rows, again.rows)
    assert np.array_equal(made.places, again.places)
    assert (np.diff(made.rows[made.slide == 0]) > 0).all()
    other = map_tiles(sources, MapSettings(method="pca", most=20, seed=1))
    assert not np.array_equal(made.rows, other.rows)
    assert made.words == "19 of 88 tiles of 2 slides by principal components"


@pytest.mark.slow
@pytest.mark.skipif(not has_umap(), reason="umap-learn is not installed: pip install 'wsi-umedpt[map]'")
def test_umap_keeps_neighbours_together_and_comes_out_twice(sources):
    """In a process of its own, of which the record has the versions; the same numbers from the same seed."""
    shares = []
    made = map_tiles(sources, MapSettings(neighbours=8), MapProgress(told=lambda doing, share: shares.append(doing)))
    apart(made, 1.0)
    assert np.array_equal(made.places, map_tiles(sources, MapSettings(neighbours=8)).places)
    assert {"umap-learn", "numba"} <= made.about["libraries"].keys()
    assert [*dict.fromkeys(shares)] == [
        "Reading features", "Finding principal components", "Finding neighbours", "Laying out",
    ]  # fmt: skip


UMAP = """
import json, os, sys, types
import numpy as np
__version__ = "stand-in"
class UMAP:
    def __init__(self, **given):
        self.given = given
    def fit_transform(self, points):
        given = self.given
        indices, distances, _ = given["precomputed_knn"]
        assert (indices[:, 0] == np.arange(len(points))).all() and given["n_neighbors"] == indices.shape[1]
        assert given["random_state"] == 7 and given["min_dist"] == 0.25
        given["tqdm_kwds"]["file"].write(" 40 ")
        {then}
        return given["init"] * 2
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A umap and a numba that are found before others, and do as they are told."""

    def make(then: str) -> None:
        (tmp_path / "umap.py").write_text(UMAP.replace("{then}", then))
        (tmp_path / "numba.py").write_text("__version__ = 'stand-in'\n")
        monkeypatch.syspath_prepend(tmp_path)

    return make


ASKED = MapSettings(seed=7, min_dist=0.25, neighbours=5)


def test_what_umap_is_given_is_what_was_asked_for(sources, stand_in):
    """Exact neighbours, itself first, the seed, a start from the components; its result is the map."""
    stand_in("pass")
    made, plane = map_tiles(sources, ASKED), map_tiles(sources, PCA).places
    assert np.ptp(made.places, axis=0).max() == pytest.approx(20)
    assert np.corrcoef(made.places.ravel(), plane.ravel())[0, 1] > 0.999
    assert made.about["libraries"]["umap-learn"] == "stand-in"


def test_a_map_that_is_no_longer_wanted_ends_at_once(sources, stand_in):
    """The process that would go on for ever is ended, and leaves nothing."""
    stand_in("import time; print(os.getpid(), flush=True); time.sleep(1000)")
    seen = []
    watch = MapProgress(told=lambda doing, share: seen.append(share), stopped=lambda: 0.4 in seen)
    with pytest.raises(MapStoppedError):
        map_tiles(sources, ASKED, watch)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        pytest.param("raise ValueError('too odd')", "too odd", id="error"),
        pytest.param("os._exit(3)", "exit code 3", id="crash"),
        pytest.param("return given['init'] * np.nan", "not finite", id="nan"),
    ],
)
def test_umap_that_fails_is_told_in_a_line(sources, stand_in, then, reason):
    """With its own last words."""
    stand_in(then)
    with pytest.raises(MilError, match=reason):
        map_tiles(sources, ASKED)


def test_what_cannot_be_mapped_is_refused_in_words(sources, tmp_path, monkeypatch):
    """Another kind of features, too few points, settings out of range, a library that is missing."""
    other = make_store(tmp_path, "three", xy=laid(9), features=np.ones((9, 32)), encoder="other.v1")
    with pytest.raises(MilError, match=r"three has other features than one: .*other"):
        map_tiles([*sources, *find_sources([other.path]).values()], PCA)
    with pytest.raises(MilError, match="2 points are no map"):
        map_slides(sources, PCA)
    with pytest.raises(OptionError, match="`neighbours` is from 2"):
        MapSettings(neighbours=1)
    monkeypatch.setattr("wsi_umedpt.mil.map_layout.has_umap", lambda: False)
    with pytest.raises(MilError, match=r"wsi-umedpt\[map\]"):
        map_tiles(sources)


def test_slides_are_points_of_their_means(tmp_path):
    """Slides of one kind lie together; labels of a table are found by the slides' names."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, 16)) * 3
    for n in range(6):
        features = kinds[n % 2] + rng.normal(size=(20, 16))
        make_store(tmp_path, f"s{n}", xy=laid(20), features=features)
    made = map_slides([*find_sources([tmp_path]).values()], PCA)
    assert made.of_slides
    first = made.places[:, 0]
    assert (np.sign(first[::2]) == np.sign(first[0])).all()
    assert (np.sign(first[1::2]) == -np.sign(first[0])).all()
    table = tmp_path / "labels.csv"
    table.write_text("slide,label\ns0.svs,a\ns3,b\nelsewhere,c\n")
    assert labels_of_points(made, table) == ["a", "", "", "b", "", ""]


def test_points_are_coloured_by_scores_and_labels(sources, folder, tmp_path):
    """Each by its own slide and row; what has none is grey."""
    made = map_tiles(sources, PCA)
    by = {source.slide_id: source for source in sources}
    values, name = scores_of_points(made, by, "planted", "place")
    assert name == "place"
    assert values == pytest.approx(made.rows / np.array([60, 30])[made.slide])
    with pytest.raises(MilError, match="have the columns place, one; name one"):
        scores_of_points(made, by, "planted")
    table = tmp_path / "points.csv"
    x, y = (laid(60)[7] + 3).tolist()
    table.write_text(f"slide_id,x,y,label\ntwo,{x},{y},tumour\n")
    labels = labels_of_points(made, table)
    assert [(int(made.slide[n]), int(made.rows[n])) for n, one in enumerate(labels) if one] == [(1, 7)]
    named = colours_of_names(["b", "a", "", "b"], "class")
    assert [text for _, text in named.legend.entries] == ["a (1)", "b (2)", "none (1)"]
    assert named.rgb[0].tolist() == list(named.legend.entries[1][0])
    drawn = colours_of_values(np.array([0.0, 2.0, np.nan]), "score")
    assert [text for _, text in drawn.legend.entries] == ["0", "0.5", "1", "1.5", "2", "none (1)"]


def test_the_command_writes_a_table_a_picture_and_a_record(folder, tmp_path):
    """Equal to what Python gives; a sample is said to be one."""
    out = tmp_path / "map.csv"
    said = run_here("map", folder, "-o", out, "--method", "pca", "--most", "20",
                    "--scores", "planted", "--column", "place")  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")
    assert "19 of 88 tiles of 2 slides" in said.stdout
    assert "--most draws more" in said.stdout
    made = map_tiles([*find_sources([folder]).values()], MapSettings(method="pca", most=20))
    with out.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["slide_id"], int(row["row"])) for row in rows] == [
        (made.slide_ids[n], row) for n, row in zip(made.slide, made.rows.tolist(), strict=True)
    ]
    assert [float(row["map_x"]) for row in rows] == pytest.approx(made.places[:, 0].tolist(), abs=1e-4)
    record = json.loads((tmp_path / "map.json").read_text())
    assert record["slides"]["two"] == made.about["slides"]["two"]
    assert (record["settings"]["seed"], record["total"]) == (0, 88)
    with Image.open(tmp_path / "map.png") as image:
        assert image.height > 900


def test_the_command_refuses_what_contradicts(folder, tmp_path):
    """In a line that names the flags."""
    for words, reason in (
        (("--scores", "planted", "--of-slides"), "--scores"),
        (("--column", "place"), "--column"),
        (("--most", "1"), "--most"),
    ):
        said = run_here("map", folder, "-o", tmp_path / "a.csv", "--method", "pca", *words)
        assert said.returncode == 1
        assert reason in said.stderr
        assert os.listdir(tmp_path) == []
