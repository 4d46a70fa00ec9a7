"""Few labels: which tiles they mean, what is fitted on them, and that its figures do not flatter."""

import csv
import json
import shutil

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tests.support import GOLDEN
from wsi_umedpt.annotations.labels import Point, Region, read_drawn_labels, read_patients, read_points
from wsi_umedpt.errors import AnnotationError, CheckpointError, ProbeError, StoreError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.mil.linear_probe import Probe, fit_probe
from wsi_umedpt.mil.probe_fit import PENALTY, Labelled
from wsi_umedpt.mil.tile_probe import label_tiles, score_store
from wsi_umedpt.store.scores_io import read_scores, write_scores
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of

ENCODER = {"name": "e", "weights_sha256": "0" * 64}


@pytest.fixture
def store(tmp_path) -> SlideStore:
    """A whole store that may be written to."""
    shutil.copytree(GOLDEN / "store_v1.zarr", tmp_path / "slide.zarr")
    (node,) = (tmp_path / "slide.zarr").glob("grids/*/features/*/zarr.json")
    meta = json.loads(node.read_text())
    card = {**meta["attributes"]["card"], "name": "mean"}  # the golden store says the least there is
    meta["attributes"] |= {"weights_sha256": "1" * 64, "precision": "fp32", "card": card}
    node.write_text(json.dumps(meta))
    return SlideStore.open(tmp_path / "slide.zarr")


def slides(rng, count=6, tiles=20, signal=3.0, dim=16, slide_noise=0.0):
    """Labelled tiles of slides, half 'a' and half 'b', which differ in one number by `signal`."""
    made = []
    for n in range(count):
        labels = tuple("ab"[i % 2] for i in range(tiles))
        features = rng.normal(size=(tiles, dim)) + slide_noise * rng.normal(size=dim)
        features[:, 0] += signal * np.array([label == "b" for label in labels])
        made.append(Labelled(f"s{n}", "", features.astype(np.float32), labels, (f"s{n}/0/0",) * tiles))
    return made


def test_a_region_labels_the_tiles_whose_centre_it_holds(store):
    """Not those that it only touches."""
    bag, side = store.features(), store.grid().side
    x, y = bag.xy[0] + side / 2
    tight = Region("tumour", shapely.box(x - 1, y - 1, x + 1, y + 1))
    touching = Region("tumour", shapely.box(bag.xy[0][0] - 500, bag.xy[0][1] - 500, x - 1, y - 1))
    labelled = label_tiles(store, bag, side, regions=[tight])
    assert labelled.labels == ("tumour",)
    assert np.array_equal(labelled.features, bag.features[:1].astype(np.float32))
    with pytest.raises(ProbeError, match="1 label holds no readable tile, the first: region 'tumour'"):
        label_tiles(store, bag, side, regions=[touching])


def test_a_point_labels_the_tile_that_holds_it(store):
    """Corner included, far corner not."""
    bag, side = store.features(), store.grid().side
    for row in (0, len(bag.xy) - 1):
        x, y = (float(v) for v in bag.xy[row])
        for at in ((x, y), (x + side - 1, y + side - 1)):
            labelled = label_tiles(store, bag, side, points=[Point("slide", *at, "a", "")])
            assert np.array_equal(labelled.features[0], bag.features[row].astype(np.float32))


def test_labels_that_contradict_or_miss_are_refused(store):
    """Two labels for one tile, or a point on glass, are errors that name the place."""
    bag, side = store.features(), store.grid().side
    everywhere = shapely.box(-1e6, -1e6, 1e6, 1e6)
    with pytest.raises(ProbeError, match="labelled both 'a' and 'b'"):
        label_tiles(store, bag, side, regions=[Region("a", everywhere), Region("b", everywhere)])
    with pytest.raises(ProbeError, match=r"1 label holds no readable tile, the first: point -50, -50.*level-0"):
        label_tiles(store, bag, side, points=[Point("slide", -50, -50, "a", "")])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 4))
