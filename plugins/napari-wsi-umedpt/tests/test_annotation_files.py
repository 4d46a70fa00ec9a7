"""Annotations in files and in layers: what is read, shown and saved again."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsi_umedpt.errors import AnnotationError

from napari_wsi_umedpt.layers.build import KEY, Place
from napari_wsi_umedpt.logic.annotations import (
    Annotation,
    annotations_of,
    collection_of,
    layer_annotations,
    read_annotations,
    shapes_layer,
    write_annotations,
)
from napari_wsi_umedpt.logic.napari_shapes import one_line, rings_of
from tests.support.planted import MPP, SIZE

PLACE = Place("a", SIZE, MPP)
SQUARE = np.array([[100.0, 100], [300, 100], [300, 300], [100, 300]])
HOLE = SQUARE / 4 + 120
FAR = SQUARE + 500


def as_layer(found: list[Annotation]) -> list[Annotation]:
    data, meta, kind = shapes_layer(found, PLACE)
    assert kind == "shapes"
    import napari.layers

    layer = napari.layers.Layer.create(data, meta, kind)
    state = {name: getattr(layer, name) for name in ("shape_type", "features", "scale", "translate", "edge_color")}
    return layer_annotations(layer.data, state, PLACE)


def test_annotations_survive_the_round_trip(tmp_path):
    """Through QuPath's file and through a layer of napari: places, holes, parts, names, colours, locks, measures."""
    found = [
        Annotation(((SQUARE, HOLE, HOLE + 60),), "Tumor", (200, 0, 0), "core", locked=True, measurements={"a": 1.5}),
        Annotation(((SQUARE,), (FAR,)), "Stroma", (0, 150, 0)),
        Annotation(((FAR,),)),
    ]
    path = tmp_path / "a.geojson"
    write_annotations(path, found)
    for again in (read_annotations(path), as_layer(read_annotations(path))):
        assert len(again) == 3
        for old, new in zip(found, again, strict=True):
            assert (new.name, new.title, new.id, new.locked) == (old.name, old.title, old.id, old.locked)
            assert new.colour == old.colour or old.colour is None
            assert dict(new.measurements) == dict(old.measurements)
            assert [len(part) for part in new.parts] == [len(part) for part in old.parts]
            for a, b in zip((r for p in old.parts for r in p), (r for p in new.parts for r in p), strict=True):
                assert np.allclose(a, b, atol=0.002)


@given(st.lists(st.integers(3, 9), min_size=1, max_size=4), st.integers(0, 10**6))
def test_a_line_through_holes_comes_apart_again(corners, seed):
    """Rings to one line and back."""
    rng = np.random.default_rng(seed)
    rings = tuple(rng.random((n, 2)) for n in corners)
    again = rings_of(one_line(rings))
    assert [len(r) for r in again] == corners
    assert all(np.array_equal(a, b) for a, b in zip(rings, again, strict=True))


def test_corners_that_are_there_twice_lose_no_shape():
    """Nor do shapes of two corners: they are written as lines."""
    (ring,) = rings_of(SQUARE[[0, 0, 1, 2, 3]])
    assert np.array_equal(ring, SQUARE)
    shapes = [PLACE.to_world(SQUARE[rows]) for rows in ([0, 0, 1, 2], [0, 1], [0, 0, 1])]
    found = layer_annotations(shapes, {"shape_type": ["polygon"] * 3}, PLACE)
    assert [one.shape for one in found] == ["area", "line", "line"]
    geometries = [feature["geometry"] for feature in collection_of(found, (0, 0))["features"]]
    assert [one["type"] for one in geometries] == ["Polygon", "LineString", "LineString"]


def test_files_of_older_qupath_are_read(tmp_path):
    """Colours in one number, measurements in a list, classes of several names, packed files."""
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*SQUARE.tolist(), SQUARE[0].tolist()]]},
        "properties": {
            "object_type": "annotation",
            "color": -65536,
            "classification": {"names": ["Tumor", "Positive"]},
            "measurements": [{"name": "Area", "value": 12}],
        },
    }
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps([feature]).encode("utf-8-sig")))
    (one,) = read_annotations(path)
    assert (one.name, one.colour, dict(one.measurements)) == ("Tumor: Positive", (255, 0, 0), {"Area": 12.0})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("{", "cannot be read", id="no-json"),
        pytest.param('[{"type": "Thing"}]', "is no Feature", id="no-feature"),
        pytest.param(
            '{"type": "Feature", "geometry": {"type": "Circle", "coordinates": [1, 2]}}', "'Circle', not", id="circle"
        ),
    ],
)
def test_what_is_no_annotation_is_refused(tmp_path, content, words):
    """With the reason."""
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(AnnotationError, match=words):
        read_annotations(tmp_path / "a.geojson")


