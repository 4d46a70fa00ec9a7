"""`wsi-umedpt heatmap`: what was scored comes out in every format, and mistakes are answered by their flag."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_umedpt.interop.heatmap_ometiff import read_heatmaps
from wsi_umedpt.interop.qupath_tiles import read_tiles
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore

SPEC = TileSpec(size_px=64)


def made_of(slide_path: Path, path: Path) -> SlideStore:
    """A store of tiles of 64 px, of which the fourth is unreadable."""
    with open_slide(slide_path) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
        readable = np.arange(len(grid)) != 3
        with SlideStore.create(path, slide, tissue, grid) as store:
            writer = store.writer("none", SPEC.grid_id, 2, {})
            writer.append(np.zeros((len(grid), 2), np.float32), readable)
            writer.finish()
            store.set_status(SPEC.grid_id, (~readable).astype(np.uint8))
            store.commit()
    return SlideStore.open(path)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, small_svs):
    """Such a store, its grid, and the scores that were put into it."""
    store = made_of(small_svs, tmp_path_factory.mktemp("heat") / "slide.zarr")
    grid = store.grid()
    values = np.random.default_rng(0).random((len(grid), 2)).astype(np.float32)
    values[3] = np.nan
    write_scores(store, "tumour", values, {"columns": ["normal", "tumour"], "model": {"name": "m"}}, SPEC.grid_id)
    return store, grid, values


def test_a_picture_shows_one_column(say, scored):
    """And says of how many tiles, and that one has no score."""
    store, grid, _ = scored
    code, out, err = say("heatmap", store.path, "-o", "new/heat.png", "--column", "tumour")
    assert (code, err) == (0, "")
    assert out == f"new/heat.png: tumour of {len(grid)} tiles, 1 of them without a score\n"
    with Image.open("new/heat.png") as picture:
        assert picture.size[0] > 1800


def test_a_raster_holds_all_columns_as_they_were_scored(say, scored):
    """Each tile's value at its middle, with what made it and without anything else of the slide."""
    store, grid, values = scored
    assert say("heatmap", store.path, "-o", "heat.ome.tif", "--scores", "tumour")[0] == 0
    raster = read_heatmaps(Path("heat.ome.tif"))
    assert (raster.slide_id, [*raster.heats]) == ("slide", ["normal", "tumour"])
    for k, heat in enumerate(raster.heats.values()):
        np.testing.assert_array_equal(heat.at(grid.xy + grid.side / 2), values[:, k])
    assert raster.made_by["model"] == {"name": "m"}


def test_qupath_and_a_spreadsheet_have_a_row_a_tile(say, scored):
    """Row i is tile i, those without a score too."""
    store, grid, values = scored
    assert say("heatmap", store.path, "-o", "t.geojson.gz")[0] == 0
    tiles = read_tiles(Path("t.geojson.gz"))
    np.testing.assert_array_equal(tiles.xy, grid.xy)
    np.testing.assert_array_equal(np.stack([*tiles.columns.values()], axis=1), values)
    assert say("heatmap", store.path, "-o", "t.csv", "--column", "tumour")[0] == 0
    lines = Path("t.csv").read_text().splitlines()
    assert lines[0] == "minx,miny,width,height,tumour"
    assert len(lines) == len(grid) + 1
    assert lines[4].endswith(",")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["-o", "h.png"], "--column normal or --column tumour", id="which-column"),
        pytest.param(["-o", "h.png", "--column", "benign"], "no column 'benign' (--column)", id="column"),
        pytest.param(["-o", "h.png", "--scores", "mil"], "no scores 'mil' (--scores); it holds tumour", id="scores"),
        pytest.param(["-o", "h.csv", "--grid", "a"], "not of grid 'a' (--grid): --grid 64px_0.5mpp", id="grid"),
        pytest.param(["-o", "h.jpg"], "h.jpg (--out) must end in one of .png, .ome.tif", id="suffix"),
        pytest.param(["-o", "h.csv", "--scaling", "raw"], "--scaling raw is for the colours of a .png", id="scaling"),
    ],
)
def test_mistakes_are_answered_by_their_flag(say, scored, words, says):
    """In a line that says what there is; no file is left."""
    code, _, err = say("heatmap", scored[0].path, *words)
    assert code == 1
    assert says in err
    assert err.count("\n") == 1
    assert not [*Path().iterdir()]


def test_a_store_without_scores_says_what_makes_them(say, tmp_path, scored, small_svs):
    """Before anything is drawn; and several scores must be told apart."""
    store = made_of(small_svs, tmp_path / "bare.zarr")
    code, _, err = say("heatmap", store.path, "-o", "h.png")
    assert (code, "holds no scores; wsi-umedpt probe predict makes some" in err) == (1, True)
    for name in ("a", "b"):
        write_scores(store, name, scored[2], {"columns": ["x", "y"]}, SPEC.grid_id)
    code, _, err = say("heatmap", store.path, "-o", "h.png")
    assert (code, "several scores; name one: --scores a or --scores b" in err) == (1, True)
