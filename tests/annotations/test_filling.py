"""Which places lie in a drawn area: laws against shapely, and outlines that took minutes."""

import json
import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.annotations import filling
from wsi_umedpt.annotations.annotation import area_of, polygons_of
from wsi_umedpt.annotations.filling import Work, fill_window, has_area, holds, share_within
from wsi_umedpt.annotations.labels import Region, labels_at
from wsi_umedpt.errors import AnnotationError, MaskError
from wsi_umedpt.slides.mask_file import mask_from_file

SIDE = 100.0


def scribble(rng: np.random.Generator, corners: int) -> np.ndarray:
    """Corners anywhere: the outline crosses itself."""
    return rng.random((corners, 2)) * SIDE


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), corners=st.integers(3, 12), holes=st.integers(0, 3))
def test_places_inside_are_those_that_shapely_finds(seed, corners, holes):
    """Of scribbles that cross themselves, with holes: places and rasters agree with the area made valid."""
    rng = np.random.default_rng(seed)
    rings = [scribble(rng, corners), *(scribble(rng, 3) for _ in range(holes))]
    outer, *inner = (shapely.make_valid(shapely.Polygon(ring)) for ring in rings)
    truth = outer.difference(shapely.union_all(inner))
    area = area_of([rings])
    places = rng.random((300, 2)) * SIDE * 1.2 - SIDE * 0.1
    assert np.array_equal(holds(area, places), shapely.contains_xy(truth, *places.T))
    xs, ys = np.arange(40) * 2.63 - 1.1, np.arange(50) * 2.21 - 1.7
    grid = np.zeros((50, 40), bool)
    ((mine),) = polygons_of(area)
    rows, cols, cells = fill_window(mine, xs, ys, Work())
    grid[rows, cols] = cells
    assert np.array_equal(grid, shapely.contains_xy(truth, *np.meshgrid(xs, ys)))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_any_order_and_repetition_of_places_gives_the_same(
    seed,
):
    """Places may lie anywhere and more than once, in parts of any size."""
    rng = np.random.default_rng(seed)
    area = area_of([[scribble(rng, 9)], [scribble(rng, 5) + 30]])
    places = rng.random((200, 2)) * SIDE
    order = rng.integers(0, len(places), 500)
    whole = holds(area, places)
    assert np.array_equal(holds(area, places[order]), whole[order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "_MOST_CELLS", 64)
        patch.setattr(filling, "_AT_ONCE", 3)
        assert np.array_equal(holds(area, places), whole)


def test_a_figure_of_eight_has_an_area_and_a_line_has_none():
    """Signed halves that cancel each other are an area; a ring that goes back on itself is none."""
    assert has_area(area_of([[np.array([[0.0, 0], [10, 10], [10, 0], [0, 10]])]]))
    assert not has_area(area_of([[np.array([[0.0, 0], [10, 10], [5, 5]])]]))
    assert not has_area(area_of([[np.array([[0.0, 0], [10, 0], [5, 0]])]]))


def test_the_share_of_one_area_in_another():
    """Wholly, half, not at all; a sliver that no sample meets is judged by its corners."""
    box = shapely.box(0, 0, 100, 100)
    assert share_within(shapely.box(10, 10, 20, 20), box) == 1
    assert share_within(shapely.box(90, 10, 110, 20), box) == pytest.approx(0.5, abs=0.01)
    assert share_within(shapely.box(190, 10, 210, 20), box) == 0
    diagonal = area_of([[np.array([[1.0, 1], [99, 99], [99, 99.0001]])]])
    assert share_within(diagonal, box) == 1


def spiral(points: int) -> np.ndarray:
    """A band that turns 200 times."""
    turn = np.linspace(0, 400 * np.pi, points // 2)
    radius = np.linspace(100, 25_000, len(turn))
    edge = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return 30_000 + np.concatenate([edge * radius[:, None], (edge * (radius - 60)[:, None])[::-1]])


def spikes(count: int) -> np.ndarray:
    """A star."""
    angle = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False)
    radius = np.where(np.arange(2 * count) % 2, 25_000, 1_000)
    return 30_000 + np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]


