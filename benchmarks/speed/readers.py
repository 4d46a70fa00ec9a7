"""How reading grows with processes, and what odd scales cost and shared decoding saves; part of `embedding.py`."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

from benchmarks.speed import slides
from wsi_umedpt.slides.read_order import ReadOrder
from wsi_umedpt.slides.reader_processes import Readers
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tile_loader import read_grids
from wsi_umedpt.slides.tiling import TileGrid, TileSpec, lay_grid

Figures = dict[str, float]
Side = Callable[[], float]

FACTORS = {"444": 0.5 / (444 / 224), "475": 0.5 / (475 / 224)}
"""um/px of slides of which a 224 px tile at 0.5 um/px covers so many px."""
SCANNERS = {"2523": 0.2523, "2201": 0.2201}
"""um/px that scanners state, by the digits that name their figures."""

TARGETS: dict[str, tuple[str, float, str]] = {
    "fractional_vs_whole": (">=", 0.77, "the lower of 444 and 475 px -> 224 / 448 -> 224, level-0 MPix"),
    "fractional_2523_vs_whole": ("", 0, "a slide of 0.2523 um/px, read at 0.5"),
    "fractional_2201_vs_whole": ("", 0, "a slide of 0.2201 um/px, read at 0.5"),
    "readers_2_vs_1": (">=", 1.85, "two reader processes / one, level 0, tiles a second (needs two idle cores)"),
    "readers_2_vs_1_fractional": (">=", 1.85, "the same, 444 -> 224 px"),
    "reader_vs_inline": (">=", 0.95, "one reader process and its parent / no process, per CPU-second"),
    "locked_us_per_tile": ("<=", 15, "CPU time of the parent a tile, readers in processes, us"),
    "shared_sizes_vs_apart": ("", 0, "tiles of 224 and 512 px at 0.5 um/px, read together / one after the other"),
    "shared_scales_vs_apart": ("", 0, "tiles of 224 px at 0.5 and at 0.25 um/px, the same"),
    "ring_mb": ("<=", 512, "shared memory of a slide, MB"),
}


def measure_fractional(best_rates: Callable[[dict[str, Side], int], Figures], quick: bool) -> Figures:
    """Tiles of 224 px at 0.5 um/px, of slides at 0.25 and at odd scales; the same pixels under another scale."""
    path, mpps = slides.small_slide(), {"whole": slides.MPP, **FACTORS, **SCANNERS}
    opened = {name: open_slide(path, mpp=mpp) for name, mpp in mpps.items()}
    try:
        grids = {name: some_lines(slide, 16 if quick else 32) for name, slide in opened.items()}
        sides: dict[str, Side] = {name: lambda name=name: read(opened[name], grids[name]) for name in mpps}
        rates = best_rates(sides, 3 if quick else 8)
    finally:
        for slide in opened.values():
            slide.close()
    ratios = {name: rate / rates["whole"] for name, rate in rates.items()}
    return {
        "fractional_vs_whole": min(ratios[name] for name in FACTORS),
        **{f"fractional_{name}_vs_whole": ratios[name] for name in SCANNERS},
    }


def measure_sharing(best_rates: Callable[[dict[str, Side], int], Figures], quick: bool) -> Figures:
    """Two grids that read one level, each alone and in one decoding; the pixels are the same."""
    pairs = {
        "shared_sizes_vs_apart": (TileSpec(), TileSpec(size_px=512)),
        "shared_scales_vs_apart": (TileSpec(), TileSpec(mpp=slides.MPP)),
    }
    figures: Figures = {}
    with open_slide(slides.small_slide()) as slide:
        for name, specs in pairs.items():
            grids = [upper_part(lay_grid(slide.size, slide.mpp, spec), 4096 if quick else 8192) for spec in specs]
            sides: dict[str, Side] = {
                "apart": lambda grids=grids: sum(read(slide, grid) for grid in grids),
                "together": lambda grids=grids: read(slide, *grids),
            }
            rates = best_rates(sides, 3 if quick else 8)
            figures[name] = rates["together"] / rates["apart"]
    return figures


def measure_readers(quick: bool) -> Figures:
    """One process and two, level 0 and by a fraction; and what the parent has to do."""
    path = slides.small_slide()
    figures: Figures = {}
    with pool(1) as one, pool(2) as two:
        for suffix, mpp in (("", 0.5), ("_fractional", FACTORS["444"])):
            with open_slide(path, mpp=mpp) as slide:
                grid = some_lines(slide, 8 if quick else 24)
                seconds = dict.fromkeys((one, two), float("inf"))
                for _ in range(3 if quick else 6):
                    for readers in seconds:
                        began = time.perf_counter()
                        take(readers, slide, grid)
                        seconds[readers] = min(seconds[readers], time.perf_counter() - began)
                figures[f"readers_2_vs_1{suffix}"] = seconds[one] / seconds[two]
                if not suffix:
                    figures |= costs(one, two, slide, grid)
    return figures


def costs(one: Readers, two: Readers, slide: Slide, grid: TileGrid) -> Figures:
    """CPU time of a reader against this process alone, and of the parent; best of several."""
    inline = beside = parent = float("inf")
    for _ in range(5):
        began = cpu_s([])
        read(slide, grid)
        inline = min(inline, cpu_s([]) - began)
        began = cpu_s(one.pids)
        take(one, slide, grid)
        beside = min(beside, cpu_s(one.pids) - began)
        began = cpu_s([])
        ring = take(two, slide, grid)
        parent = min(parent, cpu_s([]) - began)
    print(
        f"    us a tile: inline {1e6 * inline / len(grid):.0f}, parent {1e6 * parent / len(grid):.1f}", file=sys.stderr
    )
    return {
        "reader_vs_inline": inline / beside,
        "locked_us_per_tile": 1e6 * parent / len(grid),
        "ring_mb": ring / 1e6,
    }


def some_lines(slide: Slide, count: int) -> TileGrid:
    """The first lines of a grid at 0.5 um/px, glass and tissue alike."""
    grid = lay_grid(slide.size, slide.mpp, TileSpec())
    return upper_part(grid, sorted(set(grid.xy[:, 1].tolist()))[count])


def upper_part(grid: TileGrid, below: int) -> TileGrid:
    """The tiles that begin above a level-0 px."""
    some = grid.xy[:, 1] < below
    return TileGrid(grid.spec, grid.side, grid.xy[some], grid.tissue[some])


def read(slide: Slide, *grids: TileGrid) -> float:
    """Read all tiles in this thread, in one decoding; level-0 MPix."""
    for _ in read_grids(slide, grids, readers=0):
        pass
    return sum(len(grid) * grid.side**2 / 1e6 for grid in grids)


def take(readers: Readers, slide: Slide, grid: TileGrid) -> int:
    """Read all tiles in processes; bytes of the ring."""
    batches = readers.read(slide, ReadOrder([grid], [0], 64), ahead=2)
    for _ in batches:
        pass
    return batches.ring_bytes


@contextmanager
def pool(count: int) -> Iterator[Readers]:
    """Processes that have read something."""
    readers = Readers(count)
    try:
        with open_slide(slides.small_slide(), mpp=0.5) as slide:
            take(readers, slide, some_lines(slide, 4))
        yield readers
    finally:
        readers.close()


def cpu_s(others: Sequence[int]) -> float:
    """CPU time of this process, to the microsecond, and of others, to the system's 10 ms; seconds."""
    used = (psutil.Process(pid).cpu_times() for pid in others)
    return time.process_time() + sum(times.user + times.system for times in used)
