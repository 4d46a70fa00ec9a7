"""How long half a million nuclei take to other tools' files and back, and in how much memory.

    python -m benchmarks.segmentation.export [--count N]

Each side runs once, in a fresh process that first makes the same objects: polygons of 20
corners. Seconds are wall time of the export or import alone, on one thread; memory is the most
the process ever had, objects and imports included, beside what it had before. The peer is what
people type: a FeatureCollection built whole and `json.dump` into gzip of the same level. It is
run on a tenth of the objects, and its seconds and the growth of its memory are scaled by ten. The last line is JSON.
"""

import argparse
import gzip
import json
import multiprocessing
import platform
import re
import tempfile
import time
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wsi_umedpt.interop.geoparquet import read_geoparquet, write_geoparquet
from wsi_umedpt.interop.qupath import MEASUREMENTS, read_geojson, write_geojson
from wsi_umedpt.store.objects import MEASURES, Objects

CORNERS = 20
PEER_SHARE = 10
GEOJSON, GEOPARQUET = "nuclei.geojson.gz", "nuclei.parquet"
GZIP_LEVEL = 2


class Cost(NamedTuple):
    """What a side took."""

    seconds: float
    before_mb: float
    """Peak memory of its process when it began."""
    peak_mb: float


def nuclei(count: int) -> Objects:
    """Ragged rings of some 10 px around places on a slide of 100,000 px."""
    rng = np.random.default_rng(0)
    middles = rng.random((count, 2), np.float32) * 100_000
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False, dtype=np.float32)
    ring = np.column_stack([np.cos(angles), np.sin(angles)])
    outline = np.empty((count, CORNERS, 2), np.float32)
    for rows in np.array_split(np.arange(count), 100):
        radii = 8 + 4 * rng.random((len(rows), CORNERS, 1), np.float32)
        outline[rows] = middles[rows, None] + ring * radii
    return Objects(
        ("tumour", "lymphocyte", "stroma"),
        rng.integers(0, 3, count, np.uint8),
        rng.random(count, np.float32),
        middles,
        rng.random((count, len(MEASURES)), np.float32) * 50,
        np.arange(count + 1) * CORNERS,
        outline.reshape(-1, 2),
    )


def dump_whole(path: Path, objects: Objects) -> None:
    """The same features with the standard library."""
    features = []
    for number in range(len(objects)):
        ring = objects.outline[objects.starts[number] : objects.starts[number + 1]].astype(float).round(2).tolist()
        values = [objects.score[number], *objects.measures[number]]
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid4()),
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {
                    "objectType": "detection",
                    "classification": {"name": objects.classes[objects.class_index[number]], "color": [213, 94, 0]},
                    "measurements": {name: float(value) for name, value in zip(MEASUREMENTS, values, strict=True)},
                },
            }
        )
    with gzip.open(path, "wt", compresslevel=GZIP_LEVEL) as file:
        json.dump({"type": "FeatureCollection", "features": features}, file)


def cost_of(side: str, folder: Path, count: int) -> Cost:
    """Run one side in this process, which must be fresh."""
    pa.set_cpu_count(1)
    objects = nuclei(count)
    # Not getrusage: there, a process begins with the peak of the one that started it.
    before = peak_rss_mb()
    start = time.perf_counter()
    SIDES[side](folder, objects)
    return Cost(time.perf_counter() - start, before, peak_rss_mb())


def peak_rss_mb() -> float:
    """The most memory that this process ever had."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def check(found: Objects, written: Objects) -> None:
    """What is timed must also be right."""
    assert len(found) == len(written)
    assert np.array_equal(found.measures, written.measures)
    assert np.abs(found.outline - written.outline).max() < 0.01


SIDES: dict[str, Callable[[Path, Objects], None]] = {
    "geojson.gz, write": lambda folder, objects: write_geojson(folder / GEOJSON, objects, slide_id="s"),
    "geojson.gz, read": lambda folder, objects: check(read_geojson(folder / GEOJSON), objects),
    "geoparquet, write": lambda folder, objects: write_geoparquet(
        folder / GEOPARQUET, objects, slide_id="s", mpp=0.25, made_by={}
    ),
    "geoparquet, read": lambda folder, objects: check(read_geoparquet(folder / GEOPARQUET), objects),
    "json.dump, write": lambda folder, objects: dump_whole(folder / "whole.geojson.gz", objects),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Export and import of many polygons: seconds and peak memory.")
    parser.add_argument("--count", type=int, default=500_000, help="objects (default: %(default)s)")
    count = parser.parse_args().count
    packages = ("numpy", "orjson", "pyarrow", "shapely")
    print(f"{platform.processor() or platform.machine()};", ", ".join(f"{p} {version(p)}" for p in packages))
    print(f"{count} polygons of {CORNERS} corners\n\n{'side':<20}{'seconds':>9}{'before MB':>11}{'peak MB':>9}")
    fresh = multiprocessing.get_context("spawn")
    costs = {}
    with tempfile.TemporaryDirectory(prefix="export-") as name:
        for side in SIDES:
            share = PEER_SHARE if side.startswith("json.dump") else 1
            with fresh.Pool(1) as pool:
                seconds, before, peak = pool.apply(cost_of, (side, Path(name), count // share))
            scaled = Cost(seconds * share, before, before + (peak - before) * share)
            costs[side] = scaled._asdict()
            note = f"  scaled from {count // share}" if share > 1 else ""
            print(f"{side:<20}{scaled.seconds:>9.1f}{scaled.before_mb:>11.0f}{scaled.peak_mb:>9.0f}{note}", flush=True)
        sizes = {path: (Path(name) / path).stat().st_size / 1e6 for path in (GEOJSON, GEOPARQUET)}
    print("\n" + ", ".join(f"{path} {size:.0f} MB" for path, size in sizes.items()))
    rounded = {side: {key: round(value, 1) for key, value in cost.items()} for side, cost in costs.items()}
    print(json.dumps({"count": count, "sizes_mb": {p: round(s, 1) for p, s in sizes.items()}, "costs": rounded}))


if __name__ == "__main__":
    main()
