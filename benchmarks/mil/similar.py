"""Find alike: seconds, memory and recall of exact products, beside indices of near neighbours.

    python -m benchmarks.mil.similar [--tiles 100000 --dim 1280] [--queries 20]
    python -m benchmarks.mil.similar --tiles 10000000 --dim 64

Features are drawn around as many centres as a thousandth of the tiles, as tissue has many kinds of which each occurs
often, in float16 as stores hold them. Exact products of float32 unit vectors are the truth of the recall (of the 20
most similar). faiss-cpu and usearch are measured where they are installed. CPU seconds are of one thread; where others
compete for the core, wall time is waiting too.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from wsi_umedpt.mil.similar import TileIndex, _Slide, unit_vectors

COUNT = 20


def features(tiles: int, dim: int) -> np.ndarray:
    """Float16 (tile, dim)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(2, tiles // 1000), dim)).astype(np.float32)
    out = np.empty((tiles, dim), np.float16)
    for first in range(0, tiles, 100_000):
        part = out[first : first + 100_000]
        noise = rng.standard_normal(part.shape, dtype=np.float32)
        part[:] = centres[rng.integers(0, len(centres), len(part))] + noise
    return out


def timed(work: Callable[[], object]) -> tuple[object, float, float]:
    """What it gives, wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    return work(), time.perf_counter() - wall, time.process_time() - cpu


def peak_gb() -> float:
    """Memory of the process at most, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def truth(vectors: np.ndarray, rows: np.ndarray) -> list[set[int]]:
    """The most similar of each row, by products in float32."""
    scores = np.empty((len(rows), len(vectors)), np.float32)
    asked = vectors[rows].astype(np.float32)
    for first in range(0, len(vectors), 65_536):
        scores[:, first : first + 65_536] = asked @ vectors[first : first + 65_536].astype(np.float32).T
    scores[np.arange(len(rows)), rows] = -2
    return [{*np.argpartition(-one, COUNT)[:COUNT].tolist()} for one in scores]


def recall(found: list[set[int]], true: list[set[int]]) -> float:
    return float(np.mean([len(a & b) / COUNT for a, b in zip(found, true, strict=True)]))


def row_of(
    name: str, wall: list[float], cpu: list[float], found: list[set[int]], true: list[set[int]], more: str
) -> None:
    print(
        f"| {name} | {np.median(wall):.3f} s | {np.median(cpu):.3f} s | {recall(found, true):.4f} | {more} |",
        flush=True,
    )


def exact(index: TileIndex, rows: np.ndarray, true: list[set[int]], more: str) -> None:
    walls, cpus, found = [], [], []
    for row in rows.tolist():
        best, wall, cpu = timed(lambda row=row: index.similar(np.array([row]), COUNT))
        walls.append(wall)
        cpus.append(cpu)
        found.append({one.row for one in best})
    row_of("exact products (`TileIndex`)", walls, cpus, found, true, more)


def of_faiss(vectors: np.ndarray, rows: np.ndarray, true: list[set[int]]) -> None:
    try:
        import faiss
    except ImportError:
        print("faiss-cpu is not installed")
        return
    faiss.omp_set_num_threads(1)
    dim = vectors.shape[1]
    lists = 1024 if len(vectors) > 1_000_000 else 256
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )

    def build() -> None:
        index.train(vectors[:: max(1, len(vectors) // (64 * lists))].astype(np.float32))
        for first in range(0, len(vectors), 100_000):
            index.add(vectors[first : first + 100_000].astype(np.float32))

    _, _, cpu = timed(build)
    for probes in (8, 32, 128):
        index.nprobe = probes
        walls, cpus, found = [], [], []
        for row in rows.tolist():
            (_, best), took, worked = timed(lambda row=row: index.search(vectors[[row]].astype(np.float32), COUNT + 1))
            walls.append(took)
            cpus.append(worked)
            found.append({*best[0].tolist()} - {row})
        row_of(f"faiss IVF {lists}, float16, {probes} lists", walls, cpus, found, true, f"built in {cpu:.0f} CPU s")


def of_usearch(vectors: np.ndarray, rows: np.ndarray, true: list[set[int]]) -> None:
    try:
        from usearch.index import Index
    except ImportError:
        print("usearch is not installed")
        return
    if len(vectors) > 1_000_000:
        print("usearch is not built for so many: at 10^5 see how long that takes")
        return
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    _, _, cpu = timed(lambda: index.add(np.arange(len(vectors)), vectors, threads=1))
    walls, cpus, found = [], [], []
    for row in rows.tolist():
        best, took, worked = timed(lambda row=row: index.search(vectors[row], COUNT + 1, threads=1))
        walls.append(took)
        cpus.append(worked)
        found.append({*best.keys.tolist()} - {row})
    row_of("usearch (HNSW), float16", walls, cpus, found, true, f"built in {cpu:.0f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--queries", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    raw = features(asked.tiles, asked.dim)
    vectors, _, cpu = timed(partial(unit_vectors, [raw]))
    del raw
    across = int(np.ceil(asked.tiles**0.5))
    n = np.arange(asked.tiles)
    xy = (np.stack([n % across, n // across], 1) * 224).astype(np.int32)
    index = TileIndex({"slide": _Slide(0, asked.tiles, 224.0)}, vectors, xy, n)
    rows = np.random.default_rng(1).choice(asked.tiles, asked.queries, replace=False)
    print(f"{asked.tiles:,} tiles of {asked.dim} numbers, {vectors.nbytes / 2**30:.2f} GB; {asked.queries} queries\n")
    print("| | wall | CPU | recall of 20 | |\n|---|---|---|---|---|")
    true = truth(vectors, rows)
    exact(index, rows, true, f"standardised in {cpu:.1f} CPU s")
    of_faiss(vectors, rows, true)
    of_usearch(vectors, rows, true)
    print(f"\nmemory of the process at most {peak_gb():.1f} GB")


if __name__ == "__main__":
    main()
