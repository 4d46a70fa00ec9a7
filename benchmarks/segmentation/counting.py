"""How long counts in a region and hotspots take, in CPU seconds of one thread.

    python -m benchmarks.segmentation.counting

Objects of two classes lie on 20 x 15 mm, half of them around 400 places, and evenly, which is the worst for hotspots:
no circle is much denser than the others. A region has 300 corners. The last line is JSON.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import shapely

from wsi_umedpt.segmentation import HOTSPOT_MM2, count_in_region, find_hotspots
from wsi_umedpt.store import MEASURES, Objects

MPP = 0.25
EXTENT_PX = np.array([80_000, 60_000])
SPREAD_PX = 2_400
CORNERS, WAVE, TIMES = 300, 0.1, 3


def scattered(count: int, *, clustered: bool) -> Objects:
    """Middles and measures; counting looks at no outline."""
    rng = np.random.default_rng(0)
    xy = rng.random((count, 2)) * EXTENT_PX
    if clustered:
        places = rng.random((400, 2)) * EXTENT_PX
        half = count // 2
        xy[:half] = places[rng.integers(0, len(places), half)] + rng.normal(0, SPREAD_PX, (half, 2))
    return Objects(
        ("negative", "positive"),
        rng.integers(0, 2, count).astype(np.uint8),
        np.ones(count, np.float32),
        xy.astype(np.float32),
        rng.random((count, len(MEASURES))).astype(np.float32),
        np.zeros(count + 1, np.int64),
        np.zeros((0, 2), np.float32),
    )


def region(share: float) -> Any:
    """A wavy outline that holds about this share of the slide."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = np.sqrt(share / np.pi) * (1 + WAVE * np.sin(9 * angle))
    return shapely.Polygon(EXTENT_PX / 2 + EXTENT_PX * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1))


def cpu_seconds(run: Callable[[], Any]) -> float:
    """Of the fastest of some runs."""
    taken = []
    for _ in range(TIMES):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return round(min(taken), 3)


def main() -> None:
    """Print what each took."""
    many, even = scattered(500_000, clustered=True), scattered(500_000, clustered=False)
    few, fifth, nearly_all = scattered(130_000, clustered=False), region(0.2), region(0.77)
    found = {
        "objects in region": [count_in_region(fifth, MPP, even).total, count_in_region(nearly_all, MPP, few).total],
        "count_of_500000_s": cpu_seconds(lambda: count_in_region(fifth, MPP, even)),
        "count_of_130000_s": cpu_seconds(lambda: count_in_region(nearly_all, MPP, few)),
        "hotspots_of_500000_clustered_s": cpu_seconds(lambda: find_hotspots(many, MPP, HOTSPOT_MM2)),
        "hotspots_of_500000_even_s": cpu_seconds(lambda: find_hotspots(even, MPP, HOTSPOT_MM2)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
