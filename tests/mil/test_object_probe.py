"""A few labelled cells: which objects they mean, what is learnt from them, and where it is written."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely

from tests.support.painted_slides import ByColour, paint_nuclei, segment
from wsi_umedpt.annotations.labels import NumberedObject, Point, Region, read_drawn_labels, read_object_labels
from wsi_umedpt.errors import AnnotationError, ProbeError, StoreError
from wsi_umedpt.interop.qupath import write_geojson
from wsi_umedpt.mil.linear_probe import Probe, fit_probe
from wsi_umedpt.mil.object_probe import ObjectFeatures, label_objects, score_objects
from wsi_umedpt.mil.probe_fit import Background, Labelled, fit_linear, kept_together
from wsi_umedpt.mil.tile_probe import score_store
from wsi_umedpt.segmentation.object_stats import slide_row, tile_columns
from wsi_umedpt.store.objects import MEASURES
from wsi_umedpt.store.objects_io import NewVectors, read_object_vectors, read_objects, write_objects
from wsi_umedpt.store.scores_io import read_classified, read_object_scores, write_object_scores
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.testing import relist

DIM = 40
MADE_BY = {"model": "planted", "weights_sha256": "1" * 64, "precision": "fp32", "maps": [8], "mpp": 0.5}


def plant(path: Path, seed: int = 0, signal: float = 3.0) -> np.ndarray:
    """Give the nuclei of a store vectors in which two types differ, and say which type each is of."""
    store = SlideStore.open(path)
    objects, made_by = read_objects(store)
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 2, len(objects))
    vectors = rng.normal(5, 2, (len(objects), DIM))
    vectors[:, :6] += signal * types[:, None]
    blocks = np.array_split(vectors.astype(np.float16), 3)
    write_objects(path / "detections" / "nuclei", objects, made_by, NewVectors(DIM, blocks, MADE_BY))
    relist(path)
    return types


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A store of a painted slide."""
    path = tmp_path_factory.mktemp("whole") / "slide.zarr"
    segment(paint_nuclei(path.parent), path, ByColour(maps=False), embed=True)
    return path


@pytest.fixture
def planted(whole, tmp_path) -> tuple[SlideStore, np.ndarray]:
    """A copy of it, whose nuclei have planted vectors, and their types."""
    path = Path(shutil.copytree(whole, tmp_path / "slide.zarr"))
    return SlideStore.open(path), plant(path)


def points_of(store: SlideStore, types: np.ndarray, rows: np.ndarray) -> list[Point]:
    """Clicks on the middles of objects."""
    at = read_objects(store)[0].centroid
    return [Point("slide", *at[r].astype(float).tolist(), "ab"[types[r]], "") for r in rows.tolist()]


def test_a_point_labels_the_object_that_it_lies_on_or_beside(planted):
    """Within 2 um of the outline; further off it is counted as missed, and nothing is labelled."""
    store, _ = planted
    objects, _ = read_objects(store)
    right = int(objects.boxes()[:, 2].argmax())
    edge, y = objects.boxes()[right, 2], objects.centroid[right, 1]
    inside = Point("slide", *objects.centroid[3].tolist(), "a", "")
    beside, off = (Point("slide", edge + by, y, "b", "") for by in (3.0, 7.0))
    found = label_objects(store, points=[inside, beside])
    assert (found.labels, found.missed) == (("a", "b") if right > 3 else ("b", "a"), 0)
    assert np.array_equal(found.features[:, :DIM], read_object_vectors(store)[0][sorted([3, right])].astype(np.float32))
    assert np.array_equal(found.features[:, DIM:], objects.measures[sorted([3, right])])
    assert label_objects(store, points=[inside, off]).missed == 1
    with pytest.raises(ProbeError, match="1 label lies on no object and 0 do; the first that does not: 'b' at"):
        label_objects(store, points=[off])


def test_objects_that_were_classified_in_qupath_label_themselves(planted, tmp_path):
    """Outlines that were exported with classes are regions, each of which holds the middle of its own object."""
    store, types = planted
    objects, _ = read_objects(store)
    chances = np.eye(2, dtype=np.float32)[types]
    write_geojson(tmp_path / "slide.geojson", objects.classified(["a", "b"], chances), slide_id="slide")
    drawn = read_drawn_labels(tmp_path / "slide.geojson", "slide")
    found = label_objects(store, regions=drawn.regions)
    assert found.labels == tuple("ab"[t] for t in types)


