"""Annotations of other programs: the same region as each of them writes it, and what is left out or refused."""

import gzip
import json

import numpy as np
import pytest
import shapely

from wsi_umedpt.annotations.filling import holds
from wsi_umedpt.annotations.labels import labels_at, read_drawn_labels
from wsi_umedpt.annotations.reading import read_annotation_file, slide_of_file
from wsi_umedpt.errors import AnnotationError, MaskError
from wsi_umedpt.slides.mask_file import mask_from_file

RING = [[300, 400], [1500, 400], [1500, 2000], [300, 2000], [300, 400]]
HOLE = [[700, 900], [700, 1400], [1100, 1400], [1100, 900], [700, 900]]
AREA = {"type": "Polygon", "coordinates": [RING, HOLE]}
TUMOR = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}
SIZE = (2400, 2400)
CELL = 16.0
CORNER = (1000, 700)
"""Of the bounds, where a slide has any."""

INSIDE, IN_HOLE, OUTSIDE = (400, 500), (900, 1200), (2000, 500)


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def single(geometry, **properties):
    return json.dumps(feature(geometry, **properties))


def collection(*features, **members):
    return {"type": "FeatureCollection", "features": [*features], **members}


def corners(tag, ring):
    return "".join(f'<{tag} Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(ring[:-1]))


def asap(*annotations):
    """(type, group, ring) of each."""
    found = "".join(
        f'<Annotation Name="A{n}" Type="{kind}" PartOfGroup="{group}" Color="#C80000"><Coordinates>'
        f"{corners('Coordinate', ring)}</Coordinates></Annotation>"
        for n, (kind, group, ring) in enumerate(annotations)
    )
    return f"<ASAP_Annotations><Annotations>{found}</Annotations><AnnotationGroups/></ASAP_Annotations>"


def layers(tag, *regions, layer='Id="1" Name="Tumor" LineColor="200"'):
    """(attributes, ring) of each region."""
    found = "".join(f"<Region {attrs}><Vertices>{corners(tag, ring)}</Vertices></Region>" for attrs, ring in regions)
    return f"<Annotations><Annotation {layer}><Regions>{found}</Regions></Annotation></Annotations>"


def imagescope(*regions, **more):
    return layers("Vertex", *regions, **more)


def halo(*regions, **more):
    return layers("V", *regions, **more)


WHOLE = json.dumps(collection(feature(AREA, **TUMOR)))
OLD = {"classification": {"name": "Tumor", "colorRGB": -3670016}, "measurements": []}
HEIGHTS = {"type": "Polygon", "coordinates": [[[*p, 0] for p in RING], [[*p, 0] for p in HOLE]]}
UNCLOSED = {"type": "Polygon", "coordinates": [RING[:-1], HOLE[:-1]]}
IGNORED = feature({"type": "Polygon", "coordinates": [HOLE]}, classification={"name": "Ignore*"})
FRAME = feature({"type": "Polygon", "coordinates": [[[0, 0], [2300, 0], [2300, 2300], [0, 2300]]]})
PARENT = {**FRAME, "properties": {"classification": {"name": "Region*"}, "childObjects": [feature(AREA, **TUMOR)]}}

SAME_REGION = [
    pytest.param("a.geojson", WHOLE.encode(), id="collection"),
    pytest.param("a.JSON", WHOLE.encode(), id="capitals"),
    pytest.param("a.geojson.gz", gzip.compress(WHOLE.encode()), id="packed"),
    pytest.param("a.geojson", gzip.compress(WHOLE.encode()), id="packed-under-a-plain-name"),
    pytest.param("a.geojson", b"\xef\xbb\xbf" + WHOLE.encode(), id="byte-order-mark"),
    pytest.param("a.geojson", WHOLE.encode("utf-16"), id="utf-16"),
    pytest.param("a.geojson", (WHOLE + "\n\n").encode(), id="trailing-lines"),
    pytest.param("a.geojson", json.dumps([feature(AREA, **TUMOR)]).encode(), id="list"),
    pytest.param("a.geojson", single(AREA, **TUMOR).encode(), id="single"),
    pytest.param("a.geojson", single(AREA, **OLD, id="PathAnnotationObject").encode(), id="qupath-0.2"),
    pytest.param(
        "a.geojson", single({"type": "MultiPolygon", "coordinates": [[RING, HOLE]]}, **TUMOR).encode(), id="multi"
    ),
    pytest.param(
        "a.geojson", single({"type": "GeometryCollection", "geometries": [AREA]}, **TUMOR).encode(), id="geometries"
    ),
    pytest.param("a.geojson", single(HEIGHTS, **TUMOR).encode(), id="heights"),
    pytest.param("a.geojson", single(UNCLOSED, **TUMOR).encode(), id="unclosed"),
    pytest.param("a.geojson", single(AREA, **TUMOR, measurements={"a": float("nan")}).encode(), id="nan"),
    pytest.param(
        "a.geojson",
        json.dumps(collection(feature({"type": "Polygon", "coordinates": [RING]}, **TUMOR), IGNORED)).encode(),
        id="ignored-within",
    ),
    pytest.param("a.geojson", json.dumps(PARENT).encode(), id="child-of-a-frame"),
    pytest.param(
        "a.xml",
        imagescope(('Type="0" NegativeROA="0"', RING), ('Type="0" NegativeROA="1"', HOLE)).encode(),
        id="imagescope",
    ),
    pytest.param(
        "a.xml",
        b"\xef\xbb\xbf" + imagescope(('Type="1"', [RING[0], RING[2], []]), ('NegativeROA="1"', HOLE)).encode(),
        id="imagescope-rectangle",
    ),
    pytest.param(
        "a.annotations",
        halo(('Type="Polygon" NegativeROA="0"', RING), ('Type="Polygon" NegativeROA="1"', HOLE)).encode(),
        id="halo",
    ),
    pytest.param(
        "a.annotations",
        halo(
            ('Type="Rectangle"', [RING[0], RING[2], []]), ('Type="Rectangle" NegativeROA="1"', [HOLE[2], HOLE[0], []])
        ).encode("utf-16"),
        id="halo-rectangles",
    ),
    pytest.param("a.xml", asap(("Polygon", "Tumor", RING), ("Polygon", "Ignore*", HOLE)).encode(), id="asap"),
]


@pytest.mark.parametrize(("name", "content"), SAME_REGION)
def test_the_same_region_as_many_programs_write_it(tmp_path, name, content):
    """As a mask and as labels: the rectangle, but not its hole; its class; the slide that its file is named after."""
    (tmp_path / name).write_bytes(content)
    mask = mask_from_file(tmp_path / name, SIZE, 1.0)
    expected = (1200 * 1600 - 400 * 500) / (SIZE[0] * SIZE[1])
    assert mask.fraction == pytest.approx(expected, rel=0.03)
    drawn = read_drawn_labels(tmp_path / name, "a")
    assert labels_at(drawn.regions, np.array([INSIDE, IN_HOLE, OUTSIDE])) == (["Tumor", "", ""], [])
    assert slide_of_file(tmp_path / name) == "a"
    (first, *_) = (one for one in read_annotation_file(tmp_path / name).annotations if one.name == "Tumor")
    assert first.colour == (200, 0, 0)


@pytest.mark.parametrize(
    ("content", "origin"),
    [
        pytest.param(WHOLE, "bounds", id="qupath"),
        pytest.param(imagescope(("", RING)), "bounds", id="imagescope"),
        pytest.param(halo(("", RING)), "level-0", id="halo"),
        pytest.param(asap(("Polygon", "Tumor", RING)), "level-0", id="asap"),
    ],
)
def test_each_program_counts_from_its_own_corner(tmp_path, content, origin):
    """QuPath and ImageScope crop slides to their bounds, HALO and ASAP do not; the user may say another."""
    path = tmp_path / "a.txt"
    path.write_text(content)
    for asked, expected in ((None, origin), ("bounds", "bounds"), ("level-0", "level-0")):
        found = read_annotation_file(path, CORNER, asked)
        left, top = np.array(RING[0]) + (CORNER if expected == "bounds" else (0, 0))
        assert found.origin == expected
        assert shapely.bounds(found.annotations[0].geometry)[:2].tolist() == [left, top]
        assert read_annotation_file(path, (0, 0), asked).annotations[0].geometry.bounds[:2] == (300, 400)


@pytest.mark.parametrize("last", [False, True])
def test_a_file_may_say_what_it_counts_from(tmp_path, last):
    """Ours do; it holds whatever the slide's bounds, before or behind the features, unless the user says another."""
    ours, features = {"wsi_umedpt": {"origin": [5, 7]}}, collection(feature(AREA, **TUMOR))
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({**features, **ours} if last else {**ours, **features}))
    assert read_annotation_file(path, CORNER).annotations[0].geometry.bounds[:2] == (305, 407)
    assert read_annotation_file(path, CORNER, "level-0").annotations[0].geometry.bounds[:2] == (300, 400)