def test_annotations_of_another_slide_are_refused(tmp_path):
    """Those that lie wholly outside."""
    path = tmp_path / "a.geojson"
    write_annotations(path, [Annotation(((SQUARE + 10**5,),))])
    with pytest.raises(AnnotationError, match="outside the slide that is open"):
        annotations_of(path, PLACE)


def test_many_annotations_become_a_raster(tmp_path, monkeypatch):
    """Over the number that napari's shapes bear, they are shown as objects."""
    monkeypatch.setattr("napari_wsi_umedpt.logic.annotations.MOST_SHAPES", 1)
    path = tmp_path / "a.geojson"
    write_annotations(path, [Annotation(((SQUARE,),), "Tumor"), Annotation(((FAR,),), "Stroma")])
    ((_, meta, kind),) = annotations_of(path, PLACE)
    assert (kind, meta["metadata"][KEY].classes) == ("labels", ("Tumor", "Stroma"))


def feature(kind: str, coordinates: object, name: str = "Tumor") -> dict:
    geometry = {"type": kind, "coordinates": coordinates} if kind else None
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}


def test_lines_and_points_are_shown_and_saved(tmp_path):
    """A line beside a polygon, a point, several of each: they come back from the file and from napari's layer."""
    path = tmp_path / "a.geojson"
    line = [[10.0, 20.0], [400.0, 30.0], [50.0, 350.0]]
    drawn = [
        feature("Polygon", [[*SQUARE.tolist(), SQUARE[0].tolist()]]),
        feature("LineString", line),
        feature("MultiPoint", [[10.0, 10.0], [200.0, 300.0]], "Mitosis"),
        feature("Point", [77.0, 88.0]),
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": drawn}))
    found = read_annotations(path)
    assert [one.shape for one in found] == ["area", "line", "point", "point"]
    write_annotations(tmp_path / "b.geojson", as_layer(found))
    again = json.loads((tmp_path / "b.geojson").read_text())["features"]
    for old, new in zip(drawn, again, strict=True):
        assert new["geometry"]["type"] == old["geometry"]["type"]
        assert np.allclose(
            np.array(new["geometry"]["coordinates"]), np.array(old["geometry"]["coordinates"]), atol=0.01
        )
        assert new["properties"]["classification"]["name"] == old["properties"]["classification"]["name"]


def test_what_is_drawn_beside_others_is_an_annotation_of_its_own():
    """And not a part of the last one, nor a point where that is one; it is neither locked nor measured as that is."""
    import napari.layers

    last = Annotation(((SQUARE[:1],),), "Mitosis", locked=True, measurements={"a": 1.0}, shape="point")
    layer = napari.layers.Layer.create(*shapes_layer([Annotation(((SQUARE,),), "Tumor"), last], PLACE))
    layer.add_ellipses(PLACE.to_world(SQUARE + 20))
    state = {name: getattr(layer, name) for name in ("shape_type", "features", "scale", "translate", "edge_color")}
    found = layer_annotations(layer.data, state, PLACE)
    assert [(one.shape, one.name, one.locked, len(one.parts)) for one in found] == [
        ("area", "Tumor", False, 1), ("point", "Mitosis", True, 1), ("area", "", False, 1),
    ]  # fmt: skip
    assert dict(found[2].measurements) == {}


def test_a_line_that_is_drawn_is_saved_as_one():
    """With napari's tools for lines and paths."""
    for kind in ("line", "path"):
        (one,) = layer_annotations([SQUARE], {"shape_type": [kind]}, PLACE)
        assert (one.shape, len(one.parts[0][0])) == ("line", 4)


def test_what_is_left_out_is_listed(tmp_path):
    """One feature without a place costs nothing but itself, and is reported; what is whole is shown."""
    path = tmp_path / "a.geojson"
    drawn = [feature("Polygon", [[*SQUARE.tolist(), SQUARE[0].tolist()]]), feature("", None), feature("Polygon", [])]
    path.write_text(json.dumps(drawn))
    told: list[str] = []
    ((data, _, kind),) = annotations_of(path, PLACE, tell=told.append)
    assert (len(data), kind, told) == (1, "shapes", ["a.geojson: skipped: 2 without geometry."])


@pytest.mark.parametrize("identity", ["PathAnnotationObject", None, "the-same"])
def test_features_without_an_id_of_their_own_stay_apart(tmp_path, identity):
    """Before QuPath 0.3 the id was the type of all: what is edited and saved must not become one annotation."""
    one, other = (feature("Polygon", [[*ring.tolist(), ring[0].tolist()]]) for ring in (SQUARE, FAR))
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([{**one, "id": identity}, {**other, "id": identity}]))
    assert [len(a.parts) for a in as_layer(read_annotations(path))] == [1, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(
            "a.xml",
            '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="Tumor" Color="#FF0000">'
            "<Coordinates>{Coordinate}</Coordinates></Annotation></Annotations></ASAP_Annotations>",
            id="asap",
        ),
        pytest.param(
            "b.xml",
            '<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="Tumor" LineColor="255"><Regions>'
            '<Region Type="0"><Vertices>{Vertex}</Vertices></Region></Regions></Annotation></Annotations>',
            id="imagescope",
        ),
        pytest.param(
            "c.annotations",
            '<Annotations><Annotation Name="Tumor" LineColor="255"><Regions><Region Type="Polygon" NegativeROA="0">'
            "<Vertices>{V}</Vertices></Region></Regions></Annotation></Annotations>",
            id="halo",
        ),
    ],
)
def test_annotations_of_other_programs_are_opened(tmp_path, name, text):
    """XML of ASAP, ImageScope and HALO becomes a layer, with class and colour; napari leaves it to this plugin."""
    from napari_wsi_umedpt.reader import get_reader

    tag = text[text.index("{") + 1 : text.index("}")]
    (tmp_path / name).write_text(text.replace(f"{{{tag}}}", "".join(f'<{tag} X="{x}" Y="{y}"/>' for x, y in SQUARE)))
    ((data, meta, _),) = annotations_of(tmp_path / name, PLACE)
    assert np.allclose(PLACE.to_slide(data[0]), SQUARE)
    assert (meta["features"]["class"], meta["edge_color"]) == (["Tumor"], [[1.0, 0.0, 0.0, 1.0]])
    assert get_reader(tmp_path / name) is not None


