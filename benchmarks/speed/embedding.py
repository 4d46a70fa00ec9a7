"""How fast: each figure against its target, as ratios of one run.

    python -m benchmarks.speed.embedding [--quick] [--only NAME ...]

Machines and hours differ, so nothing is compared with a number from another run. All sides
of a figure take turns in this process, one thread each, for several rounds; the best round
counts, in work per CPU-second of the whole process (wall time only where a row says so).
The last line is JSON. Slides are made once, in benchmarks/data/ (see slides.py).

Read top to bottom: `TARGETS`, `best_rates` (the only stopwatch), then one function per
group of figures, and `main`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import multiprocessing
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt
import openslide
import torch

from benchmarks.speed import readers, slides
from benchmarks.speed.peers import clam, decode_all, jpeg_streams, openslide_all, openslide_tile, write_coordinates
from wsi_umedpt.models.cards import EncoderCard
from wsi_umedpt.models.encoder import Encoder, load_encoder
from wsi_umedpt.models.engines import OpenVinoEngine
from wsi_umedpt.models.weights import load_network
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tile_loader import read_tiles
from wsi_umedpt.slides.tiling import TileGrid, TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore

Pixels = npt.NDArray[np.uint8]
Figures = dict[str, float]
Side = Callable[[], float]
"""Does some work and returns how much."""

SWIN = "timm:swin_tiny_patch4_window7_224@random"
BAND_PX = (1_792, 17_920)
QUICK_BAND_PX = (7_168, 8_960)
"""Rows of px that the reading figures use. Both ends are multiples of 1,792, and so of 256, 224
and 448: no native tile is decoded for less than its whole."""

TARGETS: dict[str, tuple[str, float, str]] = {
    "read_224_of_limit": (">=", 0.80, "reading 224 px tiles / decoding the same JPEGs"),
    "read_256_of_limit": (">=", 0.80, "reading 256 px tiles / decoding the same JPEGs"),
    "read_vs_openslide": (">=", 4, "the lower of 224 and 256 px; pixels are equal"),
    "shrink2_vs_openslide": (">=", 7, "448 -> 224 px, resampling 'dct' (opt-in)"),
    "shrink2_dct_vs_openslide": (">=", 7, "448 -> 224 px, resampling 'dct' (opt-in)"),
    "shrink2_area_vs_openslide": ("", 0, "448 -> 224 px, resampling 'area' (the default)"),
    "shrink2_psnr_db": (">=", 40, "'dct' against 'area', tissue tiles, dB"),
    **readers.TARGETS,
    "data_path_vs_clam": (">=", 6, "slide to store, free encoder: the better of the next two"),
    "data_path_dct_vs_clam": ("", 0, "slide to store, free encoder, 'dct' (opt-in)"),
    "data_path_area_vs_clam": ("", 0, "slide to store, free encoder, 'area' (the default)"),
    "end_to_end_vs_clam": (">=", 4, "swin_tiny: OpenVINO bf16 / CLAM with eager fp32"),
    "end_to_end_torch_bf16_vs_clam": ("", 0, "swin_tiny: torch bf16 / CLAM with eager fp32"),
    "end_to_end_of_bound": (">=", 0.93, "OpenVINO bf16 / what encoder and data path alone allow"),
    "large_vs_small": (">=", 0.90, "tiles per CPU-second, 61,440 px / 20,480 px slide"),
    "rss_growth_mb": ("<=", 50, "peak memory, 61,440 px over 20,480 px slide, MB"),
    "open_mask_grid_s": ("<=", 0.2, "open, find tissue, lay grid; 61,440 px slide, wall seconds"),
    "bag_vs_h5": (">=", 2, "whole bag, 3,000 x 1024 float16, / h5py in chunks of 1024 rows"),
    "bag_vs_h5_small_cache": ("", 0, "the same, h5py with the 1 MB chunk cache of HDF5 before 2.0"),
    "bag_vs_h5_20000": ("", 0, "whole bag, 20,000 x 1024 float16: copying memory is what is left"),
    "bag_vs_h5_20000_small_cache": ("", 0, "the same, h5py with a 1 MB chunk cache"),
}
"""Comparison, bound and meaning of each figure, as they are printed; no comparison: for information."""


def best_rates(sides: dict[str, Side], rounds: int) -> Figures:
    """Work per CPU-second of each side, best of the rounds; the sides take turns in each."""
    best = dict.fromkeys(sides, 0.0)
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            work = side()
            best[name] = max(best[name], work / (time.process_time() - start))
    print("   ", ", ".join(f"{name} {rate:.4g}" for name, rate in best.items()), file=sys.stderr)
    return best


# ---- reading ----


def band(grid: TileGrid, quick: bool) -> TileGrid:
    """The tiles of a grid inside the band."""
    top, bottom = QUICK_BAND_PX if quick else BAND_PX
    y = grid.xy[:, 1]
    return part(grid, (y >= top) & (y + grid.side <= bottom))


def part(grid: TileGrid, rows: Any) -> TileGrid:
    """Some tiles of a grid."""
    return dataclasses.replace(grid, xy=grid.xy[rows], tissue=grid.tissue[rows])


def read_all(slide: Slide, grid: TileGrid) -> float:
    """Read all tiles and drop them; level-0 MPix."""
    for _ in read_tiles(slide, grid, readers=0):
        pass
    return len(grid) * grid.side**2 / 1e6


def assert_equal(slide: Slide, reference: openslide.OpenSlide, grid: TileGrid) -> None:
    """Every pixel of every tile is the one that OpenSlide gives."""
    for batch in read_tiles(slide, grid, readers=0):
        for pixels, row in zip(batch.pixels, batch.index, strict=True):
            x, y = grid.xy[row].tolist()
            expected = np.asarray(openslide_tile(reference, x, y, round(grid.side)))
            assert np.array_equal(pixels, expected), f"tile at {x}, {y} differs from OpenSlide's"


def measure_read(quick: bool) -> Figures:
    """Level 0 as it is, tiles of 224 and 256 px, glass and tissue alike."""
    path = slides.small_slide()
    streams = jpeg_streams(path, *(QUICK_BAND_PX if quick else BAND_PX))
    figures: Figures = {}
    against = []
    with open_slide(path, mpp=0.5) as slide, openslide.OpenSlide(path) as reference:
        assert slide.reader == "tiff"
        for size in (224, 256):
            whole = lay_grid(slide.size, slide.mpp, TileSpec(size_px=size, mpp=0.5))
            grid = band(whole, quick)
            assert_equal(slide, reference, grid if quick else whole)
            sides: dict[str, Side] = {
                "limit": lambda: decode_all(streams, 256),
                f"ours {size}": lambda grid=grid: read_all(slide, grid),
                "openslide": lambda grid=grid: openslide_all(reference, grid),
            }
            rates = best_rates(sides, 3 if quick else 5)
            figures[f"read_{size}_of_limit"] = rates[f"ours {size}"] / rates["limit"]
            against.append(rates[f"ours {size}"] / rates["openslide"])
    return {**figures, "read_vs_openslide": min(against)}


def measure_shrink(quick: bool) -> Figures:
    """0.25 -> 0.5 um/px, 448 -> 224 px, glass and tissue alike; fidelity on tissue."""
    path = slides.small_slide()
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        area, dct = (band(lay_grid(slide.size, slide.mpp, TileSpec(resampling=how)), quick) for how in ("area", "dct"))
        sides: dict[str, Side] = {
            "ours, dct": lambda: read_all(slide, dct),
            "ours, area": lambda: read_all(slide, area),
            "openslide": lambda: openslide_all(reference, area),
        }
        rates = best_rates(sides, 3 if quick else 5)
        tissue = lay_grid(slide.size, slide.mpp, TileSpec(min_tissue=0.9), within=find_tissue(slide))
        tissue = band(tissue, quick)
        error = psnr_db(slide, tissue, dataclasses.replace(tissue, spec=dct.spec))
    ratio = {how: rates[f"ours, {how}"] / rates["openslide"] for how in ("dct", "area")}
    return {
        "shrink2_vs_openslide": ratio["dct"],
        "shrink2_dct_vs_openslide": ratio["dct"],
        "shrink2_area_vs_openslide": ratio["area"],
        "shrink2_psnr_db": error,
    }


def psnr_db(slide: Slide, a: TileGrid, b: TileGrid) -> float:
    """Peak signal-to-noise ratio between the pixels of two grids, over all of them."""
    total = count = 0
    for one, other in zip(read_tiles(slide, a, readers=0), read_tiles(slide, b, readers=0), strict=True):
        total += float(np.square(one.pixels.astype(np.float32) - other.pixels).sum(dtype=np.float64))
        count += one.pixels.size
    return 10 * math.log10(255**2 * count / total)


# ---- slide to store ----


class FreeEncoder:
    """Has an `Encoder`'s interface and costs nothing: every seventh pixel, in green."""

    dim = 1024
    name = "free"
    card = EncoderCard(
        name="free",
        architecture="",
        mpp=0.5,
        size_px=224,
        dim=1024,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        licence="",
        source="",
    )
    made_by: dict[str, Any] = {"card": "free"}  # noqa: RUF012 - nobody writes to it

    def submit(self, pixels: Pixels, part_done=None) -> Callable[[], npt.NDArray[np.float32]]:
        """See `Encoder.submit`."""
        features = pixels[:, 3::7, 3::7, 1].reshape(len(pixels), self.dim).astype(np.float32)
        return lambda: features

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Do the same for CLAM's loop, (batch, 3, h, w)."""
        return batch[:, 1, 3::7, 3::7].flatten(1)


