"""Learning from a few labelled tiles, without a window."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_umedpt.annotations.labels import read_points
from wsi_umedpt.cli import app
from wsi_umedpt.errors import AnnotationError, ProbeError, StoreError
from wsi_umedpt.mil.linear_probe import Probe
from wsi_umedpt.mil.tile_probe import label_tiles
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.logic.few_shot import colours_of, features_of, open_teachable
from napari_wsi_umedpt.logic.teachable import least_sure, save_probe
from napari_wsi_umedpt.logic.tile_labels import TileCells, points_of, read_labels, write_points, write_regions
from tests.support.planted import MPP, TUMOUR
from tests.support.tiny import colour_store

COLOURS = {"tumour": (200, 0, 0), "glass": (0, 0, 200)}


@pytest.fixture(scope="module", params=[100, 50, 30], ids=["apart", "half", "overlapping"])
def slide(request, planted_once, tmp_path_factory):
    """Tiles of 100 px that overlap, or not."""
    path = tmp_path_factory.mktemp("colours") / "planted.zarr"
    colour_store(path, planted_once.slide, TileSpec(size_px=100, mpp=MPP, stride_px=request.param))
    return open_teachable(path)


def truth(slide) -> dict[int, str]:
    """Of all readable tiles, by where their middle lies."""
    left, top, right, bottom = TUMOUR
    x, y = (slide.grid.xy + slide.grid.side / 2).T
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    return {int(row): "tumour" if inside[row] else "glass" for row in slide.bag.index}


def few(slide, count=12) -> dict[int, str]:
    """Some labels of each class, spread over the slide."""
    known = truth(slide)
    found = {}
    for name in COLOURS:
        rows = [row for row, label in known.items() if label == name]
        found |= {rows[k]: name for k in np.linspace(0, len(rows) - 1, count).round().astype(int)}
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 64), st.integers(9, 64), st.floats(0.2, 1.0), st.integers(0, 2**32 - 1))
def test_every_tile_has_a_cell_of_its_own(size, stride, mpp, seed):
    """Whatever the distance between tiles: what is painted is read back, and lies around the tile's middle."""
    spec = TileSpec(size_px=size, stride_px=min(stride, size), mpp=1.0, min_tissue=0)
    grid = lay_grid((400, 300), mpp, spec)
    rng = np.random.default_rng(seed)
    readable = np.flatnonzero(rng.random(len(grid)) < 0.9)
    cells = TileCells.of(grid, readable)
    assert sorted(cells.tile[cells.tile >= 0].tolist()) == readable.tolist()
    labels = {int(row): "ab"[int(rng.integers(2))] for row in readable if rng.random() < 0.5}
    assert cells.labels(cells.painted(labels, "ab"), "ab") == labels
    row, col = np.nonzero(cells.tile >= 0)
    middle = np.array(cells.origin) + (np.stack([col, row], 1) + 0.5) * cells.step
    assert np.abs(middle - grid.xy[cells.tile[row, col]] - grid.side / 2).max(initial=0) <= 1


def test_points_label_the_tiles_that_were_meant(slide):
    """Also where tiles overlap, and a point lies in several."""
    labels = few(slide)
    points = points_of(labels, slide.grid, "planted")
    found = label_tiles(slide.store, slide.bag, slide.grid.side, points=points)
    rows = [int(np.flatnonzero(slide.bag.index == tile)[0]) for tile in sorted(labels)]
    assert np.array_equal(found.features, slide.bag.features[rows].astype(np.float32))
    assert found.labels == tuple(labels[tile] for tile in sorted(labels))


def test_few_labels_teach_the_slide(slide):
    """Nearly all tiles that are one colour are distinguished; figures are given and say what they are of."""
    labels = few(slide)
    taught = slide.teach(labels)
    known = truth(slide)
    classes = taught.probe.classes
    right = np.mean([classes[int(taught.chances[row].argmax())] == known[row] for row in known])
    assert right > 0.93
    assert np.isnan(taught.chances[3]).all()
    assert taught.chances[slide.bag.index] == pytest.approx(taught.probe.predict(slide.bag.features))
    assert "of this slide that it had not learned from" in taught.words
    assert f"{taught.figures['balanced_accuracy']:.0%} right" in taught.words
    assert ("too easy" in taught.words) is (slide.grid.spec.stride < 100)


def test_too_few_places_are_said_to_be_too_few(slide):
    """Of neighbours in one place no figure can be given."""
    known = truth(slide)
    tumour = next(row for row, name in known.items() if name == "tumour")
    taught = slide.teach({0: "glass", 1: "glass", tumour: "tumour"})
    assert "Too few places to say how good it is" in taught.words
    assert "right" not in taught.words
    with pytest.raises(ProbeError, match="at least two classes"):
        slide.teach({0: "glass"})


