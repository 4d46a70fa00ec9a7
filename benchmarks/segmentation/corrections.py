"""F1 of nuclei before and after 20 corrections, on images of the same patient that were not corrected.

    python -m benchmarks.segmentation.corrections DATA/tnbc [--patients 06 07 08 09 10 11] [--corrections 20]
        [--teach 4]

TNBC (Naylor et al.; CC BY 4.0), 11 patients, 3 to 4 images of each used. The head that is taught, `nuclei_dsb`, was
trained on other images (dsb2018); the decoder below it has seen TNBC images of other heads' training, patients of this
table among them.

One image of a patient is corrected from its upper edge down, until so many nuclei were put right: added where the head
found none, removed where none is, drawn anew where IoU is below 0.7. All others keep the outlines that the head gave
them, as a user leaves them. The head learns from that part alone, and F1 (IoU over 0.5) before and after is of the
patient's other images. Every image takes its turn (`--teach` at most, those with most nuclei first). Penalties were
chosen on patients 01 to 05. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

import wsi_umedpt as wu
from wsi_umedpt.datasets.samples import IGNORED
from wsi_umedpt.geometry import Box
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.weights import release_path
from wsi_umedpt.pipeline.correct import MARGIN_PX, CorrectedField, read_windows
from wsi_umedpt.pipeline.lesson import Learning, Windows, f1_of
from wsi_umedpt.tasks.instances import instance_iou
from wsi_umedpt.tasks.multihead import find_heads

HEAD, MPP, GAP = "nuclei_dsb", 0.25, 64
RUN_MPP = 0.5
"""um/px at which `wsi-umedpt segment` runs the head."""
SCALE = RUN_MPP / MPP
GOOD, SAME = 0.7, 0.3
"""IoU from which an outline is left as it is, and below which it is of another nucleus."""


def patient_windows(data: Path, patient: str, release: object) -> tuple[Windows, list[int]]:
    """Windows of a patient's images, which lie in a row on one slide, and the image that each is of."""
    images = sorted((data / "images").glob(f"{patient}_*.png"))[:4]
    mirrored = [
        cv2.copyMakeBorder(cv2.imread(str(path)), GAP, GAP, GAP, GAP, cv2.BORDER_REFLECT_101) for path in images
    ]
    row, side = np.hstack(mirrored), mirrored[0].shape[0]
    fields = []
    for k, path in enumerate(images):
        mask = cv2.imread(str(data / "masks" / path.name), cv2.IMREAD_GRAYSCALE)
        rings, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        corner = np.array([k * side + GAP, GAP])
        outlines = [ring[:, 0] + 0.5 + corner for ring in rings if len(ring) > 5]
        fields.append(CorrectedField(box=Box(*corner.tolist(), side - 2 * GAP, side - 2 * GAP), outlines=outlines))
    tissue = wu.TissueMask(np.ones((-(-row.shape[0] // 16), -(-row.shape[1] // 16)), bool), 16)
    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(f"{folder}/row.png", row)
        with wu.open_slide(Path(folder) / "row.png", mpp=MPP) as slide:
            windows = read_windows(slide, tissue, fields, (release, find_heads(release, [HEAD])[0]), mpp=RUN_MPP)
    return windows, [part.x // side for part in windows.parts]


def corrected(learning: Learning, windows: Windows, rows: list[int], most: int) -> tuple[np.ndarray, int]:
    """Windows of one image as a user leaves them after so many corrections from its upper edge on; how many."""
    out = np.full_like(windows.true, IGNORED)
    ends: list[float] = []  # where each correction ends, level-0 px down
    for row in rows:
        true = windows.true[row]
        found = np.where(true == IGNORED, 0, learning.found(windows.head, row))
        labels = [
            np.unique(np.where(one > 0, one, 0), return_inverse=True)[1].reshape(one.shape) for one in (true, found)
        ]
        iou = instance_iou(*(one.astype(np.int32) for one in labels))
        field = np.where(true == IGNORED, IGNORED, 0)
        kept: set[int] = set()
        for k in range(iou.shape[0]):
            best = int(iou[k].argmax()) if iou.shape[1] else -1
            mine = labels[0] == k + 1
            if best >= 0 and iou[k, best] > GOOD:
                mine = (labels[1] == best + 1) & (field == 0)
                kept.add(best)
            else:
                ends.append(_end(windows, row, mine))
                if best >= 0 and iou[k, best] > SAME:
                    kept.add(best)
            field[mine] = k + 1
        for k in {*range(iou.shape[1])} - kept:
            ends.append(_end(windows, row, labels[1] == k + 1))
        out[row] = field
    ends.sort()
    if len(ends) > most:
        for row in rows:
            first = max(0, round((ends[most] - windows.parts[row].y) / SCALE) + MARGIN_PX)
            out[row, first:] = IGNORED
    return out, min(len(ends), most)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Objects numbered without gaps, 0 elsewhere."""
    return np.unique(np.where(labels > 0, labels, 0), return_inverse=True)[1].reshape(labels.shape)


def _end(windows: Windows, row: int, mine: np.ndarray) -> float:
    """Lowest row of an object, level-0 px."""
    return windows.parts[row].y + (float(np.argwhere(mine)[:, 0].max()) - MARGIN_PX) * SCALE


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--patients", nargs="*", default=["06", "07", "08", "09", "10", "11"])
    parser.add_argument("--corrections", type=int, default=20)
    parser.add_argument("--teach", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    release = load_release(release_path("umedpt_lite0.v1"))  # TNBC is new to its head
    gains: dict[str, list[float]] = {}
    took: list[float] = []
    for patient in asked.patients:
        windows, image = patient_windows(asked.data, patient, release)
        learning = Learning(windows)
        count = {k: sum(len(np.unique(windows.true[r])) for r in range(len(image)) if image[r] == k) for k in {*image}}
        for taught in sorted(count, key=lambda k: -count[k])[: asked.teach]:
            rows = [row for row, of in enumerate(image) if of == taught]
            true, fixed = corrected(learning, windows, rows, asked.corrections)
            there = [row for row in rows if (true[row] != IGNORED).any()]
            began = time.process_time()
            head = Learning(replace(windows, true=true)).fit(np.array(there))
            took.append(time.process_time() - began)
            others = [row for row, of in enumerate(image) if of != taught]
            before, after = (
                f1_of([learning.compare(one, row).matches for row in others]) for one in (windows.head, head)
            )
            gains.setdefault(patient, []).append(after - before)
            print(f"{patient}, image {taught + 1}, {fixed} corrections: F1 of the others {before:.3f} to {after:.3f}")
    every = np.array([np.mean(one) for one in gains.values()])
    drawn = np.random.default_rng(0).integers(len(every), size=(5000, len(every)))
    low, high = np.percentile(every[drawn].mean(1), [2.5, 97.5])
    words = f"mean gain over {len(every)} patients {every.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    print(f"{words}, better on {(every > 0).sum()}; a fit takes {np.mean(took):.1f} CPU s")
    print(json.dumps({"gain": round(float(every.mean()), 4), "interval": np.round([low, high], 4).tolist()}))


if __name__ == "__main__":
    main()