@pytest.mark.parametrize("origin", ["[1]", '["a", 2]', "[1e300, 2]", '"corner"', "[NaN, 1]"])
def test_an_origin_that_is_no_place_is_refused(tmp_path, origin):
    """Not taken for zero."""
    path = tmp_path / "a.geojson"
    path.write_text(f'{{"type": "FeatureCollection", "wsi_umedpt": {{"origin": {origin}}}, "features": []}}')
    with pytest.raises(AnnotationError, match="which is no place"):
        read_annotation_file(path)


def test_what_is_left_out_is_counted(tmp_path):
    """Nothing that has no place or no area ends the others; what it was is said once, with its number."""
    drawn = collection(
        feature(AREA, **TUMOR),
        feature(None, **TUMOR),
        feature({"type": "Polygon", "coordinates": []}, **TUMOR),
        feature({"type": "Polygon", "coordinates": [[[1, 1], [9, 9], [5, 5], [1, 1]]]}, **TUMOR),
        feature({"type": "LineString", "coordinates": [[10, 10], [500, 500]]}, **TUMOR),
        feature({"type": "MultiPoint", "coordinates": [[410, 510], [20, 20]]}, **TUMOR),
        feature(AREA),
        feature(AREA, classification={"name": "Region*"}),
        feature(AREA, objectType="tmaCore"),
    )
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(drawn))
    labels = read_drawn_labels(path, "s")
    assert labels.note == (
        "skipped: 1 cores of a tissue array, 1 lines, 1 of the class Region*, 1 without a class, 1 without area, "
        "2 without geometry"
    )
    assert [(p.x, p.y, p.label, p.slide_id) for p in labels.points] == [
        (410, 510, "Tumor", "s"),
        (20, 20, "Tumor", "s"),
    ]
    assert mask_from_file(path, SIZE, 1.0).note == (
        "skipped: 1 cores of a tissue array, 1 lines, 1 of the class Region*, 1 points, 1 without area, "
        "2 without geometry"
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.geojson", WHOLE[:-40], "cannot be read as GeoJSON", id="cut-short"),
        pytest.param(
            "a.geojson", '{"type": "Topology", "objects": {}}', "neither a FeatureCollection nor", id="topojson"
        ),
        pytest.param(
            "a.geojson", single({"type": "Circle", "coordinates": [1, 2]}), "'Circle', not one of", id="circle"
        ),
        pytest.param("a.geojson", single({"type": "Polygon"}), "feature 1 has no 'coordinates'", id="no-coordinates"),
        pytest.param(
            "a.geojson",
            single({"type": "Polygon", "coordinates": [[["a", 1], [2, 3], [4, 5]]]}),
            "feature 1",
            id="words",
        ),
        pytest.param(
            "a.geojson", single({"type": "Polygon", "coordinates": [[[1, 1], [2, None], [4, 5]]]}), "nowhere", id="null"
        ),
        pytest.param(
            "a.geojson", single({"type": "Polygon", "coordinates": [[[1, 1], [2, 1e300], [4, 5]]]}), "px away", id="far"
        ),
        pytest.param("a.geojson", '{"type": "FeatureCollection", []: 1}', "which is no text", id="name-that-is-a-list"),
        pytest.param("a.ndpa", "<annotations/>", "begins with <annotations>", id="hamamatsu"),
        pytest.param("a.xml", "<html><body/></html>", "begins with <html>", id="web-page"),
        pytest.param("a.xml", asap(("Polygon", "Tumor", RING))[:-30], "cannot be read as XML", id="xml-cut-short"),
        pytest.param("a.xml", imagescope(("", RING)).replace('X="300"', 'X="nan"'), "nowhere on a slide", id="xml-nan"),
        pytest.param(
            "a.xml", imagescope(("", RING)).replace('X="300"', 'Q="3"'), "there is no 'X'", id="xml-without-x"
        ),
        pytest.param("a.txt", "slide,x,y", "neither GeoJSON nor XML", id="table"),
        pytest.param("a.txt", "", "neither GeoJSON nor XML", id="empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, name, content, reason):
    """The file is named, and the feature."""
    (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=reason) as refused:
        read_annotation_file(tmp_path / name)
    assert name in str(refused.value)


ENTITY = '<!DOCTYPE a [<!ENTITY x "{value}">]>'


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(ENTITY.format(value="y"), id="entity"),
        pytest.param('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', id="file"),
        pytest.param('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">', id="dtd"),
        pytest.param(
            '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
            + "".join(f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
            + "]>",
            id="billion-laughs",
        ),
    ],
)
def test_xml_that_asks_for_more_is_refused(tmp_path, begin):
    """DTDs and entities are never read, in any of the formats."""
    for content in (imagescope(("", RING)), asap(("Polygon", "&i;", RING)), halo(("", RING))):
        text = content.partition("?>")[2] or content
        (tmp_path / "a.xml").write_text(begin + text)
        with pytest.raises(AnnotationError, match=r"a\.xml cannot be read as XML"):
            read_annotation_file(tmp_path / "a.xml")


def test_xml_that_nests_without_end_is_refused(tmp_path):
    """After some levels, not when memory is spent."""
    (tmp_path / "a.xml").write_text("<Annotations>" + "<a>" * 1_000_000)
    with pytest.raises(AnnotationError, match="nest deeper than"):
        read_annotation_file(tmp_path / "a.xml")


def test_islands_in_holes_stay(tmp_path):
    """A positive region in a hole of another counts; holes may cross the outline, and each other."""
    island = [[800, 1000], [800, 1100], [1000, 1100], [1000, 1000], [800, 1000]]
    across = [[1300, 1300], [1700, 1300], [1700, 1700], [1300, 1700], [1300, 1300]]
    negative = 'NegativeROA="1"'
    path = tmp_path / "a.xml"
    path.write_text(
        imagescope(("", RING), ("", island), (negative, HOLE), (negative, across), (negative, [*across[:3], across[0]]))
    )
    places = np.array([INSIDE, IN_HOLE, (900, 1050), (1400, 1400), (1600, 1400)])
    held = [holds(one.geometry, places) for one in read_annotation_file(path).annotations]
    assert np.any(held, axis=0).tolist() == [True, False, True, False, False]


def test_shapes_of_asap_and_halo_and_imagescope(tmp_path):
    """Ellipses by the corners of their box, points, sets of points, lines and rulers."""
    box = [[100, 200], [300, 600], []]
    found = {}
    for name, content in {
        "halo": halo(('Type="Ellipse"', box), ('Type="Ruler"', box), ('Type="Pin"', [*box[:1], []])),
        "imagescope": imagescope(('Type="2"', box), ('Type="4"', box), ('Type="5"', [*box[:1], []])),
        "asap": asap(("Rectangle", "None", [*RING]), ("Measurement", "None", box), ("Dot", "None", [*box[:1], []])),
    }.items():
        (tmp_path / name).write_text(content)
        found[name] = read_annotation_file(tmp_path / name).annotations
        assert [one.shape for one in found[name]] == ["area", "line", "point"]
    for name in ("halo", "imagescope"):
        assert found[name][0].geometry.area == pytest.approx(np.pi * 100 * 200, rel=0.01)
    assert [one.name for one in found["asap"]] == ["", "", ""]


def test_layers_without_a_name_are_called_as_imagescope_shows_them(tmp_path):
    """Layer N; a region's own text before that."""
    (tmp_path / "a.xml").write_text(imagescope(('Text="mine"', RING), ("", RING), layer='Id="3" Name=""'))
    assert [one.name for one in read_annotation_file(tmp_path / "a.xml").annotations] == ["mine", "Layer 3"]


# ---- which region a place is in ----


def box(x, y, side, name):
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    return feature({"type": "Polygon", "coordinates": [ring]}, classification={"name": name})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        pytest.param([box(0, 0, 1000, "Stroma"), box(100, 100, 500, "Tumor")], ["Tumor", "Stroma"], id="nested"),
        pytest.param(
            [box(0, 0, 1000, "Stroma"), box(-10, 100, 500, "Tumor")], ["Tumor", "Stroma"], id="a-little-over-the-edge"
        ),
        pytest.param([box(0, 0, 1000, "Tumor"), box(100, 100, 500, "Ignore*")], ["", "Tumor"], id="ignored-within"),
        pytest.param([box(0, 0, 1000, "Ignore*"), box(100, 100, 500, "Tumor")], ["Tumor", ""], id="within-ignored"),
        pytest.param(
            [box(0, 0, 1000, "Tumor"), box(-400, -400, 1000, "Fold*")], ["", "Tumor"], id="crossed-by-ignored"
        ),
        pytest.param(
            [box(0, 0, 1000, "Tumor"), box(100, 100, 500, "Region*")], ["Tumor", "Tumor"], id="frames-say-nothing"
        ),
        pytest.param(
            [box(0, 0, 1000, "Tumor"), box(100, 100, 700, "A"), box(200, 200, 300, "B")],
            ["B", "Tumor"],
            id="three-deep",
        ),
        pytest.param(
            [box(0, 0, 1000, "Tumor"), box(100, 100, 500, "Ignore*"), box(200, 200, 300, "Tumor")],
            ["Tumor", "Tumor"],
            id="within-ignored-within",
        ),
    ],
)
def test_of_nested_regions_the_innermost_counts(tmp_path, drawn, expected, turned):
    """For labels and for masks, whatever their order in the file."""
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(collection(*(reversed(drawn) if turned else drawn))))
    places = np.array([(300, 300), (900, 900)])
    assert labels_at(read_drawn_labels(path, "s").regions, places)[0] == expected
    mask = mask_from_file(path, SIZE, 1.0, cell_um=20.0).mask
    assert [bool(mask[y // 20, x // 20]) for x, y in places] == [bool(name) for name in expected]


def test_regions_that_cross_contradict_each_other(tmp_path):
    """Two classes at one place of which neither lies in the other are refused, with the place."""
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(collection(box(0, 0, 1000, "Tumor"), box(500, 500, 1000, "Stroma"))))
    with pytest.raises(AnnotationError, match=r"700, 700 is labelled both 'Stroma' and 'Tumor'.*unless one lies in"):
        labels_at(read_drawn_labels(path, "s").regions, np.array([(100, 100), (700, 700)]))


@pytest.mark.parametrize("names", [["Ignore*"], ["Region*", "Ignore*"], ["Tumor: Ignore*"]])
def test_a_mask_of_starred_classes_alone_is_refused(tmp_path, names):
    """It would be no tissue, or all; what was found is said."""
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(collection(*(box(0, 0, 1000, name) for name in names))))
    with pytest.raises(MaskError, match=r"holds no polygon that is tissue.*starred"):
        mask_from_file(path, SIZE, 1.0)
    with pytest.raises(AnnotationError, match=r"labels nothing.*do not count"):
        read_drawn_labels(path, "s")


# ---- damage ----

TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b"1e400",
    b'""',
    b"[[",
    b"[null]",
    b'"Polygon"',
    b'"Point"',
    b"Infinity",
    b'{"a": 1}',
    b"<",
)