def test_labels_that_contradict_or_name_no_object_are_refused(planted):
    """With the object, its place, and what was found."""
    store, types = planted
    points = points_of(store, types, np.arange(2))
    with pytest.raises(ProbeError, match=r"object 0, at .*is labelled both"):
        label_objects(store, points=points, numbers=[NumberedObject("slide", 0, "c", "")])
    count = len(types)
    with pytest.raises(ProbeError, match=f"has objects 0 to {count - 1}; object {count} is labelled"):
        label_objects(store, numbers=[NumberedObject("slide", count, "a", "")])
    with pytest.raises(ProbeError, match="several patients: p, q"):
        label_objects(store, numbers=[NumberedObject("slide", 0, "a", "p"), NumberedObject("slide", 1, "a", "q")])
    with pytest.raises(ProbeError, match="none of 1 region holds the middle of an object"):
        label_objects(store, regions=[Region("a", shapely.box(0, 0, 0.5, 0.5))])


def test_objects_without_vectors_are_told_apart_by_their_measures(whole, tmp_path):
    """Nuclei of two sizes; the probe says that it is of measures alone, and is refused where there are vectors."""
    path = Path(shutil.copytree(whole, tmp_path / "slide.zarr"))
    store = SlideStore.open(path)
    large = (read_objects(store)[0].measure("area_um2") > np.median(read_objects(store)[0].measure("area_um2"))) * 1
    rows = np.concatenate([np.flatnonzero(large == k)[:30] for k in (0, 1)])
    probe = fit_probe([label_objects(store, points=points_of(store, large, rows))], name="sizes")
    assert probe.weight.shape == (2, len(MEASURES))
    assert probe.about["objects"]["maps"] == []
    score_objects(store, probe)
    chances, _ = read_object_scores(store, "sizes")
    assert (chances.argmax(1) == large).mean() > 0.9
    plant(path)
    with pytest.raises(ProbeError, match="was fitted on"):
        score_objects(SlideStore.open(path), probe)


def test_objects_with_neither_vectors_nor_measures_are_refused_in_words(whole, tmp_path):
    """As boxes of a detector in a store of an earlier version: it says what to do."""
    path = Path(shutil.copytree(whole, tmp_path / "slide.zarr"))
    objects, made_by = read_objects(SlideStore.open(path))
    objects.measures[:, 1] = np.nan
    write_objects(path / "detections" / "nuclei", objects, made_by)
    relist(path)
    with pytest.raises(StoreError, match=r"without vectors.*Segment the slide again into another folder"):
        label_objects(SlideStore.open(path), numbers=[NumberedObject("slide", 0, "a", "")])


@pytest.mark.parametrize("vectors", [True, False], ids=["vectors", "measures"])
def test_a_prediction_is_that_of_the_whole_row(planted, whole, vectors):
    """Vectors and measures are multiplied apart, in blocks; probabilities are those of the probe's own `predict`."""
    store = planted[0] if vectors else SlideStore.open(whole)
    features = ObjectFeatures.read(store)
    probe = fit_probe([features.labelled({row: "ab"[planted[1][row]] for row in range(40)})], name="cells")
    found = features.predict(probe)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, probe.predict(features.of(slice(None))), atol=1e-5)


def test_a_few_cells_of_each_type_tell_all_others(planted):
    """Thirty labels a type, 45 numbers of which six matter: nearly all are right, in blocks that are held out too."""
    store, types = planted
    rows = np.concatenate([np.flatnonzero(types == k)[:30] for k in (0, 1)])
    probe = fit_probe([label_objects(store, points=points_of(store, types, rows))], name="cells")
    assert probe.about["objects"] == {"head": "nuclei", "maps": [8], "mpp": 0.5, "measures": [*MEASURES]}
    figures = probe.about["cross_validation"]
    assert figures["groups"] == "block of neighbours"
    assert figures["auc"] > 0.75
    assert figures["objects"] <= 60
    counts = score_objects(store, probe)
    chances, about = read_object_scores(store, "cells")
    assert counts == {"a": int((chances.argmax(1) == 0).sum()), "b": int((chances.argmax(1) == 1).sum())}
    assert (about["columns"], about["head"]) == (["a", "b"], "nuclei")
    assert "slides" not in about["model"]
    rest = np.setdiff1d(np.arange(len(types)), rows)
    assert (chances.argmax(1) == types)[rest].mean() > 0.75
    assert problems_of(store.path) == []


