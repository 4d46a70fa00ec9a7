"""Embedding on a GPU, in at most eight minutes: tests first, then reading, networks, both together, and heads.

    python -m benchmarks.speed.gpu [--minutes 7] [--encoder NAME ...] [--precision fp16] [--out FOLDER]
    python -m benchmarks.speed.gpu --quick

Tiles per second of wall time, best of two rounds. The slide is the large one of slides.py (61,440 px square, 0.25
um/px, about 8,500 tiles of 448 px shrunk to 224). In order: the tests of CUDA; reading alone, and slide to store with
the shipped encoder, by 1 to 16 readers; of each encoder (random weights but for the first) the network alone, the
engine, and slide to store by all readers, with the memory at its peak and the batch that `embed` would find; a
DataLoader loop with a process for each core; heads. A step that would begin after its time is left out, and named.
`--quick` runs every step on the CPU, on few tiles, to see that it works: its figures mean nothing. The last line is
JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as F

from benchmarks import DATA, ROOT
from benchmarks.speed import slides
from benchmarks.speed.peers import openslide_tile
from wsi_umedpt.models.bundle import load_release, shipped
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import Encoder, load_encoder
from wsi_umedpt.models.engines import DTYPES, Network
from wsi_umedpt.models.head_spec import object_heads
from wsi_umedpt.models.weights import load_network
from wsi_umedpt.pipeline.batch_size import fastest_batch
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.readers.base import usable_cores
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tile_loader import close_readers, read_tiles
from wsi_umedpt.slides.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks.multihead import OnePass, find_heads

BATCH = 256
CORES = usable_cores()
READERS = (1, 2, 4, 8, 12, 16)
ENCODERS = (
    DEFAULT_ENCODER,
    "timm:vit_small_patch16_224@random",
    "timm:vit_large_patch16_224@random",
    "timm:vit_huge_patch14_224@random",
)
TESTS = ("tests/models/test_cuda.py", "tests/training/test_cuda_training.py")
Pixels = np.ndarray


@dataclass
class Clock:
    """Time that is left, and the steps that it did not reach."""

    ends: float
    left_out: list[str] = field(default_factory=list)

    def allows(self, step: str) -> bool:
        """Whether a step may begin."""
        if time.monotonic() < self.ends:
            print(f"{step} ...", file=sys.stderr, flush=True)
            return True
        self.left_out.append(step)
        return False


@dataclass(frozen=True)
class Bench:
    """What is measured on."""

    device: str
    precision: str
    slide: Slide
    grid: TileGrid
    pixels: Pixels
    """Some of the grid's tiles, whole batches."""
    rounds: int
    batch: int
    folder: Path
    path: Path

    def rate(self, side: Callable[[], int]) -> float:
        """Tiles a second, best of the rounds after one that chooses kernels and fills caches."""
        side()
        return max(self.once(side) for _ in range(self.rounds))

    def once(self, side: Callable[[], int]) -> float:
        """Tiles a second."""
        self.finish()
        began = time.perf_counter()
        count = side()
        self.finish()
        return count / (time.perf_counter() - began)

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def peak_gb(self, figures: dict[str, float], name: str) -> Iterator[None]:
        """Record the device's memory at its peak."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device == "cuda":
            figures[name] = torch.cuda.max_memory_allocated() / 1e9

    def autocast(self) -> Any:
        """As the engine computes."""
        return torch.autocast(self.device, DTYPES[self.precision], enabled=self.precision != "fp32")


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


def reading(bench: Bench, readers: int) -> int:
    """Read all tiles."""
    batches = read_tiles(bench.slide, bench.grid, batch_size=bench.batch, readers=readers)
    return sum(len(batch.index) for batch in batches)


def slide_to_store(bench: Bench, encoder: Encoder, readers: int) -> int:
    """Read, embed and write all tiles."""
    path = Path(tempfile.mkdtemp(dir=bench.folder)) / "a.zarr"
    with SlideStore.create(path, bench.slide, find_tissue(bench.slide), bench.grid) as store:
        encode_slide(bench.slide, store, encoder, settings=RunSettings(batch_size=bench.batch, readers=readers))
    return len(bench.grid)


def engine(bench: Bench, encoder: Encoder) -> int:
    """Embed tiles that are in memory, three batches under way."""
    waits: list[Any] = []
    for at in range(0, len(bench.pixels), bench.batch):
        waits.append(encoder.submit(bench.pixels[at : at + bench.batch]))
        if len(waits) > 2:
            waits.pop(0)()
    for wait in waits:
        wait()
    return len(bench.pixels)


def network_alone(bench: Bench, name: str) -> float:
    """Tiles a second of the network, of tiles that are on the device."""
    backbone, card = load_network(name)
    alone = Network(backbone, card).to(bench.device).eval().at(torch.float32)
    resident = torch.from_numpy(bench.pixels).to(bench.device)

    def side() -> int:
        with torch.inference_mode(), bench.autocast():
            for part in torch.split(resident, bench.batch):
                alone(part)
        return len(resident)

    return bench.rate(side)


def data_loader(bench: Bench, name: str) -> float:
    """Tiles a second of a loop with the same network and precision, pinned memory, and a process for each core."""
    backbone, card = load_network(name)
    backbone = backbone.to(bench.device).eval()

    def side() -> int:
        loader = DataLoader(Tiles(bench.path, bench.grid, card), bench.batch, num_workers=CORES, pin_memory=True)
        with torch.inference_mode(), bench.autocast():
            found = [backbone(batch.to(bench.device, non_blocking=True)).float().cpu() for batch in loader]
        return sum(map(len, found))

    return bench.once(side)


def heads(bench: Bench) -> float:
    """Tiles a second of the shipped model with its first head of objects, outputs fetched."""
    release = load_release(shipped()[DEFAULT_ENCODER])
    model = OnePass(
        release, find_heads(release, [*object_heads(release.heads)][:1]), size_px=224, device=bench.device,
        precision=bench.precision,
    )  # fmt: skip
    model.calibrate(bench.pixels[:8])
    some = bench.pixels[: 16 * bench.batch]

    def side() -> int:
        for at in range(0, len(some), bench.batch):
            model.submit(some[at : at + bench.batch])()
        return len(some)

    return bench.rate(side)


def tests() -> float:
    """Run the tests of CUDA; 1 if they pass."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", *TESTS], cwd=ROOT, check=False)
    return float(done.returncode == 0)


