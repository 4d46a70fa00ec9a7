"""Objects to other tools' files and back: what arrives is what was sent, and what is no such file is refused."""

import gzip
import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.annotations import json_text
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop import geojson, qupath
from wsi_umedpt.interop.geoparquet import read_geoparquet, write_geoparquet
from wsi_umedpt.interop.qupath import MEASUREMENTS, read_geojson, write_geojson
from wsi_umedpt.store.objects import MEASURES, Objects

TRIANGLE = [[0, 0], [4, 0], [0, 4], [0, 0]]
SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]
ABOUT = {"slide_id": "s", "mpp": 0.25, "made_by": {"model": "m", "version": 1}}


def star_shaped(rng: np.random.Generator, count: int, classes=("tumour", "lymphocyte", "unused")) -> Objects:
    """Outlines of 3 to 12 corners around random places; some measures do not apply."""
    corners = rng.integers(3, 13, count)
    starts = np.concatenate([[0], np.cumsum(corners)]).astype(np.int64)
    middles = np.repeat(rng.uniform(50, 90_000, (count, 2)), corners, axis=0)
    angles = np.concatenate([2 * np.pi * np.arange(n) / n for n in corners] or [[]])
    radii = rng.uniform(5, 20, len(angles))
    outline = middles + np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None]
    measures = rng.lognormal(0, 4, (count, len(MEASURES)))
    measures[rng.random(measures.shape) < 0.2] = np.nan
    score = rng.random(count).astype(np.float32)
    made = Objects(
        classes,
        rng.integers(0, 2, count).astype(np.uint8),
        score,
        np.zeros((count, 2), np.float32),
        measures.astype(np.float32),
        starts,
        outline.astype(np.float32),
    )
    if count:
        made.centroid[:] = shapely.get_coordinates(shapely.centroid(made.polygons()))
    return made


def names_of(objects: Objects) -> list[str]:
    """The class of each object."""
    return [objects.classes[index] for index in objects.class_index]


def feature(geometry, **properties) -> dict:
    """As QuPath writes it."""
    return {"type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": properties}


def polygon(*rings) -> dict:
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.fixture
def read(tmp_path):
    """Objects of a GeoJSON file with some content."""

    def of(content) -> Objects:
        path = tmp_path / "in.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_geojson(path)

    return of


@pytest.mark.parametrize("name", ["o.geojson", "o.geojson.gz"])
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 30), block=st.integers(1, 10))
def test_geojson_gives_back_what_was_written(tmp_path_factory, name, seed, count, block):
    """Corners to a hundredth of a px, scores and measures to the last bit, wherever a block ends."""
    objects = star_shaped(np.random.default_rng(seed), count)
    path = tmp_path_factory.mktemp("geojson") / name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geojson, "BLOCK", block)
        patch.setattr(json_text.JsonText, "_PIECE", 7 * block)
        write_geojson(path, objects, slide_id="s")
        found = read_geojson(path)
    assert names_of(found) == names_of(objects)
    np.testing.assert_array_equal(found.score, objects.score)
    np.testing.assert_array_equal(found.measures, objects.measures)
    np.testing.assert_array_equal(found.starts, objects.starts)
    # Half of a hundredth, and half of what a float32 resolves at 90,000.
    np.testing.assert_allclose(found.outline, objects.outline, rtol=0, atol=0.005 + 0.004)
    np.testing.assert_allclose(found.centroid, objects.centroid, rtol=0, atol=0.02)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 30), rows=st.integers(1, 10))
def test_geoparquet_gives_back_what_was_written(tmp_path_factory, seed, count, rows):
    """All of it to the last bit, classes without an object too, wherever a row group ends."""
    objects = star_shaped(np.random.default_rng(seed), count)
    path = tmp_path_factory.mktemp("geoparquet") / "o.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.interop.geoparquet.ROW_GROUP", rows)
        write_geoparquet(path, objects, **ABOUT)
    found = read_geoparquet(path)
    assert found.classes == objects.classes
    for name in ("class_index", "score", "centroid", "measures", "starts", "outline"):
        np.testing.assert_array_equal(getattr(found, name), getattr(objects, name))
        assert getattr(found, name).dtype == getattr(objects, name).dtype


