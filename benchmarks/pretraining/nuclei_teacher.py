r"""Nuclei on images that carry none: several heads look, turned and mirrored, and what they agree on teaches the next.

    python -m benchmarks.pretraining.nuclei_teacher umedpt_lite0.v1:nuclei_dsb umedpt_lite0.v1:nuclei_tnbc \
        umedpt:runs/lite0_v2_fourth/umedpt_lite0.v2.json:nuclei --data ../shared/data -o runs/data   # or --measure

Self-training (Xie et al., Self-training with Noisy Student, CVPR 2020): one laboratory's masks do not tell what
nuclei of another look like. Probabilities of pixels are means over heads and views; boxes are kept that enough
of them found. Written are images, instance masks and a table that deals all of them to the training side, in
OUT/nuclei_teacher, and links to the collections of ``--data`` beside it, so that OUT is what `pretrain --data`
takes. Images: mitoses of one scanner (that whose labels `mitoses_xr` is fitted on; none of their labels is read),
and, of those that other tasks train on, BreCaHAD, BreaKHis at 400x, and middles of OCDC's shown twice as large.
``--measure`` prints figures on validation images: of each head, turned and mirrored, and of all together.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou, nms

from benchmarks.pretraining.heads import agreement, look, means, numbered, row
from benchmarks.pretraining.scarcity_targets import held_out
from wsi_umedpt.datasets.augment import still_view, take
from wsi_umedpt.datasets.images import read_image
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.weights import release_path
from wsi_umedpt.segmentation.watershed import separate
from wsi_umedpt.tasks.multihead import OnePass, find_heads
from wsi_umedpt.training.run import find_data
from wsi_umedpt.training.settings import read_pretrain_config

TURNS = ((0, False), (1, False), (2, True), (3, True))
"""Quarter turns, and whether mirrored after it."""
LEAST_VOTE = 0.4
"""Mean score over heads and views from which a box's centre marks a nucleus."""
LEAST_PX = 80
"""Of a nucleus: 5 um2 at 0.25 um/px. A speck too many teaches less that is wrong than a nucleus left out."""
EVERY = 3
"""Of the crops around mitoses, one of three is taken: each shows much the same few nuclei."""
Labels = npt.NDArray[np.int32]


class Teacher:
    """Heads that look together."""

    def __init__(self, heads: Sequence[str]) -> None:
        self._models = []
        for given in heads:
            model, _, head = given.rpartition(":")
            release = load_release(release_path(model))
            self._models.append(OnePass(release, find_heads(release, [head]), size_px=256))

    def nuclei(self, image: npt.NDArray[np.uint8]) -> Labels:
        """Instances that heads and views agree on, int32 (h, w), of an image at about 0.25 um/px."""
        chances, boxes, scores = [], [], []
        for model in self._models:
            for turns, mirrored in TURNS:
                seen = np.rot90(image, turns)
                seen = np.ascontiguousarray(seen[:, ::-1] if mirrored else seen)
                looked, there = look(seen, model)
                if there is None:
                    raise SystemExit(f"{model.heads[0].name} finds no boxes, which heads agree by")
                shares, found = looked.astype(np.float32), torch.from_numpy(there.xyxy).float()
                if mirrored:
                    shares, found = shares[:, :, ::-1], _mirrored(found, seen.shape[1])
                for _ in range(turns):  # back by a quarter turn clockwise each
                    found = _quarter_back(found, shares.shape[1])
                    shares = np.rot90(shares, -1, (1, 2))
                chances.append(shares)
                boxes.append(found)
                scores.append(torch.from_numpy(there.score).float())
        shares = np.mean(chances, axis=0)
        centres = _agreed(torch.cat(boxes), torch.cat(scores), len(chances))
        inner = np.rint(shares[0]).astype(np.uint8)
        front = np.rint(np.minimum(shares.sum(0), 255)).astype(np.uint8)
        return separate(front, inner, centres, min_px=LEAST_PX)


def _mirrored(xyxy: torch.Tensor, width: int) -> torch.Tensor:
    left, top, right, bottom = xyxy.unbind(1)
    return torch.stack([width - right, top, width - left, bottom], 1)


