"""The page about a folder: whole, harmless, and right about what it says; and what counts as odd."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.support.drawn_stores import ENCODER, add_features, draw_store, record
from wsi_umedpt.batch.reporting.catalog import refresh
from wsi_umedpt.batch.reporting.outliers import FEWEST, find_outliers, robust_distance, sampled_means
from wsi_umedpt.batch.reporting.plots import columns_over_time, spread
from wsi_umedpt.batch.reporting.web_page import write_page
from wsi_umedpt.errors import PictureError
from wsi_umedpt.testing import relist

HOSTILE = (
    "</title><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% for a in b %}",
    "</style><style>*{display:none}",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "\u202egnp.exe\x1b[31m",
)  # fmt: skip


class Seen(HTMLParser):
    """Elements and their attributes, as a browser has them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        """Keep it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Keep it."""
        self.text += data


def outliers_of(folder):
    rows = refresh(folder)
    return find_outliers(rows, sampled_means(folder, rows))


def _seen(path):
    found = Seen()
    found.feed(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def out(tmp_path):
    """Twelve slides alike, each oddity of another; one damaged, one failed, one given up."""
    folder = tmp_path / "out"
    for n in range(12):
        draw_store(folder / f"s{n:02d}.zarr", seed=n, tiles=40)
        record(folder, f"s{n:02d}", tiles=40, seconds=3.0 + n)
    draw_store(folder / "blue.zarr", seed=20, tiles=40, colour=(40, 60, 200))
    draw_store(folder / "coarse.zarr", seed=21, tiles=40, mpp=4.0)
    draw_store(folder / "bare.zarr", seed=22, tiles=0, tissue=0.0)
    draw_store(folder / "strange.zarr", seed=23, tiles=40, shift=4.0)
    draw_store(folder / "torn.zarr", seed=24, tiles=40, unreadable=20)
    draw_store(folder / "damaged.zarr", seed=25)
    (folder / "damaged.zarr" / "zarr.json").write_text("{")
    record(folder, "broken", "failed", error="no reader opens it")
    record(folder, "hopeless", "quarantined", error="the same again")
    return folder


def test_each_oddity_is_found_and_nothing_else(out):
    """Tiles, tissue, colour, scale, damage and features: of each slide what was made odd, of the twelve nothing."""
    found = {(one.slide_id, one.what) for one in outliers_of(out)}
    assert found == {
        ("blue", "colour of the tissue"), ("coarse", "scale"), ("bare", "tiles"), ("bare", "tissue share"),
        ("strange", f"features ({ENCODER})"), ("torn", "unreadable tiles"),
    }  # fmt: skip


def test_a_few_slides_are_no_cohort(tmp_path):
    """Below the fewest nothing is odd; nor is anything among equal slides."""
    for n in range(FEWEST - 1):
        draw_store(tmp_path / f"s{n}.zarr", seed=n, tiles=1 + 50 * n, colour=(30 * n, 99, 99), mpp=0.1 + n)
    assert outliers_of(tmp_path) == []
    for n in range(FEWEST + 2):
        draw_store(tmp_path / "equal" / f"s{n}.zarr", seed=7)
    assert outliers_of(tmp_path / "equal") == []


def test_distance_is_robust():
    """One far value does not hide itself, and the spread of noise is not taken for distance."""
    values = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 50.0])
    far = robust_distance(values, 0.01)
    assert far[-1] > 100
    assert np.abs(far[:-1]).max() < 3
    assert robust_distance(np.ones(9), 0.5).tolist() == [0.0] * 9


def test_the_page_says_how_slides_stand(out, tmp_path):
    """Counts, failures with their reasons, thumbnails of all that has one, odd ones first and marked."""
    rows = write_page(tmp_path / "page.html", out, title="A cohort")
    assert len(rows) == 20
    seen = _seen(tmp_path / "page.html")
    text = " ".join(seen.text.split())
    assert "A cohort" in text
    for part in (
        "17 of 20 slides whole",
        "no reader opens it",
        "the same again",
        "cannot be read as zarr",
        "colour of",
    ):
        assert part in text
    pictures = [attrs for tag, attrs in seen.tags if tag == "img" and "style" not in attrs]
    assert len(pictures) == 17
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in pictures)
    odd = [attrs for tag, attrs in seen.tags if tag == "figure" and attrs.get("class") == "odd"]
    assert len(odd) == 5
    assert "odd" in str(next(attrs for tag, attrs in seen.tags if tag == "figure" and "class" in attrs))
    assert str(out) not in seen.text


