"""Where things are drawn: a law for the arithmetic, then the screen's own pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.slide_store import SlideStore

from napari_wsi_umedpt.layers.build import KEY, Place, Shown, tissue_layer
from napari_wsi_umedpt.layers.multiscale import Window
from napari_wsi_umedpt.layers.objects import Field
from napari_wsi_umedpt.layers.thin_lines import READABLE, UNREADABLE, TileLines, TissueOutline
from napari_wsi_umedpt.layers.values import heatmap_layer
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera
from tests.support.planted import MPP, NUCLEUS, SIZE, SPEC, TUMOUR, TUMOUR_COLOUR, UNREADABLE_TILE, squares

PLACE = Place("a", SIZE, MPP)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0.1, 4))
def test_there_and_back(x, y, mpp):
    """From level-0 px to um and back is nowhere else."""
    place = Place("a", (10**5, 10**5), mpp)
    assert np.allclose(place.to_slide(place.to_world(np.array([x, y]))), (x, y), atol=1e-6)


@given(st.floats(1, 1000), st.floats(-500, 1e4), st.floats(-500, 1e4))
def test_a_rasters_first_pixel_begins_at_its_origin(step, x, y):
    """Napari centres pixels on integers: half a pixel before the first centre lies the origin."""
    meta = PLACE.meta(step, (x, y))
    corner = np.array(meta["translate"]) - 0.5 * np.array(meta["scale"])
    assert np.allclose(PLACE.to_slide(corner), (x, y), atol=1e-6)


def seen_colours(viewer, qtbot, zoom, middle) -> tuple[np.ndarray, float]:
    """The canvas at a zoom around a place of the slide, and level-0 px per canvas px."""
    camera(viewer).center = (0, *PLACE.to_world(np.array(middle)))
    camera(viewer).zoom = zoom
    qtbot.wait(120)
    shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    return shot, 1 / (zoom * MPP)


def box_of(mask: np.ndarray, shot_shape: tuple[int, ...], middle, per_px: float) -> np.ndarray:
    """Bounds of a mask on the canvas, in level-0 px: left, top, right, bottom."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = shot_shape[:2]
    edges = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], float)
    return (edges - np.array([width, height] * 2) / 2) * per_px + np.array([*middle, *middle])


@pytest.mark.parametrize("zoom", [0.25, 0.8, 1.5, 2.4])
def test_the_tumour_is_where_it_was_planted(viewer, qtbot, planted, zoom):
    """On the screen, at every zoom, to a pixel of the screen or of the slide, whichever is larger."""
    add_layers(viewer, open_path(planted.slide, pytest.fail))
    viewer.canvas.overlays.scale_bar.visible = False
    middle = (TUMOUR[0] + TUMOUR[2]) / 2 + 7, (TUMOUR[1] + TUMOUR[3]) / 2 - 5
    shot, per_px = seen_colours(viewer, qtbot, zoom, middle)
    inside = np.abs(shot - TUMOUR_COLOUR).max(axis=-1) < 60
    assert np.abs(box_of(inside, shot.shape, middle, per_px) - TUMOUR).max() <= 1.01 * max(per_px, 1)


@pytest.mark.parametrize("zoom", [0.6, 2.0, 6.0])
@pytest.mark.parametrize("name", ["nuclei", "nuclei (label image)"])
def test_the_nucleus_is_where_it_was_planted(viewer, qtbot, planted, zoom, name):
    """As outlines of polygons and from the label pyramid alike."""
    from napari_wsi_umedpt.opening.load import further

    store = SlideStore.open(planted.store)
    layers = [layer for layer in open_path(planted.store, pytest.fail) if layer[1]["name"] == name]
    layers = layers or [further(store)[name]()]
    add_layers(viewer, [(data, {**meta, "visible": True, "opacity": 1.0}, kind) for data, meta, kind in layers])
    viewer.canvas.overlays.scale_bar.visible = False
    middle = (NUCLEUS[0] + NUCLEUS[2]) / 2, (NUCLEUS[1] + NUCLEUS[3]) / 2
    shot, per_px = seen_colours(viewer, qtbot, zoom, middle)
    inside = np.abs(shot - (200, 10, 200)).max(axis=-1) < 40
    # A line two px wide lies half on either side of the outline.
    slack = 1.6 * max(per_px, 1) if name == "nuclei" else 1.01 * max(per_px, 1)
    assert np.abs(box_of(inside, shot.shape, middle, per_px) - NUCLEUS).max() <= slack


@pytest.mark.parametrize("zoom", [0.5, 1.7, 3.0])
def test_a_tiles_value_covers_the_tile(viewer, qtbot, planted, zoom):
    """A heatmap's cell lies on its tile, to a pixel of the screen."""
    store = SlideStore.open(planted.store)
    grid = store.grid()
    tile = len(grid) // 2
    values = np.full(len(grid), np.nan)
    values[tile] = 1.0
    lines = TileLines(grid, store.status() != 0)
    data, meta, kind = heatmap_layer(values, lines, Shown("heatmap", PLACE, name="one"), scaling="raw")
    (layer,) = add_layers(viewer, [(data, {**meta, "opacity": 1.0, "colormap": "gray"}, kind)])
    viewer.canvas.overlays.scale_bar.visible = layer.colorbar.visible = False
    expected = np.array([*grid.xy[tile], *(grid.xy[tile] + grid.side)])
    middle = tuple((expected[:2] + expected[2:]) / 2)
    shot, per_px = seen_colours(viewer, qtbot, zoom, middle)
    assert np.abs(box_of(shot.min(axis=-1) > 128, shot.shape, middle, per_px) - expected).max() <= 1.01 * max(per_px, 1)


