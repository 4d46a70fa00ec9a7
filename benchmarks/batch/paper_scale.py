"""Simulated, not run: a cohort of 100,000 slides on 64 GPUs, and where the time goes.

    python -m benchmarks.batch.paper_scale [--slides 100000] [--gpus 64] [--tiles 8000] [--network 17909]
                                           [--reading 1500]

What a part costs is what was measured (docs/measured/speed.md, docs/measured/cohort.md); how large slides are, how
fast the storage is and how often workers die are assumptions, printed with the result, and flags. Slides are worked
off as `cohort.spread` does it: the largest first, two with the scheduler for each worker, one at a
time in a worker that shares the storage with all others. The last line is JSON.
"""

import argparse
import heapq
import json

import numpy as np

OPEN_S = 0.21
"""Opening, tissue and grid on the large slide of docs/measured/speed.md, 0.17 s; claims, records and the commit, 0.04 s
(``fixed_s`` of benchmarks/batch/scaling.py, of whole slides of a few tiles)."""
SCHEDULER_S = 0.0078
"""Of the scheduler's time, a slide: benchmarks/batch/scaling.py on a busy machine; 0.0036 on one that was not."""
CATALOG_S = 17 / 10_000
"""A store read for the catalog: benchmarks/batch/catalog.py."""
CHILD_S = 10.0
"""A new worker: its imports, its weights and its first batch."""
DURABLE_TILES = 1024
"""What is lost at most when a worker dies: a chunk."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--tiles", type=float, default=8000, help="median tiles a slide (log-normal, sigma 0.8)")
    parser.add_argument("--network", type=float, default=17_909, help="tiles/s of the network on a GPU")
    parser.add_argument("--reading", type=float, default=1500, help="tiles/s that the cores beside a GPU decode")
    parser.add_argument("--mb-a-tile", type=float, default=0.075, help="compressed bytes read for a tile")
    parser.add_argument("--storage-gb-s", type=float, default=10.0, help="of the file system, all workers together")
    parser.add_argument("--days-between-deaths", type=float, default=10.0, help="of one worker")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def simulate(tiles: np.ndarray, options: argparse.Namespace, *, largest_first: bool) -> dict[str, float]:
    """Hours on the clock, and of all workers together by what they were spent on."""
    rng = np.random.default_rng(options.seed)
    order = np.sort(tiles)[::-1] if largest_first else rng.permutation(tiles)
    from_storage = options.storage_gb_s * 1000 / options.mb_a_tile / options.gpus
    a_tile = {
        "network": 1 / options.network,
        "decoding": 1 / options.reading,
        "storage": 1 / from_storage,
    }
    slowest = max(a_tile.values())
    free = [(CHILD_S, worker) for worker in range(options.gpus)]
    heapq.heapify(free)
    spent = {"tiles": 0.0, "opening": 0.0, "deaths": 0.0, "waiting for the scheduler": 0.0}
    scheduler = 0.0
    deaths = 0
    for count in order.tolist():
        at, worker = heapq.heappop(free)
        # Two slides a worker are with the scheduler, so that it hands out while workers are busy.
        scheduler = max(scheduler, at - 2 * OPEN_S) + SCHEDULER_S
        start = max(at, scheduler)
        work = count * slowest
        died = rng.random() < -np.expm1(-(work + OPEN_S) / (86_400 * options.days_between_deaths))
        again = CHILD_S + OPEN_S + min(count, DURABLE_TILES) * slowest * rng.random() if died else 0.0
        deaths += int(died)
        spent["waiting for the scheduler"] += start - at
        spent["opening"] += OPEN_S
        spent["tiles"] += work
        spent["deaths"] += again
        heapq.heappush(free, (start + OPEN_S + work + again, worker))
    ends = [at for at, _ in free]
    spent["waiting for the last"] = float(sum(max(ends) - at for at in ends))
    made = {f"{name} %": 100 * seconds / (max(ends) * options.gpus) for name, seconds in spent.items()}
    limit = max(a_tile, key=lambda name: a_tile[name])
    found = {"hours": max(ends) / 3600, "deaths": deaths, **made}
    return {
        **found,
        **{f"{name} busy %": 100 * a_tile[name] / a_tile[limit] * made["tiles %"] / 100 for name in a_tile},
    }


def main() -> None:
    options = parsed()
    rng = np.random.default_rng(options.seed)
    tiles = np.exp(rng.normal(np.log(options.tiles), 0.8, options.slides)).astype(int)
    features_gb = tiles.sum() * 1280 * 2 / 1e9
    print(f"assumed: {vars(options)}")
    print(f"{len(tiles):,} slides, {tiles.sum():,} tiles, {tiles.sum() * options.mb_a_tile / 1e6:,.0f} TB read")
    print(f"features of 1280 float16: {features_gb / 1000:,.1f} TB in {int((tiles // 1024 + 1).sum()):,} chunk files")
    found = {}
    for name, largest_first in (("largest first", True), ("any order", False)):
        found[name] = simulate(tiles, options, largest_first=largest_first)
        print(name, *(f"{key} {value:.3g}" for key, value in found[name].items()), sep="\n  ")
    print(f"scheduler: {SCHEDULER_S * len(tiles) / 60:.0f} min of its time; catalog: {CATALOG_S * len(tiles):.0f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
