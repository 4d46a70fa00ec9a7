"""Objects that `segment` found, given to a lesson as they are: nothing is corrected, and F1 before should be near 1.

    python -m benchmarks.segmentation.untouched [--model umedpt_lite0.v1 --head nuclei_dsb]

A field of 600 px of the demo slide, in a piece of 900 px.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

import wsi_umedpt as wu
from wsi_umedpt.geometry import Box
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.weights import release_path
from wsi_umedpt.pipeline.correct import CorrectedField, read_windows
from wsi_umedpt.pipeline.lesson import Learning
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.tasks.multihead import find_heads

PIECE, FIELD, MPP = Box(900, 900, 900, 900), Box(150, 150, 600, 600), 0.499


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_ENCODER)
    parser.add_argument("--head", default="nuclei")
    asked = parser.parse_args()
    release = load_release(release_path(asked.model))
    with tempfile.TemporaryDirectory() as folder:
        with wu.open_slide(sample_slide()) as slide:
            cv2.imwrite(f"{folder}/piece.png", slide.read(PIECE)[..., ::-1])
        with wu.open_slide(f"{folder}/piece.png", mpp=MPP) as slide:
            tissue = wu.TissueMask(np.ones((57, 57), np.uint8), 16)
            store = wu.segment(slide, Path(folder) / "a.zarr", heads=asked.head, model=asked.model, tissue=tissue)
            found = store.objects(asked.head).geometry
            field = CorrectedField(box=FIELD, outlines=[np.asarray(one.exterior.coords)[:-1] for one in found])
            learning = Learning(read_windows(slide, tissue, [field], (release, find_heads(release, [asked.head])[0])))
    print(f"F1 {learning.before():.3f}, {learning.corrections()}")


if __name__ == "__main__":
    main()
