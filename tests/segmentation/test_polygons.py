"""Outlines are valid, near their pixels and hold their area; measures are those of known shapes."""

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsi_umedpt.segmentation.polygons import Placement, outlined
from wsi_umedpt.store.objects import Objects


def outline(labels: np.ndarray, image: np.ndarray | None = None, mpp: float = 0.5, **options) -> Objects:
    image = np.zeros((*labels.shape, 3), np.uint8) if image is None else image
    chances = options.pop("chances", np.full((1, *labels.shape), 200, np.uint8))
    classes = tuple("abc"[: len(chances)])
    place = Placement(options.pop("origin", (0, 0)), options.pop("scale", 1.0), mpp)
    return outlined(labels.astype(np.int32), image, chances, classes, place, **options)


def disk(radius: float, at: np.ndarray) -> np.ndarray:
    """Pixels whose middle lies in the disk."""
    side = int(2 * radius + 8)
    y, x = np.mgrid[:side, :side] + 0.5
    return np.hypot(x - side / 2 - at[0], y - side / 2 - at[1]) <= radius


@st.composite
def blobs(draw) -> np.ndarray:
    """Labels of connected shapes as nuclei have them, some with holes."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    smooth = draw(st.sampled_from([1.5, 2.0, 3.0]))
    picture = cv2.GaussianBlur(rng.normal(0, 1, (40, 50)), (0, 0), smooth)
    front = picture > np.quantile(picture, draw(st.sampled_from([0.5, 0.7, 0.9])))
    return cv2.connectedComponents(np.pad(front, 2).astype(np.uint8), connectivity=8)[1]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("radius", [4.0, 6.3, 12.0])
def test_the_area_of_a_disk(rng, mpp, radius):
    """Over positions within a pixel, mean area and the outline's are right to 2 %, and it is nearly round."""
    found = [outline(disk(radius, rng.uniform(-0.5, 0.5, 2)), mpp=mpp) for _ in range(60)]
    true = np.pi * (radius * mpp) ** 2
    assert np.mean([o.measure("area_um2")[0] for o in found]) == pytest.approx(true, rel=0.02)
    assert np.mean([o.polygons()[0].area * mpp**2 for o in found]) == pytest.approx(true, rel=0.02)
    assert np.mean([o.measure("perimeter_um")[0] for o in found]) == pytest.approx(2 * np.pi * radius * mpp, rel=0.08)
    assert min(o.measure("circularity")[0] for o in found) > 0.75
    assert max(o.measure("circularity")[0] for o in found) <= 1


@given(labels=blobs(), mpp=st.sampled_from([0.25, 0.5, 1.0]))
@settings(max_examples=50)
def test_outlines_hold_the_area_of_their_pixels(labels, mpp):
    """Polygons are valid, of the area that is stated to 1 %, and that is the pixels' with their holes."""
    objects = outline(labels, mpp=mpp)
    polygons = objects.polygons()
    assert shapely.is_valid(polygons).all()
    filled = [ndimage.binary_fill_holes(labels == n).sum() for n in range(1, labels.max() + 1)]
    assert objects.measure("area_um2").tolist() == pytest.approx((np.array(filled) * mpp**2).tolist())
    if len(objects):
        assert np.abs(shapely.area(polygons) * mpp**2 / objects.measure("area_um2") - 1).max() < 0.01


def pixels_of(mask):
    """The squares of a mask's pixels, as one shape."""
    rows, columns = np.nonzero(mask)
    return shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))


def furthest_um(line, shape, mpp):
    """How far a point of a line is from a shape at most."""
    return shapely.distance(shapely.points(shapely.get_coordinates(shapely.segmentize(line, 0.5))), shape).max() * mpp


@given(labels=blobs(), tolerance_um=st.sampled_from([0.25, 0.5]))
@settings(max_examples=30)
def test_outlines_keep_to_their_tolerance(labels, tolerance_um):
    """Within the tolerance, and half the diagonal of a pixel, an outline is the pixels' own border.

    No point of it is further from that, and no pixel is further from it but those of spurs one pixel wide, which may
    be left out.
    """
    mpp = 0.5
    most = tolerance_um + (np.sqrt(2) / 2 + 0.6) * mpp
    objects = outline(labels, mpp=mpp, tolerance_um=tolerance_um)
    for number, polygon in enumerate(objects.polygons(), start=1):
        mask = ndimage.binary_fill_holes(labels == number)
        assert furthest_um(polygon.exterior, pixels_of(mask).boundary, mpp) <= most
        wide = ndimage.binary_opening(mask, np.ones((2, 2)))
        if wide.any():
            assert furthest_um(pixels_of(wide).boundary, polygon, mpp) <= most


