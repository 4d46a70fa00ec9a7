"""How store_v1.zarr was made, once, by version 0.1.0. It is never made again: that is its point."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.slide_store import SlideStore


def main() -> None:
    target = Path(__file__).parent / "store_v1.zarr"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.png"
        Image.fromarray(np.full((200, 260, 3), 200, np.uint8)).save(path)
        with open_slide(path, mpp=0.5) as slide:
            thumbnail = np.full((7, 9, 3), 200, np.uint8)
            tissue = TissueMask(np.ones((7, 9), bool), 32, thumbnail, "by-hand", {"cell_um": 16.0})
            grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=64, stride_px=64), within=tissue)
            with SlideStore.create(target, slide, tissue, grid) as store:
                rows = np.arange(12, dtype=np.float32)[:, None] / 4 + np.arange(4, dtype=np.float32)
                ok = np.arange(12) != 5
                writer = store.writer("mean", grid.spec.grid_id, 4, {"card": {"dim": 4}, "engine": "by-hand"})
                writer.append(rows, ok)
                store.set_status(grid.spec.grid_id, (~ok).astype(np.uint8))
                writer.finish()
                store.commit()


if __name__ == "__main__":
    main()