def test_a_probe_that_was_saved_scores_the_same(planted, tmp_path):
    """And says of which objects it is; it is refused for tiles, as one of tiles is for objects."""
    store, types = planted
    labelled = label_objects(store, points=points_of(store, types, np.arange(40)))
    probe = fit_probe([labelled], name="cells")
    probe.save(tmp_path / "cells.json")
    again = Probe.load(tmp_path / "cells.json")
    expected, found = score_objects(store, probe), score_objects(store, again)
    assert found == expected
    with pytest.raises(ProbeError, match="cells classifies nuclei, not tiles"):
        score_store(store, again)
    tiles = Labelled("s", "", np.eye(4, dtype=np.float32), ("a", "a", "b", "b"), ("s/0/0",) * 4)
    with pytest.raises(ProbeError, match="classifies tiles, not objects"):
        score_objects(store, fit_probe([tiles], name="tiles", encoder={"name": "e", "weights_sha256": ""}))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param({"weights_sha256": "2" * 64}, "the probe was fitted on planted, 1111", id="weights"),
        pytest.param({"maps": [16]}, r"objects with maps \[16\], the probe was fitted on \[8\]", id="maps"),
        pytest.param({"mpp": 0.25}, "objects with mpp 0.25, the probe was fitted on 0.5", id="scale"),
    ],
)
def test_vectors_that_were_made_otherwise_are_refused(planted, said, reason):
    """Rather than classified by numbers that mean something else."""
    store, types = planted
    probe = fit_probe([label_objects(store, points=points_of(store, types, np.arange(40)))], name="cells")
    objects, made_by = read_objects(store)
    vectors = np.zeros((len(objects), DIM), np.float16)
    write_objects(store.path / "detections" / "nuclei", objects, made_by, NewVectors(DIM, [vectors], MADE_BY | said))
    relist(store.path)
    with pytest.raises(ProbeError, match=reason):
        score_objects(SlideStore.open(store.path), probe)


def slides_of(rng, count: int = 4, rows: int = 20) -> list[Labelled]:
    """Labelled objects of slides, each with a background of its own."""
    made = []
    for n in range(count):
        labels = tuple("ab"[i % 2] for i in range(rows))
        features = rng.normal(n, 1 + n, (rows, 12)).astype(np.float32)
        features[:, 0] += [3 * (label == "b") for label in labels]
        background = Background(100, features.mean(0).astype(float), features.var(0).astype(float), (8, 4))
        made.append(Labelled(f"s{n}", "", features, labels, (f"s{n}/0/0",) * rows, background))
    return made


def test_nothing_of_slides_that_are_left_out_is_used(rng):
    """Neither their labelled objects nor the mean and variance of the others: figures are of slides never seen."""
    slides = slides_of(rng)
    numbers = np.tile([0, 1], 40)
    train = np.arange(80) < 60
    expected = fit_linear(slides, numbers, train, 2)
    background = Background(10_000, np.full(12, 1e3), np.full(12, 1e6), (8, 4))
    other = Labelled("s3", "", np.full((20, 12), 7, np.float32), slides[3].labels, slides[3].blocks, background)
    found = fit_linear([*slides[:3], other], numbers, train, 2)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert kept_together(slides, numbers)[1] == "slide"


def test_measures_are_not_drowned_by_the_many_numbers_of_a_vector(rng):
    """Each part of a row weighs as much as the other: five labels a type, the signal in one measure of five."""
    types = np.tile([0, 1], 200)
    features = rng.normal(size=(400, 505)).astype(np.float32)
    features[:, 500] += 4 * types
    background = Background(400, features.mean(0).astype(float), features.var(0).astype(float), (500, 5))
    labels = tuple("ab"[t] for t in types[:10])
    probe = fit_probe(
        [Labelled("s", "", features[:10], labels, ("s/0/0",) * 10, background)], name="p",
        encoder={"name": "e", "weights_sha256": ""},
    )  # fmt: skip
    assert (probe.predict(features[10:]).argmax(1) == types[10:]).mean() > 0.85