def test_features_are_what_qupath_expects(tmp_path, rng):
    """Closed rings to two decimals, stable UUIDs, detections with a class of a colour, finite measurements."""
    objects = star_shaped(rng, 50)
    objects.measures[3] = [np.nan, np.inf, -np.inf, 1, 0]
    objects.score[3] = np.nan
    path = tmp_path / "o.geojson"
    write_geojson(path, objects, slide_id="s", colours={"lymphocyte": (1, 2, 3)})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert (content["type"], len(content["features"])) == ("FeatureCollection", 50)
    for one, name in zip(content["features"], names_of(objects), strict=True):
        assert str(uuid.UUID(one["id"])) == one["id"]
        (ring,) = one["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert all(round(value, 2) == value for corner in ring for value in corner)
        assert one["properties"]["objectType"] == "detection"
        colour = [1, 2, 3] if name == "lymphocyte" else list(qupath.PALETTE[0])
        assert one["properties"]["classification"] == {"name": name, "color": colour}
        assert set(one["properties"]["measurements"]) <= set(MEASUREMENTS)
    assert content["features"][3]["properties"]["measurements"] == {"Hematoxylin OD mean": 1, "Eosin OD mean": 0}
    assert len({one["id"] for one in content["features"]}) == 50


def test_ids_are_of_the_slide_and_the_row(tmp_path, rng):
    """Another file of the same slide has the same, another slide others."""
    objects = star_shaped(rng, 5)
    ids = []
    for number, slide_id in enumerate(["a", "a", "b"]):
        path = tmp_path / f"{number}.geojson"
        write_geojson(path, objects, slide_id=slide_id)
        ids.append([one["id"] for one in json.loads(path.read_text())["features"]])
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])


