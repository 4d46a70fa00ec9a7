"""What a slide classifier says of a slide and of parts of it, without a window."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_umedpt.errors import MilError, PixelError
from wsi_umedpt.heatmaps.raster import Heatmap
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.live_heatmap import TileRasterizer
from napari_wsi_umedpt.layers.thin_lines import TileLines
from napari_wsi_umedpt.logic.classifier import ATTENTION, embed_command, extremes, matching_source, open_classifier
from napari_wsi_umedpt.logic.regions import ALONE, LEFT_OUT, chosen_tiles, drawn_areas, tiles_within
from napari_wsi_umedpt.logic.tile_pictures import PICTURE_PX, TilePictures
from napari_wsi_umedpt.logic.verdict import verdict
from tests.support.tiny import PLANTED_KIND, slide_classifier


@pytest.fixture(scope="module")
def classifier(planted_once, tmp_path_factory):
    return open_classifier(slide_classifier(tmp_path_factory.mktemp("run") / "model.json"), planted_once.store)


def test_a_slide_is_judged_as_the_command_line_judges_it(classifier, planted):
    """By the same model on the same features; a tile that could not be read has no value."""
    bag = SlideStore.open(planted.store).features()
    model = classifier.model
    found = classifier.judge()
    assert found.forecasts[0].predicted == pytest.approx(model.forecast([bag.features])[0].predicted, abs=1e-6)
    values = classifier.values(found, None, ATTENTION)
    assert np.flatnonzero(np.isnan(values)).tolist() == [3]
    assert np.nansum(values) == pytest.approx(1, abs=1e-5)
    assert classifier.columns == (ATTENTION, "status:tumour")
    contributions = classifier.values(found, None, "status:tumour")[bag.index]
    assert contributions == pytest.approx(model.explain(bag.features).contribution[:, 0], abs=1e-6)


def test_values_of_a_part_lie_on_its_tiles(classifier):
    """And the others have none."""
    chosen = np.arange(len(classifier.index)) % 3 == 0
    values = classifier.values(classifier.judge(chosen), chosen, "status:tumour")
    assert np.flatnonzero(np.isfinite(values)).tolist() == classifier.index[chosen].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"encoder": "umedpt_lite0.v2"}, "-m umedpt_lite0.v2 --size 128 --tile-mpp 0.5", id="ships"),
        pytest.param({"encoder": "timm_resnet50.random"}, "-m timm:resnet50@random --size 128", id="timm-random"),
        pytest.param({"encoder": "timm_resnet50.a1.0123abcd"}, "-m timm:resnet50.a1 --size 128", id="timm-hub"),
        pytest.param({"encoder": "mine.v1"}, "-m umedpt:FILE.json --size 128", id="own"),
        pytest.param({"precision": "bf16"}, "--precision bf16", id="precision"),
        pytest.param({"encoder": "", "format": "CLAM"}, "It takes those of CLAM, which", id="clam"),
    ],
)
def test_other_features_are_refused_with_the_command_that_makes_them(planted, change, words):
    """In words that say what differs."""
    kind = type(PLANTED_KIND)(**{**PLANTED_KIND.to_dict(), **change})
    with pytest.raises(MilError, match=r"not trained on: .* instead of") as caught:
        matching_source(kind, SlideStore.open(planted.store))
    assert words in str(caught.value)
    assert ("wsi-umedpt embed SLIDE" in str(caught.value)) is ("CLAM" not in words)


def test_the_usual_tiles_need_no_flags(planted):
    """The command is as short as it can be."""
    from wsi_umedpt.models.bundle import release_card, shipped

    card = release_card(shipped()["umedpt_lite0.v2"])
    kind = type(PLANTED_KIND)(encoder=card.name, mpp=card.mpp, size_px=card.size_px, dim=card.dim, precision="fp32")
    command = embed_command(kind, SlideStore.open(planted.store))
    assert command == f"wsi-umedpt embed SLIDE -o {planted.store.parent} -m umedpt_lite0.v2"
    with pytest.raises(
        MilError,
        match=r"In the dock Analyse choose umedpt_lite0\.v2 and prepare for Classify, or run: wsi-",
    ):
        matching_source(kind, SlideStore.open(planted.store))


@given(st.lists(st.floats(-5, 5, width=32) | st.just(np.nan), max_size=30), st.integers(1, 6))
def test_extremes_are_the_highest_and_the_lowest(values, count):
    """In order, of those that have a value, and none is in both."""
    top, bottom = extremes(np.array(values, np.float32), count)
    known = sorted(v for v in values if np.isfinite(v))
    assert [values[row] for row in bottom] == known[: len(bottom)]
    assert [values[row] for row in top] == known[::-1][: len(top)]
    assert not {*top} & {*bottom}
    assert len(top) == min(count, len(known)) or len(top) + len(bottom) == len(known)


@settings(max_examples=50)
@given(st.data())
def test_regions_choose_tiles_by_their_middle(data):
    """Left out wins; without a region that counts alone, all others count."""
    xy = np.stack(np.meshgrid(np.arange(6) * 10, np.arange(5) * 10), -1).reshape(-1, 2)
    numbers = st.tuples(*[st.integers(-5, 65)] * 2, *[st.integers(1, 50)] * 2)
    box = numbers.map(lambda b: shapely.box(b[0], b[1], b[0] + b[2], b[1] + b[3]))
    drawn = data.draw(st.lists(st.tuples(st.sampled_from([LEFT_OUT, ALONE]), box), max_size=4))
    found = chosen_tiles(drawn, xy, 10.0)
    for row, (x, y) in enumerate(xy.tolist()):
        inside = {name for name, area in drawn if area.contains(shapely.Point(x + 5, y + 5))}
        alone = any(name == ALONE for name, _ in drawn)
        assert found[row] == (LEFT_OUT not in inside and (not alone or ALONE in inside))


def test_shapes_are_areas_in_pixels_of_the_slide():
    """Also ellipses, and lines that cross; those still being drawn, and lines, are none."""
    import pandas as pd

    place = Place("s", (1000, 800), 0.25)
    square = place.to_world(np.array([[10, 20], [110, 20], [110, 70], [10, 70]]))
    bow = place.to_world(np.array([[0, 0], [10, 10], [10, 0], [0, 10]]))
    kinds = ["polygon", "ellipse", "polygon", "polygon", "path"]
    meta = {"shape_type": kinds, "features": pd.DataFrame({"class": [LEFT_OUT, ALONE, LEFT_OUT, "", ""]})}
    found = drawn_areas([square, square, bow, square[:2], square], meta, place)
    assert [name for name, _ in found] == [LEFT_OUT, ALONE, LEFT_OUT]
    assert found[0][1].bounds == pytest.approx((10, 20, 110, 70))
    assert found[1][1].area == pytest.approx(np.pi * 50 * 25, rel=0.01)
    assert found[2][1].area == pytest.approx(50)
    assert tiles_within([found[0][1]], np.array([[0, 0], [200, 0]]), 60).tolist() == [True, False]


def test_the_verdict_says_what_was_judged(classifier):
    """The answer, the set, the flag, how many tiles; of a part also what it was of the whole."""
    whole = classifier.judge()
    total = len(classifier.index)
    plain, details = verdict(classifier.model, whole, whole, total)
    assert "Undecided: normal and tumour are both possible." in plain
    assert plain.index("In testing: not known") < plain.index("Undecided")
    assert f"status</b>: called {whole.forecasts[0].answer}" in details
    assert "among what is possible for 90 of 100 slides like those that it learned from." in details
    assert f"All {total} tiles judged" in details
    assert "is called from 0.40 on" in details
    chosen = np.arange(total) < 20
    part = verdict(classifier.model, classifier.judge(chosen), whole, total).plain
    assert f"20 of {total} tiles judged" in part
    assert "Of the whole slide: Undecided" in part
    assert "of a region its answer is a guide" in part


def test_the_verdict_warns(classifier, planted, tmp_path):
    """Of slides unlike the training set, and of models that judge several slides together."""
    odd = open_classifier(slide_classifier(tmp_path / "model.json", unit="union"), planted.store)
    found = odd.judge()
    words = verdict(odd.model, replace(found, unlike=0.01), found, found.tiles).plain
    assert "Unlike the slides that the model learned from" in words
    assert "do not rely" in words
    assert "this is one slide" in words


def test_tiles_are_seen_as_they_lie(planted):
    """Their pixels shrunk; what cannot be read is grey, and told of."""
    told = []
    with open_slide(planted.slide) as slide:
        grid = SlideStore.open(planted.store).grid()
        pictures = TilePictures(slide, grid, told.append)
        (row,) = [n for n, xy in enumerate(grid.xy.tolist()) if xy == [1152, 512]]
        picture = pictures.read([row])[0]
        assert picture.shape == (PICTURE_PX, PICTURE_PX, 3)
        assert np.abs(picture.astype(int) - (90, 30, 150)).max() < 12
        slide.read_tile = lambda *_: (_ for _ in ()).throw(PixelError("bad"))
        assert (pictures.read([row + 1])[0] == 150).all()
        assert [str(e) for e in told] == ["bad"]
        assert pictures.read([row])[0] is picture


@pytest.mark.parametrize("stride", [32, 16, 20, 40])
def test_values_are_laid_out_as_heatmaps_are(stride):
    """By looking tiles up, or not where they overlap: the same raster in the same place."""
    spec = TileSpec(size_px=32, stride_px=stride, mpp=0.6, min_tissue=0)
    grid = lay_grid((700, 500), 0.5, spec)
    keep = np.random.default_rng(0).random(len(grid)) < 0.7
    grid = replace(grid, xy=grid.xy[keep], tissue=grid.tissue[keep])
    values = np.random.default_rng(1).normal(size=len(grid)).astype(np.float32)
    values[5] = np.nan
    ours = TileRasterizer(TileLines(grid, np.zeros(len(grid), bool))).lay(values)
    theirs = Heatmap.from_tiles(grid.xy, grid.side, values)
    assert np.array_equal(ours.values, theirs.values, equal_nan=True)
    assert (ours.origin_xy, ours.step) == (theirs.origin_xy, theirs.step)
