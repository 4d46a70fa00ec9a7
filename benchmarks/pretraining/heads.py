r"""Shipped heads on images that were never trained on, beside a classical baseline.

    python -m benchmarks.pretraining.heads --data ../shared/data
    python -m benchmarks.pretraining.heads wsi_umedpt/weights/umedpt_lite0.v1.json \
        --config benchmarks/pretraining/lite0.toml
    python -m benchmarks.pretraining.heads --split val --zooms 0.5 1       # which scale shows nuclei best

The test side of the pretraining split (``--split val`` for choosing between ways to separate
nuclei, which ``--ways`` compares). Nuclei, mean over images: Dice of the foreground, aggregated
Jaccard index, panoptic quality, error of the count over the true count; boxes: average precision
at IoU 0.5. Nuclei are separated as `wsi-umedpt segment` does it. The baseline is Otsu's threshold
and a watershed of the smoothed distance transform, on the haematoxylin channel of H&E and on grey
values else; its boxes have no score, so they are ranked by size. With ``--zooms`` nuclei are looked for at
these zooms, those under 10 um2 dropped (images of no stated scale count as 0.25 um/px), and compared at the
images' own pixels; with ``--finest 0.5`` as if a scanner had half the pixels, and `segment --upsample` enlarged them.
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
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from wsi_umedpt.datasets.augment import still_view, take
from wsi_umedpt.datasets.records import instance_boxes
from wsi_umedpt.datasets.samples import Boxes
from wsi_umedpt.datasets.task_data import TaskData
from wsi_umedpt.models.bundle import load_release, shipped
from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.segmentation.object_writer import MIN_SCORE
from wsi_umedpt.segmentation.watershed import separate
from wsi_umedpt.store.objects import TileBoxes
from wsi_umedpt.tasks import load_heads
from wsi_umedpt.tasks.average_precision import mean_average_precision
from wsi_umedpt.tasks.detection import Detection
from wsi_umedpt.tasks.fcos import Detections
from wsi_umedpt.tasks.instances import aggregated_jaccard, panoptic_quality
from wsi_umedpt.tasks.multihead import CALIBRATION_PX, OnePass, find_heads
from wsi_umedpt.training.run import find_data
from wsi_umedpt.training.settings import read_pretrain_config

SEEDS_APART_PX = 7
BLUR_PX, SMOOTH_PX = 1.5, 2.0
"""Standard deviations by which the grey values and the distances are smoothed."""
LEAST_PX = 50
"""Of a classical nucleus. These four, and the opening's radius of 2, are the best of seven sets in validation."""


