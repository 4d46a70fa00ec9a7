"""Report of a case: a page that needs nothing else, with the numbers of the tables, and nothing that could run."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from tests.support import GOLDEN
from wsi_umedpt.annotations.annotation import Annotation
from wsi_umedpt.errors import OptionError
from wsi_umedpt.pipeline.case_report import CaseContents, write_case_report
from wsi_umedpt.plotting.legend import LegendGroup, with_legend
from wsi_umedpt.plotting.regions import region_picture
from wsi_umedpt.segmentation import region_rows
from wsi_umedpt.store import SlideStore, read_objects

RED = (220, 20, 30)


@pytest.fixture
def store(tmp_path) -> SlideStore:
    """Results with objects and scores."""
    return SlideStore.open(shutil.copytree(GOLDEN / "store_v2.zarr", tmp_path / "slide.zarr"))


def whole(store: SlideStore) -> Annotation:
    """A region around all of the slide."""
    return Annotation(shapely.box(10, 10, *(side - 10 for side in store.attrs["slide"]["size"])), "Tumor", colour=RED)


def test_a_page_holds_pictures_tables_and_what_made_them(store, tmp_path):
    """Regions with the numbers of Python, hotspots, a heatmap a column, the verdict, versions; names are escaped."""
    page = tmp_path / "case.html"
    odd = Annotation(shapely.box(0, 0, 50, 50), "<script>alert(1)</script>")
    view = ("The view", Image.new("RGB", (40, 30), "white"))
    contents = CaseContents(drawn=[whole(store), odd], verdict="Tumour: unlikely\n\nAll tiles judged.", pictures=[view])
    write_case_report(page, store, contents)
    text = page.read_text(encoding="utf-8")
    objects, about = read_objects(store)
    first, _ = region_rows(contents.drawn, store.attrs["slide"]["mpp"], objects)
    assert f"<td>{first['objects_count']:,}</td>" in text
    assert f"<td>{first['area_mm2']:,.4g}</td>" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert 'content="default-src &#39;none&#39;' in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert text.count('<img src="data:image/jpeg') == 1 + 2 + 2  # slide; view and objects; two columns of scores
    for said in ("<p>Tumour: unlikely</p>", "probe: tumour", "Hotspots", "version of wsi_umedpt", about["model"]):
        assert said in text


def test_without_objects_and_regions_there_is_a_page(tmp_path):
    """Of a store of tiles alone."""
    store = SlideStore.open(GOLDEN / "store_v1.zarr")
    write_case_report(tmp_path / "a.html", store)
    assert "Hotspots" not in (tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(OptionError, match=r"a\.pdf does not end in \.html"):
        write_case_report(tmp_path / "a.pdf", store)


def test_regions_are_drawn_where_they_lie_in_their_colour(store):
    """On a thumbnail, to scale; the legend names the class."""
    without, drawn = (np.asarray(region_picture(store, some, 400)).astype(int) for some in ([], [whole(store)]))
    red = (np.abs(drawn - RED).max(axis=2) < 40) & (drawn[..., 0] > 150)
    assert red.sum() > 500
    width, height = store.attrs["slide"]["size"]
    columns = np.flatnonzero(red[:, : round(400 * width / height) + 17].any(axis=0))
    to_px = 400 / height
    assert np.ptp(columns) == pytest.approx((width - 20) * to_px, abs=6)
    assert without.shape[1] <= drawn.shape[1]


def test_a_legend_leaves_the_picture_as_it_is():
    """Beside it are the colours, below it the scale bar."""
    picture = np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8)
    page = np.asarray(with_legend(picture, [LegendGroup("Cells", [(RED, "tumour")])], title="A", px_per_um=0.5))
    found = [
        (y, x)
        for y in range(page.shape[0] - 119)
        for x in range(min(40, page.shape[1] - 89))
        if (page[y : y + 120 : 7, x : x + 90 : 7] == picture[::7, ::7]).all()
    ]
    assert len(found) == 1
    assert (page == RED).all(axis=2).sum() >= 150
    below = page[found[0][0] + 122 :, found[0][1] : found[0][1] + 90]
    assert (below == (20, 20, 20)).all(axis=2).sum() >= 20 * 0.5 * 5


def test_the_command_line_reports_a_case(say, store, tmp_path):
    """Of a store; regions, and what a slide classifier said of the case, from files."""
    area = shapely.geometry.mapping(whole(store).geometry)
    features = [{"type": "Feature", "geometry": area, "properties": {"classification": {"name": "Tumor"}}}]
    Path("a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with Path("p.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case_id", "grade_decided"], ["slide", "low"], ["other", "high"]])
    flags = ("--regions", "a.geojson", "--predictions", "p.csv", "--heatmap", "probe")
    code, out, err = say("report", store.path, "-o", "case.html", *flags)
    assert (code, out, err) == (0, "case.html\n", "")
    text = Path("case.html").read_text(encoding="utf-8")
    assert "<p>grade decided: low</p>" in text
    assert "<td>Tumor</td>" in text
    Path("p.csv").write_text("case_id,grade_decided\nother,low\n")
    code, _, err = say("report", store.path, "-o", "case.html", *flags)
    assert code == 1
    assert "p.csv has 0 rows of the case slide" in err
    code, _, err = say("report", tmp_path, "-o", "r.html", "--regions", "a.geojson")
    assert code == 1
    assert "of one slide: name its store" in err