@pytest.mark.parametrize("number", range(len(SAME_REGION)), ids=[case.id for case in SAME_REGION])
def test_damaged_files_are_read_or_refused(tmp_path, number):
    """Whatever byte or value is another: annotations, objects, masks and labels, or an error of ours."""
    import re
    from collections import Counter

    from wsi_umedpt.errors import WsiError
    from wsi_umedpt.interop.qupath import read_geojson
    from wsi_umedpt.interop.qupath_tiles import read_tiles

    name, content = SAME_REGION[number].values
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    rng = np.random.default_rng(number)
    path = tmp_path / name
    places = np.array([INSIDE, IN_HOLE, OUTSIDE])
    readers = (
        lambda: mask_from_file(path, SIZE, 1.0),
        lambda: labels_at(read_drawn_labels(path, "a").regions, places),
        lambda: read_geojson(path, skipped=Counter()),
        lambda: read_tiles(path),
    )
    refused = 0
    for _ in range(40):
        damaged = bytearray(content)
        if rng.random() < 0.5:
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        else:
            values = list(re.finditer(rb'-?\d+|"[^"]*"|\[[^\[\]]*\]|\{[^{}]*\}', content)) or [
                re.match(rb".", content, re.DOTALL)
            ]
            value = values[rng.integers(len(values))]
            damaged[value.start() : value.end()] = TOKENS[rng.integers(len(TOKENS))]
        path.write_bytes(damaged)
        for read in readers:
            try:
                read()
            except WsiError:
                refused += 1
    assert refused, "the mutations do damage something"
