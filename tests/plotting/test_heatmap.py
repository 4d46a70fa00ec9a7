"""Pictures of heatmaps: the heat lies on its tiles, and the legend says what the colours mean."""

import numpy as np
import pytest
from PIL import ImageDraw

from wsi_umedpt.heatmaps.raster import SCALINGS, Heatmap, legend_ticks
from wsi_umedpt.plotting.heatmap import draw_heatmap
from wsi_umedpt.slides.tissue import TissueMask

STEP = 32
"""Level-0 px of a cell of the tissue mask."""


@pytest.fixture
def tissue() -> TissueMask:
    """Tissue on a white slide of 3200 x 2400 px, which is 800 x 600 px in a picture."""
    mask = np.zeros((75, 100), bool)
    mask[10:60, 20:80] = True
    return TissueMask(mask, STEP, np.full((75, 100, 3), 255, np.uint8))


@pytest.fixture
def words(monkeypatch) -> list[str]:
    """What is written into pictures."""
    said: list[str] = []
    write = ImageDraw.ImageDraw.text

    def heard(self, xy, text, *more, **options):
        said.append(text)
        return write(self, xy, text, *more, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", heard)
    return said


def heat_panel(picture, columns: int = 2) -> np.ndarray:
    """The panel with the heat, by the frames around panels."""
    page = np.asarray(picture)
    frame = (page == 200).all(axis=2)
    xs = np.flatnonzero(frame.sum(axis=0) > 100)
    ys = np.flatnonzero(frame.sum(axis=1) > 100)
    assert (len(xs), len(ys)) == (2 * columns, 2)
    return page[ys[0] + 1 : ys[1], xs[-2] + 1 : xs[-1]]


def box_of(found: np.ndarray) -> list[int]:
    """Left, top, right, bottom of what is marked, which must be all of its box."""
    y, x = np.nonzero(found)
    box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert found[box[1] : box[3], box[0] : box[2]].all()
    return box


@pytest.mark.parametrize("side", [224.0, 227.0688, 100.0])
@pytest.mark.parametrize("at", [(0, 0), (3, 1), (7, 5), (9, 8)])
def test_a_planted_tile_is_where_it_was_planted(tissue, side, at):
    """To a px of the picture, with sharp edges: its colour fills a rectangle."""
    cells = np.stack(np.meshgrid(np.arange(10), np.arange(9)), -1).reshape(-1, 2)
    xy = np.round(cells * side).astype(int)
    planted = (cells == at).all(axis=1)
    picture = draw_heatmap(Heatmap.from_tiles(xy, side, planted.astype(float)), tissue=tissue, side=800)
    panel = heat_panel(picture).astype(int)
    assert panel.shape == (600, 800, 3)
    yellow = (panel[..., 0] > 200) & (panel[..., 2] < 150)
    expected = np.array([*xy[planted][0], *(xy[planted][0] + side)]) / 4
    y, x = np.nonzero(yellow)
    np.testing.assert_allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], expected, rtol=0, atol=1)
    # All of it but where the outline of the tissue runs.
    assert yellow[y.min() : y.max() + 1, x.min() : x.max() + 1].mean() > 0.9


@pytest.mark.parametrize("at", [(0, 0), (2, 1)])
def test_without_a_slide_the_heat_is_drawn_alone(at):
    """As far as it reaches, in full colours."""
    values = np.zeros((3, 4), np.float32)
    values[at[1], at[0]] = 1
    values[2, 3] = np.nan
    panel = heat_panel(draw_heatmap(Heatmap(values, (5000.0, 700.0), 300.5), side=400), columns=1)
    assert panel.shape == (300, 400, 3)
    bright = (panel == (253, 231, 37)).all(axis=2)
    left, top, right, bottom = box_of(bright)
    np.testing.assert_allclose((left, top, right, bottom), np.array([*at, at[0] + 1, at[1] + 1]) * 100, rtol=0, atol=1)
    assert (panel[210:290, 310:390] == 255).all()


def test_cells_outside_the_slide_are_cut_off(tissue):
    """Tiles may cross the edge of a slide; the picture ends with it."""
    xy = np.array([[-100, -100], [3100, 2300], [5000, 5000]])
    panel = heat_panel(draw_heatmap(Heatmap.from_tiles(xy, 200.0, np.ones(3)), tissue=tissue, side=800))
    assert panel.shape == (600, 800, 3)
    assert panel[10, 10, 2] < 150
    assert panel[590, 790, 2] < 150
    assert panel[300, 100, 2] == 255