def embed(path: Path, spec: TileSpec, encoder: Any, folder: Path, tiles: slice | None = None) -> float:
    """A slide to a store, as `wsi-umedpt embed` does it, in one thread; tiles embedded."""
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, spec, within=tissue)
        if tiles:
            grid = part(grid, tiles)
        with SlideStore.create(folder / f"{next(_numbers)}.zarr", slide, tissue, grid) as store:
            encode_slide(slide, store, [encoder], settings=RunSettings(readers=0))
    return len(grid)


_numbers: Iterator[int] = itertools.count()


def measure_data_path(quick: bool) -> Figures:
    """All but the network: open, tissue, grid, tiles, store; CLAM is spared its tissue search."""
    path = slides.small_slide()
    with scratch() as folder:
        with open_slide(path) as slide:
            xy = lay_grid(slide.size, slide.mpp, TileSpec(), within=find_tissue(slide)).xy
        coordinates = write_coordinates(folder / "coords.h5", xy[:256] if quick else xy, 448)
        sides: dict[str, Side] = {
            "ours, dct": lambda: embed(path, TileSpec(resampling="dct"), FreeEncoder(), folder),
            "ours, area": lambda: embed(path, TileSpec(), FreeEncoder(), folder),
            "clam": lambda: clam(path, coordinates, FreeEncoder(), folder / "clam.h5"),
        }
        rates = best_rates(sides, 2 if quick else 4)
    dct, area = (rates[f"ours, {how}"] / rates["clam"] for how in ("dct", "area"))
    return {"data_path_vs_clam": max(dct, area), "data_path_dct_vs_clam": dct, "data_path_area_vs_clam": area}


