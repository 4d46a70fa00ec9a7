"""Stitching adds nothing and loses nothing: a mosaic of pictures gives what the pictures give."""

import cv2
import numpy as np
import pytest

from wsi_umedpt.geometry import Box
from wsi_umedpt.models.bundle import load_release, shipped
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.pipeline.segment import SegmentTask, calibration_tiles, segment_slide
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks.instances import aggregated_jaccard
from wsi_umedpt.tasks.multihead import OnePass, find_heads
from wsi_umedpt.testing import write_pyramid

SPEC = TileSpec(size_px=320, stride_px=256, mpp=0.5)
SIDE = 768
"""Of a picture: three strides, so that windows lie alike in the mosaic and in each picture."""
INSIDE = slice(96, 480)
"""Rows and columns of a picture that only windows see which lie wholly in it, and some px less for objects' reach."""
CORNERS = ((600, 500), (700, 1400), (300, 2100), (1100, 1500))


@pytest.fixture(scope="module")
def pictures(real_slide):
    """Four pieces of real H&E."""
    with open_slide(real_slide) as slide:
        return [slide.read(Box(x, y, SIDE, SIDE)).copy() for x, y in CORNERS]


@pytest.fixture(scope="module")
def model(real_slide):
    """The shipped heads of nuclei, norms fixed once for all slides of this file."""
    release = load_release(shipped()[DEFAULT_ENCODER])
    made = OnePass(release, find_heads(release, ["nuclei"]), size_px=SPEC.size_px)
    with open_slide(real_slide) as slide:
        everywhere = TissueMask(np.ones((186, 139), bool), 16, None, "drawn", {})
        made.calibrate(calibration_tiles(slide, everywhere, SPEC))
    made.calibrate = lambda _: None
    return made


def objects_of(picture, model, folder):
    """Objects of a picture as a slide at 0.5 um/px."""
    path = write_pyramid(folder / "a.svs", picture, mpp=0.5, quality=95)
    with open_slide(path) as slide:
        tissue = TissueMask(np.ones(tuple(-(-n // 16) for n in picture.shape[:2]), bool), 16, None, "drawn", {})
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
        with SlideStore.create(folder / "a.zarr", slide, tissue, grid) as store:
            segment_slide(slide, store, SegmentTask(model=model, spec=SPEC, made_by={}))
    return read_objects(SlideStore.open(folder / "a.zarr"))[0]


def inside(objects, left, top):
    """Objects whose centroid lies inside a picture, drawn at four times the size, and their number."""
    at = objects.centroid - (left, top)
    chosen = objects.taken(((at >= INSIDE.start) & (at < INSIDE.stop)).all(axis=1))
    drawn = np.zeros((4 * SIDE, 4 * SIDE), np.int32)
    for i, ring in enumerate(np.split(chosen.outline, chosen.starts[1:-1]), start=1):
        cv2.fillPoly(drawn, [np.round((ring - (left, top)) * 4).astype(np.int32)], i)
    seen = np.bincount(drawn.ravel(), minlength=1) > 0
    return (np.cumsum(seen) - seen[0]).astype(np.int32)[drawn], len(chosen)


def test_a_mosaic_gives_what_its_pictures_give(pictures, model, tmp_path):
    """Inside the pictures: the same number of nuclei to 0.5 %, and outlines that agree to an AJI of 0.99."""
    rows = [np.concatenate(pictures[i : i + 2], axis=1) for i in (0, 2)]
    (tmp_path / "mosaic").mkdir()
    mosaic = objects_of(np.concatenate(rows), model, tmp_path / "mosaic")
    counts = np.zeros(2, int)
    for i, picture in enumerate(pictures):
        folder = tmp_path / str(i)
        folder.mkdir()
        alone, n = inside(objects_of(picture, model, folder), 0, 0)
        together, m = inside(mosaic, SIDE * (i % 2), SIDE * (i // 2))
        assert aggregated_jaccard(alone, together) >= 0.99
        counts += n, m
    assert counts[0] > 250
    assert abs(counts[1] - counts[0]) <= 0.005 * counts[0]
