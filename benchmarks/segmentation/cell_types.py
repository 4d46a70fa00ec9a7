"""Types of nuclei from 5, 10 and 50 labelled cells a type: vectors of objects against size, shape and colour alone.

    python -m benchmarks.segmentation.cell_types [--model umedpt_lite0.v2] [--head nuclei] [--seeds 20]

Two H&E images of 1,500 px at 0.5 um/px of the histolytics package (BSD-3), whose nuclei have types (their labels
look model-made). All is as users have it: the image is segmented with vectors, a nucleus that the head found has the
type of the one whose middle its outline holds, and `fit_linear` fits as `probe fit --objects` does. Nuclei that hold
none, or several, are left out. Half of the numbers of a row may be left out: the arms.

Within: a third of the blocks of 300 px of an image is tested, cells are labelled in the others, none within 32 um of a
tested block. Across: cells of one image are labelled, two types of the other image are tested. Every seed deals blocks
and cells anew; brackets are the 2.5 and 97.5 percentiles over seeds. The last line is JSON.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import geopandas as gpd
import numpy as np
import shapely
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import wsi_umedpt as wu
from benchmarks.pretraining.scarcity_targets import read_wheel
from wsi_umedpt.annotations.labels import NumberedObject
from wsi_umedpt.mil.object_probe import label_objects
from wsi_umedpt.mil.probe_fit import Labelled, fit_linear, softmax
from wsi_umedpt.store.objects import MEASURES
from wsi_umedpt.store.objects_io import read_objects

IMAGES = {
    "nest": ("hgsc_nest.jpg", "hgsc_nest.parquet"),
    "stroma": ("hgsc_stromal_he.jpg", "hgsc_stromal_cells.parquet"),
}
MPP, BLOCK_PX, MARGIN_PX = 0.5, 300, 64
LABELS = (5, 10, 50)
ACROSS = ("connective", "inflammatory")
"""Types that both images have cells of."""


class Cells:
    """The nuclei of an image that the head found and whose type is known."""

    def __init__(self, name: str, folder: Path, model: str, head: str) -> None:
        read = read_wheel("histolytics==0.3.0")
        picture, table = (read(f"histolytics/data/{file}") for file in IMAGES[name])
        image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        cv2.imwrite(str(folder / f"{name}.png"), image)
        tissue = wu.TissueMask(np.ones((94, 94), np.uint8), 16)
        with wu.open_slide(folder / f"{name}.png", mpp=MPP) as slide:
            store = wu.segment(slide, folder / f"{name}.zarr", heads=head, model=model, tissue=tissue)
        typed = gpd.read_parquet(io.BytesIO(table))
        objects, _ = read_objects(store)
        middles = shapely.centroid(typed.geometry.to_numpy())
        row, held = shapely.STRtree(middles).query(objects.polygons(), predicate="contains")
        kinds = typed["class_name"].to_numpy()
        alone = np.bincount(row, minlength=len(objects))[row] == 1
        labels = [NumberedObject(name, int(r), str(kinds[h]), "") for r, h in zip(row[alone], held[alone], strict=True)]
        self.labelled = label_objects(store, numbers=labels)
        self.kinds = np.array(self.labelled.labels, object)
        self.xy = objects.centroid[sorted(label.object for label in labels)]
        counts = {kind: int((self.kinds == kind).sum()) for kind in sorted({*self.kinds})}
        print(f"{name}: {len(typed)} typed nuclei, {len(objects)} found, {len(labels)} of them typed: {counts}")

    def arm(self, columns: slice) -> Labelled:
        """Some of the numbers of a row."""
        whole = self.labelled
        background = whole.background
        assert background
        dim = whole.features.shape[1]
        first, past, _ = columns.indices(dim)
        split = dim - len(MEASURES)
        kept = tuple(n for n in (min(past, split) - first, past - max(first, split)) if n > 0)
        few = replace(background, mean=background.mean[columns], variance=background.variance[columns], parts=kept)
        return replace(whole, features=whole.features[:, columns], background=few)


ARMS = {
    "size, shape, colour (5 numbers)": slice(-len(MEASURES), None),
    "vector alone": slice(0, -len(MEASURES)),
    "vector and measures (probe fit)": slice(0, None),
}


def drawn(
    kinds: np.ndarray, of: Sequence[str], allowed: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of so many labelled cells of each type."""
    return np.concatenate([rng.permutation(np.flatnonzero(allowed & (kinds == kind)))[:count] for kind in of])