def _quarter_back(xyxy: torch.Tensor, height: int) -> torch.Tensor:
    """Boxes in a picture of this height, turned clockwise with it."""
    left, top, right, bottom = xyxy.unbind(1)
    return torch.stack([height - bottom, left, height - top, right], 1)


def _agreed(xyxy: torch.Tensor, score: torch.Tensor, voters: int) -> npt.NDArray[np.float32]:
    """Centres of boxes that enough heads and views found."""
    kept = nms(xyxy, score, 0.5)
    votes = ((box_iou(xyxy[kept], xyxy) >= 0.5) * score).sum(1) / voters
    chosen = xyxy[kept[votes >= LEAST_VOTE]]
    centres: npt.NDArray[np.float32] = ((chosen[:, :2] + chosen[:, 2:]) / 2).numpy()
    return centres


def pictures(data: Path) -> list[tuple[Path, int]]:
    """Images that the teacher looks at, and how many times as large."""

    def listed(path: str) -> list[dict[str, str]]:
        with (data / path).open() as file:
            return list(csv.DictReader(file))

    mitoses = [r["file"] for r in listed("mitosis_midog21/labels.csv") if r["scanner"] == "Hamamatsu XR"]
    breast = {r["file"]: r["patient_id"] for r in listed("breakhis/labels.csv") if r["magnification"] == "400x"}

    def trained(collection: str, groups: dict[str, str]) -> list[Path]:
        """Those that other tasks train on: their labels of held-out images stay unseen with the images."""
        return [
            data / collection / "images" / n for n, group in groups.items() if held_out(collection, group) == "train"
        ]

    def alone(collection: str) -> dict[str, str]:
        return {p.name: p.stem for p in sorted((data / collection / "images").iterdir())}

    return [
        *((data / "mitosis_midog21/images" / name, 1) for name in mitoses[::EVERY]),
        *((path, 1) for path in trained("brecahad", alone("brecahad"))),
        *((path, 1) for path in trained("breakhis", breast)),
        *((path, 2) for path in trained("oral_ocdc", alone("oral_ocdc"))),
    ]


def teach(heads: Sequence[str], data: Path, out: Path) -> None:
    """Write images, masks, the table and links."""
    images, masks = out / "nuclei_teacher/images", out / "nuclei_teacher/masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(exist_ok=True)
    for folder in sorted(p for p in data.resolve().iterdir() if p.is_dir()):
        if not (out / folder.name).exists():
            (out / folder.name).symlink_to(folder)
    teacher, chosen = Teacher(heads), pictures(data)
    for path, larger in chosen:
        mask = masks / f"{path.stem}.png"
        if mask.exists():
            continue
        image = read_image(path)
        if larger > 1:
            image = image[image.shape[0] // 4 : -(image.shape[0] // 4), image.shape[1] // 4 : -(image.shape[1] // 4)]
        seen = cv2.resize(image, None, fx=larger, fy=larger, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(images / mask.name), seen[..., ::-1])
        cv2.imwrite(str(mask), teacher.nuclei(seen).astype(np.uint16))
    with (out / "nuclei_teacher/images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "split"), *((f"{p.stem}.png", "train") for p, _ in chosen)])


def measure(asked: Sequence[str], data: Path, config: Path) -> None:
    """Print figures on the validation images of the task of nuclei: each head turned and mirrored, and all together."""
    (task,) = [d for d in find_data(read_pretrain_config(config, data)) if d.spec.name == "nuclei"]
    for heads in (*([h] for h in asked), asked):
        teacher, rows = Teacher(heads), {}
        for record in task.splits["val"]:
            case = record.read()
            seen = take(case, still_view(case, 1.0, "crop", 0))
            name = record.group.partition("/")[0]
            rows.setdefault(name, []).append(agreement(numbered(seen.mask), teacher.nuclei(seen.image)))
        for name, figures in means(rows).items():
            print(row(f"{name}, {', '.join(heads)}", figures), flush=True)


def main() -> None:
    """Look and write, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="+", metavar="MODEL:HEAD")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/data"))
    parser.add_argument("--measure", action="store_true", help="print figures on validation images; write nothing")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("lite0_v2_fourth.toml"))
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.heads, asked.data, asked.config)
    else:
        teach(asked.heads, asked.data, asked.out)


if __name__ == "__main__":
    main()
