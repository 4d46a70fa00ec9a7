"""Seconds and memory of a map of tiles, and whether neighbours stay neighbours, beside umap-learn left alone.

    python -m benchmarks.mil.feature_map                      # 10,000 tiles of 1280 numbers
    python -m benchmarks.mil.feature_map --tiles 100000

Features are made: 30 kinds of tiles, which differ in 8 ways within each. "Kept" is the mean share of a tile's 15
nearest tiles, by all its numbers, that are among its 15 nearest on the map, of 1,000 tiles. CPU seconds include
those of processes that were started. umap-learn left alone is `umap.UMAP(metric="cosine")` of the same vectors,
with its own start and its own approximate neighbours.
"""

import argparse
import resource
import subprocess
import sys
from functools import partial
from time import perf_counter, process_time

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from wsi_umedpt.mil.map_layout import MapProgress, lay_out
from wsi_umedpt.mil.map_settings import MapSettings, has_umap
from wsi_umedpt.mil.similar import unit_vectors

KINDS, WAYS, NEAREST, ASKED = 30, 8, 15, 1000


def features(tiles: int, dim: int) -> np.ndarray:
    """float16 (tile, dim): 30 kinds, within each of which tiles differ in 8 ways, and a little noise."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(KINDS, dim)).astype(np.float32)
    ways = rng.normal(size=(KINDS, WAYS, dim)).astype(np.float32) / 2
    out = np.empty((tiles, dim), np.float16)
    for first in range(0, tiles, 10_000):
        some = slice(first, min(first + 10_000, tiles))
        kinds = rng.integers(0, KINDS, some.stop - some.start)
        rows = middles[kinds] + rng.normal(size=(len(kinds), dim)).astype(np.float32) / 10
        for kind in range(KINDS):
            mine = kinds == kind
            rows[mine] += rng.normal(size=(int(mine.sum()), WAYS)).astype(np.float32) @ ways[kind]
        out[some] = rows
    return out


def cpu_s() -> float:
    """Of this process and those that it started."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return process_time() + spent.ru_utime + spent.ru_stime


def peak_gb(of: int) -> float:
    return resource.getrusage(of).ru_maxrss / 2**20


def kept(vectors: np.ndarray, places: np.ndarray) -> float:
    asked = np.random.default_rng(1).choice(len(places), min(ASKED, len(places)), replace=False)
    near = [
        NearestNeighbors(n_neighbors=NEAREST + 1, algorithm="brute").fit(x).kneighbors(x[asked], return_distance=False)
        for x in (vectors.astype(np.float32), places)
    ]
    return float(np.mean([len({*a[1:]} & {*b[1:]}) / NEAREST for a, b in zip(*near, strict=True)]))


def alone(tiles: int, dim: int) -> None:
    """umap-learn left alone; in a process of its own, so that its memory is its own."""
    try:
        import umap
    except ImportError:
        print("umap-learn is not installed")
        return

    vectors = unit_vectors([features(tiles, dim)]).astype(np.float32)
    began, wall = process_time(), perf_counter()
    places = umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(vectors)
    row("umap-learn left alone", perf_counter() - wall, process_time() - began, kept(vectors, places),
        peak_gb(resource.RUSAGE_SELF))  # fmt: skip


def row(name: str, wall: float, cpu: float, share: float, gb: float) -> None:
    print(f"| {name} | {wall:.1f} s | {cpu:.1f} s | {share:.2f} | {gb:.1f} GB |", flush=True)


def begin(doing: dict[str, float], what: str, share: float) -> None:
    doing.setdefault(what, perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--alone", action="store_true", help="only umap-learn left alone, as one row")
    parser.add_argument("--no-peer", action="store_true", help="without umap-learn left alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.alone:
        alone(asked.tiles, asked.dim)
        return
    vectors = unit_vectors([features(asked.tiles, asked.dim)])
    print(f"{asked.tiles:,} tiles of {asked.dim} numbers\n")
    print("| | wall | CPU | kept | memory at most |\n|---|---|---|---|---|")
    for method in ("pca", "umap") if has_umap() else ("pca",):
        settings, began, wall = MapSettings(method=method), cpu_s(), perf_counter()
        doing: dict[str, float] = {}
        places, _ = lay_out(vectors, settings, MapProgress(told=partial(begin, doing)))
        ended = [*doing.values(), perf_counter()]
        took = zip(doing, np.diff(ended), strict=True)
        spent = perf_counter() - wall, cpu_s() - began, kept(vectors, places)
        row(f"`{method}`", *spent, max(peak_gb(resource.RUSAGE_SELF), peak_gb(resource.RUSAGE_CHILDREN)))
        print(f"<!-- {', '.join(f'{what} {s:.1f} s' for what, s in took)} -->", flush=True)
    if not asked.no_peer:
        words = ["--alone", "--tiles", str(asked.tiles), "--dim", str(asked.dim)]
        subprocess.run([sys.executable, "-W", "ignore", "-m", "benchmarks.mil.feature_map", *words], check=True)


if __name__ == "__main__":
    main()