def test_every_layer_is_in_um_and_says_what_it_shows(planted):
    """One layer without units would switch them off for all."""
    layers = open_path(planted.store, pytest.fail)
    assert [meta["metadata"][KEY].kind for _, meta, _ in layers] == ["slide", "heatmap", "objects", "tiles", "tissue"]
    assert all(meta["units"] == ("um", "um") for _, meta, _ in layers)
    assert [meta.get("visible", True) for _, meta, _ in layers] == [True, False, True, True, True]


# ---- what is painted, without a screen ----


def test_objects_are_painted_on_their_pixels():
    """Filled, at 1:1, a square nucleus covers its own pixels and at most a line around them."""
    field = Field(squares([(100, 50, 130, 70)], [1]))
    found = field.draw(Window(1, 64, 32, 128, 128))
    inner = np.zeros((128, 128), bool)
    inner[50 - 32 : 70 - 32, 100 - 64 : 130 - 64] = True
    assert (found[inner] == 2).all()
    rows, cols = np.nonzero(found)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (18 - 0, 37 + 1, 36 - 0, 65 + 1)


@given(st.integers(0, 10**6))
def test_chunks_join_without_seams(seed):
    """A window painted in pieces is the window painted whole."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 900, (40, 2))
    boxes = [
        (x, y, x + w, y + h)
        for (x, y), (w, h) in zip(corners.tolist(), rng.integers(4, 60, (40, 2)).tolist(), strict=True)
    ]
    field = Field(squares(boxes, rng.integers(0, 2, 40).tolist()))
    scale = int(rng.choice([1, 2, 8, 16]))
    side = 1024 // scale // 2
    for draw in (field.draw, field.outline):
        whole = draw(Window(scale, 0, 0, 2 * side, 2 * side)) > 0
        parts = [[draw(Window(scale, x, y, side, side)) > 0 for x in (0, side)] for y in (0, side)]
        assert np.array_equal(np.block(parts), whole)


@given(st.integers(0, 10**6))
def test_objects_are_found_as_brute_force_finds_them(seed):
    """Of any size, a giant among them."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 5000, (200, 2)).tolist()
    sides = rng.integers(1, 80, (200, 2))
    sides[0] = 3000
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sides.tolist(), strict=True)]
    field = Field(squares(boxes, [0] * 200))
    left, top = rng.integers(0, 5000, 2).tolist()
    right, bottom = left + int(rng.integers(1, 900)), top + int(rng.integers(1, 900))
    brute = [i for i, b in enumerate(boxes) if b[0] <= right and b[2] >= left and b[1] <= bottom and b[3] >= top]
    assert field.within(left, top, right, bottom).tolist() == brute


def test_no_objects_are_no_trouble():
    """An empty kind of objects is drawn as nothing."""
    field = Field(squares([(0, 0, 9, 9)], [0]).taken(np.zeros(1, bool)))
    assert not field.draw(Window(1, 0, 0, 64, 64)).any()
    assert not field.draw(Window(32, 0, 0, 64, 64)).any()
    assert field.at(5, 5) is None


def test_the_outline_of_tissue_lies_on_its_border():
    """One closed line on the mask's border, to a quarter of a cell or a pixel, of one width at every zoom."""
    mask = np.zeros((40, 50), bool)
    mask[10:20, 5:45] = True
    outline = TissueOutline(TissueMask(mask, 16))
    for scale in (1, 4, 16):
        found = outline.draw(Window(scale, 0, 0, 800 // scale, 640 // scale)) > 0
        rows, cols = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        bounds = [rows[0] * scale, (rows[-1] + 1) * scale, cols[0] * scale, (cols[-1] + 1) * scale]
        assert np.abs(np.array(bounds) - [160, 320, 80, 720]).max() <= max(16 // 4, scale)
        middle = found[:, 400 // scale]
        assert middle.sum() == 4 or (scale == 16 and middle.sum() == 3)  # a quarter of a pixel rounds


def test_tiles_are_drawn_and_the_unreadable_filled(planted):
    """Lines on their borders; the whole of a tile that could not be read."""
    store = SlideStore.open(planted.store)
    grid, lines = store.grid(), TileLines(store.grid(), store.status() != 0)
    x, y = grid.xy[UNREADABLE_TILE].tolist()
    side = round(grid.side)
    assert (lines.draw(Window(1, x, y, side, side)) == UNREADABLE).all()
    x, y = grid.xy[0].tolist()
    found = lines.draw(Window(1, x, y, side, side))
    assert found[0, 0] == READABLE
    assert not found[5:-5, 5:-5].any()
    assert lines.at(x + 1, y + 1) == [0]
    for scale in (1, 64):
        whole = lines.draw(Window(scale, 0, 0, SIZE[0] // scale, SIZE[1] // scale))
        assert whole.any()


def test_tissue_says_how_large_it_is(planted):
    """Densities rest on it."""
    with open_slide(planted.slide) as slide:
        tissue = SlideStore.open(planted.store).tissue()
        _, meta, _ = tissue_layer(tissue, Place("a", slide.size, slide.mpp), planted.store)
    assert meta["metadata"][KEY].tissue_mm2 == pytest.approx(34 * 40 * (32 * MPP / 1000) ** 2)
    assert SPEC.mpp == MPP
