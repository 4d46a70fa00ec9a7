"""A slide of painted nuclei, of which a store holds most, one that is none, and one whose outline is wrong."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import write_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks import make_task
from wsi_umedpt.testing import write_pyramid

STROMA, NUCLEUS = (235, 190, 215), (80, 50, 140)
SIZE = 300, 220
"""Of the slide, px at 0.5 um."""
MISSING, WRONG = 0, 1
"""Rows of the nucleus that the store lacks, and of the one that it has too small."""
NONE_THERE = 107.5, 107.5
"""Place of the object that is no nucleus."""


class Painted(NamedTuple):
    """A slide and its store."""

    slide: Path
    store: Path
    centres: np.ndarray
    radii: np.ndarray


def circle(centre: tuple[float, float], radius: float, count: int = 16) -> np.ndarray:
    """Corners of a circle."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.array(centre) + radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def paint(folder: Path) -> Painted:
    """Paint nuclei on a lattice, and write what was found of them."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(40, 261, 45.0), np.arange(40, 190, 45.0)), -1).reshape(-1, 2)
    radii = rng.uniform(9, 14, len(centres))
    image = np.full((SIZE[1], SIZE[0], 3), STROMA, np.uint8)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    for (cx, cy), radius in zip(centres, radii, strict=True):
        image[np.hypot(x - cx, y - cy) <= radius] = NUCLEUS
    slide = write_pyramid(folder / "painted.svs", image, mpp=0.5, quality=95, subsampling="444")
    found = [circle(tuple(c), r) for c, r in zip(centres[2:], radii[2:], strict=True)]
    rings = [circle(tuple(centres[WRONG]), radii[WRONG] / 2), circle(NONE_THERE, 8), *found]
    count, corners = len(rings), len(rings[0])
    objects = Objects(
        ("nucleus",), np.zeros(count, np.uint8), np.full(count, 0.9, np.float32),
        np.array([ring.mean(0) for ring in rings], np.float32), np.ones((count, len(MEASURES)), np.float32),
        np.arange(count + 1, dtype=np.int64) * corners, np.concatenate(rings).astype(np.float32),
    )  # fmt: skip
    (folder / "out").mkdir()
    with open_slide(slide) as opened:
        tissue = find_tissue(opened)
        grid = lay_grid(opened.size, opened.mpp, TileSpec(size_px=128, mpp=0.5), within=tissue)
        with SlideStore.create(folder / "out" / "painted.zarr", opened, tissue, grid) as store:
            write_objects(store.mirrored("detections") / "nuclei", objects, {"head": "nuclei", "model": "tiny"})
            store.commit()
    return Painted(slide, folder / "out" / "painted.zarr", centres, radii)


def own_head(folder: Path) -> Path:
    """Save a model that was not trained as one of the user's own, with a head for nuclei that finds nothing of use."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone="convnext_atto", norm="layernorm", dim=8)
    shared = UMedPT(spec).eval()
    head = HeadSpec(
        name="nuclei", kind="segmentation", classes=("background", "nucleus", "border"), modality="microscopy"
    )
    tensors = {f"shared.{key}": value.half() for key, value in shared.state_dict().items()}
    tensors |= {f"heads.nuclei.{key}": value.half() for key, value in make_task(head, 8).state_dict().items()}
    about = {
        "schema": 1, "kind": "umedpt", "name": "tiny.v1", "model": spec.to_dict(), "mpp": 0.5, "size_px": 32,
        "heads": [head.to_dict()], "licence": "none", "about": "a tiny model",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder / "nuclei.json", tensors, about)
    return folder / "nuclei.json"
