"""How long docks that learn or judge take, on 20,000 tiles and 500,000 cells: opening, a region that moves, a fit.

    xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX" python -m benchmarks.docks [classifier] [fewshot] [cells]
        [--repeats 9]

Features are random, 1,280 numbers a tile and 472 a cell; the classifier is gated attention as `mil train` builds it, 12
networks.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
import numpy as np
import torch
from napari.qt.threading import WorkerBase
from qtpy.QtWidgets import QApplication
from wsi_umedpt.interop import StoreSource
from wsi_umedpt.mil import Calibration, ModelSettings, SlideModel, Target, typical_of
from wsi_umedpt.mil import build_network as build
from wsi_umedpt.slides import TileSpec, TissueMask, lay_grid, open_slide
from wsi_umedpt.store import MEASURES, Objects, SlideStore
from wsi_umedpt.store.objects_io import NewVectors, write_objects
from wsi_umedpt.store.zarr_io import write_group
from wsi_umedpt.testing import relist, tissue_image, write_pyramid

from napari_wsi_umedpt.layers.software_gl import leave_triton_out
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera

TILES, DIM, NETWORKS = 142, 1280, 12
SPEC = TileSpec(size_px=16, mpp=0.5)
CELLS_ACROSS, CELL_DIM = 708, 472
DOCKS = ("classifier", "fewshot", "cells")


def make_store(folder: Path) -> Path:
    """142 x 142 small tiles of a small slide, with features as long as a large one's."""
    side = TILES * SPEC.size_px
    slide_path = write_pyramid(folder / "many.svs", tissue_image(side, side)[0], mpp=0.5)
    made_by = {"card": {"name": "random"}, "weights_sha256": "0" * 64, "precision": "fp32"}
    with open_slide(slide_path) as slide:
        mask = TissueMask(np.ones((-(-side // 32),) * 2, bool), 32, None, "all", {})
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=mask)
        with SlideStore.create(folder / "many.zarr", slide, mask, grid) as store:
            writer = store.writer("random", SPEC.grid_id, DIM, made_by)
            writer.append(
                np.random.default_rng(0).normal(size=(len(grid), DIM)).astype(np.float32), np.ones(len(grid), bool)
            )
            writer.finish()
            store.set_status(SPEC.grid_id, np.zeros(len(grid), np.uint8))
            store.commit()
    return folder / "many.zarr"


def make_model(path: Path, store: Path) -> Path:
    """Networks that were not trained cost what trained ones do."""
    rng = np.random.default_rng(0)
    target = Target(name="grade", kind="binary", columns=("grade",), classes=("low", "high"))
    networks = [build(DIM, 1, ModelSettings(), [2]).eval().requires_grad_(False) for _ in range(NETWORKS)]
    SlideModel(
        targets=(target,), kind=StoreSource.open(store).kind, networks=tuple(networks),
        calibrations=(Calibration(1.0, (0.5,), np.linspace(0, 1, 100)),),
        typical=typical_of(rng.normal(size=(300, DIM)), [f"p{n}" for n in range(300)]), coverage=0.9,
        about={"trained_on": {"unit": "slide"}},
    ).save(path)  # fmt: skip
    return path


def add_cells(path: Path) -> None:
    """708 x 708 small cells of five corners, with vectors as long as the shared model's."""
    rng, count = np.random.default_rng(0), CELLS_ACROSS**2
    side = TILES * SPEC.size_px
    middles = rng.uniform(10, side - 10, (count, 2)).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, 5, endpoint=False)
    corners = middles[:, None] + 2 * np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    objects = Objects(
        ("nucleus",), np.zeros(count, np.uint8), np.full(count, 0.9, np.float32), middles,
        rng.random((count, len(MEASURES)), dtype=np.float32), np.arange(count + 1, dtype=np.int64) * 5,
        corners.reshape(-1, 2),
    )  # fmt: skip
    made_by = {"model": "random", "weights_sha256": "0" * 64, "precision": "fp32", "maps": [8], "mpp": 0.5}
    blocks = (rng.random((len(rows), CELL_DIM), dtype=np.float32).astype(np.float16)
              for rows in np.array_split(np.arange(count), 64))  # fmt: skip
    write_group(path / "detections", {})
    write_objects(path / "detections" / "nuclei", objects, made_by, NewVectors(CELL_DIM, blocks, made_by))
    relist(path)


def until(true) -> float:
    """Turn the event loop until something is so; seconds."""
    began = time.perf_counter()
    while not true():
        QApplication.processEvents()
        time.sleep(0.001)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("docks", nargs="*", choices=[*DOCKS, []], default=[*DOCKS])
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    docks, repeats = asked.docks, asked.repeats
    folder = Path(tempfile.mkdtemp())
    store = make_store(folder)
    if "cells" in docks:
        add_cells(store)
    viewer = napari.Viewer()
    leave_triton_out()
    add_layers(viewer, open_path(store, print, slide=folder / "many.svs"))
    print(f"{torch.get_num_threads()} threads")
    if "classifier" in docks:
        _classifier(viewer, make_model(folder / "model.json", store), repeats)
    if "fewshot" in docks:
        _fewshot(viewer, repeats)
    if "cells" in docks:
        _cells(viewer, repeats)
    viewer.close()
    WorkerBase.await_workers()  # or Python ends them as they work, and itself


def _classifier(viewer, model: Path, repeats: int) -> None:
    began = time.perf_counter()
    from napari_wsi_umedpt.docks.classifier import ClassifierDock

    dock = ClassifierDock(viewer)
    viewer.window.add_dock_widget(dock)
    print(f"dock of slide classifiers opened in {time.perf_counter() - began:.2f} s")
    dock.open(model)
    print(f"model and {TILES**2} tiles ready in {until(lambda: dock.judgement is not None):.2f} s")
    until(lambda: not (dock._rest.isActive() or dock._reading.busy))
    dock.draw("left out")
    place, side = dock.classifier.place, TILES * SPEC.size_px
    for share in (0.02, 0.25, 0.5):
        took, worked = [], []
        for n in range(repeats):
            low, high = 10.0 + n, 10 + n + side * share**0.5
            corners = place.to_world(np.array([[low, low], [high, low], [high, high], [low, high]]))
            before, cpu = dock.judgement, time.process_time()
            dock._regions.data = [corners]
            until(lambda before=before: dock.judgement is not before and not dock._judging.busy)
            took.append(dock.seconds * 1e3)
            worked.append((time.process_time() - cpu) * 1e3)
            until(lambda: not (dock._rest.isActive() or dock._reading.busy))
        words = f"median {np.median(took):.0f} ms, most {max(took):.0f} ms (CPU {np.median(worked):.0f} ms)"
        print(f"region of {share:.0%} left out, {dock.judgement.tiles} tiles judged: {words}")


def _fewshot(viewer, repeats: int) -> None:
    from napari_wsi_umedpt.docks.few_shot import FewShotDock

    _teach(viewer, FewShotDock, TILES**2, repeats)


def _cells(viewer, repeats: int) -> None:
    from napari_wsi_umedpt.docks.cells import CellsDock

    print("all cells in view")
    _teach(viewer, CellsDock, CELLS_ACROSS**2, repeats)
    camera(viewer).zoom *= 10
    print("a hundredth of them in view")
    _teach(viewer, CellsDock, CELLS_ACROSS**2, repeats)


def _teach(viewer, kind, things: int, repeats: int) -> None:
    began = time.perf_counter()
    dock = kind(viewer)
    viewer.window.add_dock_widget(dock)
    print(f"dock {dock.tab} opened in {time.perf_counter() - began:.2f} s")
    print(f"{things:,} {dock.labelling.what} ready in {until(lambda: dock.slide is not None):.2f} s")
    rng = np.random.default_rng(0)
    for count in (10, 50, 200):
        took, worked = [], []
        for _ in range(repeats):
            rows = rng.choice(things, count, replace=False).tolist()
            before, cpu = dock.taught, time.process_time()
            dock.labelling.label({row: ("Tumor", "Other")[n % 2] for n, row in enumerate(rows)})
            until(lambda before=before: dock.taught is not before and not dock._teaching.busy)
            took.append(dock.seconds)
            worked.append(time.process_time() - cpu)
        words = f"median {np.median(took):.2f} s, most {max(took):.2f} s (CPU {np.median(worked):.2f} s)"
        print(f"{count} labels: fitted, cross-validated, slide coloured in {words}")


if __name__ == "__main__":
    main()