def measure_end_to_end(quick: bool) -> Figures:
    """With swin_tiny, random weights; the network and the data path are also timed alone."""
    path = slides.small_slide()
    backbone, card = load_network(SWIN)
    fast = Encoder(card, "openvino", "cpu", "bf16", OpenVinoEngine(backbone, card, "bf16", threads=1))
    torch_bf16 = load_encoder(SWIN, device="cpu", precision="bf16")
    spec = TileSpec()
    count = 128 if quick else 256
    with scratch() as folder, open_slide(path) as slide:
        grid = part(lay_grid(slide.size, slide.mpp, spec, within=find_tissue(slide)), slice(count))
        coordinates = write_coordinates(folder / "coords.h5", grid.xy, 448)
        pixels = [batch.pixels for batch in read_tiles(slide, grid, readers=0)]
        for encoder in (fast, torch_bf16):
            encoder.encode(pixels[0])  # the first batch is slow

        def network_alone() -> float:
            for batch in pixels:
                fast.encode(batch)
            return count

        sides: dict[str, Side] = {
            "openvino bf16": lambda: embed(path, spec, fast, folder, slice(count)),
            "its network": network_alone,
            "its data path": lambda: embed(path, spec, FreeEncoder(), folder, slice(count)),
            "torch bf16": lambda: embed(path, spec, torch_bf16, folder, slice(count)),
            "clam, fp32": lambda: clam(path, coordinates, backbone, folder / "clam.h5"),
        }
        rates = best_rates(sides, 2 if quick else 3)
    bound = 1 / (1 / rates["its network"] + 1 / rates["its data path"])
    return {
        "end_to_end_vs_clam": rates["openvino bf16"] / rates["clam, fp32"],
        "end_to_end_torch_bf16_vs_clam": rates["torch bf16"] / rates["clam, fp32"],
        "end_to_end_of_bound": rates["openvino bf16"] / bound,
    }


# ---- size ----


def measure_large(quick: bool) -> Figures:
    """Nine times the tiles: the same speed and, in fresh processes, the same memory."""
    small, large = slides.small_slide(), slides.large_slide()
    with scratch() as folder:
        sides: dict[str, Side] = {
            "small": lambda: embed(small, TileSpec(), FreeEncoder(), folder),
            "large": lambda: embed(large, TileSpec(), FreeEncoder(), folder),
        }
        rates = best_rates(sides, 1 if quick else 3)
        fresh = multiprocessing.get_context("spawn")
        peaks = []
        for path in (small, large):
            with fresh.Pool(1) as pool:
                peaks.append(pool.apply(peak_rss_mb, (path, folder / path.stem)))
    print(f"    peak RSS: small {peaks[0]:.0f} MB, large {peaks[1]:.0f} MB", file=sys.stderr)
    return {"large_vs_small": rates["large"] / rates["small"], "rss_growth_mb": peaks[1] - peaks[0]}


