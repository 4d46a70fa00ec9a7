"""Pictures are the same every time, hold names as text, show what was measured, and need nothing from elsewhere."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.integrate import trapezoid

from tests.support.mil_studies import simulated
from wsi_umedpt.mil.evaluation.curves import GRID, precision_recall, reliability, risk_groups, roc
from wsi_umedpt.mil.evaluation.plots import draw_study
from wsi_umedpt.mil.evaluation.summary import measure
from wsi_umedpt.mil.evaluation.svg import clean

SHOWN = {
    "binary": ["arms", "roc", "precision_recall", "confusion", "reliability", "classes", "differences"],
    "multiclass": ["arms", "roc", "precision_recall", "confusion", "reliability", "classes", "differences"],
    "ordinal": ["arms", "roc", "precision_recall", "confusion", "reliability", "classes", "differences"],
    "multilabel": ["arms", "roc", "precision_recall", "reliability", "classes", "differences"],
    "regression": ["arms", "values", "errors", "differences"],
    "cox": ["arms", "survival", "differences"],
    "discrete": ["arms", "survival", "differences"],
}
HOSTILE = (
    "<script>alert(1)</script>",
    "$\\frac{1}{0}$",
    "_hidden",
    '" onload="x',
    "naïve 肿瘤 \x00\u202e",
    "a" * 90,
    "",
)


def drawn(study, prefix="plot"):
    return draw_study(study, measure(study, resamples=50), prefix)


def text_of(svg):
    """All text of a picture, as a browser would show it."""
    return " ".join("".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text"))  # noqa: S314


@pytest.mark.parametrize("kind", SHOWN)
def test_every_kind_has_its_pictures(kind):
    """Each is well-formed, has words for who cannot see it, and knows no address."""
    plots = drawn(simulated(kind, 60, unknown=2))
    assert [p.name for p in plots] == SHOWN[kind]
    for plot in plots:
        ElementTree.fromstring(plot.svg)  # noqa: S314 - our own
        assert re.match(r'<svg viewBox="0 0 [\d.]+ [\d.]+" width="\d+" role="img" aria-label="[^"]{20,}"', plot.svg)
        assert not re.search(r"https?://|@import|xmlns|<script|<style|<!DOCTYPE|<metadata", plot.svg)
        assert not re.search(r'(?:href|src)="[^"#]', plot.svg)
        assert "<text" in plot.svg
        assert "nan" not in text_of(plot.svg)
        assert plot.title
        assert plot.caption.endswith(".")


def test_equal_studies_give_equal_pictures():
    """To the byte, whatever was drawn before."""
    first = drawn(simulated("binary", 50))
    drawn(simulated("cox", 50))
    assert drawn(simulated("binary", 50)) == first


def test_no_id_is_there_twice():
    """In all pictures of two studies of one page; what is referred to is there."""
    study = simulated("binary", 50)
    svgs = [p.svg for prefix in ("target1", "target2") for p in drawn(study, prefix)]
    ids = [found for svg in svgs for found in re.findall(r'\sid="([^"]+)"', svg)]
    assert len(ids) == len({*ids})
    used = {found for svg in svgs for found in re.findall(r'(?:url\(|href=")#([^)"]+)', svg)}
    assert used
    assert used <= {*ids}


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_names_are_text_and_nothing_else(kind):
    """No markup, no formula, no letter lost that a browser could show; and drawing them warns of nothing."""
    study = simulated(kind, 80, classes=HOSTILE, name="<b>$x$</b>")
    for plot in drawn(study):
        tree = ElementTree.fromstring(plot.svg)  # noqa: S314
        assert {node.tag for node in tree.iter()} <= {"svg", "g", "path", "text", "tspan", "defs", "use", "clipPath",
                                                      "rect", "style", "title", "image", "mask"}  # fmt: skip
        assert not any(name.startswith("on") for node in tree.iter() for name in node.attrib)
    classes = text_of(next(p.svg for p in drawn(study) if p.name == "classes"))
    for name in ("<script>alert(1)</script>", "$\\frac{1}{0}$", "_hidden", '" onload="x', "naïve 肿瘤 \ufffd\ufffd"):
        assert name in classes
    assert "a" * 27 + "…" in classes


def test_names_are_cut_and_kept_on_one_line():
    """As many letters as fit; never an empty label."""
    assert clean("a\nb\tc") == "a b c"
    assert len(clean("x" * 500)) == 28
    assert clean("_a") == " _a"
    assert clean("") == " "


def test_the_area_under_the_roc_curve_is_the_auc():
    """Of pairs of one fold, over folds and seeds; also the mean over classes."""
    study = simulated("multiclass", 120, skill=0.6, baseline_skill=0.4, seeds=2)
    found = measure(study, resamples=20)
    for labels in ([0], [1], [0, 1, 2]):
        area = trapezoid(roc(study, study.arms[0], labels, resamples=5).middle, GRID)
        expected = np.mean([found.model.classes[k].figures["roc_auc"].value for k in labels])
        assert area == pytest.approx(expected, abs=0.006)


def test_the_area_under_the_precision_recall_curve_is_the_average_precision():
    """As nearly as steps between 201 recalls can be."""
    study = simulated("binary", 300, skill=0.7, seeds=1)
    band = precision_recall(study, study.arms[0], [1], resamples=5)
    expected = measure(study, resamples=20).model.figures["average_precision"].value
    assert band.middle[1:].mean() == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("curve", [roc, precision_recall])
def test_bands_hold_their_curve_and_narrow_with_cases(curve):
    """Nearly everywhere; a band of 400 patients is narrower than one of 60."""
    widths = []
    for cases in (60, 400):
        study = simulated("binary", cases, skill=0.8, seeds=1)
        band = curve(study, study.arms[0], [1], resamples=200)
        assert np.mean((band.low <= band.middle + 1e-9) & (band.middle <= band.high + 1e-9)) > 0.95
        widths.append(np.mean(band.high - band.low))
    assert widths[1] < 0.7 * widths[0]


def test_a_perfect_roc_curve_touches_the_corner():
    """Sensitivity 1 without a false alarm; a constant score is the diagonal."""
    study = simulated("binary", 50, seeds=1)
    chance = study.truth[None, :, 0]
    perfect = replace(study.arms[0], predicted=np.stack([1 - chance, chance], axis=-1))
    assert (roc(study, perfect, [1], resamples=5).middle == 1).all()
    np.testing.assert_allclose(roc(study, study.arms[2], [1], resamples=5).middle, GRID)


def test_there_is_no_curve_of_one_class():
    """Neither is there a picture of it; the others are drawn."""
    study = simulated("binary", 30, seeds=1)
    study.truth[:] = 1
    assert roc(study, study.arms[0], [1], resamples=5) is None
    plots = [p.name for p in drawn(study)]
    assert "roc" not in plots
    assert {"confusion", "reliability", "classes"} <= {*plots}


def test_reliability_counts_every_case_once():
    """Shares and chances by hand; seeds do not add cases."""
    study = simulated("binary", 40, seeds=2)
    shown = reliability(study)
    assert shown.cases.sum() == pytest.approx(40)
    chance = study.arms[0].predicted[:, :, 1].ravel()
    inside = (chance >= 0.9) & (chance <= 1)
    assert shown.chance[9] == pytest.approx(chance[inside].mean())
    assert shown.share[9] == pytest.approx(np.tile(study.truth[:, 0], 2)[inside].mean())
    there = shown.cases > 0
    assert ((shown.low <= shown.share + 1e-9) & (shown.share <= shown.high + 1e-9))[there].all()


def test_risk_groups_are_halves_of_patients():
    """Each patient once; of constant risks nobody is high."""
    study = simulated("cox", 80, slides_a_patient=2)
    groups = risk_groups(study)
    assert len(groups.time) == 40
    assert 12 <= groups.high.sum() <= 28
    same = replace(study, arms=(study.arms[2], *study.arms[:2]))
    assert not risk_groups(same).high.any()
    assert "survival" in [p.name for p in drawn(same)]


def test_many_cases_are_one_small_picture():
    """Points beyond 2,000 are not as many elements."""
    study = simulated("regression", 2600, seeds=1)
    values = next(p.svg for p in draw_study(study, measure(study, resamples=10)) if p.name == "values")
    assert 'href="data:image/png;base64,' in values
    assert len(values) < 300_000


def test_many_classes_are_drawn_as_their_mean():
    """Thirty curves would tell nothing; the table of classes has them all."""
    study = simulated("multiclass", 300, classes=tuple(f"type {k}" for k in range(30)), skill=2)
    plots = {p.name: text_of(p.svg) for p in drawn(study)}
    assert "type 3" not in plots["roc"]
    assert "type 29" in plots["classes"]
    assert "type 29" in plots["confusion"]


def test_numbers_at_risk_are_those_of_the_curve():
    """At time 0 everybody of a group."""
    study = simulated("cox", 60, seeds=1)
    groups = risk_groups(study)
    words = text_of(next(p.svg for p in drawn(study) if p.name == "survival")).split()
    assert str(int((~groups.high).sum())) in words
    assert str(int(groups.high.sum())) in words
