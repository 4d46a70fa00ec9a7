"""Every exchange with QuPath counts from the corner of the slide's bounds, where a slide states any."""

import json
import sys

import numpy as np
import pytest
import shapely
from PIL import Image

from wsi_umedpt.annotations.labels import labels_at, read_drawn_labels
from wsi_umedpt.cli import main
from wsi_umedpt.errors import MaskError
from wsi_umedpt.geometry import Box
from wsi_umedpt.interop.qupath import read_geojson, write_geojson
from wsi_umedpt.interop.qupath_tiles import read_tiles, write_tiles
from wsi_umedpt.slides.mask_file import mask_from_file
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_scn

CORNER = (1024, 768)
SIZE = (4096, 3584)
SCANNED = (1536, 1280)
"""(width, height) of the scanned area: what QuPath shows."""


@pytest.fixture(scope="module")
def scn(tmp_path_factory):
    """A slide with bounds, an ellipse of tissue in the middle of what was scanned."""
    image, _ = tissue_image(*SCANNED)
    return write_scn(tmp_path_factory.mktemp("scn") / "s.scn", image, corner=CORNER, size=SIZE)


SMALL = ("-m", "timm:test_resnet.r160_in1k@random", "--device", "cpu", "--size", "64", "--force")


@pytest.fixture(scope="module")
def store(scn, tmp_path_factory):
    """A store of it, with scores of its tiles."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wsi-umedpt", "embed", str(scn), "-o", str(folder), *SMALL])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    made = SlideStore.open(folder / "s.zarr")
    scores = np.full((len(made.grid()), 1), 0.5, np.float32)
    write_scores(made, "half", scores, {"columns": ["half"]}, made.grid_ids[0])
    return made


def shown_by_qupath(slide):
    """What QuPath makes of a slide: its bounds, cropped."""
    return slide.read(Box(*CORNER, *SCANNED))


def test_a_slide_with_bounds_states_its_corner(scn, store):
    """Of the slide and of its store."""
    with open_slide(scn) as slide:
        assert (slide.size, slide.bounds, slide.corner) == (SIZE, Box(*CORNER, *SCANNED), CORNER)
    assert store.corner == CORNER


def test_info_says_which_part_was_scanned(scn, store, say):
    """Of the slide and of the store."""
    for path in (scn, store.path):
        code, out, _ = say("info", path)
        assert code == 0
        assert "bounds      1536 x 1280 px from 1024, 768 were scanned" in out


def drawn_in_qupath(path, image, threshold=225):
    """The tissue in QuPath's picture, as QuPath would export its outline."""
    import cv2

    dark = (cv2.blur(image.min(axis=2), (25, 25)) < threshold).astype(np.uint8)
    contours, _ = cv2.findContours(dark, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    ring = max(contours, key=cv2.contourArea)[:, 0].tolist()
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {"classification": {"name": "Tumor"}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return ring


def test_what_is_drawn_in_qupath_selects_the_tissue_that_was_drawn_around(scn, tmp_path):
    """As a mask and as labels: by default where it was drawn; off, other tissue or none."""
    with open_slide(scn) as slide:
        drawn_in_qupath(tmp_path / "s.geojson", shown_by_qupath(slide))
        truth = np.full((slide.size[1], slide.size[0]), False)
        truth[CORNER[1] : CORNER[1] + SCANNED[1], CORNER[0] : CORNER[0] + SCANNED[0]] = tissue_image(*SCANNED)[1]
        for origin, least, most in ((None, 0.9, 1.0), ("level-0", 0.0, 0.35)):
            mask = mask_from_file(
                tmp_path / "s.geojson", slide.size, slide.mpp, bounds=slide.bounds, origin=origin
            )  # fmt: skip
            cells = np.kron(mask.mask, np.ones((mask.step, mask.step), bool))[: SIZE[1], : SIZE[0]]
            assert least <= (cells & truth).sum() / (cells | truth).sum() <= most
        middle = np.array([[CORNER[0] + SCANNED[0] / 2, CORNER[1] + SCANNED[1] / 2]])
        for origin, label in ((None, "Tumor"), ("level-0", "")):
            drawn = read_drawn_labels(tmp_path / "s.geojson", "s", slide.corner, origin)
            assert labels_at(drawn.regions, middle)[0] == [label]


@pytest.mark.parametrize(
    ("size", "origin", "covered"),
    [
        pytest.param((384, 320), None, "bounds", id="of-the-bounds"),
        pytest.param((512, 448), None, "level-0", id="of-the-slide"),
        pytest.param((384, 320), "bounds", "bounds", id="said"),
        pytest.param((512, 448), "level-0", "level-0", id="said-of-the-slide"),
    ],
)
def test_pictures_cover_what_they_have_the_shape_of(tmp_path, size, origin, covered):
    """A mask that QuPath exported shows the bounds, one of other tools the whole slide."""
    drawn = np.zeros((size[1], size[0]), np.uint8)
    drawn[: size[1] // 2, : size[0] // 2] = 255  # the upper left quarter
    Image.fromarray(drawn).save(tmp_path / "m.png")
    bounds = Box(*CORNER, *SCANNED)
    mask = mask_from_file(tmp_path / "m.png", SIZE, 0.5, bounds=bounds, origin=origin)
    part = bounds if covered == "bounds" else Box(0, 0, *SIZE)
    rows, cols = np.nonzero(mask.mask)
    found = [cols.min() * mask.step, rows.min() * mask.step, (cols.max() + 1) * mask.step, (rows.max() + 1) * mask.step]
    expected = [part.x, part.y, part.x + part.width / 2, part.y + part.height / 2]
    assert found == pytest.approx(expected, abs=mask.step)


def test_pictures_that_may_show_either_are_refused(tmp_path):
    """Bounds of the slide's own shape: the user says which; not the shape that was said is refused."""
    Image.fromarray(np.full((100, 200), 255, np.uint8)).save(tmp_path / "m.png")
    bounds = Box(100, 100, 2000, 1000)
    with pytest.raises(MaskError, match="`no_bounds` for the whole slide, `bounds` for what QuPath shows"):
        mask_from_file(tmp_path / "m.png", (4000, 2000), 0.5, bounds=bounds)
    mask = mask_from_file(tmp_path / "m.png", (4000, 2000), 0.5, bounds=bounds, origin="bounds")
    assert mask.fraction == pytest.approx(0.25, rel=0.05)
    with pytest.raises(MaskError, match="not the shape of its bounds"):
        mask_from_file(tmp_path / "m.png", (4000, 2000), 0.5, bounds=Box(0, 0, 1000, 1000), origin="bounds")


def some_objects():
    """Two squares within the bounds."""
    ring = np.array([[0, 0], [40, 0], [40, 40], [0, 40]], np.float32)
    outline = np.concatenate([ring + np.array(at) for at in ((1100.25, 800.5), (2400, 1900))]).astype(np.float32)
    centroid = np.array([[1120.25, 820.5], [2420, 1920]], np.float32)
    return Objects(
        ("nucleus",), np.zeros(2, np.uint8), np.full(2, 0.5, np.float32), centroid,
        np.full((2, len(MEASURES)), np.nan, np.float32), np.array([0, 4, 8]), outline,
    )  # fmt: skip


@pytest.mark.parametrize("corner", [(0, 0), CORNER])
def test_objects_lie_in_qupaths_picture_and_come_back(tmp_path, corner):
    """Positions in the file are level-0 px less the corner; the file says it, and is read back equal."""
    objects, path = some_objects(), tmp_path / "o.geojson"
    write_geojson(path, objects, slide_id="s", corner=corner)
    content = json.loads(path.read_text())
    assert content["wsi_umedpt"]["origin"] == [*corner]
    assert content["features"][0]["geometry"]["coordinates"][0][0] == [1100.25 - corner[0], 800.5 - corner[1]]
    again = read_geojson(path)
    assert np.array_equal(again.outline, objects.outline)
    assert np.array_equal(again.centroid, objects.centroid)
    del content["wsi_umedpt"]  # as QuPath saves it again
    path.write_text(json.dumps(content))
    assert np.array_equal(read_geojson(path, corner).outline, objects.outline)


@pytest.mark.parametrize("corner", [(0, 0), CORNER])
def test_tiles_lie_in_qupaths_picture_and_come_back(tmp_path, corner):
    """As objects do."""
    xy, path = np.array([[1100, 800], [2000, 1000]]), tmp_path / "t.geojson"
    write_tiles(path, xy, 224.5, {"a": np.array([0.5, 1], np.float32)}, slide_id="s", corner=corner)
    content = json.loads(path.read_text())
    assert content["features"][1]["geometry"]["coordinates"][0][2] == [2224.5 - corner[0], 1224.5 - corner[1]]
    assert np.array_equal(read_tiles(path).xy, xy)
    del content["wsi_umedpt"]
    path.write_text(json.dumps(content))
    assert np.array_equal(read_tiles(path, corner).xy, xy)


def test_features_that_are_no_objects_are_left_out_and_counted_on_demand(tmp_path):
    """Lines, points, features without a place, ignored classes; without a counter nothing is left out in silence."""
    from collections import Counter

    from wsi_umedpt.errors import InteropError

    path = tmp_path / "o.geojson"
    write_geojson(path, some_objects(), slide_id="s")
    content = json.loads(path.read_text())
    nucleus = content["features"][0]
    for geometry in (
        None,
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
    ):
        content["features"].append({**nucleus, "geometry": geometry})
    ignored = {**nucleus["properties"], "classification": {"names": ["Ignore*"]}}
    content["features"].insert(0, {**nucleus, "properties": ignored})
    path.write_text(json.dumps(content))
    skipped: Counter[str] = Counter()
    assert len(read_geojson(path, skipped=skipped)) == 2
    assert skipped == {"without geometry": 1, "points": 1, "lines": 1, "of starred classes": 1}
    with pytest.raises(InteropError, match="feature 4"):
        read_geojson(path)


# ---- at the command line ----


@pytest.mark.parametrize("flag", [None, "--no-bounds"])
def test_heatmaps_for_qupath_lie_where_qupath_shows_the_tissue(store, say, tmp_path, flag):
    """By default all tiles lie in QuPath's picture; with the flag they count from the whole slide."""
    code, _, err = say("heatmap", store.path, "-o", "h.geojson", *([flag] if flag else []))
    assert code == 0, err
    features = json.loads((tmp_path / "h.geojson").read_text())["features"]
    corners = np.array([feature["geometry"]["coordinates"][0] for feature in features]).reshape(-1, 2)
    by = (0, 0) if flag else CORNER
    assert np.array_equal(corners.min(axis=0), store.grid().xy.min(axis=0) - by)
    inside = ((corners >= 0) & (corners <= SCANNED)).all(axis=1).mean()
    assert inside == 1 if flag is None else inside < 0.5


@pytest.mark.parametrize("flag", [None, "--no-bounds"])
def test_objects_for_qupath_lie_where_qupath_shows_the_tissue(store, say, tmp_path, monkeypatch, flag):
    """As heatmaps do, and the terminal says what they count from. GeoParquet, which is not QuPath's, never moves."""
    from wsi_umedpt.interop.geoparquet import read_geoparquet
    from wsi_umedpt.store import scores_io

    monkeypatch.setattr(scores_io, "read_objects", lambda store, name: (some_objects(), {"head": "nuclei"}))
    code, out, err = say("export", store.path, "-o", "o.geojson", *([flag] if flag else []))
    assert code == 0, err
    assert ("count from the slide's bounds at 1024, 768" in out) == (flag is None)
    first = json.loads((tmp_path / "o.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0]
    assert first == ([1100.25, 800.5] if flag else [76.25, 32.5])
    assert say("export", store.path, "-o", "o.parquet", *([flag] if flag else []))[0] == 0
    assert np.array_equal(read_geoparquet(tmp_path / "o.parquet").outline, some_objects().outline)


@pytest.mark.parametrize(("flag", "inside"), [(None, 1.0), ("--no-bounds", 0.0)])
def test_masks_and_labels_of_qupath_at_the_command_line(scn, say, tmp_path, flag, inside):
    """A small square drawn in QuPath chooses the tiles under it; with the flag, those that it does not cover."""
    ring = [[600, 500], [1000, 500], [1000, 800], [600, 800], [600, 500]]
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    code, _, err = say(
        "embed", scn, "-o", "out", "--mask", "m.geojson", *SMALL, *([flag] if flag else []),
    )  # fmt: skip
    assert code == 0, err
    made = SlideStore.open(tmp_path / "out" / "s.zarr")
    boxes = shapely.box(*made.grid().xy.T, *(made.grid().xy + made.grid().side).T)
    square = shapely.transform(shapely.Polygon(ring), lambda xy: xy + CORNER)
    assert len(boxes) > 8
    assert np.mean(shapely.intersects(boxes, square)) == inside
