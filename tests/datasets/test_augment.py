"""A random view moves image, mask and boxes together, and does nothing that its modality forbids."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wsi_umedpt.datasets.augment import (
    _as_jpeg,
    _fewer_pixels,
    _shift_stains,
    _without_edges,
    draw_view,
    recolour,
    still_view,
    take,
)
from wsi_umedpt.datasets.samples import Sample

MODALITIES = ("microscopy", "fluorescence", "xray", "tomography", "photograph")
FRAMINGS = ("crop", "whole")
SHAPE = (96, 128)
VIEWS = {
    "modality": st.sampled_from(MODALITIES),
    "framing": st.sampled_from(FRAMINGS),
    "seed": st.integers(0, 10_000),
    "zoom": st.sampled_from([(0.3, 0.5), (0.7, 1.4), (1.5, 3.0)]),
}


def rectangle(x0, y0, x1, y1, *, boxes, height=150, width=110):
    """A white rectangle on black, as image, as mask and, if asked for, as box."""
    image, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.int32)
    image[y0:y1, x0:x1], mask[y0:y1, x0:x1] = 255, 70_000
    box = {"xyxy": np.float32([[x0, y0, x1, y1]]), "box_classes": np.array([3])} if boxes else {}
    return Sample(image=image, mask=mask, **box)


def extent(lit):
    """x0, y0, x1, y1 of what is lit; None if nothing is."""
    if not lit.any():
        return None
    rows, cols = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    return np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1])


SIDES = {"x": st.integers(5, 60), "y": st.integers(5, 90), "w": st.integers(12, 45), "h": st.integers(12, 50)}


@settings(deadline=None, max_examples=150)
@given(**VIEWS, **SIDES, boxes=st.booleans())
def test_image_mask_and_boxes_move_together(modality, framing, seed, zoom, x, y, w, h, boxes):
    """The bright part of the image, the mask and the box have the same extent, to about a pixel."""
    sample = rectangle(x, y, x + w, y + h, boxes=boxes)
    view = draw_view(sample, SHAPE, zoom, framing, modality, np.random.default_rng(seed))
    seen = take(sample, view)
    assert (seen.image.shape, seen.image.dtype) == ((*SHAPE, 3), np.uint8)
    assert (seen.mask.shape, seen.mask.dtype) == (SHAPE, np.int32)
    bright, masked = extent(seen.image[:, :, 0] > 127), extent(seen.mask == 70_000)
    assume(bright is not None and masked is not None)
    assert np.abs(bright - masked).max() <= 1.5
    if boxes:
        [box] = seen.xyxy if len(seen.xyxy) else [None]
        if box is None:  # mostly out of view, or too small to be seen
            scale = np.sqrt(abs(np.linalg.det(view.matrix[:, :2])))
            side = (masked[2:] - masked[:2]).astype(float)
            assert side.min() <= 4.5 or side.prod() <= 0.5 * w * h * scale**2
            return
        assert np.abs(box - masked).max() <= 1.5
        assert seen.box_classes.tolist() == [3]
        assert box.min() >= 0
        assert (box <= [SHAPE[1], SHAPE[0]] * 2).all()


@settings(deadline=None, max_examples=60)
@given(**VIEWS)
def test_outside_the_image_is_not_labelled(modality, framing, seed, zoom):
    """A mask is -1 exactly where the view leaves the image, and the image has its border's mean colour there."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = (10, 20, 30)
    sample = Sample(image=image, mask=np.full((40, 60), 5, np.int32))
    view = draw_view(sample, SHAPE, zoom, framing, modality, rng)
    seen = take(sample, view)
    assert {*np.unique(seen.mask)} <= {-1, 5}
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    inverse = np.linalg.inv(np.vstack([view.matrix, [0, 0, 1]]))[:2]
    x, y = np.einsum("ij,jhw->ihw", inverse, np.stack([cols, rows, np.ones(SHAPE)]))
    scale = np.sqrt(abs(np.linalg.det(view.matrix[:, :2])))
    depth = np.minimum(np.minimum(x, 60 - x), np.minimum(y, 40 - y)) * scale  # output px inside the image
    assert (seen.mask[depth > 1] == 5).all()
    assert (seen.mask[depth < -1] == -1).all()
    outside = seen.image[depth < -2]
    assert np.abs(outside.astype(int) - (10, 20, 30)).max(initial=0) <= 1


def arrow():
    """Three bright spots whose order around their middle tells a mirror image from a turned one."""
    image = np.zeros((64, 64, 3), np.uint8)
    for k, (y, x) in enumerate([(20, 20), (20, 44), (44, 20)]):
        image[y - 4 : y + 4, x - 4 : x + 4, k] = 255
    return image


def mirrored(image):
    """Whether the spots of `arrow` are seen as in a mirror."""
    spots = [np.argwhere(image[:, :, k] > 127).mean(0) for k in range(3)]
    (ay, ax), (by, bx) = spots[1] - spots[0], spots[2] - spots[0]
    return ax * by - ay * bx < 0


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize(("modality", "expected"), [(m, {False} if m == "xray" else {False, True}) for m in MODALITIES])
def test_x_rays_are_never_mirrored(modality, expected, boxes):
    """A mirrored chest has its heart on the wrong side; all else is seen from both sides."""
    box = {"xyxy": np.float32([[16, 16, 48, 48]]), "box_classes": np.array([0])} if boxes else {}
    sample = Sample(image=arrow(), **box)
    found = set()
    for seed in range(40):
        view = draw_view(sample, (96, 96), (1, 1.2), "whole", modality, np.random.default_rng(seed))
        found.add(bool(mirrored(take(sample, view).image)))
    assert found == expected


