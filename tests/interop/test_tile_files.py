"""Tiles and their scores to other tools' files and back: what arrives is what was sent."""

import json
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop import geojson
from wsi_umedpt.interop.qupath_tiles import read_tiles, write_tiles
from wsi_umedpt.interop.tables import write_tile_table

TRIANGLE = [[0, 0], [4, 0], [0, 4], [0, 0]]
SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]


def feature(geometry, **properties) -> dict:
    """As QuPath writes it."""
    return {"type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": properties}


def polygon(*rings) -> dict:
    return {"type": "Polygon", "coordinates": list(rings)}


def scored(rng: np.random.Generator, count: int, side: float):
    """Tiles at places rounded one by one, and scores of which some are missing."""
    xy = np.round(rng.integers(0, 400, (count, 2)) * side).astype(np.int32)
    scores = rng.normal(0, 1e3, (2, count)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = np.nan
    return xy, {"tumour": scores[0], "Attention µ": scores[1], "never": np.full(count, np.nan, np.float32)}


@pytest.mark.parametrize("name", ["t.geojson", "t.geojson.gz"])
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 30),
    block=st.integers(1, 10),
    side=st.one_of(st.sampled_from([224.0, 448.0]), st.floats(0.5, 5000)),
)
def test_tiles_come_back_as_they_were_written(tmp_path_factory, name, seed, count, block, side):
    """Places, side and scores to the last bit, columns without a value too, wherever a block ends."""
    xy, columns = scored(np.random.default_rng(seed), count, side)
    path = tmp_path_factory.mktemp("tiles") / name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geojson, "BLOCK", block)
        write_tiles(path, xy, side, columns, slide_id="s")
        found = read_tiles(path)
    np.testing.assert_array_equal(found.xy, xy)
    assert found.side == side
    assert [*found.columns] == [*columns]
    for of, values in columns.items():
        assert found.columns[of].dtype == np.float32
        np.testing.assert_array_equal(found.columns[of], values)


def test_tiles_are_what_qupath_expects(tmp_path, rng):
    """Closed squares of type tile, UUIDs of slide, row and place, finite measurements, standard JSON."""
    xy, columns = scored(rng, 40, 227.0688)
    write_tiles(tmp_path / "a.geojson", xy, 227.0688, columns, slide_id="a")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "a.geojson").read_text(), parse_constant=refuse)
    assert (content["type"], len(content["features"])) == ("FeatureCollection", 40)
    for one, (x, y), *scores in zip(content["features"], xy.tolist(), *columns.values(), strict=True):
        assert str(uuid.UUID(one["id"])) == one["id"]
        x1, y1 = round(x + 227.0688, 2), round(y + 227.0688, 2)
        assert one["geometry"] == polygon([[x, y], [x1, y], [x1, y1], [x, y1], [x, y]])
        assert one["properties"]["objectType"] == "tile"
        expected = {n: v for n, v in zip(columns, scores, strict=True) if np.isfinite(v)}
        assert {n: np.float32(v) for n, v in one["properties"]["measurements"].items()} == expected
    assert len({one["id"] for one in content["features"]}) == 40
    write_tiles(tmp_path / "b.geojson", xy, 227.0688, columns, slide_id="b")
    write_tiles(tmp_path / "again.geojson", xy, 227.0688, {}, slide_id="a")
    ids = [
        {one["id"] for one in json.loads((tmp_path / f"{n}.geojson").read_text())["features"]} for n in ("b", "again")
    ]
    assert not ids[0] & {one["id"] for one in content["features"]}
    assert ids[1] == {one["id"] for one in content["features"]}


def test_tiles_that_qupath_saved_are_read(tmp_path):
    """A list without our member, corners in another order, measurements in the old form, tiles under an annotation."""
    turned = [[20, 10], [20, 20], [10, 20], [10, 10], [20, 10]]
    older = [{"name": "b", "value": 1e300}, {"name": "a", "value": None}]
    content = [
        feature(polygon(SQUARE), objectType="tile", measurements={"a": 0.25}),
        feature(
            polygon(TRIANGLE), objectType="annotation", childObjects=[feature(polygon(turned), measurements=older)]
        ),
    ]
    (tmp_path / "in.geojson").write_text(json.dumps(content))
    found = read_tiles(tmp_path / "in.geojson")
    assert (found.xy.tolist(), found.side) == ([[10, 10], [10, 10]], 10)
    assert [*found.columns] == ["a", "b"]
    np.testing.assert_array_equal(found.columns["a"], [0.25, np.nan])
    assert np.isnan(found.columns["b"]).all()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param([feature(polygon(TRIANGLE))], "feature 1: it is not a square", id="triangle"),
        pytest.param(
            [feature(polygon([[0, 0], [9, 0], [9, 4], [0, 4]]))], "feature 1: it is not a square", id="oblong"
        ),
        pytest.param(
            [feature(polygon(SQUARE)), feature(polygon([[0, 0], [2, 0], [2, 2], [0, 2]]))], "others of", id="two-sizes"
        ),
        pytest.param({"wsi_umedpt": [3], "features": []}, "its member wsi_umedpt is", id="no-member"),
        pytest.param({"wsi_umedpt": {"side": []}, "features": []}, "its member wsi_umedpt is", id="no-side"),
        pytest.param({"type": "Topology"}, "neither a FeatureCollection", id="another-json"),
        pytest.param([feature(polygon(SQUARE), measurements={"a": "high"})], "feature 1: .*'high'", id="no-number"),
    ],
)
def test_what_is_no_geojson_of_tiles_is_refused(tmp_path, content, found):
    """With the file, and what was found where."""
    (tmp_path / "in.geojson").write_text(json.dumps(content))
    with pytest.raises(InteropError, match=rf"in\.geojson cannot be read.*({found})"):
        read_tiles(tmp_path / "in.geojson")


@pytest.mark.parametrize("write", [write_tiles, write_tile_table], ids=["geojson", "csv"])
def test_scores_must_fit_their_tiles(tmp_path, write):
    """A value too few would shift every one behind it."""
    path = tmp_path / ("t.geojson" if write is write_tiles else "t.csv")
    more = {"slide_id": "s"} if write is write_tiles else {}
    with pytest.raises(InteropError, match=r"'a' is of shape \(1,\) for 2 tiles"):
        write(path, np.zeros((2, 2)), 10.0, {"a": np.zeros(1)}, **more)
    assert not [*tmp_path.iterdir()]


def test_a_table_of_tiles_has_wsinfers_columns(tmp_path):
    """Whole sides as whole numbers, scores as float32s print, nothing where there is none."""
    xy = np.array([[0, 448], [448, 448]], np.int32)
    scores = {"prob_tumour": np.array([0.1, np.nan], np.float32), "n": np.array([1, 2])}
    write_tile_table(tmp_path / "t.csv", xy, 448.0, scores)
    assert (tmp_path / "t.csv").read_text() == (
        "minx,miny,width,height,prob_tumour,n\n0,448,448,448,0.1,1.0\n448,448,448,448,,2.0\n"
    )
    write_tile_table(tmp_path / "f.csv", xy, 227.07, {})
    assert (tmp_path / "f.csv").read_text().splitlines()[1] == "0,448,227.07,227.07"
    with pytest.raises(InteropError, match="cannot be called 'width'"):
        write_tile_table(tmp_path / "w.csv", xy, 448.0, {"width": np.zeros(2)})