def test_positions_count_from_the_bounds_as_qupath_does(tmp_path):
    """What is saved lies at level-0 px less the corner, the file says so, and is read back where it was drawn."""
    place = Place("a", SIZE, MPP, corner=(40, 70))
    path = tmp_path / "a.geojson"
    write_annotations(path, [Annotation(((SQUARE,),), "Tumor")], place.corner)
    content = json.loads(path.read_text())
    assert content["wsi_umedpt"]["origin"] == [40, 70]
    assert content["features"][0]["geometry"]["coordinates"][0][0] == [60.0, 30.0]
    del content["wsi_umedpt"]  # as QuPath saves it again
    (tmp_path / "b.geojson").write_text(json.dumps(content))
    for name, origin, expected in (
        ("a.geojson", None, SQUARE), ("b.geojson", None, SQUARE), ("b.geojson", "level-0", SQUARE - place.corner),
    ):  # fmt: skip
        ((data, _, _),) = annotations_of(tmp_path / name, place, origin=origin)
        assert np.allclose(place.to_slide(data[0]), expected)


def test_an_ellipse_becomes_a_polygon():
    """Of its own area."""
    (one,) = layer_annotations([SQUARE * MPP], {"shape_type": ["ellipse"]}, PLACE)
    x, y = one.parts[0][0].T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(np.pi * 100**2, rel=0.01)


def tools(tmp_path, change=lambda content: None) -> tuple[list[str], list[np.ndarray], dict]:
    """What napari's tools drew, saved and read again: types of shapes, their corners, and the file."""
    turned = SQUARE @ np.array([[0.8, 0.6], [-0.6, 0.8]]) * (2, 2) + 60
    shapes = [PLACE.to_world(corners) for corners in (SQUARE, turned, SQUARE + 30, SQUARE[:2], SQUARE)]
    kinds = ["ellipse", "ellipse", "rectangle", "line", "polygon"]
    path = tmp_path / "a.geojson"
    write_annotations(path, layer_annotations(shapes, {"shape_type": kinds}, PLACE))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    data, meta, _ = shapes_layer(read_annotations(path), PLACE)
    for before, after, kind in zip(shapes, data, meta["shape_type"], strict=True):
        assert kind == "polygon" or np.allclose(before, after, atol=0.01)
    return meta["shape_type"], data, content


def test_what_a_tool_drew_can_be_edited_as_such_again(tmp_path):
    """An ellipse, also a turned one, is an ellipse when it is read again; in the file it is a polygon, as in QuPath."""
    kinds, _, content = tools(tmp_path)
    assert kinds == ["ellipse", "ellipse", "rectangle", "line", "polygon"]
    geometries = [one["geometry"]["type"] for one in content["features"]]
    assert geometries == ["Polygon", "Polygon", "Polygon", "LineString", "Polygon"]


@pytest.mark.parametrize("stated", ["circle", ["ellipse"], {"ellipse": 1}, None])
def test_tools_that_nobody_knows_draw_polygons(tmp_path, stated):
    """A file of somebody else's may say anything."""

    def change(content):
        for one in content["features"]:
            one["properties"]["wsi_umedpt"] = stated if stated is None else {"drawn_as": stated}

    assert tools(tmp_path, change)[0] == ["polygon", "polygon", "polygon", "path", "polygon"]


def test_an_ellipse_that_another_program_changed_is_a_polygon(tmp_path):
    """Its corners are what is true, whatever is said of them."""

    def change(content):
        content["features"][0]["geometry"]["coordinates"][0][7][0] += 3

    assert tools(tmp_path, change)[0][:2] == ["polygon", "ellipse"]