ODD = {
    "one-pixel": ["#"],
    "two-pixels": ["##"],
    "a-line": ["#######"],
    "a-diagonal": ["#...", ".#..", "..#.", "...#"],
    "touching-by-a-corner": ["##..", "##..", "..##", "..##"],
    "a-cross": [".#.", "###", ".#."],
    "a-hole": ["####", "#..#", "####"],
    "a-ring-of-corners": [".#.", "#.#", ".#."],
    "a-tail": ["###....", "#######", "###...."],
    "two-by-two": ["##", "##"],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_shapes_have_valid_outlines_too(name):
    """Pixels, lines and shapes that hang together by corners: valid, at least three corners, of the right area."""
    mask = np.pad(np.array([[c == "#" for c in line] for line in ODD[name]]), 1)
    objects = outline(mask)
    [polygon] = objects.polygons()
    assert polygon.is_valid
    assert len(objects.outline) >= 3
    assert objects.measure("area_um2")[0] == pytest.approx(ndimage.binary_fill_holes(mask).sum() * 0.25)
    assert polygon.area * 0.25 == pytest.approx(objects.measure("area_um2")[0], rel=0.01)
    rows, columns = np.nonzero(mask)
    assert objects.centroid[0].tolist() == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5])


@given(seed=st.integers(0, 9999), width=st.integers(1, 30), height=st.integers(1, 30))
@settings(max_examples=40)
def test_noise_has_valid_outlines(seed, width, height):
    """Whatever hangs together, an outline of it is a polygon without crossings or holes."""
    front = np.random.default_rng(seed).random((height, width)) > 0.55
    labels = cv2.connectedComponents(front.astype(np.uint8), connectivity=8)[1]
    objects = outline(labels)
    assert len(objects) == labels.max()
    assert shapely.is_valid(objects.polygons()).all()
    assert (np.diff(objects.starts) >= 3).all()


def test_places_are_level_0_px_from_the_slides_corner():
    """Origin and scale move a centroid and an outline alike."""
    labels = np.zeros((12, 12), int)
    labels[4:8, 2:6] = 7
    objects = outline(labels, origin=(100, 40), scale=2.0)
    assert objects.centroid.tolist() == [[(100 + 4) * 2, (40 + 6) * 2]]
    assert objects.boxes()[0].tolist() == pytest.approx([204, 88, 212, 96], abs=0.6)
    assert objects.measure("area_um2").tolist() == [4.0]


# Absorbances of the two dyes, as Ruifrok and Johnston (2001, table 1) measured them.
HEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


@pytest.mark.parametrize("amounts", [(1.0, 0.0), (0.0, 1.0), (0.6, 0.3)], ids=["hematoxylin", "eosin", "both"])
def test_stains_are_told_apart(amounts):
    """A patch of known amounts of dye measures them, to what 8 bits leave."""
    colours = [c / np.linalg.norm(c) for c in (HEMATOXYLIN, EOSIN)]
    density = sum(a * c for a, c in zip(amounts, colours, strict=True))
    image = np.tile(np.round(255 * 10.0**-density).astype(np.uint8), (10, 10, 1))
    objects = outline(np.ones((10, 10)), image)
    found = [objects.measure(name)[0] for name in ("hematoxylin", "eosin")]
    assert found == pytest.approx(amounts, abs=0.03)


def test_the_class_is_that_of_the_largest_chance_over_all_pixels():
    """Not that of most pixels; the score is the mean chance of all classes."""
    labels = np.ones((4, 4), int)
    chances = np.zeros((2, 4, 4), np.uint8)
    chances[0], chances[1, 0] = 40, 250
    chances[0, 0] = 0
    objects = outline(labels, chances=chances)
    assert objects.class_index.tolist() == [1]
    assert objects.score[0] == pytest.approx((0.75 * 40 + 0.25 * 250) / 255)


def test_no_labels_are_no_objects():
    """An empty picture gives empty arrays of the right shapes."""
    objects = outline(np.zeros((5, 5)))
    assert (len(objects), objects.outline.shape, objects.starts.tolist()) == (0, (0, 2), [0])
    assert objects.boxes().shape == (0, 4)
