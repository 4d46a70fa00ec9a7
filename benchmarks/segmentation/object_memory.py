"""Peak memory of finding objects, on a slide and on one three times as wide and high.

    python -m benchmarks.segmentation.object_memory

The slides are those of speed/slides.py (20,480 and 61,440 px square, 0.25 um/px), each in a fresh process.
The network is replaced by one that costs nothing and finds about forty nuclei in a window; all else
is real. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.speed import slides
from benchmarks.speed.embedding import one_thread
from wsi_umedpt.pipeline.segment import SegmentTask, segment_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks.multihead import MAP_STRIDES, ObjectHeads, Outputs

SPEC = TileSpec(size_px=320, stride_px=256, min_tissue=0.05)


class Free:
    """Stands in for a `OnePass`: the same disks in every window, which repeat with the stride."""

    heads = (ObjectHeads("nuclei", ("nucleus",), False, True, None, None),)

    def __init__(self) -> None:
        self.maps = dict(zip(MAP_STRIDES, (40, 112, 320), strict=True))
        rng, stride, size = np.random.default_rng(0), SPEC.stride, SPEC.size_px
        disks = np.zeros((stride, stride), np.uint8)
        for x, y, radius in zip(*rng.integers(0, stride, (2, 60)), rng.integers(5, 9, 60), strict=True):
            cv2.circle(disks, (int(x), int(y)), int(radius), 255, -1)
        window = np.tile(disks, (2, 2))[:size, :size]
        self._chances = cv2.resize(window, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)[None, None]

    def calibrate(self, tiles):
        """See `OnePass.calibrate`."""

    def submit(self, pixels, part_done=None):
        """See `OnePass.submit`."""
        count = len(pixels)
        maps = tuple(
            np.ones((count, SPEC.size_px // s, SPEC.size_px // s, c), np.float16) for s, c in self.maps.items()
        )
        return lambda: Outputs(np.zeros((count, 1), np.float32), {"nuclei": self._chances.repeat(count, 0)}, {}, maps)


def peak(path: Path) -> tuple[int, int, float, float]:
    """Windows, objects, peak MB of this process, seconds."""
    one_thread()
    task = SegmentTask(model=Free(), spec=SPEC, made_by={}, settings=RunSettings(readers=0))  # type: ignore[arg-type]
    began = time.perf_counter()
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as folder:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
        with SlideStore.create(Path(folder) / "a.zarr", slide, tissue, grid) as store:
            found = segment_slide(slide, store, task)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return found.tiles, found.objects["nuclei"], int(status["VmHWM"].split()[0]) / 1024, time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    fresh, peaks = multiprocessing.get_context("spawn"), {}
    for name, path in (("small", slides.small_slide()), ("large", slides.large_slide())):
        with fresh.Pool(1) as pool:
            windows, objects, peaks[name], seconds = pool.apply(peak, (path,))
        print(
            f"{name}: {windows} windows, {objects} objects, {peaks[name]:.0f} MB at most, {seconds:.0f} s", flush=True
        )
    print(json.dumps({"rss_growth_mb": round(peaks["large"] - peaks["small"])}))


if __name__ == "__main__":
    main()
