"""The report needs nothing else, says plainly what was shown and what was not, and runs nothing that a name holds."""

import io
import json
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.support.mil_studies import simulated
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.evaluation import report_text
from wsi_umedpt.mil.evaluation.report import Example, ExampleTile, write_report
from wsi_umedpt.mil.evaluation.summary import Difference, measure

KINDS = ["binary", "multiclass", "ordinal", "multilabel", "regression", "cox", "discrete"]
MADE_BY = {"command": "wsi-umedpt mil train labels.csv", "settings": {"lr": 5e-4, "seeds": [0, 1]}, "sha256": "ab" * 32}
EMPTY = {"meta", "link", "img", "br", "input", "path", "use", "rect"}
HOSTILE = "</script><img src=http://evil.example/x onerror=alert(1)>\"'&\x00\u202e"


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what a test asks about."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        """Open an element."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Open and close one."""
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        """Close the innermost, and no other."""
        if tag not in EMPTY:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep what a reader sees."""
        if not {"script", "style"} & {*self.open}:
            self.words.append(data)

    @property
    def text(self):
        """All words, with single spaces."""
        return " ".join(" ".join(self.words).split())


def png(colour=(200, 120, 180), size=(64, 48), **options):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG", **options)
    return out.getvalue()


def report(folder, *studies, **options):
    write_report(folder, studies, provenance=MADE_BY, resamples=100, **options)
    return Reader((folder / "report.html").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_one_page_that_needs_nothing_else(tmp_path, kind):
    """It nests, asks for nothing, and gives every table heads and every picture words."""
    page = report(tmp_path, simulated(kind, 60, unknown=2))
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith(("data:", "#")), (tag, name, value[:60])
        assert not name.startswith("on")
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert page.tags.count("h1") == 1
    assert len(page.ids) == len({*page.ids})
    assert len([1 for t, n, _ in page.attributes if (t, n) == ("th", "scope")]) == page.tags.count("th")
    assert len([1 for t, n, v in page.attributes if t == "svg" and n == "aria-label" and v]) == page.tags.count("svg")
    assert "nan" not in page.text.lower().split()
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.html", "figures.json", "predictions.csv", "predictions_of_baselines.csv",
    }  # fmt: skip


def test_the_page_begins_with_what_was_shown(tmp_path):
    """What, for how many, how well, and against what; the numbers are those of figures.json."""
    page = report(tmp_path, simulated("binary", 120, name="her2"))
    told = json.loads((tmp_path / "figures.json").read_text())["targets"][0]
    own = told["arms"][0]["figures"]["roc_auc"]
    first = page.text.split("How it was evaluated")[0]
    assert "her2 (positive or negative) was predicted for 120 patients (120 slides), each time by a model" in first
    assert f"ROC AUC within folds is {own['value']:.2f} (95 % interval {own['low']:.2f} to {own['high']:.2f})" in first
    assert "It is better than the baseline “majority”" in first
    for words in ("5 folds of 24 cases", "All cases of a patient lie in one fold (checked)", "wsi-umedpt mil train"):
        assert words in page.text


def made(value, low, high, figure="roc_auc"):
    return Difference(value=value, low=low, high=high, undefined=0, baseline="b", figure=figure, p=0.5)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        pytest.param(made(0.1, 0.01, 0.2), "better", id="above"),
        pytest.param(made(0.1, 0.0, 0.2), "unclear", id="touches-0"),
        pytest.param(made(0.1, -0.01, 0.2), "unclear", id="includes-0"),
        pytest.param(made(-0.1, -0.2, -0.01), "worse", id="below"),
        pytest.param(made(-0.1, -0.2, -0.01, "brier"), "better", id="lower-is-better"),
        pytest.param(made(0.1, 0.01, 0.2, "mean_error"), "worse", id="larger-error"),
        pytest.param(made(0.5, 0.4, 0.6, "sensitivity"), "not compared", id="half-of-a-pair"),
        pytest.param(made(0.1, None, None), "not compared", id="no-interval"),
        pytest.param(None, "not compared", id="none"),
    ],
)
def test_better_is_an_interval_on_one_side_of_zero(difference, expected):
    """And nothing else is."""
    assert report_text.verdict(difference) == expected


def test_what_is_not_shown_is_said(tmp_path):
    """A model that is no better than its baseline, and one that is no better than guessing."""
    study = simulated("binary", 60, skill=0.5, baseline_skill=0.5)
    page = report(tmp_path, study)
    assert "It is not shown to be better than the baseline “mean + logistic regression”" in page.text
    assert "the interval includes 0" in page.text
    swapped = replace(study, arms=(replace(study.arms[2], sets=None, unlike=None), study.arms[1]))
    found = measure(swapped, resamples=100)
    said = " ".join(report_text.headline(found))
    assert "That is not shown to be better than guessing: the interval includes 0.5." in said
    assert "worse than the baseline" in said


def test_notes_say_what_is_thin():
    """Few patients, few events, rare classes, one seed, one site, patients on both sides."""

    def noted(study):
        return " ".join(report_text.notes(study, measure(study, resamples=100)))

    small = simulated("multiclass", 30, seeds=1, sites=("North",), unknown=1)
    said = noted(small)
    for words in ("Only 29 patients", "rather too narrow", "Fewer than 10 cases", "One seed", "one site", "3 slides"):
        assert words in said
    assert "event" in noted(simulated("cox", 60))
    leaky = simulated("binary", 60, slides_a_patient=2)
    leaky.fold[0, 0] = (leaky.fold[0, 1] + 1) % 5
    assert "not of unseen patients" in noted(leaky)
    assert "had never seen" not in " ".join(report_text.headline(measure(leaky, resamples=20)))
    perfect = simulated("binary", 60, skill=50)
    assert "An interval without width" in noted(perfect)
    promised = replace(simulated("binary", 120, skill=0.3), coverage=0.999)
    promised.arms[0].sets[:, :, 0] = False
    assert "less than the promised" in noted(promised)


def test_it_is_said_whether_sites_were_seen():
    """Folds by site, and folds across sites."""
    study = simulated("binary", 60, folds=2, seeds=1)
    words = " ".join(report_text.protocol(study, measure(study, resamples=20), ()))
    assert "models had seen other patients of the same sites" in words
    study.fold[0] = np.array([site == "North" for site in study.sites])
    words = " ".join(report_text.protocol(study, measure(study, resamples=20), ("when to stop", "the rate")))
    assert "sites are as unseen as patients" in words
    assert "When to stop, the rate, the thresholds of decisions and the size of the sets were chosen on inner" in words


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        pytest.param(-0.004, 2, "0.00", id="no-minus-nought"),
        pytest.param(-0.5, 1, "\u22120.5", id="a-true-minus"),
        pytest.param(None, 2, "\u2013", id="none"),
        pytest.param(float("nan"), 2, "\u2013", id="nan"),
        pytest.param(12345.6, 0, "12\u202f346", id="thousands"),
    ],
)
def test_numbers_are_printed_as_they_are_read(value, digits, expected):
    """With no sign of nought, and a dash for nothing."""
    assert report_text.number(value, digits) == expected


def test_a_difference_never_seems_to_touch_zero_where_it_does_not():
    """A digit more is printed; turned, it is of the other sign."""
    assert report_text.difference(made(0.043, 0.004, 0.083)) == ("+0.043", "+0.004 to +0.083")
    assert report_text.difference(made(0.04, 0.0002, 0.08))[1] == "+0.0002 to +0.0800"
    assert report_text.difference(made(0.04, 0.0, 0.08))[1] == "0.00 to +0.08"
    assert report_text.difference(made(0.04, 0.01, 0.08), turned=True) == ("\u22120.04", "\u22120.08 to \u22120.01")


def test_names_run_nothing(tmp_path):
    """Of slides, patients, sites, classes, targets, arms, notes, examples and provenance."""
    study = simulated("multiclass", 50, classes=(HOSTILE, "b" + HOSTILE, "c"), sites=(HOSTILE, "s"), name=HOSTILE)
    study = replace(
        study,
        case_ids=(HOSTILE, *study.case_ids[1:]),
        patients=(HOSTILE, *study.patients[1:]),
        notes=(HOSTILE,),
        arms=(replace(study.arms[0], arm=HOSTILE), *study.arms[1:]),
    )
    example = Example(
        case_id=HOSTILE, slide_id=HOSTILE, target=HOSTILE, truth=HOSTILE, predicted=HOSTILE, heat=png(),
        heat_caption=HOSTILE, tiles=(ExampleTile(png(), HOSTILE, "top"),),
    )  # fmt: skip
    write_report(
        tmp_path, [study], provenance={"command": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE] * 20}}, examples=[example],
        resamples=50, title=HOSTILE, chosen=(HOSTILE,),
    )  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    page = Reader(html)
    assert html.lower().count("<script") == 1
    assert "<img src=http" not in html
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert all(v.startswith("data:image/jpeg") for t, n, v in page.attributes if (t, n) == ("img", "src"))
    assert page.tags.count("img") == 2
    assert "\x00" not in html
    assert "\u202e" not in html
    assert "evil.example" in page.text
    json.loads((tmp_path / "figures.json").read_text())


def test_half_of_a_letter_does_not_stop_a_report(tmp_path):
    """Names of files that are no text in any encoding."""
    study = simulated("binary", 40)
    report(tmp_path, replace(study, case_ids=("bad-\udcff", *study.case_ids[1:])))
    assert "bad-\\udcff" in (tmp_path / "predictions.csv").read_text()


def test_several_targets_share_a_page(tmp_path):
    """A table first, and a word on looking at many."""
    studies = [simulated(kind, 60, name=kind) for kind in ("binary", "regression", "cox")]
    page = report(tmp_path, *studies)
    assert "3 targets were looked at. The more are looked at, the more will look good by chance" in page.text
    assert {"target1", "target2", "target3"} <= {*page.ids}
    assert "guessing: better; mean + logistic regression: better; majority: better" in page.text
    assert len(page.ids) == len({*page.ids})


def test_examples_are_pictures_in_the_page(tmp_path):
    """Decoded and written anew: small, and without what the file held beside its pixels."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Patient", "John Doe")
    example = Example(
        "case-0001", "slide-1", "status", "positive", "positive 91 %", heat=png(size=(3000, 2000), pnginfo=info),
        heat_caption="Red weighs most.",
        tiles=(ExampleTile(png(), "weight 0.1", "top"), ExampleTile(png(), "x", "bottom")),
    )  # fmt: skip
    page = report(tmp_path, simulated("binary", 40), examples=[example])
    sources = [v for t, n, v in page.attributes if (t, n) == ("img", "src")]
    assert len(sources) == 3
    assert all(v for t, n, v in page.attributes if (t, n) == ("img", "alt"))
    assert max(map(len, sources)) < 100_000
    assert "Tiles of the highest values" in page.text
    assert "Tiles of the lowest values" in page.text
    assert "John" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"studies": []}, "one or more targets", id="none"),
        pytest.param({"studies": ["status", "status"]}, "different names", id="one-name-twice"),
        pytest.param({"examples": [Example("c", "s", "other", "", "")]}, "which the report has not", id="other-target"),
        pytest.param({"examples": [Example("c", "s", "status", "", "", heat=b"GIF")]}, "no PNG", id="no-png"),
        pytest.param({"examples": [Example("c", "s", "status", "", "", heat=png()[:60])]}, "damaged", id="cut-off"),
    ],
)
def test_what_cannot_be_reported_is_refused(tmp_path, options, said):
    """Before a file is written."""
    studies = [simulated("binary", 30, name=name) for name in options.get("studies", ["status"])]
    with pytest.raises(MilError, match=said):
        write_report(tmp_path / "r", studies, provenance={}, examples=options.get("examples", ()), resamples=20)
    assert not (tmp_path / "r").exists()


