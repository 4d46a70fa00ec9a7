"""A slide whose every place is known, and a store of all that a store can hold."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.label_info import LabelInfo
from wsi_umedpt.store.label_pyramid import LabelWriter
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import write_objects
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore

SIZE = 2300, 1700
"""Of the slide, px; no power of two divides it."""
MPP = 0.5
TUMOUR = 1000, 400, 1400, 800
"""Left, top, right, bottom of a square that is drawn on the slide, level-0 px."""
TUMOUR_COLOUR = 90, 30, 150
NUCLEUS = 1600, 900, 1660, 960
"""A square nucleus of the second class."""
SPEC = TileSpec(size_px=128, mpp=MPP)
STEP = 32
UNREADABLE_TILE = 3


class Known(NamedTuple):
    """What the tests have planted."""

    slide: Path
    store: Path


def picture() -> np.ndarray:
    """White glass, a square of tumour."""
    image = np.full((SIZE[1], SIZE[0], 3), 240, np.uint8)
    left, top, right, bottom = TUMOUR
    image[top:bottom, left:right] = TUMOUR_COLOUR
    return image


def squares(boxes: list[tuple[int, int, int, int]], classes: list[int]) -> Objects:
    """Square nuclei."""
    corners = np.array([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes], np.float32)
    n = len(boxes)
    return Objects(
        ("tumour", "stroma"),
        np.array(classes, np.uint8),
        np.linspace(0.5, 0.9, n).astype(np.float32),
        corners.mean(axis=1),
        np.tile(np.arange(1, len(MEASURES) + 1, dtype=np.float32), (n, 1)),
        np.arange(n + 1, dtype=np.int64) * 4,
        corners.reshape(-1, 2),
    )


def make_store(path: Path, slide: Slide, objects: Objects) -> Path:
    """A store with all that a store can hold."""
    mask = np.zeros((-(-SIZE[1] // STEP), -(-SIZE[0] // STEP)), bool)
    mask[6:40, 20:60] = True
    thumbnail = np.full((*mask.shape, 3), 200, np.uint8)
    tissue = TissueMask(mask, STEP, thumbnail, "planted", {})
    grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
    readable = np.arange(len(grid)) != UNREADABLE_TILE
    with SlideStore.create(path, slide, tissue, grid) as store:
        writer = store.writer("enc", SPEC.grid_id, 4, {})
        writer.append(np.random.default_rng(0).random((len(grid), 4)).astype(np.float32), readable)
        writer.finish()
        store.set_status(SPEC.grid_id, (~readable).astype(np.uint8))
        info = LabelInfo(
            name="nuclei", shape=(SIZE[1], SIZE[0]), mpp=MPP, scale=1.0, classes=objects.classes,
            colours=((10, 200, 10), (200, 10, 200)),
        )  # fmt: skip
        labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        left, top, right, bottom = NUCLEUS
        labels[top:bottom, left:right] = 2
        writer = LabelWriter(store.mirrored("labels") / "nuclei", info)
        writer.append(labels)
        writer.finish()
        write_objects(store.mirrored("detections") / "nuclei", objects, {"head": "nuclei", "model": "planted"})
        store.commit()
    values = np.arange(len(grid), dtype=np.float32) / len(grid)
    values[UNREADABLE_TILE] = np.nan
    columns = {"columns": ["tumour", "other"], "model": {"name": "planted"}}
    write_scores(SlideStore.open(path), "probe", np.stack([values, 1 - values], axis=1), columns, SPEC.grid_id)
    return path