def test_counts_and_files_have_the_classes_that_were_given(planted, tmp_path):
    """Tables count them, GeoJSON and GeoDataFrame name them with their probability; the head's stay as they are."""
    store, types = planted
    chances = np.where(np.arange(2) == types[:, None], 0.75, 0.25).astype(np.float32)
    write_object_scores(store, "cells", chances, {"columns": ["tumour", "lymphocyte"]}, "nuclei")
    row = slide_row(store, scores="cells")
    assert (row["tumour_count"], row["lymphocyte_count"]) == (int((types == 0).sum()), int((types == 1).sum()))
    assert slide_row(store)["nucleus_count"] == len(types)
    assert "tumour_count" in tile_columns(store, scores="cells")
    table = store.objects("nuclei", scores="cells")
    assert (table["class"].to_numpy() == np.array(["tumour", "lymphocyte"])[types]).all()
    assert (table["probability"] == 0.75).all()
    found = read_classified(store, "nuclei", "cells")
    write_geojson(tmp_path / "a.geojson", found.objects, slide_id="slide", probability=found.probability)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [f["properties"]["classification"]["name"] for f in features] == table["class"].to_list()
    assert len({tuple(f["properties"]["classification"]["color"]) for f in features}) == 2
    assert {f["properties"]["measurements"]["Class probability"] for f in features} == {0.75}
    with pytest.raises(StoreError, match=r"holds no scores 'other' of nuclei\. It holds: cells"):
        slide_row(store, scores="other")
    with pytest.raises(StoreError, match="do not fit"):
        write_object_scores(store, "cells", chances[1:], {"columns": ["a", "b"]}, "nuclei")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("slide,label\nslide,a\n", "neither by x and y nor by object", id="no-place"),
        pytest.param("slide,object,label\nslide,1.5,a\n", "object is '1.5'", id="no-row"),
        pytest.param("slide,object,class\nslide,1,\n", "the label is empty", id="no-label"),
        pytest.param("slide,x,y,object,class\nslide,,,,a\n", "x and y: '' is no number", id="neither"),
    ],
)
def test_tables_that_name_no_object_are_refused(tmp_path, text, reason):
    """With the row."""
    (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(AnnotationError, match=reason):
        read_object_labels(tmp_path / "cells.csv")


def test_from_clicks_to_counts_at_the_command_line(planted, say, tmp_path):
    """Fit on a table with classes, predict, and export: the counts are those of Python."""
    store, types = planted
    at = read_objects(store)[0].centroid
    with (tmp_path / "cells.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["slide", "x", "y", "object", "class"])
        for row in range(40):
            place = [*at[row].round(1).tolist(), ""] if row % 2 else ["", "", row]
            write.writerow(["slide.svs", *place, "ab"[types[row]]])
        write.writerow(["slide", -100, -100, "", "a"])
    code, out, err = say("probe", "fit", store.path, "--objects", "nuclei", "-l", "cells.csv", "-o", "cells.json")
    assert code == 0, err
    assert "1 label lies on no object and was left out" in out
    assert "cross-validated by block of neighbours" in out
    code, out, err = say("probe", "predict", store.path, "-p", "cells.json")
    assert code == 0, err
    row = slide_row(SlideStore.open(store.path), scores="cells")
    assert f"slide: {row['a_count']} a, {row['b_count']} b" in out
    code, _, err = say("export", store.path, "--table", "slides", "--scores", "cells", "-o", "counts.csv")
    assert code == 0, err
    [written] = csv.DictReader(Path("counts.csv").read_text().splitlines())
    assert (int(written["a_count"]), int(written["b_count"])) == (row["a_count"], row["b_count"])
    for name in ("cells.geojson.gz", "cells.parquet"):
        code, _, err = say("export", store.path, "--scores", "cells", "-o", name)
        assert code == 0, err
    code, out, _ = say("info", store.path)
    assert f"vectors of {DIM} numbers" in out
    assert "scores    cells: a, b" in out
    code, _, err = say("probe", "predict", store.path, "-p", "cells.json", "-m", "e")
    assert code == 2 or "not for a probe of objects" in err


def test_points_that_were_drawn_in_qupath_label_the_objects_below_them(planted, tmp_path):
    """A set of points of one class is one feature of the file; patients come with the slide."""
    store, types = planted
    at = read_objects(store)[0].centroid
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": at[types == k][:4].astype(float).tolist()},
            "properties": {"objectType": "annotation", "classification": {"name": "ab"[k]}},
        }
        for k in (0, 1)
    ]
    (tmp_path / "slide.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = label_objects(store, points=read_drawn_labels(tmp_path / "slide.geojson", "slide").points, patient="p")
    rows = np.sort(np.concatenate([np.flatnonzero(types == k)[:4] for k in (0, 1)]))
    assert found.labels == tuple("ab"[types[row]] for row in rows)
    assert found.patient == "p"
