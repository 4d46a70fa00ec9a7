"""`wsi-umedpt export --regions` and `--hotspots`: the numbers of Python, in a table, of one slide or many."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import shapely

from tests.support import GOLDEN
from wsi_umedpt.annotations import read_annotation_file
from wsi_umedpt.segmentation import find_hotspots, hotspot_rows, region_rows
from wsi_umedpt.store import SlideStore, read_objects


@pytest.fixture
def store(tmp_path) -> Path:
    """Results with some objects."""
    return shutil.copytree(GOLDEN / "store_v2.zarr", tmp_path / "out" / "slide.zarr")


def drawn(path: Path, *areas: tuple[str, shapely.Polygon]) -> Path:
    """Areas as QuPath writes them."""
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(area),
            "properties": {"objectType": "annotation", "name": f"{name} here", "classification": {"name": name}},
        }
        for name, area in areas
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_text(rows: list[dict]) -> list[dict[str, str]]:
    """Values as a CSV has them."""
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


def whole(store: Path) -> shapely.Polygon:
    """An area around all objects."""
    centroid = read_objects(SlideStore.open(store))[0].centroid
    return shapely.box(*(centroid.min(axis=0) - 9), *(centroid.max(axis=0) + 9))


def test_counts_in_regions_are_those_of_python(say, store, tmp_path):
    """A row an area, with the slide's name before; a class called positive adds its share."""
    objects, about = read_objects(SlideStore.open(store))
    file = drawn(tmp_path / "a.geojson", ("Tumor", whole(store)), ("Stroma", shapely.box(-9, -9, -1, -1)))
    flags = ("--regions", file, "--positive", objects.classes[0])
    code, out, err = say("export", store, "-o", "regions.csv", *flags)
    assert (code, out, err) == (0, "regions.csv\n", "")
    mpp = SlideStore.open(store).attrs["slide"]["mpp"]
    expected = region_rows(read_annotation_file(file).annotations, mpp, objects, {objects.classes[0]})
    whose = {"slide_id": "slide", "objects": about["head"]}
    found = table(tmp_path / "regions.csv")
    assert found == as_text([whose | row for row in expected])
    assert found[0]["objects_count"] == str(len(objects)) != "0"
    assert found[0]["region_name"] == "Tumor here"
    assert found[1]["objects_count"] == "0"


def test_hotspots_are_those_of_python(say, store, tmp_path):
    """Of the slide, and within each region."""
    opened = SlideStore.open(store)
    objects, mpp = read_objects(opened)[0], opened.attrs["slide"]["mpp"]
    assert say("export", store, "-o", "hotspots.csv", "--hotspots")[0] == 0
    found = table(tmp_path / "hotspots.csv")
    assert len(found) == len(find_hotspots(objects, mpp)) > 0
    assert [{k: row[k] for k in row if k not in ("slide_id", "objects")} for row in found] == as_text(
        hotspot_rows(objects, mpp)
    )
    file = drawn(tmp_path / "a.geojson", ("Tumor", whole(store)))
    assert say("export", store, "-o", "in.csv", "--hotspots", "--regions", file)[0] == 0
    assert [row["objects_count"] for row in table(tmp_path / "in.csv")] == [row["objects_count"] for row in found]


def test_a_folder_has_a_file_for_each_slide(say, store, tmp_path):
    """Named after the slides; a slide without a file, and one file for several slides, are refused."""
    shutil.copytree(store, store.with_name("other.zarr"))
    drawn(tmp_path / "drawn" / "slide.geojson", ("Tumor", whole(store)))
    code, _, err = say("export", "out", "-o", "a.csv", "--regions", "drawn")
    assert code == 1
    assert "drawn has no file for 1 of 2 slides: other. Name each after its slide, as other.geojson" in err
    code, _, err = say("export", "out", "-o", "a.csv", "--regions", "drawn/slide.geojson")
    assert code == 1
    assert "one file for 2 stores" in err
    drawn(tmp_path / "drawn" / "other.geojson", ("Tumor", whole(store)), ("Tumor", whole(store)))
    code, _, err = say("export", "out", "-o", "a.csv", "--regions", "drawn")
    assert (code, err) == (0, "")
    assert [row["slide_id"] for row in table(tmp_path / "a.csv")] == ["other", "other", "slide"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(("--hotspots", "--table", "slides"), "--table goes without", id="two-tables"),
        pytest.param(("--positive", "nucleus"), "--positive goes with --regions", id="positive-of-nothing"),
        pytest.param(("--hotspots", "--features", "clam"), "--features goes without", id="features"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(say, store, flags, said):
    """Before anything is read."""
    code, _, err = say("export", store, "-o", "a.csv", *flags)
    assert code == 1
    assert said in err