def over_readers(bench: Bench, encoder: Encoder, counts: list[int], clock: Clock) -> dict[str, float]:
    """Reading, and slide to store, by more and more readers."""
    figures: dict[str, float] = {}
    for count in counts:
        if clock.allows(f"{count} readers"):
            figures[f"reading, {count} readers"] = bench.rate(lambda count=count: reading(bench, count))
            figures[f"slide to store, {count} readers"] = bench.rate(
                lambda count=count: slide_to_store(bench, encoder, count)
            )
            close_readers()
    return figures


def of_encoder(bench: Bench, name: str, readers: int, clock: Clock) -> dict[str, float]:
    """Network, engine, and slide to store; the batch that is found, and the memory that it took."""
    figures: dict[str, float] = {}
    if clock.allows(f"{name}, network"):
        figures[f"{name}, network"] = network_alone(bench, name)
    if clock.allows(f"{name}, engine"):
        encoder = load(bench, name)
        figures[f"{name}, batch found"] = fastest_batch([(encoder, bench.grid.spec.size_px)])
        with bench.peak_gb(figures, f"{name}, peak GB"):
            figures[f"{name}, engine"] = bench.rate(lambda: engine(bench, encoder))
        if clock.allows(f"{name}, slide to store"):
            figures[f"{name}, slide to store"] = bench.rate(lambda: slide_to_store(bench, encoder, readers))
    return figures


def load(bench: Bench, name: str) -> Encoder:
    """The encoder as it is measured."""
    return load_encoder(name, device=bench.device, precision=bench.precision, engine="torch")


def measure(bench: Bench, names: list[str], counts: list[int], clock: Clock) -> dict[str, float]:
    """All figures, by name."""
    figures = over_readers(bench, load(bench, names[0]), counts, clock)
    for name in names:
        figures |= of_encoder(bench, name, counts[-1], clock)
    if clock.allows("DataLoader"):
        figures["DataLoader"] = data_loader(bench, names[0])
    if clock.allows("heads"):
        with bench.peak_gb(figures, "heads, peak GB"):
            figures["heads"] = heads(bench)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=list(ENCODERS))
    parser.add_argument("--precision", default="fp16", choices=list(DTYPES))
    parser.add_argument("--minutes", type=float, default=7, help="after which no step begins")
    parser.add_argument("--quick", action="store_true", help="on the CPU, on few tiles, to see that it works")
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    began = time.monotonic()
    clock = Clock(began + 60 * asked.minutes)
    device, precision, names = (
        ("cpu", "fp32", ENCODERS[:1]) if asked.quick else ("cuda", asked.precision, asked.encoder)
    )
    path = slides.small_slide() if asked.quick else slides.large_slide()
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, {CORES} cores, torch {torch.__version__}")
    figures: dict[str, float] = {}
    if device == "cuda" and clock.allows("tests"):
        figures["tests passed"] = tests()
    counts = [1, 2] if asked.quick else [n for n in READERS if n <= CORES]
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(), within=find_tissue(slide))
        batch = 8 if asked.quick else BATCH
        grid = replace(grid, xy=grid.xy[:24], tissue=grid.tissue[:24]) if asked.quick else grid
        tiles = read_tiles(slide, grid, batch_size=batch, readers=counts[-1])
        pixels = np.concatenate([found.pixels.copy() for found in tiles])
        pixels = pixels[: max(1, len(pixels) // batch) * batch]
        rounds = 1 if asked.quick else 2
        bench = Bench(device, precision, slide, grid, pixels, rounds, batch, Path(folder), path)
        figures |= measure(bench, list(names), counts, clock)
    close_readers()
    for name, value in figures.items():
        print(f"{name:60} {value:10.4g}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; left out: {', '.join(clock.left_out) or 'nothing'}")
    text = json.dumps({"device": device, "precision": precision, **{k: round(v, 3) for k, v in figures.items()}})
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "gpu.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