@pytest.mark.parametrize(
    ("modality", "boxes", "most"),
    [
        pytest.param("xray", False, 10, id="x-ray-by-10-degrees"),
        pytest.param("xray", True, 0, id="x-ray-with-boxes-not-at-all"),
        pytest.param("tomography", False, 45, id="tomography-by-45"),
        pytest.param("microscopy", True, 0, id="boxes-by-quarters"),
    ],
)
def test_turns_are_what_labels_and_modality_allow(modality, boxes, most):
    """X-rays are tilted a little; with boxes only quarter turns are made, so that boxes stay boxes."""
    sample = rectangle(10, 10, 30, 30, boxes=boxes)
    tilts = []
    for seed in range(60):
        linear = draw_view(sample, SHAPE, (1, 1), "crop", modality, np.random.default_rng(seed)).matrix[:, :2]
        angle = np.rad2deg(np.arctan2(linear[0, 1], linear[1, 1]))
        tilts.append(abs(angle - 90 * np.round(angle / 90)) if modality == "microscopy" else abs(angle))
    assert max(tilts) <= most + 1e-6
    assert max(tilts) >= 0.8 * most


@settings(deadline=None, max_examples=80)
@given(
    modality=st.sampled_from(MODALITIES),
    seed=st.integers(0, 10_000),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_recolouring_keeps_shape_and_dtype(modality, seed, height, width):
    """uint8 (h, w, 3) in, the same out; what came in is not written to; grey stays grey but for noise."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    out = recolour(image, modality, np.random.default_rng(seed))
    assert (out.shape, out.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)


def test_only_x_rays_are_inverted_and_only_microscopy_changes_hue():
    """What is brighter stays brighter but in X-rays; a red spot stays red but in stained tissue."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2).repeat(8, 0)
    red = np.zeros((8, 8, 3), np.uint8) + np.uint8([200, 60, 60])
    inverted, hues = {}, {}
    for modality in MODALITIES:
        outs = [recolour(ramp, modality, np.random.default_rng(s)).astype(int) for s in range(80)]
        inverted[modality] = any(o[:, :64].mean() > o[:, -64:].mean() for o in outs)
        outs = [recolour(red, modality, np.random.default_rng(s)).astype(int) for s in range(80)]
        hues[modality] = any(o[..., 0].mean() <= o[..., 1].mean() for o in outs)
    assert inverted == {m: m == "xray" for m in MODALITIES}
    assert hues["microscopy"]
    assert not hues["fluorescence"]
    assert not hues["tomography"]


@pytest.mark.parametrize("change", [_fewer_pixels, _as_jpeg, _shift_stains, _without_edges])
def test_changes_of_files_and_stains_keep_what_is_shown(change):
    """Each leaves an H&E-like picture of blobs recognisable: it correlates with what it was made of."""
    rng = np.random.default_rng(3)
    image = np.full((64, 64, 3), (230, 170, 200), np.uint8)
    for y, x in rng.integers(8, 56, (12, 2)):
        cv2.circle(image, (int(x), int(y)), 5, (90, 50, 130), -1)
    for seed in range(20):
        given = {_fewer_pixels: 0.6, _as_jpeg: 40}.get(change, np.random.default_rng(seed))
        out = change(image, given)
        assert (out.shape, out.dtype) == (image.shape, np.uint8)
        assert np.corrcoef(out[8:-8, 8:-8].ravel(), image[8:-8, 8:-8].ravel())[0, 1] > 0.8


def test_stains_shift_by_their_densities():
    """Where nothing is changed, densities of stains and back are the picture again, to a grey value."""

    class Still:
        @staticmethod
        def uniform(low, high, size):
            return np.full(size, (low + high) / 2)

    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.abs(_shift_stains(image, Still()).astype(int) - image).max() <= 1


@pytest.mark.parametrize(
    ("framing", "expected"),
    [pytest.param("crop", (75, 55), id="crop-at-its-zoom"), pytest.param("whole", (96, 70), id="whole-fits-the-edge")],
)
def test_the_still_view_is_all_of_the_image(framing, expected):
    """What is evaluated is the whole image, unturned, and its box goes with it."""
    sample = rectangle(20, 30, 70, 130, boxes=True)
    seen = take(sample, still_view(sample, 0.5, framing, 96))
    assert seen.image.shape == (*expected, 3)
    assert (seen.mask >= 0).all()
    scale = expected[0] / 150
    assert np.abs(seen.xyxy[0] - np.array([20, 30, 70, 130]) * scale).max() < 1
    assert np.abs(extent(seen.image[:, :, 0] > 127) - seen.xyxy[0]).max() <= 1


def test_a_still_view_at_zoom_1_changes_nothing():
    """Every pixel stays what it is."""
    rng = np.random.default_rng(0)
    sample = Sample(
        image=rng.integers(0, 256, (30, 50, 3), np.uint8), mask=rng.integers(0, 9, (30, 50)).astype(np.int32)
    )
    seen = take(sample, still_view(sample, 1.0, "crop", 96))
    assert np.array_equal(seen.image, sample.image)
    assert np.array_equal(seen.mask, sample.mask)


def test_views_are_a_function_of_the_generator():
    """The same seed gives the same view and colours, another seed another."""
    sample = rectangle(20, 30, 70, 130, boxes=False)

    def shown(seed):
        rng = np.random.default_rng(seed)
        seen = take(sample, draw_view(sample, SHAPE, (0.7, 1.4), "crop", "microscopy", rng))
        return recolour(seen.image, "microscopy", rng)

    assert np.array_equal(shown(1), shown(1))
    assert not np.array_equal(shown(1), shown(2))
