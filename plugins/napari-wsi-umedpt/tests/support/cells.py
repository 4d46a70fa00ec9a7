"""Nuclei of two types, told apart by their vectors, or by their size alone."""

from pathlib import Path

import numpy as np
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tiling import lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.objects import MEASURES
from wsi_umedpt.store.objects_io import NewVectors, write_objects
from wsi_umedpt.store.slide_store import SlideStore

from tests.support.planted import SPEC, squares

ACROSS, APART = 10, 100
"""Nuclei in a row, and px between them."""
LARGE, SMALL = 60, 40
DIM = 6
MADE_BY = {"model": "planted", "weights_sha256": "1" * 64, "precision": "fp32", "maps": [8], "mpp": 0.5}


def types(seed: int = 0) -> np.ndarray:
    """Which of two types each nucleus is of."""
    return np.random.default_rng(seed).permutation(np.arange(ACROSS**2) % 2)


def cell_store(path: Path, slide: Slide, *, vectors: bool = True, seed: int = 0) -> Path:
    """A store of a hundred square nuclei; those of type 1 are larger, and have other vectors."""
    kinds, rng = types(seed), np.random.default_rng(seed)
    corners = np.stack(np.meshgrid(np.arange(ACROSS), np.arange(ACROSS)), -1).reshape(-1, 2) * APART + 300
    sides = np.where(kinds == 1, LARGE, SMALL)
    boxes = [(x, y, x + side, y + side) for (x, y), side in zip(corners.tolist(), sides.tolist(), strict=True)]
    objects = squares(boxes, [0] * len(boxes))
    objects.measures[:, 0] = (sides * 0.5) ** 2
    objects.measures[:, 1:] += rng.normal(size=(len(boxes), len(MEASURES) - 1)).astype(np.float32) / 9
    numbers = (rng.normal(size=(len(boxes), DIM)) + 4 * kinds[:, None]).astype(np.float16)
    made_by = {"head": "nuclei", **MADE_BY}
    with _begun(path, slide) as store:
        new = NewVectors(DIM, [numbers], MADE_BY) if vectors else None
        write_objects(store.mirrored("detections") / "nuclei", objects, made_by, new)
        store.commit()
    return path


def bare_store(path: Path, slide: Slide) -> Path:
    """A store in which nothing was looked for; `cell_store` adds the nuclei."""
    with _begun(path, slide) as store:
        store.commit()
    return path


def _begun(path: Path, slide: Slide) -> SlideStore:
    mask = TissueMask(np.ones((54, 72), bool), 32, None, "all", {})
    return SlideStore.create(path, slide, mask, lay_grid(slide.size, slide.mpp, SPEC, within=mask))