def test_pictures_are_limited(out, tmp_path):
    """The odd ones first, then as many of the others as fit; none is allowed too."""
    for most in (0, 3, 7):
        write_page(tmp_path / "page.html", out, pictures=most)
        pictures = [attrs for tag, attrs in _seen(tmp_path / "page.html").tags if tag == "img"]
        assert sum("style" not in attrs for attrs in pictures) == most
        assert sum("style" in attrs for attrs in pictures) == most  # those on the map


def test_a_page_of_hostile_names_is_harmless(tmp_path):
    """Names of folders, slides, encoders and reasons become text: no element, no attribute, no request, no script."""
    out = tmp_path / "out"
    for n, name in enumerate(HOSTILE):
        safe = name.replace("/", "\u2215")
        store = draw_store(out / f"{safe}.zarr", seed=n, tiles=10)
        add_features(store, safe[:60], np.ones((10, 3)))
        record(out, f"bad{n}", "failed", error=f"{name}\n{name}", host=name)
        tree = json.loads((store / "zarr.json").read_text())
        tree["attributes"]["slide"]["mpp_source"] = name
        (store / "zarr.json").write_text(json.dumps(tree))
        relist(store)
    write_page(tmp_path / "page.html", out, title=HOSTILE[0])
    seen = _seen(tmp_path / "page.html")
    known = {
        "html", "head", "meta", "title", "link", "style", "body", "header", "h1", "p", "main", "div", "b", "i", "table",
        "tbody", "tr", "td", "th", "span", "ul", "li", "h2", "h3", "thead", "figure", "svg", "line", "text", "rect",
        "figcaption", "img", "br", "code", "details", "summary", "footer", "caption",
    }  # fmt: skip
    assert {tag for tag, _ in seen.tags} <= known
    for tag, attrs in seen.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcset", "action", "formaction")], tag
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith("data:"), attrs
    assert sum(tag == "style" for tag, _ in seen.tags) == 1
    assert "default-src 'none'" in str(seen.tags)
    assert "49" not in re.findall(r"\{\{|\b49\b", seen.text)
    assert "{{ 7 * 7 }}" in seen.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", (tmp_path / "page.html").read_text(encoding="utf-8"))


def test_an_empty_folder_has_a_page(tmp_path):
    """A page of nothing says so."""
    (tmp_path / "out").mkdir()
    write_page(tmp_path / "page.html", tmp_path / "out")
    assert "No slide was begun" in _seen(tmp_path / "page.html").text
    with pytest.raises(PictureError):
        write_page(tmp_path / "page.txt", tmp_path / "out")


def test_plots_are_well_formed():
    """Elements that parse, with text escaped, whatever the numbers are."""
    for values in ([1.0, 1.0], [0.0, 5.0], [1e-9, 1e12], list(range(100))):
        for log in (False, True):
            ElementTree.fromstring(spread(values, str, "<a & b>", log=log))  # noqa: S314 - our own
    text = columns_over_time([1e9, 1e9 + 5, 1e9 + 8000], [1, 2, 3], "tiles", '"')
    assert len(list(ElementTree.fromstring(text).iter("rect"))) == 2  # noqa: S314


def test_report_from_the_command_line(say, out):
    """Writes the page and says of how many slides; stores that cannot be read are listed; no folder is an error."""
    code, text, err = say("report", out, "-o", "page.html")
    assert (code, err.splitlines()[0]) == (1, "1 failed:")
    assert "cannot be read as zarr" in err
    assert "page.html: 20 slides" in text
    assert say("report", "absent", "-o", "page.html")[0] == 1
    assert say("report", out, "-o", "page.html", "--pictures", "-1")[0] == 1