@pytest.mark.parametrize(
    ("ring", "share"),
    [pytest.param(spiral(200_000), 0.26, id="spiral"), pytest.param(spikes(40_000), 0.0218, id="spikes")],
)
def test_outlines_that_took_minutes_take_seconds(tmp_path, ring, share):
    """A spiral of 200,000 corners, a star of 40,000 spikes: as a mask, and as a region of labels."""
    path = tmp_path / "m.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring.tolist()]}))
    began = time.process_time()
    mask = mask_from_file(path, (60_000, 60_000), 0.5)
    corners = np.stack(np.meshgrid(np.arange(100) * 600 + 300.0, np.arange(100) * 600 + 300.0), -1).reshape(-1, 2)
    labels, lost = labels_at([Region("a", area_of([[ring]]))], corners)
    assert time.process_time() - began < 40, "a quarter of this where nothing else runs"
    assert mask.fraction == pytest.approx(share, rel=0.05)
    assert not lost
    assert labels.count("a") / len(labels) == pytest.approx(share, rel=0.2)


def test_outlines_beyond_the_budget_are_refused_at_once(tmp_path):
    """40,000 teeth as high as the slide cross its rows 150 million times: said, in a second, with the remedy."""
    x = np.repeat(np.linspace(1_000, 59_000, 40_000), 2)
    comb = np.stack([x, np.where(np.arange(len(x)) % 2, 1_000, 59_000)], axis=1)
    path = tmp_path / "m.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[*comb.tolist(), [59_000, 500], [1_000, 500]]]}))
    with pytest.raises(MaskError, match=r"m\.geojson: outlines cross rows .* more than 50,000,000 times.*simplify"):
        mask_from_file(path, (60_000, 60_000), 0.5)
    with pytest.raises(AnnotationError, match="simplify"):
        labels_at([Region("a", area_of([[comb]]))], np.random.default_rng(0).random((20_000, 2)) * 60_000)


@pytest.mark.parametrize("budget", ["MOST_ANNOTATIONS", "MOST_VERTICES"])
def test_files_of_too_many_outlines_are_refused(tmp_path, monkeypatch, budget):
    """By number or by corners, in both kinds of file."""
    from wsi_umedpt.annotations import geojson, xml_text
    from wsi_umedpt.annotations.reading import read_annotation_file

    ring = [[0, 0], [9, 0], [9, 9], [0, 9]]
    (tmp_path / "a.geojson").write_text(
        json.dumps([{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}] * 4)
    )
    corners = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in ring)
    region = f'<Region Type="Polygon"><Vertices>{corners}</Vertices></Region>'
    (tmp_path / "a.annotations").write_text(
        f"<Annotations><Annotation><Regions>{region * 4}</Regions></Annotation></Annotations>"
    )
    for module in (geojson, xml_text):
        monkeypatch.setattr(module, budget, 3)
    for name in ("a.geojson", "a.annotations"):
        with pytest.raises(AnnotationError, match="holds more than"):
            read_annotation_file(tmp_path / name)


def test_areas_that_lie_over_each_other_without_end_are_refused(tmp_path, monkeypatch):
    """A small file may ask for the whole slide to be filled ten thousand times."""
    from wsi_umedpt.slides import mask_file

    monkeypatch.setattr(mask_file, "MOST_FILLED", 100_000)
    box = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [8000, 0], [8000, 8000], [0, 8000]]]},
    }
    (tmp_path / "m.geojson").write_text(json.dumps([box] * 50))
    with pytest.raises(MaskError, match="lie over each other many times"):
        mask_from_file(tmp_path / "m.geojson", (8000, 8000), 0.5)