def test_provenance_is_plain(tmp_path):
    """Paths, numpy, nan and sets become what JSON holds."""
    odd = {"folder": tmp_path, "lr": np.float32(0.5), "loss": float("nan"), "models": {"b", "a"}, "none": None}
    write_report(tmp_path / "r", [simulated("binary", 40)], provenance=odd, resamples=20)
    told = json.loads((tmp_path / "r" / "figures.json").read_text())["provenance"]
    assert told == {"folder": str(tmp_path), "lr": 0.5, "loss": None, "models": ["a", "b"], "none": None}


def test_equal_studies_give_equal_reports(tmp_path):
    """To the byte: no date, no random id."""
    for folder in ("one", "two"):
        report(tmp_path / folder, simulated("multiclass", 40))
    for name in ("report.html", "figures.json", "predictions.csv", "predictions_of_baselines.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_no_baseline_is_needed(tmp_path):
    """A model alone is reported; there is no picture of differences."""
    study = simulated("binary", 40)
    page = report(tmp_path, replace(study, arms=study.arms[:1]))
    assert "Model against baselines" not in page.text
    assert not (tmp_path / "predictions_of_baselines.csv").exists()


def test_a_study_without_an_answer_is_still_reported(tmp_path):
    """Survival without an event, and a target of one class: what is not defined is said."""
    still = simulated("cox", 30, name="os")
    still.truth[:, 1] = 0
    one = simulated("binary", 30, name="one")
    one.truth[:] = 0
    page = report(tmp_path, still, one)
    assert "Concordance within folds (Harrell's C) is not defined for these cases" in page.text
    assert "ROC AUC within folds is not defined for these cases" in page.text
    assert "no fold holds two patients of whom it is known who had the event first" in page.text
    assert "no fold holds cases with a class and cases without it" in page.text


@pytest.mark.slow
def test_five_thousand_cases_are_a_page(tmp_path):
    """Below 10 MB; long tables are folded."""
    study = simulated("multiclass", 5000, seeds=1)
    start = time.process_time()
    page = report(tmp_path, study)
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert page.tags.count("details") >= 1
    assert page.tags.count("tr") > 5000
    assert time.process_time() - start < 120


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("no Chromium to render the page with")
    return found


def shown_by(chromium, folder, page, *flags):
    """What a browser makes of a page, and what it says of it."""
    return subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'user'}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", *flags, "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "cox"])
