"""How store_v2.zarr was made, once, when stores came to list what they hold. It is never made again."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.label_info import LabelInfo
from wsi_umedpt.store.label_pyramid import LabelWriter
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import write_objects
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore

WIDTH, HEIGHT = 700, 1100
CLASSES = ("tumour", "stroma")


def write_features(store: SlideStore, grid_id: str, tiles: int) -> None:
    """Two encoders; one tile is unreadable."""
    ok = np.arange(tiles) != 5
    for name, dim in (("mean", 4), ("other", 3)):
        rows = np.arange(tiles, dtype=np.float32)[:, None] / 4 + np.arange(dim, dtype=np.float32)
        writer = store.writer(name, grid_id, dim, {"card": {"name": name, "dim": dim}, "engine": "by-hand"})
        writer.append(rows, ok)
        writer.finish()
    store.set_status(grid_id, (~ok).astype(np.uint8))


def write_nuclei(store: SlideStore) -> None:
    """Two squares, and a label image of three levels whose finest has two chunks."""
    corners = np.array([[(10, 10), (30, 10), (30, 30), (10, 30)], [(50, 1050), (70, 1050), (70, 1070), (50, 1070)]])
    outline = corners.reshape(-1, 2).astype(np.float32)
    centroid = corners.mean(axis=1).astype(np.float32)
    measures = np.ones((2, len(MEASURES)), np.float32)
    kinds, score = np.array([0, 1], np.uint8), np.array([0.9, 0.5], np.float32)
    objects = Objects(CLASSES, kinds, score, centroid, measures, np.array([0, 4, 8], np.int64), outline)
    write_objects(store.mirrored("detections") / "nuclei", objects, {"head": "nuclei", "model": "by-hand"})
    info = LabelInfo(
        name="nuclei", shape=(HEIGHT, WIDTH), mpp=0.5, scale=1.0, classes=CLASSES, colours=((9, 200, 9), (200, 9, 200))
    )
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:30, 10:30], labels[1050:1070, 50:70] = 1, 2
    writer = LabelWriter(store.mirrored("labels") / "nuclei", info)
    writer.append(labels)
    writer.finish()


def main() -> None:
    target = Path(__file__).parent / "store_v2.zarr"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.png"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 200, np.uint8)).save(path)
        with open_slide(path, mpp=0.5) as slide:
            thumbnail = np.full((35, 22, 3), 200, np.uint8)
            tissue = TissueMask(np.ones((35, 22), bool), 32, thumbnail, "by-hand", {"cell_um": 16.0})
            spec = TileSpec(size_px=128, stride_px=128)
            grid = lay_grid(slide.size, slide.mpp, spec, within=tissue)
            with SlideStore.create(target, slide, tissue, grid) as store:
                write_features(store, spec.grid_id, len(grid))
                write_nuclei(store)
                store.commit()
    scores = np.linspace(0, 1, 2 * len(grid), dtype=np.float32).reshape(-1, 2)
    scores[5] = np.nan
    write_scores(SlideStore.open(target), "probe", scores, {"columns": [*CLASSES], "model": {}}, spec.grid_id)


if __name__ == "__main__":
    main()
