"""Tiles that look alike: exact, of the slides that are asked for, and none twice."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from PIL import Image

from tests.support.command_line import run_here
from tests.support.feature_files import SPEC, make_store
from wsi_umedpt.errors import InteropError, MilError
from wsi_umedpt.interop import find_sources
from wsi_umedpt.mil import TileIndex, find_similar

SIDE = SPEC.size_px * SPEC.mpp / 0.2431
"""Of a tile, level-0 px."""


def laid(count: int, step: float = SIDE) -> np.ndarray:
    """Places of so many tiles, ten in a row."""
    n = np.arange(count)
    return np.stack([n % 10, n // 10], 1) * round(step)


@pytest.fixture
def stores(tmp_path):
    """Two slides of fifty tiles: tiles of the same kind, of five, look alike."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(5, 32)) * 3 + 10
    made = {}
    for name in ("one", "two"):
        of = np.arange(50) % 5
        features = kinds[of] + rng.normal(size=(50, 32)) / 4
        features[:, 0] *= 1000  # a feature of large numbers counts no more than others
        made[name] = make_store(tmp_path, name, xy=laid(50), features=features)
    return made


def test_the_most_similar_are_those_of_brute_force(stores):
    """Standardised in double precision over all tiles, cosine, sorted: the same tiles in the same order."""
    bags = {name: store.features() for name, store in stores.items()}
    whole = np.concatenate([bag.features.astype(np.float64) for bag in bags.values()])
    whole = (whole - whole.mean(0)) / whole.std(0)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    index = TileIndex.read([*find_sources([store.path for store in stores.values()]).values()])
    for row in (0, 17, 60):
        scores = whole @ whole[row]
        scores[row] = -2
        best = np.argsort(-scores)[:15]
        found = index.similar(np.array([row]), 15)
        assert [one.similarity for one in found] == pytest.approx(scores[best].tolist(), abs=2e-3)
        names = ["one"] * len(bags["one"]) + ["two"] * len(bags["two"])
        rows = np.concatenate([bag.index for bag in bags.values()])
        assert len({(names[b], int(rows[b])) for b in best} & {(one.slide_id, one.row) for one in found}) >= 14


def test_a_tile_finds_its_kind(stores):
    """In both slides, and in one where that is asked for; the tile itself is not among them."""
    xy = laid(50)[7]
    found = find_similar([store.path for store in stores.values()], "one", at=tuple((xy + 5).tolist()), count=17)
    assert {one.row % 5 for one in found} == {2}
    assert {one.slide_id for one in found} == {"one", "two"}
    assert ("one", 7) not in {(one.slide_id, one.row) for one in found}
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)
    index = TileIndex.read([*find_sources([store.path for store in stores.values()]).values()])
    row = index.tile_at("one", *xy.tolist())
    assert {one.slide_id for one in index.similar(row, 5, within=["two"])} == {"two"}


def test_a_region_is_asked_about_as_one(stores):
    """Tiles of two kinds: what is found is of these; no tile of the region itself."""
    left, top = laid(50)[20]
    area = shapely.box(left, top, left + 2 * SIDE, top + SIDE)
    found = find_similar([stores["one"].path, stores["two"].path], "one", area=area, count=20)
    assert {one.row % 5 for one in found} == {0, 1}
    assert not {("one", 20), ("one", 21)} & {(one.slide_id, one.row) for one in found}


def test_no_tile_overlaps_a_better_one(tmp_path):
    """Tiles that overlap by three quarters all look alike: of each place one is found, however many are asked for."""
    places = np.stack(np.meshgrid(np.arange(12), np.arange(4)), -1).reshape(-1, 2) * round(SIDE / 4)
    features = np.random.default_rng(0).normal(size=(len(places), 8)) / 50 + np.arange(8)
    store = make_store(tmp_path, xy=places, features=features, spec=replace(SPEC, stride_px=56), unreadable=())
    found = find_similar([store.path], "slide", at=(5.0, 5.0), count=40)
    assert found
    for n, one in enumerate(found):
        for other in [*found[:n]]:
            assert max(abs(one.x - other.x), abs(one.y - other.y)) >= SIDE - 1


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        pytest.param({"at": (1e6, 5.0)}, "no readable tile of one holds x 1e\\+06", id="beside"),
        pytest.param({"area": shapely.box(0, 0, 3, 3)}, "holds the middle of no readable tile", id="small-region"),
        pytest.param({}, "a place .* or a region", id="nothing"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(stores, asked, reason):
    """With the place, and what it is in."""
    with pytest.raises(MilError, match=reason):
        find_similar([stores["one"].path], "one", **asked)


def test_slides_of_other_features_are_refused(stores, tmp_path):
    """Cosines of two encoders mean nothing beside each other."""
    other = make_store(tmp_path, "three", xy=laid(50), features=np.ones((50, 32)), encoder="other.v1")
    with pytest.raises((MilError, InteropError), match=r"three has other features than one: .*other"):
        find_similar([stores["one"].path, other.path], "one", at=(5.0, 5.0))


def test_the_command_writes_a_table_and_a_sheet(stores, tmp_path):
    """The table is one of labels once it has a column label; the sheet has a picture a tile."""
    out, sheet = tmp_path / "similar.csv", tmp_path / "similar.png"
    region = tmp_path / "one.geojson"
    box = shapely.box(0, 0, SIDE, SIDE)
    feature = {"type": "Feature", "geometry": shapely.geometry.mapping(box), "properties": {"objectType": "annotation"}}
    region.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    for asked in (("--at", "5", "5"), ("--region", region)):
        said = run_here("similar", stores["one"].path, stores["two"].path, *asked, "-o", out, "--count", "6",
                        "--slides", tmp_path, "--sheet", sheet)  # fmt: skip
        assert (said.returncode, said.stderr) == (0, "")
        assert "6 of 98 tiles of 2 slides, like 1 of one" in said.stdout
        with out.open() as lines:
            rows = list(csv.DictReader(lines))
        found = find_similar([one.path for one in stores.values()], "one", at=(5.0, 5.0), count=6)
        assert [(row["slide_id"], float(row["similarity"])) for row in rows] == [
            (one.slide_id, round(one.similarity, 4)) for one in found
        ]
        assert float(rows[0]["x"]) == pytest.approx(found[0].x + found[0].side / 2)
        with Image.open(sheet) as image:
            assert image.width > 5 * 160
        sheet.unlink()


def test_the_command_refuses_what_contradicts(stores, tmp_path):
    """In a line that names the flags."""
    for words, reason in (
        ((), "--at X Y"),
        (("--at", "5", "5", "--sheet", tmp_path / "a.png"), "give --slides and --sheet together"),
        (("--at", "5", "5", "--count", "0"), "--count is 1 or more"),
    ):
        said = run_here("similar", stores["one"].path, *words, "-o", tmp_path / "a.csv")
        assert said.returncode == 1
        assert reason in said.stderr
