"""Heads of nuclei on images of a laboratory that no training saw, beside a classical baseline.

    python -m benchmarks.pretraining.elsewhere umedpt_lite0.v1:nuclei_dsb umedpt_lite0.v2:nuclei [RELEASE.json:HEAD ...]

Two H&E images of 1,500 px at 0.5 um/px of the histolytics package (BSD-3), segmented as `wsi-umedpt segment` does.
Their labels look model-made, so that figures say which head is nearer to that model, not how good one is. Dice, AJI,
PQ and F1 as in `heads`; the baseline is that of `heads`, Otsu's threshold on haematoxylin and a watershed.
"""

import argparse
import io
import tempfile
from pathlib import Path

import cv2
import geopandas as gpd
import numpy as np

import wsi_umedpt as wu
from benchmarks.pretraining.heads import agreement, classical, numbered, row
from benchmarks.pretraining.scarcity_targets import read_wheel
from benchmarks.segmentation.cell_types import IMAGES, MPP
from wsi_umedpt.settings import TileOptions


def drawn(polygons: gpd.GeoSeries, shape: tuple[int, int], origin: float) -> np.ndarray:
    """Nuclei of an image, int32 (h, w), numbered 1, 2, ...; where two overlap, the later one.

    Parameters
    ----------
    origin
        Where the middle of the first pixel lies: 0.5 as stores have it, 0 as contours of a mask are traced.
    """
    labels = np.zeros(shape, np.int32)
    for number, polygon in enumerate(polygons.explode(ignore_index=True), 1):
        cv2.fillPoly(labels, [np.rint(np.asarray(polygon.exterior.coords) - origin).astype(np.int32)], number)
    return numbered(labels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="+", metavar="MODEL:HEAD")
    parser.add_argument("--magnify", action="store_true", help="windows at 0.25 um/px, magnified")
    asked = parser.parse_args()
    read = read_wheel("histolytics==0.3.0")
    for name, files in IMAGES.items():
        picture, table = (read(f"histolytics/data/{file}") for file in files)
        image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        true = drawn(gpd.read_parquet(io.BytesIO(table)).geometry, image.shape[:2], 0)
        baseline = classical(image, stained=True, dark=False)
        print(row(f"{name}, Otsu and watershed", {"images": 1, **agreement(true, baseline)}), flush=True)
        tiles = TileOptions(tile_mpp=MPP / 2, upsample=True) if asked.magnify else None
        tissue = wu.TissueMask(np.ones((94, 94), np.uint8), 16)
        for given in asked.heads:
            model, _, head = given.rpartition(":")
            with tempfile.TemporaryDirectory() as folder:
                cv2.imwrite(f"{folder}/{name}.png", image[..., ::-1])
                with wu.open_slide(Path(folder) / f"{name}.png", mpp=MPP) as slide:
                    store = wu.segment(
                        slide, Path(folder) / "found.zarr", heads=head, model=model, tissue=tissue, tiles=tiles
                    )
                found = drawn(store.objects(head).geometry, image.shape[:2], 0.5)
            print(row(f"{name}, {given}", {"images": 1, **agreement(true, found)}), flush=True)


if __name__ == "__main__":
    main()
