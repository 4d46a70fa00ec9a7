"""How much the objects found depend on the windows that a slide is cut into.

    python -m benchmarks.segmentation.windows [--head nuclei] [--per-window]

Nuclei of the sample slide with windows of several sizes and overlaps, against the largest: number,
Dice of the foreground, AJI and PQ of the outlines drawn again, and CPU-seconds of the whole pass
(one thread). ``--per-window`` normalises each window by its own statistics, as in training. The
last line is JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from wsi_umedpt.models import fixed_norm
from wsi_umedpt.models.bundle import load_release, shipped
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.pipeline.segment import SegmentTask, segment_slide
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.objects import Objects
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks.instances import aggregated_jaccard, panoptic_quality
from wsi_umedpt.tasks.multihead import OnePass, find_heads

LAYOUTS = ((1216, 320), (1088, 320), (224, 64), (256, 64), (320, 64), (320, 128), (480, 64), (480, 128))
"""Side and overlap, px at 0.5 um/px; the first is compared with. Strides are multiples of 32."""


def drawn(objects: Objects, size: tuple[int, int]) -> np.ndarray:
    """Instances as their outlines say, int32 (h, w), level-0 px."""
    labels = np.zeros((size[1], size[0]), np.int32)
    for i, ring in enumerate(np.split(objects.outline, objects.starts[1:-1]) if len(objects) else [], start=1):
        cv2.fillPoly(labels, [np.round(ring).astype(np.int32)], i)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="nuclei")
    parser.add_argument("--per-window", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    release = load_release(shipped()[DEFAULT_ENCODER])
    if asked.per_window:
        fixed_norm.FixedNorm = lambda norm, _: norm  # type: ignore[misc, assignment]
    reference, figures = None, {}
    with open_slide(sample_slide()) as slide, tempfile.TemporaryDirectory() as folder:
        tissue = find_tissue(slide)
        for size, overlap in LAYOUTS:
            spec = TileSpec(size_px=size, stride_px=size - overlap, min_tissue=0.02)
            model = OnePass(release, find_heads(release, [asked.head]), size_px=size)
            path, began = Path(folder) / f"{size}_{overlap}.zarr", time.process_time()
            with SlideStore.create(path, slide, tissue, lay_grid(slide.size, slide.mpp, spec, within=tissue)) as store:
                task = SegmentTask(model=model, spec=spec, made_by={}, settings=RunSettings(readers=0))
                segment_slide(slide, store, task)
            seconds = time.process_time() - began
            objects, _ = read_objects(SlideStore.open(path))
            labels = drawn(objects, slide.size)
            reference = labels if reference is None else reference
            dice = 2 * ((reference > 0) & (labels > 0)).sum() / ((reference > 0).sum() + (labels > 0).sum())
            agreement = aggregated_jaccard(reference, labels), panoptic_quality(reference, labels).quality
            area = (size / (size - overlap)) ** 2
            print(
                f"| {size} / {overlap} | {area:.2f} | {len(objects)} | {dice:.3f} | {agreement[0]:.3f} | "
                f"{agreement[1]:.3f} | {seconds:.1f} |",
                flush=True,
            )
            figures[f"{size}/{overlap}"] = [len(objects), round(float(dice), 3), round(agreement[0], 3)]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
