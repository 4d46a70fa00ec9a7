"""How long the docks of classifiers take on a slide of 20,000 tiles: opening, a region that moves, a fit.

    xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX" python benchmarks/docks.py

Features are random, 1,280 numbers a tile; the classifier is gated attention as `mil train` builds it, 12 networks.
"""

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
from wsi_umedpt.interop.sources import StoreSource
from wsi_umedpt.mil.calibrate import Calibration
from wsi_umedpt.mil.models import build
from wsi_umedpt.mil.settings import ModelSettings
from wsi_umedpt.mil.slidemodel import SlideModel
from wsi_umedpt.mil.targets import Target
from wsi_umedpt.mil.typical import typical_of
from wsi_umedpt.slide import open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.testing import tissue_image, write_pyramid
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import TissueMask

from napari_wsi_umedpt._opening import open_path
from napari_wsi_umedpt._softwaregl import leave_triton_out
from napari_wsi_umedpt._viewer import add_layers

TILES, DIM, NETWORKS = 142, 1280, 12
SPEC = TileSpec(size_px=16, mpp=0.5)
REPEATS = 9


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


def until(true) -> float:
    """Turn the event loop until something is so; seconds."""
    began = time.perf_counter()
    while not true():
        QApplication.processEvents()
        time.sleep(0.001)
    return time.perf_counter() - began


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    store = make_store(folder)
    model = make_model(folder / "model.json", store)
    viewer = napari.Viewer()
    leave_triton_out()
    add_layers(viewer, open_path(store, print, slide=folder / "many.svs"))
    print(f"{torch.get_num_threads()} threads")
    _classifier(viewer, model)
    _fewshot(viewer)
    viewer.close()
    WorkerBase.await_workers()  # or Python ends them as they work, and itself


def _classifier(viewer, model: Path) -> None:
    began = time.perf_counter()
    from napari_wsi_umedpt._classifier_dock import ClassifierDock

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
        for n in range(REPEATS):
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


def _fewshot(viewer) -> None:
    began = time.perf_counter()
    from napari_wsi_umedpt._fewshot_dock import FewShotDock

    dock = FewShotDock(viewer)
    viewer.window.add_dock_widget(dock)
    print(f"few-shot dock opened in {time.perf_counter() - began:.2f} s")
    print(f"features ready in {until(lambda: dock.slide is not None):.2f} s")
    rng = np.random.default_rng(0)
    for count in (10, 50, 200):
        took, worked = [], []
        for _ in range(REPEATS):
            rows = rng.choice(TILES**2, count, replace=False).tolist()
            before, cpu = dock.taught, time.process_time()
            dock.label({row: ("Tumor", "Other")[n % 2] for n, row in enumerate(rows)})
            until(lambda before=before: dock.taught is not before and not dock._teaching.busy)
            took.append(dock.seconds)
            worked.append(time.process_time() - cpu)
        words = f"median {np.median(took):.2f} s, most {max(took):.2f} s (CPU {np.median(worked):.2f} s)"
        print(f"{count} labels: fitted, cross-validated, slide coloured in {words}")


if __name__ == "__main__":
    main()
