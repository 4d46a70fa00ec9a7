"""F1 of nuclei before and after a head is corrected, on windows that were left out, on mosaics of real images.

    python -m benchmarks.segmentation.corrections DATA/tnbc [--patients 01]

TNBC (Naylor et al.; CC BY 4.0): four images of a patient side by side, at 0.25 um/px, are a slide; its masks are the
corrections. The head that is taught, `nuclei_dsb`, never saw these images.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

import wsi_umedpt as wu
from wsi_umedpt.geometry import Box
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.weights import release_path
from wsi_umedpt.pipeline.correct import CorrectedField, correct_head

HEAD, MPP = "nuclei_dsb", 0.25


def mosaic(paths: list[Path], flag: int) -> np.ndarray:
    """Four pictures, two by two."""
    read = [cv2.imread(str(path), flag) for path in paths[:4]]
    return np.vstack([np.hstack(read[:2]), np.hstack(read[2:])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--patients", nargs="*", default=["01"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    release = load_release(release_path(DEFAULT_ENCODER))
    for patient in asked.patients:
        images = sorted((asked.data / "images").glob(f"{patient}_*.png"))
        picture = mosaic(images, cv2.IMREAD_COLOR)
        mask = mosaic([asked.data / "masks" / path.name for path in images], cv2.IMREAD_GRAYSCALE)
        rings, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        height, width = mask.shape
        field = CorrectedField(
            box=Box(0, 0, width, height), outlines=[ring[:, 0] + 0.5 for ring in rings if len(ring) > 5]
        )
        tissue = wu.TissueMask(np.ones((-(-height // 16), -(-width // 16)), bool), 16)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mosaic.png"
            cv2.imwrite(str(path), picture)
            with wu.open_slide(path, mpp=MPP) as slide:
                found = correct_head(slide, tissue, [field], release, HEAD)
        print(f"{patient}: {found.objects} nuclei, {found.windows} windows, F1 {found.before:.3f} to {found.after:.3f}")


if __name__ == "__main__":
    main()