def figures(
    fit: Labelled, rows: np.ndarray, test: Labelled, tested: np.ndarray, of: Sequence[str]
) -> tuple[float, float]:
    """AUC (one against the rest, mean) and balanced accuracy of cells that were not labelled."""
    number = {kind: k for k, kind in enumerate(of)}
    numbers = np.array([number.get(kind, 0) for kind in fit.labels])
    train = np.zeros(len(numbers), bool)
    train[rows] = True
    weight, bias = fit_linear([fit], numbers, train, len(of))
    chances = softmax(test.features[tested] @ weight.T + bias)
    true = np.array([number[kind] for kind in np.array(test.labels, object)[tested]])
    scored = chances[:, 1] if len(of) == 2 else chances
    area = roc_auc_score(true, scored, multi_class="ovr")
    return float(area), float(balanced_accuracy_score(true, chances.argmax(1)))


def within(cells: Cells, arm: slice, count: int, seed: int) -> tuple[float, float]:
    """Labelled and tested in other blocks of one image."""
    of, rng = sorted({*cells.kinds}), np.random.default_rng(seed)
    block = (cells.xy // BLOCK_PX).astype(int)
    chosen = rng.permutation(25)[:8]
    tested = np.isin(block[:, 0] * 5 + block[:, 1], chosen)
    corners = np.stack([chosen // 5, chosen % 5], 1) * BLOCK_PX
    beyond = np.maximum(corners[None] - cells.xy[:, None], cells.xy[:, None] - corners[None] - BLOCK_PX).max(2)
    allowed = (beyond > MARGIN_PX).all(1)
    labelled = cells.arm(arm)
    return figures(labelled, drawn(cells.kinds, of, allowed, count, rng), labelled, np.flatnonzero(tested), of)


def across(first: Cells, second: Cells, arm: slice, count: int, seed: int) -> tuple[float, float]:
    """Labelled in one image, tested in the other."""
    rng = np.random.default_rng(seed)
    rows = drawn(first.kinds, ACROSS, np.ones(len(first.kinds), bool), count, rng)
    tested = np.flatnonzero(np.isin(second.kinds, ACROSS))
    return figures(first.arm(arm), rows, second.arm(arm), tested, ACROSS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--head", default="nuclei")
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        nest, stroma = (Cells(name, Path(folder), asked.model, asked.head) for name in IMAGES)
    found: dict[str, float] = {}
    for title, run in (
        ("within nest: three types", lambda arm, count, seed: within(nest, arm, count, seed)),
        ("nest to stroma: " + " or ".join(ACROSS), lambda arm, count, seed: across(nest, stroma, arm, count, seed)),
    ):
        print(f"\n| {title} | " + " | ".join(f"{count} a type" for count in LABELS) + " |")
        print("|---" * (len(LABELS) + 1) + "|")
        for name, arm in ARMS.items():
            cells = []
            for count in LABELS:
                areas, accuracies = np.array([run(arm, count, seed) for seed in range(asked.seeds)]).T
                low, high = np.percentile(areas, [2.5, 97.5])
                cells.append(f"{areas.mean():.3f} [{low:.3f}, {high:.3f}], {accuracies.mean():.3f}")
                found[f"{title.partition(':')[0]}/{name.partition(' (')[0]}/{count}"] = round(float(areas.mean()), 4)
            print(f"| {name} | " + " | ".join(cells) + " |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