def classical(image: np.ndarray, *, stained: bool, dark: bool) -> np.ndarray:
    """Instances by Otsu's threshold and a watershed of the distance transform."""
    grey = rgb2hed(image)[..., 0] if stained else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    grey = cv2.GaussianBlur(grey, (0, 0), BLUR_PX)
    front = grey > threshold_otsu(grey) if stained or not dark else grey < threshold_otsu(grey)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    front = ndimage.binary_fill_holes(cv2.morphologyEx(front.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0)
    front = remove_small_objects(front, max_size=LEAST_PX)
    distance = cv2.GaussianBlur(ndimage.distance_transform_edt(front).astype(np.float32), (0, 0), SMOOTH_PX)
    peaks = peak_local_max(distance, min_distance=SEEDS_APART_PX, labels=front.astype(int), exclude_border=False)
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


MIN_PX, MIN_UM2, MPP = 20, 10.0, 0.25
"""Least nucleus where the images' scale is left alone; with ``--zooms``; and um/px where none is stated."""
WAYS = {"both heads": MIN_SCORE, "both, boxes over 0.2": 0.2, "both, boxes over 0.4": 0.4, "pixels alone": None}
"""Least score of the boxes whose centres mark nuclei; None leaves the boxes out."""


def numbered(labels: np.ndarray) -> np.ndarray:
    """The same instances as 1, 2, ..., int32 (h, w); what is ignored is 0."""
    return np.unique(np.maximum(labels, 0), return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def look(image: np.ndarray, model: OnePass) -> tuple[np.ndarray, TileBoxes | None]:
    """Chances, uint8 (class, h, w), and boxes of a whole image; norms are fixed by its tiles, as those of a slide."""
    (head,) = model.heads
    height, width = image.shape[:2]
    tops, lefts = (range(0, max(1, n - CALIBRATION_PX + 1), CALIBRATION_PX) for n in (height, width))
    tiles = [image[y : y + CALIBRATION_PX, x : x + CALIBRATION_PX] for y in tops for x in lefts]
    model.calibrate(np.stack(tiles))
    # As a window: a multiple of 32, in white beyond the image.
    window = cv2.copyMakeBorder(image, 0, -height % 32, 0, -width % 32, cv2.BORDER_REPLICATE)
    outputs = model.submit(window[None])()
    chances = np.stack([cv2.resize(c, None, fx=2, fy=2) for c in outputs.chances[head.name][0]])[:, :height, :width]
    return chances, outputs.boxes[head.name][0] if head.boxes else None


def instances(image: np.ndarray, model: OnePass, min_score: float | None, min_px: int = MIN_PX) -> np.ndarray:
    """Nuclei of a whole image, int32 (h, w)."""
    (head,) = model.heads
    chances, boxes = look(image, model)
    centres = None if min_score is None or boxes is None else boxes.centres[boxes.score >= min_score]
    front = np.minimum(chances.sum(0, dtype=int), 255).astype(np.uint8)
    return separate(front, chances[0], centres, min_px=min_px, vouched=head.vouched)


def nuclei(model: OnePass, data: TaskData, split: str, ways: dict[str, float | None]) -> dict[str, dict[str, float]]:
    """Figures of each collection and way, and of the baseline; means over images."""
    rows: dict[str, list[dict[str, float]]] = {}
    for record in data.splits[split]:
        case = record.read()
        zoom = float(np.sqrt(np.prod(record.zoom or data.spec.zoom)))
        seen = take(case, still_view(case, zoom, "crop", 0))
        true = numbered(seen.mask)
        found = {name: instances(seen.image, model, score) for name, score in ways.items()}
        found["Otsu, watershed"] = classical(seen.image, stained=data.spec.modality == "microscopy", dark=False)
        for name, labels in found.items():
            rows.setdefault(f"{record.group.partition('/')[0]}, {name}", []).append(agreement(true, labels))
    return means(rows)


def means(rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean of each figure over images."""
    return {
        name: {"images": len(each), **{k: float(np.nanmean([r[k] for r in each])) for k in each[0]}}
        for name, each in rows.items()
    }


def at_zooms(
    model: OnePass, data: TaskData, split: str, zooms: list[float], finest: float
) -> dict[str, dict[str, float]]:
    """Figures of each collection and zoom at the images' own pixels; means over images."""
    rows: dict[str, list[dict[str, float]]] = {}
    for record in data.splits[split]:
        case = record.read()
        own = take(case, still_view(case, 1.0, "crop", 0))
        true = numbered(own.mask)
        for zoom in zooms:
            seen = take(case, still_view(case, min(zoom, finest), "crop", 0)).image
            if zoom > finest:  # as `segment --upsample` does
                larger = zoom / finest
                seen = cv2.resize(seen, None, fx=larger, fy=larger, interpolation=cv2.INTER_LINEAR)
            min_px = round(MIN_UM2 / ((data.spec.mpp or MPP) / zoom) ** 2)
            found = instances(seen, model, WAYS["both heads"], min_px).astype(np.float32)
            found = cv2.resize(found, true.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
            name = f"{record.group.partition('/')[0]}, zoom {zoom:g}"
            rows.setdefault(name, []).append(agreement(true, found))
    return means(rows)


def agreement(true: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """How well the instances of an image agree."""
    count = abs(int(found.max()) - int(true.max())) / max(1, int(true.max()))
    quality = panoptic_quality(true, found)
    return {
        "dice": dice(true, found), "aji": aggregated_jaccard(true, found), "pq": quality.quality,
        "f1": quality.detection, "count_error": count,
    }  # fmt: skip


def dice(true: np.ndarray, found: np.ndarray) -> float:
    """Dice of the foreground."""
    total = (true > 0).sum() + (found > 0).sum()
    return float(2 * ((true > 0) & (found > 0)).sum() / total) if total else float("nan")


@torch.inference_mode()
def boxes(shared, head: Detection, data: TaskData, split: str) -> dict[str, float]:
    """Mean average precision, and, all classes as one, beside the baseline."""
    found, true, plain, images = [], [], [], 0
    for batch in data.evaluated(split):
        outputs = head(shared, shared.features(shared.normalised(batch.images)))
        found += head.detections(outputs)
        true += batch.boxes
        image = batch.images[0].permute(1, 2, 0).numpy()
        stained = data.spec.modality == "microscopy" and "nuclei" in data.spec.name
        plain.append(boxes_of(classical(image, stained=stained, dark=data.spec.modality == "microscopy")))
        images += 1
    merged = [one_class(b) for b in true]
    each = mean_average_precision(found, true, len(head.spec.classes))
    counts = [(int((d.scores >= MIN_SCORE).sum()), len(b.xyxy)) for d, b in zip(found, true, strict=True)]
    return {
        "images": images,
        "count_error": float(np.mean([abs(n - m) / max(1, m) for n, m in counts])),
        "map50": float(np.nanmean(each)),
        **{f"ap50_{name}": ap for name, ap in zip(head.spec.classes, each, strict=True)},
        "ap50_any": mean_average_precision([one_class(d) for d in found], merged, 1)[0],
        "ap50_any_baseline": mean_average_precision(plain, merged, 1)[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, nargs="?", default=shipped()[DEFAULT_ENCODER])
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("lite0_v2_fourth.toml"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--ways", action="store_true", help="compare ways to separate nuclei")
    parser.add_argument("--zooms", nargs="+", type=float, help="look for nuclei at these zooms alone")
    parser.add_argument("--finest", type=float, default=1.0, help="zoom of the scanner: beyond it images are enlarged")
    asked = parser.parse_args()
    release = load_release(asked.release)
    heads = load_heads(release)
    ways = WAYS if asked.ways else {"both heads": WAYS["both heads"]}
    for data in find_data(read_pretrain_config(asked.config, asked.data)):
        name, head = data.spec.name, heads[data.spec.name]
        if data.spec.kind == "segmentation" and "nuclei" in name:
            model = OnePass(release, find_heads(release, [name]), size_px=256)
            zoomed = asked.zooms and at_zooms(model, data, asked.split, asked.zooms, asked.finest)
            for way, figures in (zoomed or nuclei(model, data, asked.split, ways)).items():
                print(row(f"{name}, {way}", figures), flush=True)
        elif asked.ways or asked.zooms:
            continue
        elif data.spec.kind == "detection":
            print(row(name, boxes(release.shared, head, data, asked.split)), flush=True)
        else:
            meter = head.meter()
            with torch.inference_mode():
                for batch in data.evaluated(asked.split):
                    features = release.shared.features(release.shared.normalised(batch.images))
                    meter.add(head(release.shared, features), batch)
            print(row(name, {"images": len(data.splits[asked.split]), **meter.figures()}), flush=True)


def row(name: str, figures: dict[str, float]) -> str:
    """A row of a Markdown table."""
    shown = ", ".join(f"{k} {v:.3f}" if k != "images" else f"{v} images" for k, v in figures.items())
    return f"| {name} | {shown} |"


if __name__ == "__main__":
    main()