def test_a_browser_shows_the_page_without_a_complaint(tmp_path, chromium, kind):
    """No message on the console, and no request."""
    example = Example("case-0001", "s", "status", "a", "b", heat=png(), tiles=(ExampleTile(png(), "x", "top"),))
    report(tmp_path, simulated(kind, 60, name="status"), examples=[example])
    log = tmp_path / "net.json"
    done = shown_by(
        chromium, tmp_path, tmp_path / "report.html", f"--log-net-log={log}", "--net-log-capture-mode=Everything"
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "Before believing it" in done.stdout
    # The browser has requests of its own, which no page began.
    assert {*re.findall(r'"initiator":"([^"]*)"', log.read_text())} <= {"not an origin"}


def test_the_table_of_cases_can_be_sorted_and_filtered(tmp_path, chromium):
    """By number where cells are numbers, by name where they are not; a second press turns the order."""
    study = simulated("regression", 30, seeds=1, name="age")
    study.tiles[:] = np.arange(30) * 37 % 101
    report(tmp_path, study)
    html = (tmp_path / "report.html").read_text()
    press = """<script>const t = document.querySelector("table.cases"), b = [...t.querySelectorAll("button")];
        const told = (k) => [...t.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[k].textContent).join();
        const said = []; b[3].click(); said.push(told(3)); b[3].click(); said.push(told(3)); b[0].click();
        said.push(told(0)); const i = document.querySelector("input"); i.value = "CASE-0007";
        i.dispatchEvent(new Event("input")); said.push(told(0));
        document.body.dataset.said = said.join("|");</script>"""
    # The page's own policy would not let this script run.
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace("</body>", press + "</body>")
    (tmp_path / "pressed.html").write_text(html)
    done = shown_by(chromium, tmp_path, tmp_path / "pressed.html")
    up, down, names, left = re.search(r'data-said="([^"]*)"', done.stdout)[1].split("|")
    tiles = sorted(study.tiles.tolist())
    assert up.split(",") == [str(n) for n in tiles]
    assert down.split(",") == [str(n) for n in tiles[::-1]]
    assert names.split(",") == list(study.case_ids)
    assert left == "case-0007"
