"""Embedding on a GPU: how near to what the network alone, or reading alone, allows; and beside a DataLoader loop.

    python benchmarks/gpu.py [--encoder NAME ...] [--precision NAME ...] [--rounds 2]

Sides take turns in this process; the best round of each counts, in tiles per second of wall
time. The slide is the large one of speed.py (61,440 px square, 0.25 um/px, about 8,500 tiles of
448 px shrunk to 224). The peer reads with OpenSlide in as many worker processes as there are cores, and runs the
same network, batch size and precision from pinned memory. The last line is JSON.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import slides
import torch
from encoders import lowest_cosine
from peers import openslide_tile
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as F

from wsi_umedpt.encode import encode_slide
from wsi_umedpt.loading import read_tiles
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.models.engines import DTYPES, Network
from wsi_umedpt.models.weights import load_network
from wsi_umedpt.slide import open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.tissue import find_tissue

BATCH = 256
CORES = os.cpu_count() or 1
ENCODERS = (DEFAULT_ENCODER, "timm:swin_tiny_patch4_window7_224@random", "timm:vit_large_patch16_224@random")
"""The default, a middling one, and one of the size of today's pathology foundation models."""


def rates(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Tiles per second of wall time of each side, best of the rounds."""
    best = dict.fromkeys(sides, 0.0)
    for name, side in sides.items():
        if "loop" not in name:
            side()  # kernels are chosen, files cached
    for _ in range(rounds):
        for name, side in sides.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            count = side()
            torch.cuda.synchronize()
            best[name] = max(best[name], count / (time.perf_counter() - start))
    return best


class Tiles(Dataset):
    """What most loops do: one `read_region` a tile, PIL, a normalised float tensor."""

    def __init__(self, path: Path, grid: TileGrid, card: Any) -> None:
        self._path, self._grid, self._card = path, grid, card
        self._slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self._grid)

    def __getitem__(self, row: int) -> torch.Tensor:
        if self._slide is None:  # one in each worker
            self._slide = openslide.OpenSlide(self._path)
        size = self._grid.spec.size_px
        image = openslide_tile(self._slide, *self._grid.xy[row].tolist(), round(self._grid.side))
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        return F.normalize(F.to_tensor(image), self._card.mean, self._card.std)


def measure(name: str, precision: str, rounds: int, path: Path) -> dict[str, float]:
    """Rates of one encoder at one precision."""
    backbone, card = load_network(name)
    encoder = load_encoder(name, device="cuda", precision=precision)
    compiled = load_encoder(name, device="cuda", precision=precision, compiled=True, batch_size=BATCH)
    alone = Network(backbone, card).to("cuda").eval().at(torch.float32)
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=card.size_px), within=tissue)
        pixels = np.concatenate([b.pixels.copy() for b in read_tiles(slide, grid, batch_size=BATCH)])
        full = len(pixels) // BATCH * BATCH
        resident = torch.from_numpy(pixels[:full]).to("cuda")
        numbers = iter(range(1000))

        def network() -> int:
            with torch.inference_mode(), torch.autocast("cuda", DTYPES[precision], enabled=precision != "fp32"):
                for part in torch.split(resident, BATCH):
                    alone(part)
            return full

        def engine(which: Any = encoder) -> int:
            waits: list[Any] = []
            for i in range(0, full, BATCH):
                waits.append(which.submit(pixels[i : i + BATCH]))
                if len(waits) > 2:
                    waits.pop(0)()
            for wait in waits:
                wait()
            return full

        def reading(threads: int) -> int:
            return sum(len(batch.index) for batch in read_tiles(slide, grid, batch_size=BATCH, threads=threads))

        def embed(threads: int) -> int:
            with SlideStore.create(Path(folder) / f"{next(numbers)}.zarr", slide, tissue, grid) as store:
                encode_slide(slide, store, encoder, batch_size=BATCH, threads=threads)
            return len(grid)

        def loop() -> int:
            loader = DataLoader(Tiles(path, grid, card), batch_size=BATCH, num_workers=CORES, pin_memory=True)
            found = []
            with torch.inference_mode(), torch.autocast("cuda", DTYPES[precision], enabled=precision != "fp32"):
                for batch in loader:
                    found.append(alone.backbone(batch.to("cuda", non_blocking=True)).float().cpu())
            np.save(Path(folder) / "loop.npy", torch.cat(found).numpy())
            return len(grid)

        sides = {"network": network, "engine": engine, "engine compiled": lambda: engine(compiled), "loop": loop}
        for threads in sorted({min(8, CORES), CORES}):
            sides |= {
                f"reading {threads}": lambda n=threads: reading(n),
                f"embed {threads}": lambda n=threads: embed(n),
            }
        found = rates(sides, rounds)
        reference = load_encoder(name, device="cpu").encode(pixels[:: max(1, full // 64)][:64])
        found["cosine"] = lowest_cosine(reference, encoder.encode(pixels[:: max(1, full // 64)][:64]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=list(ENCODERS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "fp16"], choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    path = slides.large_slide()
    print(f"{torch.cuda.get_device_name()}, {CORES} cores, torch {torch.__version__}")
    figures: dict[str, float] = {}
    for name in asked.encoder:
        for precision in asked.precision:
            found = measure(name, precision, asked.rounds, path)
            print(f"{name} {precision}: " + ", ".join(f"{k} {v:.5g}" for k, v in found.items()), flush=True)
            key, reading, embed = f"{name} {precision}", found[f"reading {CORES}"], found[f"embed {CORES}"]
            figures[f"{key} engine_of_network"] = round(found["engine"] / found["network"], 3)
            figures[f"{key} embed_of_bound"] = round(embed / min(found["network"], reading), 3)
            figures[f"{key} embed_vs_loop"] = round(embed / found["loop"], 3)
            figures[f"{key} compiled_vs_eager"] = round(found["engine compiled"] / found["engine"], 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