def test_the_least_sure_are_suggested(slide):
    """Never labelled ones, the smallest margin first, none near another."""
    labels = few(slide)
    taught = slide.teach(labels)
    ordered = np.sort(taught.chances, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    margin[list(labels)] = np.nan
    assert margin[taught.next[0]] == np.nanmin(margin)
    assert not {*taught.next} & {*labels}
    places = slide.grid.xy[taught.next].astype(float)
    apart = np.abs(places[:, None] - places[None]).max(axis=2)
    assert (apart[~np.eye(len(places), dtype=bool)] >= 3 * slide.grid.side).all()
    assert least_sure(taught.chances, dict.fromkeys(range(len(slide.grid)), "a"), slide.grid, 5) == []


def test_tiles_are_coloured_by_their_class(slide):
    """Paler where less sure; nothing where there is no tile."""
    taught = slide.teach(few(slide))
    colours = [COLOURS[name] for name in taught.probe.classes]
    rgba = colours_of(taught, slide.cells, colours)
    there = slide.cells.tile >= 0
    assert (rgba[~there][:, 3] == 0).all()
    likeliest = taught.chances[slide.cells.tile[there]].argmax(axis=1)
    assert (rgba[there][:, :3] == np.array(colours)[likeliest]).all()
    only = colours_of(taught, slide.cells, colours, only=1)
    assert only[there][:, 3] == pytest.approx(taught.chances[slide.cells.tile[there]][:, 1] * 255, abs=1)


@pytest.mark.parametrize("name", ["labels.csv", "planted.geojson"])
def test_labels_come_back_from_files(slide, tmp_path, name):
    """Points and regions give the very tiles that were labelled."""
    labels = few(slide)
    if name.endswith("csv"):
        write_points(tmp_path / name, points_of(labels, slide.grid, "planted"), "planted")
    else:
        write_regions(tmp_path / name, labels, slide.cells, COLOURS)
    assert read_labels(tmp_path / name, slide.cells, "planted") == labels


@pytest.mark.parametrize("name", ["labels.csv", "planted.geojson"])
def test_the_command_line_learns_the_same(slide, tmp_path, name):
    """`probe fit` on the files makes the same probe, and `probe predict` applies the one that was saved."""
    labels = few(slide)
    taught = slide.teach(labels)
    write_points(tmp_path / "labels.csv", points_of(labels, slide.grid, "planted"), "planted")
    write_regions(tmp_path / "planted.geojson", labels, slide.cells, COLOURS)
    store = str(slide.store.path)
    assert run("probe", "fit", store, "-l", str(tmp_path / name), "-o", str(tmp_path / "cli.json")) == 0
    made = Probe.load(tmp_path / "cli.json")
    assert made.classes == taught.probe.classes
    assert made.weight == pytest.approx(taught.probe.weight)
    assert made.about["cross_validation"] == taught.figures
    save_probe(taught, tmp_path / "mine.json")
    assert run("probe", "predict", store, "-p", str(tmp_path / "mine.json")) == 0
    scores, about = read_scores(SlideStore.open(slide.store.path), "mine")
    assert scores == pytest.approx(taught.chances, nan_ok=True)
    assert tuple(about["columns"]) == taught.probe.classes


def run(*words: str) -> int:
    try:
        return int(app(list(words), exit_on_error=False) or 0)
    except SystemExit as end:
        return int(end.code or 0)


def test_labels_of_several_slides_share_a_file(slide, tmp_path):
    """Saving one slide anew replaces its points, and keeps the others' and their patients."""
    path = tmp_path / "labels.csv"
    path.write_text("slide_id,x,y,label,patient\nother,5,6,glass,P1\nplanted,1,1,old,P2\n")
    points = points_of(few(slide, 2), slide.grid, "planted")
    assert write_points(path, points, "planted") == 1
    found = read_points(path)
    assert [(p.slide_id, p.patient) for p in found] == [("other", "P1"), *[("planted", "P2")] * len(points)]
    with pytest.raises(AnnotationError, match=r"does not end so"):
        write_points(tmp_path / "labels.txt", points, "planted")


def test_labels_of_another_slide_are_refused(slide, tmp_path):
    """By name in a table, by place in GeoJSON."""
    labels = few(slide, 2)
    write_points(tmp_path / "labels.csv", points_of(labels, slide.grid, "other"), "other")
    with pytest.raises(AnnotationError, match=r"labels no tile of planted; it is of other"):
        read_labels(tmp_path / "labels.csv", slide.cells, "planted")
    ring = [[9e6, 0], [9e6, 9], [9.1e6, 9], [9e6, 0]]
    far = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": "a"}}
    (tmp_path / "far.geojson").write_text(json.dumps(far))
    with pytest.raises(AnnotationError, match="another slide"):
        read_labels(tmp_path / "far.geojson", slide.cells, "planted")


def test_what_cannot_be_learned_from_is_refused(slide, planted, tmp_path):
    """Features that do not say what made them; stores without features; probes of another name."""
    with pytest.raises(ProbeError, match="do not say their 'card'"):
        open_teachable(planted.store)
    with open_slide(planted.slide) as opened:
        tissue = slide.store.tissue()
        spec = TileSpec(size_px=200, mpp=MPP)
        grid = lay_grid(opened.size, opened.mpp, spec, within=tissue)
        with SlideStore.create(tmp_path / "bare.zarr", opened, tissue, grid) as store:
            store.set_status(spec.grid_id, np.zeros(len(grid), np.uint8))
            store.commit()
    with pytest.raises(StoreError, match=r"no features to learn from.*wsi-umedpt embed"):
        open_teachable(tmp_path / "bare.zarr")
    with pytest.raises(ProbeError, match=r"saved as \.json"):
        save_probe(slide.teach(few(slide)), tmp_path / "probe.txt")
    assert features_of(slide.store) == [(slide.grid.spec.grid_id, "colours")]