def test_gzip_packs_the_same_text(tmp_path, rng):
    """And equal objects give equal bytes."""
    objects = star_shaped(rng, 20)
    for name in ("o.geojson", "o.geojson.gz", "again.geojson.gz"):
        write_geojson(tmp_path / name, objects, slide_id="s")
    packed = (tmp_path / "o.geojson.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "o.geojson").read_bytes()
    assert packed == (tmp_path / "again.geojson.gz").read_bytes()


def test_geoparquet_says_what_it_holds(tmp_path, rng):
    """The metadata that GeoParquet 1.1 asks for, and whose objects they are; nan is null."""
    objects = star_shaped(rng, 20)
    path = tmp_path / "o.parquet"
    write_geoparquet(path, objects, **ABOUT)
    stated = pq.read_metadata(path).metadata
    geo = json.loads(stated[b"geo"])
    (column,) = geo["columns"].values()
    assert (geo["version"], geo["primary_column"], list(geo["columns"])) == ("1.1.0", "geometry", ["geometry"])
    assert column["bbox"] == shapely.total_bounds(objects.polygons()).tolist()
    assert (column["encoding"], column["geometry_types"], column["crs"]) == ("WKB", ["Polygon"], None)
    assert (stated[b"slide_id"], float(stated[b"mpp"])) == (b"s", 0.25)
    assert json.loads(stated[b"made_by"]) == ABOUT["made_by"]
    table = pq.read_table(path)
    assert table.column_names == ["geometry", "class", "score", "centroid_x", "centroid_y", *MEASURES]
    assert table["area_um2"].null_count == np.isnan(objects.measure("area_um2")).sum()


def test_qupaths_own_files_are_read(read):
    """Old and new measurements, derived classes, cells, parts of one object, and frames around them."""
    probability = {
        "Detection probability": 0.5,
        "Area µm^2": 8.0,
        "Nucleus: Max caliper": 3,
        "Circularity": float("nan"),
    }
    older = [{"name": "Area um^2", "value": 7}, {"name": "Eosin OD mean", "value": None}]
    triangle, square = polygon(TRIANGLE), polygon(SQUARE, [[12, 12], [14, 12], [12, 14], [12, 12]])
    cell = feature(
        triangle, objectType="cell", classification={"names": ["Tumor", "Positive"]}, measurements=probability
    )
    found = read(
        {
            "type": "FeatureCollection",
            "crs": {"features": "not these"},
            "features": [
                cell | {"nucleusGeometry": square},
                feature(square, objectType="annotation", childObjects=[feature(triangle, measurements=older)]),
                feature({"type": "MultiPolygon", "coordinates": [[TRIANGLE], [SQUARE]]}, classification=None),
                feature(polygon([[*corner, 5.0] for corner in TRIANGLE[:-1]])),  # heights, and not closed
                feature(square, objectType="root"),
            ],
        }
    )
    assert names_of(found) == ["Tumor: Positive", "object", "object", "object"]
    assert np.diff(found.starts).tolist() == [3, 3, 4, 3]
    assert found.centroid[2].tolist() == [15, 15]
    np.testing.assert_array_equal(found.score, [0.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found.measure("area_um2"), [8, 7, np.nan, np.nan])
    assert np.isnan(found.measure("circularity")).all()


@pytest.mark.parametrize("within", [lambda one: one, lambda one: [one, one], lambda one: []])
def test_a_feature_or_a_list_of_them_is_read(read, within):
    """QuPath writes and takes those too."""
    content = within(feature(polygon(SQUARE), classification={"name": "a"}))
    assert names_of(read(content)) == ["a"] * (len(content) if isinstance(content, list) else 1)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param("", "expected { at character 0, found its end", id="empty"),
        pytest.param("slide,x,y", "expected { at character 0, found 'slide,x,y'", id="no-json"),
        pytest.param('{"type":"Topology"}', "of type 'Topology'", id="another-json"),
        pytest.param('{"features":3}', r"expected \[ at character 12, found '3}'", id="features-are-no-list"),
        pytest.param("[" * 100_000, "recursion", id="too-deep"),
        pytest.param("[] []", r"after its end follows '\['", id="two-documents"),
        pytest.param('[ {"geometry" 1}]', "':' delimiter at character 14, found '1}]'", id="damaged"),
        pytest.param("[3]", "feature 1: it is 3", id="no-feature"),
        pytest.param([feature(None)], "feature 1: its geometry is None", id="no-geometry"),
        pytest.param([{"type": "Feature"}], "feature 1 has no 'geometry'", id="geometry-absent"),
        pytest.param([feature({"type": "Point", "coordinates": [1, 2]})], "it is a Point", id="point"),
        pytest.param([feature(polygon())], "its Polygon is empty", id="no-ring"),
        pytest.param([feature(polygon([]))], "its ring is no list of positions", id="empty-ring"),
        pytest.param([feature(polygon([[0, 0], [1, 1], [0, 0]]))], "2 corners", id="a-line"),
        pytest.param([feature(polygon([[0, 0], [1], [0, 1]]))], "feature 1: .*inhomogeneous", id="ragged"),
        pytest.param([feature(polygon([[0, 0], [float("nan"), 1], [0, 1]]))], "or nowhere", id="nan"),
        pytest.param([feature(polygon([[0, 0], [1e300, 1], [0, 1]]))], "or nowhere", id="beyond"),
        pytest.param([feature(polygon(TRIANGLE), measurements={"Circularity": "high"})], "'high'", id="measure"),
        pytest.param(
            [feature(polygon(TRIANGLE), classification={"name": str(n)}) for n in range(257)], "256", id="257"
        ),
    ],
)
def test_what_is_no_geojson_of_objects_is_refused(read, content, found):
    """With the file, and what was found where."""
    with pytest.raises(InteropError, match=rf"in\.geojson cannot be read.*({found})"):
        read(content)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(tmp_path_factory, data):
    """Cut or changed anywhere, each format gives objects or an InteropError, and cut JSON never gives objects."""
    folder = tmp_path_factory.mktemp("damaged")
    objects = star_shaped(np.random.default_rng(0), 4)
    write_geojson(folder / "o.geojson", objects, slide_id="s")
    write_geojson(folder / "o.geojson.gz", objects, slide_id="s")
    write_geoparquet(folder / "o.parquet", objects, **ABOUT)
    for path, reader in [(p, read_geoparquet if p.suffix == ".parquet" else read_geojson) for p in folder.iterdir()]:
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 4), label=path.name)
        path.write_bytes(whole[:at])
        with pytest.raises(InteropError, match="cannot be read"):
            reader(path)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
        try:
            assert len(reader(path)) <= 4
        except InteropError as error:
            assert "cannot be read" in str(error)  # noqa: PT017 - either outcome is right