def test_zero_is_white_between_blue_and_red():
    """Where scores are signed; an edge tells it from where there is no score."""
    values = np.array([[-2.0, 0.0, 1.0, np.nan]], np.float32)
    panel = heat_panel(draw_heatmap(Heatmap(values, (0, 0), 10.0), scaling="signed", side=400), columns=1).astype(int)
    blue, white, red, none = (panel[50, 50 + 100 * k] for k in range(4))
    assert blue[2] - blue[0] > 60
    assert np.ptp(white) < 6
    assert red[0] - red[2] > 60
    assert none.tolist() == [255] * 3
    assert (panel[50, 300] == 110).all()


def test_no_small_tile_is_lost(tissue):
    """A picture grows until every cell has 2 x 2 px."""
    xy = np.stack(np.meshgrid(np.arange(1600), np.arange(1200)), -1).reshape(-1, 2)[::7] * 2
    values = np.zeros(len(xy))
    values[[5000, 50_000, 120_000]] = 1
    panel = heat_panel(draw_heatmap(Heatmap.from_tiles(xy, 2.0, values), tissue=tissue, side=200)).astype(int)
    assert panel.shape == (2400, 3200, 3)
    assert ((panel[..., 0] > 200) & (panel[..., 2] < 150)).sum() == 12


@pytest.mark.parametrize("scaling", [*SCALINGS])
def test_the_legend_names_its_scaling(tissue, words, scaling):
    """With numbers, the scale bar's length and the title."""
    values = np.array([-0.5, 0.25, 2.0])
    heat = Heatmap.from_tiles(np.array([[0, 0], [500, 0], [1000, 0]]), 500.0, values)
    draw_heatmap(heat, scaling=scaling, tissue=tissue, mpp=0.25, title="slide: tumour")
    said = " ".join(words)
    assert SCALINGS[scaling] in said
    assert scaling in said
    assert "slide: tumour" in said
    assert "200 um" in said  # the slide is 800 um wide, the bar a quarter of it
    assert all(text in words for _, text in legend_ticks(values, scaling))


def test_lengths_of_a_mm_are_in_mm(words):
    """And without a scale there is no bar."""
    heat = Heatmap(np.zeros((40, 40), np.float32), (0, 0), 448.0)
    draw_heatmap(heat, mpp=0.5)
    assert "2 mm" in words
    words.clear()
    draw_heatmap(heat)
    assert not [word for word in words if word.endswith("m")]


@pytest.mark.parametrize("values", [np.empty((0, 0)), np.full((2, 2), np.nan)], ids=["no-tiles", "no-values"])
def test_a_heatmap_without_values_says_so(tissue, words, values):
    """Instead of a bar without meaning."""
    heat = Heatmap(values.astype(np.float32), (0, 0), 100.0)
    draw_heatmap(heat, tissue=tissue, scaling="percentile")
    draw_heatmap(heat, scaling="signed", title="t")
    assert words.count("no tile has a value") == 2


@pytest.mark.parametrize(
    ("values", "scaling", "ticks"),
    [
        pytest.param([0.2, 0.4], "raw", ["0", "0.25", "0.5", "0.75", "1"], id="raw"),
        pytest.param([-1, 4], "raw", ["<= 0", "0.25", "0.5", "0.75", ">= 1"], id="raw-clipped"),
        pytest.param([2, 4], "minmax", ["2", "2.5", "3", "3.5", "4"], id="minmax"),
        pytest.param([1, 1.0002], "minmax", ["1", "1.00005", "1.0001", "1.00015", "1.0002"], id="close-together"),
        pytest.param([3, 3, np.nan], "minmax", ["3"], id="one-value"),
        pytest.param([0, 0], "signed", ["0"], id="all-zero"),
        pytest.param([-3, 6], "signed", ["-6", "-3", "0", "3", "6"], id="signed"),
        pytest.param(
            [1, 2, 3, 4, 500], "percentile", ["0% (1)", "25% (2)", "50% (3)", "75% (4)", "100% (500)"], id="ranks"
        ),
        pytest.param([np.nan], "minmax", [], id="none"),
    ],
)
def test_numbers_of_a_colour_bar_are_scores(values, scaling, ticks):
    """As many digits as tell them apart; what is clipped is said to be."""
    assert [text for _, text in legend_ticks(np.array(values, float), scaling)] == ticks