def test_predictions_equal_scikit_learns(seed, classes):
    """The saved weights, on features as they are stored, give what the fitted model gives."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, (60, 8)).astype(np.float32)
    names = tuple("abcd"[i % classes] for i in range(60))
    probe = fit_probe([Labelled("s", "", features, names, ("s/0/0",) * 60)], name="p", encoder=ENCODER)
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=1000).fit(scaled, names)
    np.testing.assert_allclose(probe.predict(features), model.predict_proba(scaled), atol=2e-4)


def test_cross_validation_keeps_slides_apart(rng):
    """Where tiles of a slide resemble each other but labels mean nothing, the figure says chance."""
    made = []
    for n in range(12):
        labels = ("ab"[n % 2],) * 10  # the label is the slide's, and carries no signal
        features = (rng.normal(size=16) * 5 + rng.normal(size=(10, 16))).astype(np.float32)
        made.append(Labelled(f"s{n}", "", features, labels, (f"s{n}/0/0",) * 10))
    figures = fit_probe(made, name="p", encoder=ENCODER).about["cross_validation"]
    assert figures["groups"] == "slide"
    assert figures["auc"] < 0.8  # by tiles it would be 1


def test_patients_are_kept_together_where_they_are_known(rng):
    """Two slides of one patient never stand on both sides; with one patient there is no figure."""
    made = [Labelled(t.slide_id, f"p{n // 2}", t.features, t.labels, t.blocks) for n, t in enumerate(slides(rng))]
    figures = fit_probe(made, name="p", encoder=ENCODER).about["cross_validation"]
    assert (figures["groups"], figures["folds"]) == ("patient", 3)
    alone = [Labelled(t.slide_id, "p", t.features, t.labels, t.blocks) for t in made]
    assert fit_probe(alone, name="p", encoder=ENCODER).about["cross_validation"] == {"groups": "none"}


def test_patients_that_are_half_known_or_contradict_are_refused(store, rng):
    """Else slides of one patient would stand on both sides, under the name of patients."""
    made = slides(rng)
    half = [Labelled(t.slide_id, "p" * (n < 3), t.features, t.labels, t.blocks) for n, t in enumerate(made)]
    with pytest.raises(ProbeError, match="the patient of 3 of 6 slides is not stated"):
        fit_probe(half, name="p", encoder=ENCODER)
    x, y = (float(v) for v in store.features().xy[0] + 1)
    points = [Point("slide", x, y, "a", "P1"), Point("slide", x, y, "a", "P2"), Point("slide", x, y, "a", "")]
    with pytest.raises(ProbeError, match="several patients: P1, P2"):
        label_tiles(store, store.features(), store.grid().side, points=points)


def test_signal_is_found(rng):
    """Labels that differ in one of 16 numbers by three spreads are told apart on slides left out."""
    figures = fit_probe(slides(rng), name="p", encoder=ENCODER).about["cross_validation"]
    assert figures["auc"] > 0.9


def test_one_class_is_refused(rng):
    """A classifier needs two."""
    only = [Labelled("s", "", np.zeros((3, 2), np.float32), ("a",) * 3, ("s/0/0",) * 3)]
    with pytest.raises(ProbeError, match="at least two classes must be labelled, got a"):
        fit_probe(only, name="p", encoder=ENCODER)


def test_a_probe_is_saved_whole_or_refused(tmp_path, rng):
    """It predicts the same after loading; a changed byte of its weights is found."""
    probe = fit_probe(slides(rng), name="p", encoder=ENCODER)
    probe.save(tmp_path / "p.json")
    features = rng.normal(size=(5, 16))
    assert np.array_equal(Probe.load(tmp_path / "p.json").predict(features), probe.predict(features))
    (weights,) = tmp_path.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        Probe.load(tmp_path / "p.json")


FLAWED = {
    "nan": (lambda t: {**t, "weight": t["weight"] * float("nan")}, {}, "NaN or infinite: weight"),
    "infinite": (lambda t: {**t, "bias": t["bias"] + float("inf")}, {}, "NaN or infinite: bias"),
    "whole-numbers": (lambda t: {**t, "weight": t["weight"].int()}, {}, "int32 instead of float32"),
    "more-classes": (lambda t: t, {"classes": ["a", "b", "c"]}, "of another shape"),
    "one-class": (lambda t: t, {"classes": ["a"]}, "two classes or more"),
    "classes-alike": (lambda t: t, {"classes": ["a", "a"]}, "two classes or more"),
    "classes-are-text": (lambda t: t, {"classes": "ab"}, "classes is a list"),
    "no-bias": (lambda t: {"weight": t["weight"]}, {}, "1 missing: bias"),
    "one-bias": (lambda t: {**t, "bias": t["bias"][:1]}, {}, "of another shape"),
    "no-rows": (lambda t: {**t, "weight": t["weight"][0, 0].clone()}, {}, "of another shape"),
    "one-more": (lambda t: {**t, "scale": t["bias"].clone()}, {}, "1 unknown: scale"),
    "no-encoder": (lambda t: t, {"encoder": None}, "encoder is a table"),
    "encoder-without-weights": (lambda t: t, {"encoder": {"name": "e"}}, "missing weights_sha256"),
    "mpp-nan": (lambda t: t, {"encoder": {**ENCODER, "mpp": float("nan"), "size_px": 64}}, "mpp is a number, got nan"),
    "size-in-words": (lambda t: t, {"encoder": {**ENCODER, "mpp": 0.5, "size_px": "64"}}, "size_px is a whole number"),
    "mpp-alone": (lambda t: t, {"encoder": {**ENCODER, "mpp": 0.5}}, "stated together"),
    "name-a-number": (lambda t: t, {"name": 3}, "name is a text"),
}


@pytest.mark.parametrize(("change", "said", "reason"), FLAWED.values(), ids=FLAWED)
def test_a_probe_is_what_it_says_or_is_refused(tmp_path, rng, change, said, reason):
    """Whole by its checksums, but edited by somebody who made these anew: a line, not scores of NaN, not a trace."""
    fit_probe(slides(rng), name="p", encoder=ENCODER).save(tmp_path / "p.json")
    tensors, about = checkpoint.load(tmp_path / "p.json")
    about = {k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")}
    checkpoint.save(tmp_path / "p.json", change(tensors), about | said)
    with pytest.raises((CheckpointError, ProbeError), match=reason):
        Probe.load(tmp_path / "p.json")


def fitted_on(store: SlideStore, rng) -> Probe:
    """A probe for the features of a store."""
    bag = store.features()
    made_by = store.feature_attrs(bag.encoder_id)
    labels = tuple("ab"[i % 2] for i in range(len(bag.xy)))
    tiles = Labelled("slide", "", bag.features.astype(np.float32), labels, ("slide/0/0",) * len(labels))
    return fit_probe([tiles], name="p", encoder={"name": "e", "weights_sha256": made_by["weights_sha256"]})


def test_scores_lie_in_the_store_row_for_row(store, rng):
    """A row for each tile, what made them beside them, and the store is still whole; again replaces them."""
    probe = fitted_on(store, rng)
    for _ in range(2):
        shares = score_store(store, probe)
        scores, about = read_scores(store, "p")
        bag = store.features()
        assert scores.shape == (len(store.grid()), 2)
        assert np.array_equal(scores[bag.index], probe.predict(bag.features))
        assert about["columns"] == ["a", "b"]
        assert about["model"]["encoder"] == probe.about["encoder"]
        assert sum(shares.values()) == pytest.approx(1)
        assert problems_of(store.path) == []


def test_features_of_another_encoder_are_refused(store, rng):
    """Whatever they are called."""
    probe = fitted_on(store, rng)
    other = Probe(probe.classes, probe.weight, probe.bias, {**probe.about, "encoder": ENCODER})
    with pytest.raises(ProbeError, match=r"was embedded with weights .*, the probe was fitted on 000000000000 \(e\)"):
        score_store(store, other)


def test_tiles_of_another_scale_are_refused(store, rng):
    """The same weights at another um/px are other features."""
    probe = fitted_on(store, rng)
    encoder = {**probe.about["encoder"], "mpp": 1.0, "size_px": 64}
    other = Probe(probe.classes, probe.weight, probe.bias, {**probe.about, "encoder": encoder})
    with pytest.raises(ProbeError, match=r"tiles of 64 px at 0.5 um/px, the probe was fitted on 64 px at 1"):
        score_store(store, other)


@pytest.mark.parametrize("name", ["../features/mean", "", "..", "/x", "a/b"])
def test_scores_have_names_that_stay_in_their_folder(store, name):
    """A probe that somebody sent cannot write, or delete, anywhere else."""
    before = sorted(p.relative_to(store.path) for p in store.path.rglob("*"))
    scores = np.zeros((len(store.grid()), 1), np.float32)
    with pytest.raises(StoreError, match="scores cannot be called"):
        write_scores(store, name, scores, {"columns": ["a"]}, store.grid_ids[0])
    assert sorted(p.relative_to(store.path) for p in store.path.rglob("*")) == before


def test_the_slides_it_was_fitted_on_stay_with_the_probe(store, rng):
    """Stores of another cohort do not name them."""
    score_store(store, fitted_on(store, rng))
    _, about = read_scores(store, "p")
    assert "slides" not in about["model"]


def test_scores_that_do_not_fit_are_refused_and_asked_for_by_name(store):
    """A row too few is no score; a name that is not there is answered with those that are."""
    grid_id = store.grid_ids[0]
    with pytest.raises(StoreError, match="do not fit"):
        write_scores(store, "x", np.zeros((1, 2), np.float32), {"columns": ["a", "b"]}, grid_id)
    write_scores(store, "x", np.zeros((len(store.grid()), 1), np.float32), {"columns": ["a"]}, grid_id)
    with pytest.raises(StoreError, match=r"no scores 'y'. It holds: x"):
        read_scores(store, "y")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param('{"type": "FeatureCollection"}', "features", id="no-features"),
        pytest.param("not json", "cannot be read", id="not-json"),
        pytest.param(
            '{"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},'
            '"properties": {"name": "a"}}',
            r"labels nothing \(skipped: 1 lines\)", id="a-line",
        ),
        pytest.param(
            '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0,0],[1,0],[1,1],[0,0]]]}}',
            r"labels nothing \(skipped: 1 without a class\): give areas", id="no-name",
        ),
    ],
)  # fmt: skip
def test_regions_that_cannot_be_used_are_refused(tmp_path, content, reason):
    """The file and the reason are named."""
    path = tmp_path / "r.geojson"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=reason):
        read_drawn_labels(path, "s")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("slide_id,x,label\ns,1,a\n", "no column y; it has slide_id, x, label", id="no-column"),
        pytest.param("slide_id,x,y,label\ns,one,2,a\n", "row 2: x and y: 'one' is no number", id="no-number"),
        pytest.param("slide_id,x,y,label\ns,1,2,\n", "row 2: the label is empty", id="no-label"),
    ],
)
def test_points_that_cannot_be_used_are_refused(tmp_path, content, reason):
    """The row and the reason are named."""
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=reason):
        read_points(path)


def test_from_labels_to_a_picture_at_the_command_line(store, say, tmp_path):
    """fit, predict, picture; the cross-validation says what it kept together."""
    bag, side = store.features(), store.grid().side
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide_id", "x", "y", "label"])
        for i, (x, y) in enumerate(bag.xy.tolist()):
            rows.writerow(["slide", x + side / 2, y + side / 2, "ab"[i % 2]])
    code, out, err = say("probe", "fit", store.path, "-l", "labels.csv", "-o", "p.json")
    assert code == 0, err
    assert "a: " in out
    assert "too few labelled slides or places to cross-validate" in out
    code, out, err = say("probe", "predict", tmp_path, "-p", "p.json")
    assert (code, err) == (0, "")
    assert out.startswith("slide: a ")
    code, out, err = say("picture", store.path, "--scores", "p", "-o", "p.png")
    assert code == 0, err
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_patients_come_from_a_table(store, say, tmp_path):
    """With --patients slides of one patient are kept together; a slide that it leaves out is refused."""
    shutil.copytree(store.path, tmp_path / "other.zarr")
    x, y = (float(v) for v in store.features().xy[0] + 1)
    u, v = (float(v) for v in store.features().xy[5] + 1)
    rows = [f"{s},{a},{b},{label}" for s in ("slide", "other") for a, b, label in ((x, y, "a"), (u, v, "b"))]
    (tmp_path / "labels.csv").write_text("slide_id,x,y,label\n" + "\n".join(rows))
    (tmp_path / "patients.csv").write_text("slide_id,patient\nslide,p\nother,p\n")
    code, out, err = say("probe", "fit", tmp_path, "-l", "labels.csv", "-o", "p.json", "--patients", "patients.csv")
    assert code == 0, err
    assert "too few" in out, "both slides are of one patient"
    (tmp_path / "patients.csv").write_text("slide_id,patient\nslide,p\n")
    code, _, err = say("probe", "fit", tmp_path, "-l", "labels.csv", "-o", "p.json", "--patients", "patients.csv")
    assert code == 1
    assert "does not say whose slides these are: other" in err


def test_labels_of_slides_that_are_not_there_are_refused(store, say, tmp_path):
    """The missing slide and those that are there are named."""
    (tmp_path / "labels.csv").write_text("slide_id,x,y,label\nother,1,2,a\n")
    code, _, err = say("probe", "fit", store.path, "-l", "labels.csv", "-o", "p.json")
    assert code == 1
    assert "1 labelled slides have no store" in err
    assert "other" in err
    assert "slide" in err


def test_one_patient_or_class_in_two_spellings_is_refused(rng):
    """Slides of one patient would be on both sides, and one class would be told from itself."""
    made = slides(rng)
    names = ["P1", "p1", "P2", "P2", "P3", "P3"]
    spelt = [Labelled(t.slide_id, p, t.features, t.labels, t.blocks) for t, p in zip(made, names, strict=True)]
    with pytest.raises(ProbeError, match=r"are these one patient\? 'P1' and 'p1'"):
        fit_probe(spelt, name="p", encoder=ENCODER)
    first = made[0]
    cased = Labelled(first.slide_id, "", first.features, tuple(map(str.upper, first.labels)), first.blocks)
    with pytest.raises(ProbeError, match=r"are these one class\? 'A' and 'a'; 'B' and 'b'"):
        fit_probe([cased, *made[1:]], name="p", encoder=ENCODER)


@pytest.mark.parametrize(
    ("content", "patients"),
    [
        pytest.param("Slide_ID ,X,Y,Label,Patient\ns,1,2,a,P1\n", {"P1"}, id="headers-in-any-case"),
        pytest.param("slide,x,y,label,patient_id\ns,1,2,a,P1\n", {"P1"}, id="other-names"),
        pytest.param("slide_id;x;y;label;patient\ns;1;2;a;007\n", {"007"}, id="semicolons"),
        pytest.param("slide_id,x,y,label,patient\ns,1,2,a,#N/A\n", {""}, id="not-known"),
    ],
)
def test_patients_of_points_are_not_dropped(tmp_path, content, patients):
    """Whatever their column is called: else slides, or blocks, would be cross-validated by."""
    path = tmp_path / "p.csv"
    path.write_text(content)
    assert {point.patient for point in read_points(path)} == patients


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("slide_id,x,y,label,patients\ns,1,2,a,P\n", "'patients', which is not read: did you", id="near"),
        pytest.param("slide_id,x,y,label,subject\ns,1,2,a,P\n", "did you mean 'patient'", id="as-others-call-them"),
        pytest.param('slide_id,x,y,label\ns,"1,5",2,a\n', "row 2: x and y: .*decimal point, 1.5", id="decimal-comma"),
        pytest.param("slide_id,x,y,label\ns,nan,2,a\n", "which is no place", id="nowhere"),
        pytest.param("slide_id,x,y,label\ns,1,2,#N/A\n", "the label is #N/A", id="label-not-known"),
        pytest.param("slide_id,x,y,label\n,1,2,a\n", "row 2 names no slide", id="no-slide"),
    ],
)
def test_points_that_might_be_misread_are_refused(tmp_path, content, reason):
    """The row or the column, and what to write."""
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=reason):
        read_points(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("slide_id,patient\na,P1\nb,p1\n", "are these one patient. 'P1' and 'p1'", id="two-spellings"),
        pytest.param("slide_id,patient\na,NA\n", "the patient of a is NA", id="not-known"),
        pytest.param("slide_id,patient\na,P1\na,P2\n", "a is of two patients", id="two-patients"),
    ],
)
def test_patients_that_cannot_be_kept_apart_are_refused(tmp_path, content, reason):
    """Of a table that says whose slides are whose."""
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=reason):
        read_patients(path)


def test_labels_name_slides_as_sheets_do(store, say, tmp_path):
    """By file, in any case; --patients by path."""
    shutil.copytree(store.path, tmp_path / "other.zarr")
    x, y = (float(v) for v in store.features().xy[0] + 1)
    u, v = (float(v) for v in store.features().xy[5] + 1)
    rows = [f"{s},{a},{b},{label}" for s in ("Slide.svs", "OTHER") for a, b, label in ((x, y, "a"), (u, v, "b"))]
    (tmp_path / "labels.csv").write_text("slide,x,y,label\n" + "\n".join(rows))
    (tmp_path / "patients.csv").write_text("slide;patient\nscans/slide.svs;p\nscans/other.svs;q\n")
    code, out, err = say("probe", "fit", tmp_path, "-l", "labels.csv", "-o", "p.json", "--patients", "patients.csv")
    assert code == 0, err
    assert "cross-validated by patient" in out