def test_a_file_that_is_no_geoparquet_is_refused(tmp_path):
    """Absent, not Parquet, without its metadata, of another encoding, or of points."""
    path = tmp_path / "x.parquet"
    with pytest.raises(InteropError, match="No such file"):
        read_geoparquet(path)
    path.write_text("geometry,class")
    with pytest.raises(InteropError, match="cannot be read as GeoParquet"):
        read_geoparquet(path)

    def refused(geo, shapes):
        table = pa.table({"geometry": pa.array(shapely.to_wkb(shapes), pa.binary())})
        pq.write_table(table.replace_schema_metadata(geo and {"geo": json.dumps(geo)}), path)
        with pytest.raises(InteropError) as refusal:
            read_geoparquet(path)
        return str(refusal.value)

    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    points = shapely.points([[1.0, 2.0]])
    assert "no metadata 'geo'" in refused(None, points)
    assert "has no 'columns'" in refused({"primary_column": "geometry"}, points)
    assert "encoded as 'point'" in refused(geo | {"columns": {"geometry": {"encoding": "point"}}}, points)
    assert "POINT (1 2); objects are polygons" in refused(geo, points)
    assert "is None" in refused(geo, np.array([None], object))


def test_geoparquet_of_another_tool_is_read(tmp_path):
    """Polygons alone are enough; of several parts the largest counts."""
    parts = shapely.MultiPolygon([shapely.Polygon(TRIANGLE), shapely.Polygon(SQUARE)])
    table = pa.table({"outline": pa.array(shapely.to_wkb([parts, shapely.Polygon(TRIANGLE)]), pa.binary())})
    geo = {"primary_column": "outline", "columns": {"outline": {"encoding": "WKB"}}}
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "x.parquet")
    found = read_geoparquet(tmp_path / "x.parquet")
    assert names_of(found) == ["object", "object"]
    assert np.diff(found.starts).tolist() == [4, 3]
    assert found.centroid[0].tolist() == [15, 15]
    assert np.isnan(found.score).all()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, rng):
    """Refused at the door or failed on the way: no half a file, and the old one stays."""
    objects = star_shaped(rng, 5)
    geojson, parquet = tmp_path / "o.geojson", tmp_path / "o.parquet"
    write_geojson(geojson, objects, slide_id="s")
    write_geoparquet(parquet, objects, **ABOUT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    unnamed = Objects((), *[getattr(objects, name) for name in list(Objects.__dataclass_fields__)[1:]])
    with pytest.raises(IndexError):
        write_geojson(geojson, unnamed, slide_id="s")
    with pytest.raises(IndexError):
        write_geoparquet(parquet, unnamed, **ABOUT)
    lines = objects.taken(np.arange(5))
    lines.starts[3] = lines.starts[2] + 2
    with pytest.raises(InteropError, match="object 2 has an outline of 2 corners"):
        write_geojson(geojson, lines, slide_id="s")
    objects.outline[objects.starts[4]] = np.nan
    with pytest.raises(InteropError, match="object 4 has a corner at"):
        write_geoparquet(parquet, objects, **ABOUT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_names_and_types_that_qupath_does_not_know_are_refused(tmp_path, rng):
    """QuPath tells files apart by their suffix, and takes unknown types for annotations."""
    with pytest.raises(InteropError, match=r"o\.json must end in \.geojson or \.geojson\.gz"):
        write_geojson(tmp_path / "o.json", star_shaped(rng, 1), slide_id="s")
    with pytest.raises(InteropError, match="no objects of type 'nucleus'"):
        write_geojson(tmp_path / "o.geojson", star_shaped(rng, 1), slide_id="s", object_type="nucleus")
