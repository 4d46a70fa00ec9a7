"""Shipped heads on images that were never trained on, beside a classical baseline.

    python benchmarks/heads.py runs/lite0/umedpt_lite0.v1.json --data ../shared/data

The test side of the pretraining split. Nuclei: Dice of the foreground, aggregated Jaccard index,
and average precision of boxes at IoU 0.5. The baseline is Otsu's threshold and a watershed of the
distance transform, on the haematoxylin channel of H&E and on grey values else; its boxes have no
score, so they are ranked by size.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from wsi_umedpt.cases import Boxes
from wsi_umedpt.datasets.augment import still_view, take
from wsi_umedpt.datasets.records import instance_boxes
from wsi_umedpt.datasets.taskdata import TaskData
from wsi_umedpt.models.release import load_release
from wsi_umedpt.tasks import load_heads
from wsi_umedpt.tasks.average_precision import mean_average_precision
from wsi_umedpt.tasks.detection import Detection
from wsi_umedpt.tasks.fcos import Detections
from wsi_umedpt.tasks.instances import aggregated_jaccard, instances_of
from wsi_umedpt.training.run import find_data
from wsi_umedpt.training.settings import read_pretrain_config

SEEDS_APART_PX = 5


def classical(image: np.ndarray, *, stained: bool, dark: bool) -> np.ndarray:
    """Instances by Otsu's threshold and a watershed of the distance transform."""
    grey = rgb2hed(image)[..., 0] if stained else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    grey = cv2.GaussianBlur(grey, (0, 0), 1)
    front = grey > threshold_otsu(grey) if stained or not dark else grey < threshold_otsu(grey)
    front = ndimage.binary_fill_holes(ndimage.binary_opening(front, iterations=1))
    distance = ndimage.distance_transform_edt(front)
    peaks = peak_local_max(distance, min_distance=SEEDS_APART_PX, labels=front.astype(int))
    seeds = np.zeros(front.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, seeds, mask=front).astype(np.int32)


def boxes_of(labels: np.ndarray) -> Detections:
    """Boxes around instances, ranked by size."""
    xyxy = torch.from_numpy(instance_boxes(labels))
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    order = area.argsort(descending=True)
    return Detections(xyxy[order], torch.zeros(len(xyxy), dtype=torch.int64), area[order] / max(1.0, float(area.sum())))


def one_class(boxes: Boxes | Detections) -> Boxes | Detections:
    """The same boxes, all of one class."""
    return boxes._replace(classes=torch.zeros_like(boxes.classes))


@torch.inference_mode()
def nuclei(shared, head, data: TaskData, zoom: float) -> dict[str, float]:
    """Dice and AJI of ours and of the baseline, mean over images."""
    rows = []
    for record in data.splits["test"]:
        case = record.read()
        seen = take(case, still_view(case, zoom, "crop", 0))
        image = torch.from_numpy(seen.image).permute(2, 0, 1)[None]
        features = shared.features(shared.normalised(image))
        found = instances_of(head(shared, features)[0].argmax(0).numpy())
        true = np.unique(np.maximum(seen.mask, 0), return_inverse=True)[1].reshape(seen.mask.shape).astype(np.int32)
        stained = data.spec.modality == "microscopy"
        plain = classical(seen.image, stained=stained, dark=False)
        rows.append([f(true, labels) for labels in (found, plain) for f in (dice, aggregated_jaccard)])
    mean = np.nanmean(rows, axis=0)
    names = ("dice", "aji", "dice_baseline", "aji_baseline")
    return {"images": len(rows), **{k: float(v) for k, v in zip(names, mean, strict=True)}}


def dice(true: np.ndarray, found: np.ndarray) -> float:
    """Dice of the foreground."""
    total = (true > 0).sum() + (found > 0).sum()
    return float(2 * ((true > 0) & (found > 0)).sum() / total) if total else float("nan")


@torch.inference_mode()
def boxes(shared, head: Detection, data: TaskData) -> dict[str, float]:
    """Mean average precision, and, all classes as one, beside the baseline."""
    found, true, plain, images = [], [], [], 0
    for batch in data.evaluated("test"):
        outputs = head(shared, shared.features(shared.normalised(batch.images)))
        found += head.detections(outputs)
        true += batch.boxes
        image = batch.images[0].permute(1, 2, 0).numpy()
        stained = data.spec.modality == "microscopy" and "nuclei" in data.spec.name
        plain.append(boxes_of(classical(image, stained=stained, dark=data.spec.modality == "microscopy")))
        images += 1
    merged = [one_class(b) for b in true]
    each = mean_average_precision(found, true, len(head.spec.classes))
    return {
        "images": images,
        "map50": float(np.nanmean(each)),
        **{f"ap50_{name}": ap for name, ap in zip(head.spec.classes, each, strict=True)},
        "ap50_any": mean_average_precision([one_class(d) for d in found], merged, 1)[0],
        "ap50_any_baseline": mean_average_precision(plain, merged, 1)[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "pretraining" / "lite0.toml")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = parser.parse_args()
    release = load_release(asked.release)
    heads = load_heads(release)
    for data in find_data(read_pretrain_config(asked.config, asked.data)):
        head = heads[data.spec.name]
        if data.spec.kind == "detection":
            figures = boxes(release.shared, head, data)
        elif data.spec.kind == "segmentation" and "nuclei" in data.spec.name:
            figures = nuclei(release.shared, head, data, float(np.sqrt(np.prod(data.spec.zoom))))
        else:
            meter = head.meter()
            with torch.inference_mode():
                for batch in data.evaluated("test"):
                    meter.add(
                        head(release.shared, release.shared.features(release.shared.normalised(batch.images))), batch
                    )
            figures = {"images": len(data.splits["test"]), **meter.figures()}
        print(
            f"| {data.spec.name} | "
            + ", ".join(f"{k} {v:.3f}" if k != "images" else f"{v} images" for k, v in figures.items())
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
