"""One pass for embeddings, pixels and boxes against three passes, one for each.

    python -m benchmarks.segmentation.one_pass [--rounds 3]

The sample slide, the shipped model and its heads of nuclei in H&E, one thread, CPU-seconds of the
whole process; sides take turns, the best round of each counts. Every pass reads the slide, runs
the encoder and writes its results. "Plain" embeds tiles that do not overlap, of the same size,
which nobody needs to overlap who wants embeddings alone. The instance step is measured by
itself, on outputs that were kept. The last line is JSON.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from wsi_umedpt.models.bundle import load_release, shipped
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.pipeline.embed import encode_slide
from wsi_umedpt.pipeline.plan import OVERLAP_PX, WINDOW_PX
from wsi_umedpt.pipeline.segment import FeaturesToo, SegmentTask, segment_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask, find_tissue
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks.multihead import MAP_STRIDES, ObjectHeads, OnePass, find_heads

HEAD = "nuclei"
INLINE = RunSettings(readers=0)


class Kept:
    """A model's outputs, given out again at no cost."""

    def __init__(self, model: OnePass) -> None:
        self.heads, self.maps, self._model, self._outputs = model.heads, model.maps, model, []
        self.replaying = False

    def submit(self, pixels, part_done=None):
        """See `OnePass.submit`."""
        if not self.replaying:
            self._outputs.append(self._model.submit(pixels)())
        outputs = self._outputs[self._turn] if self.replaying else self._outputs[-1]
        self._turn += 1
        return lambda: outputs

    def calibrate(self, tiles):
        """See `OnePass.calibrate`."""
        if not self.replaying:
            self._model.calibrate(tiles)

    def rewind(self, *, replaying: bool) -> None:
        """Begin anew."""
        self._turn, self.replaying = 0, replaying


def best_seconds(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """CPU-seconds of each side."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.process_time()
            side()
            best[name] = min(best[name], time.process_time() - began)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    release = load_release(shipped()[DEFAULT_ENCODER])
    encoder = load_encoder(DEFAULT_ENCODER, device="cpu")
    (both,) = find_heads(release, [HEAD])
    spec = TileSpec(size_px=WINDOW_PX, stride_px=WINDOW_PX - OVERLAP_PX)
    plain = TileSpec(size_px=WINDOW_PX)

    def model(heads: ObjectHeads) -> OnePass:
        return OnePass(release, [heads], size_px=WINDOW_PX)

    models = {
        "both": model(both),
        "pixels": model(dataclasses.replace(both, boxes=None)),
        "boxes": model(dataclasses.replace(both, pixels=None)),
        "vectors": OnePass(release, [both], size_px=WINDOW_PX, maps=MAP_STRIDES),
    }
    kept, counts = Kept(models["both"]), {}
    with open_slide(sample_slide()) as slide, tempfile.TemporaryDirectory() as folder:
        tissue = find_tissue(slide)
        numbers = iter(range(10_000))

        def task(model: Any, features: FeaturesToo | None = None) -> SegmentTask:
            return SegmentTask(model=model, spec=spec, made_by={}, features=features, settings=INLINE)

        def store(of: TileSpec):
            return SlideStore.create(Path(folder) / f"{next(numbers)}.zarr", slide, tissue, grid(slide, tissue, of))

        def embed(of: TileSpec) -> None:
            with store(of) as made:
                encode_slide(slide, made, encoder, settings=INLINE)

        def segment(which: str, *, features: bool = False) -> None:
            too = FeaturesToo(encoder.name, {}, encoder.dim) if features else None
            with store(spec) as made:
                segment_slide(slide, made, task(models[which], too))

        def replay() -> None:
            kept.rewind(replaying=True)
            with store(spec) as made:
                counts.update(segment_slide(slide, made, task(kept)).objects)

        def read() -> None:
            windows = lay_grid(slide.size, slide.mpp, spec, within=tissue, whole=False)
            from wsi_umedpt.slides.tile_loader import read_tiles

            for _ in read_tiles(slide, windows, readers=0):
                pass

        kept.rewind(replaying=False)
        with store(spec) as made:
            segment_slide(slide, made, task(kept))
        seconds = best_seconds(
            {
                "one pass": lambda: segment("both", features=True),
                "one pass, vectors of objects": lambda: segment("vectors", features=True),
                "embed": lambda: embed(spec),
                "embed plain": lambda: embed(plain),
                "pixels": lambda: segment("pixels"),
                "boxes": lambda: segment("boxes"),
                "instances": replay,
                "read": read,
            },
            asked.rounds,
        )
    print(", ".join(f"{name} {s:.2f} s" for name, s in seconds.items()))
    apart = seconds["pixels"] + seconds["boxes"]
    figures = {
        "vectors": seconds["one pass, vectors of objects"] / seconds["one pass"],
        "speedup": (seconds["embed"] + apart) / seconds["one pass"],
        "speedup_plain": (seconds["embed plain"] + apart) / seconds["one pass"],
        "objects_per_second": counts[HEAD] / (seconds["instances"] - seconds["read"]),
    }
    print(json.dumps({k: round(v, 3) for k, v in figures.items()}))


def grid(slide: Slide, tissue: TissueMask, spec: TileSpec):
    """Whole tiles, as `embed` lays them."""
    return lay_grid(slide.size, slide.mpp, spec, within=tissue)


if __name__ == "__main__":
    main()