def peak_rss_mb(path: Path, folder: Path) -> float:
    """Embed a slide and say how much memory this process ever had."""
    one_thread()
    embed(path, TileSpec(), FreeEncoder(), folder)
    # Not getrusage: there, a process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure_open(quick: bool) -> Figures:
    """What a user waits for before the first tile."""
    path = slides.large_slide()
    seconds = []
    for _ in range(3 if quick else 5):
        start = time.perf_counter()
        with open_slide(path) as slide:
            lay_grid(slide.size, slide.mpp, TileSpec(), within=find_tissue(slide))
        seconds.append(time.perf_counter() - start)
    return {"open_mask_grid_s": min(seconds)}


def measure_bag(quick: bool) -> Figures:
    """Features and positions of a bag of 3,000 and of 20,000 tiles, opened anew each time as MIL training does."""
    figures: Figures = {}
    for rows, suffix in ((3_000, ""), (20_000, "_20000")):
        for name, ratio in bag_ratios(rows, quick).items():
            figures[name.replace("h5", f"h5{suffix}")] = ratio
    return figures


def bag_ratios(rows: int, quick: bool) -> Figures:
    """Bags a CPU-second, ours over h5py's."""
    dim = 1024
    features = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
    with scratch() as folder, open_slide(slides.small_slide()) as slide:
        grid = part(lay_grid(slide.size, slide.mpp, TileSpec(size_px=72)), slice(rows))
        with SlideStore.create(folder / "bag.zarr", slide, find_tissue(slide), grid) as store:
            writer = store.writer("free", grid.spec.grid_id, dim, {})
            writer.append(features, np.ones(rows, bool))
            store.set_status(grid.spec.grid_id, np.zeros(rows, np.uint8))
            writer.finish()
            store.commit()
        with h5py.File(folder / "bag.h5", "w") as file:
            file.create_dataset("features", data=features.astype(np.float16), chunks=(1024, dim))
            file.create_dataset("coords", data=grid.xy, chunks=(1024, 2))

        def ours() -> float:
            return len(SlideStore.open(folder / "bag.zarr").features().features)

        def theirs(**options: int) -> float:
            with h5py.File(folder / "bag.h5", "r", **options) as file:
                found, _ = file["features"][:], file["coords"][:]
            return len(found)

        sides: dict[str, Side] = {"ours": ours, "h5": theirs, "h5, 1 MB cache": lambda: theirs(rdcc_nbytes=1 << 20)}
        rates = best_rates(sides, 20 if quick else 60)
    ratio = {name: rates["ours"] / rates[name] for name in ("h5", "h5, 1 MB cache")}
    return {"bag_vs_h5": ratio["h5"], "bag_vs_h5_small_cache": ratio["h5, 1 MB cache"]}


GROUPS: dict[str, Callable[[bool], Figures]] = {
    "read": measure_read,
    "shrink": measure_shrink,
    "fractional": lambda quick: readers.measure_fractional(best_rates, quick),
    "sharing": lambda quick: readers.measure_sharing(best_rates, quick),
    "readers": readers.measure_readers,
    "data_path": measure_data_path,
    "end_to_end": measure_end_to_end,
    "large": measure_large,
    "open": measure_open,
    "bag": measure_bag,
}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what the figures write, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        yield Path(folder)


def one_thread() -> None:
    """Let no library start threads of its own."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def verdict(key: str, value: float) -> str:
    """One row of the table."""
    sign, bound, about = TARGETS[key]
    met = {">=": value >= bound, "<=": value <= bound}.get(sign)
    target = f"{sign} {bound:g}" if sign else ""
    return f"{key:<31}{value:>9.3f}  {target:<9}{ {True: 'met', False: 'MISSED', None: ''}[met]:<8}{about}"


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast: each figure against its target, as ratios of one run.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tiles: two minutes instead of ten")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME", help=", ".join(GROUPS)
    )
    arguments = parser.parse_args()
    one_thread()
    packages = ("torch", "openvino", "simplejpeg", "openslide-bin", "opencv-python-headless", "h5py", "zarr")
    print(f"{platform.processor() or platform.machine()};", ", ".join(f"{p} {version(p)}" for p in packages))
    figures: Figures = {}
    for name in arguments.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures |= GROUPS[name](arguments.quick)
    print(f"\n{'figure':<31}{'measured':>9}  {'target':<17}what")
    for key, value in figures.items():
        print(verdict(key, value))
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
