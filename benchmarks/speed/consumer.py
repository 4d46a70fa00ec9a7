"""Tiles a second over readers, taken by a consumer of 20,000 tiles a second: a timer that stands for a GPU.

    python -m benchmarks.speed.consumer [--readers 1 2 4 8] [--lines 24] [--out FOLDER]

The consumer takes a batch, and is busy for as long as 20,000 tiles a second would keep it; it runs no network. Tiles
are 448 px of the benchmark's small slide shrunk to 224. Printed, and drawn into `consumer.svg` and `consumer.png`:
tiles a second of wall time, best of the rounds; and what one reader's CPU time a tile would give on as many idle
cores, which is what to look at on a machine that others use too. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks import DATA
from benchmarks.speed import readers, slides
from wsi_umedpt.slides.read_order import ReadOrder
from wsi_umedpt.slides.reader_processes import Readers
from wsi_umedpt.slides.readers.base import usable_cores
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tile_batch import Batches
from wsi_umedpt.slides.tiling import TileGrid

RATE = 20_000
"""Tiles a second that the consumer takes at most."""
BATCH = 256


def consume(batches: Batches, rate: float = RATE) -> int:
    """Take all batches at no more than a rate; the number of tiles."""
    taken, free_at = 0, time.perf_counter()
    for batch in batches:
        taken += len(batch.index)
        free_at = max(free_at, time.perf_counter()) + len(batch.index) / rate
        time.sleep(max(0.0, free_at - time.perf_counter()))
    return taken


def feed(pool: Readers, slide: Slide, grid: TileGrid, rounds: int) -> tuple[float, float]:
    """Tiles a second of wall time, the best of the rounds; CPU-seconds of the readers a tile, the fewest."""
    wall = cpu = float("inf")
    for _ in range(rounds):
        used, began = readers.cpu_s(pool.pids), time.perf_counter()
        ours = time.process_time()
        tiles = consume(pool.read(slide, ReadOrder([grid], [0], BATCH), ahead=2))
        wall = min(wall, (time.perf_counter() - began) / tiles)
        cpu = min(cpu, (readers.cpu_s(pool.pids) - used - (time.process_time() - ours)) / tiles)
    return 1 / wall, cpu


def draw(rates: dict[int, float], bounds: dict[int, float], out: Path) -> None:
    """Tiles a second over readers, and what idle cores would give."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.axhline(RATE, color="grey", linestyle=":", label="the consumer's most (a timer)")
    axes.plot([*bounds], [*bounds.values()], color="tab:orange", linestyle="--", label="by CPU time, on idle cores")
    axes.plot([*rates], [*rates.values()], color="tab:blue", marker="o", label="measured, wall time")
    axes.set(xlabel="readers", ylabel="tiles a second, 448 -> 224 px", xticks=[*rates], ylim=(0, None))
    axes.set_title(f"cores for readers and consumer: {usable_cores()}")
    axes.legend()
    for suffix in ("svg", "png"):
        figure.savefig(out / f"consumer.{suffix}", dpi=150)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts = [n for n in (1, 2, 4, 8, 12, 16) if n <= max(2, usable_cores())]
    parser.add_argument("--readers", type=int, nargs="+", default=counts)
    parser.add_argument("--lines", type=int, default=24, help="lines of the grid that are read")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    rates: dict[int, float] = {}
    seconds: dict[int, float] = {}
    with open_slide(slides.small_slide()) as slide:
        grid = readers.some_lines(slide, asked.lines)
        for count in asked.readers:
            with readers.pool(count) as pool:
                rates[count], seconds[count] = feed(pool, slide, grid, asked.rounds)
            print(
                f"{count:2} readers: {rates[count]:7.0f} tiles/s, {1e6 * seconds[count]:.0f} us of CPU a tile",
                flush=True,
            )
    bounds = {count: min(RATE, count / seconds[count]) for count in rates}
    asked.out.mkdir(parents=True, exist_ok=True)
    draw(rates, bounds, asked.out)
    print(f"drawn: {asked.out / 'consumer.svg'}")
    print(json.dumps({f"fed_{n}": round(rate) for n, rate in rates.items()} | {
        f"fed_{n}_by_cpu": round(bound) for n, bound in bounds.items()
    }))  # fmt: skip


if __name__ == "__main__":
    main()
