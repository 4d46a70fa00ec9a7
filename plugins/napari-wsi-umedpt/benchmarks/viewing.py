"""What looking costs, in a real window: panning a slide of 100,000 px, and half a million nuclei.

    xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX" python -m benchmarks.viewing

Painting is measured as it is done here: without a graphics card these are upper bounds. A stall is
the longest time in which the window's event loop did not turn, and work the longest time that its thread
computed meanwhile: what is left of a stall on a machine that does nothing else, as "cpu" is of other times.
Each measurement runs in a process of its own, with asynchronous slicing; the last line is JSON.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 102_400
NUCLEI = 500_000
_CANVAS = 1400, 1000


def big_slide(folder: Path) -> Path:
    """A slide of 102,400 px square, tiled JPEG, levels of 1, 4 and 16."""
    from wsi_umedpt.testing import tissue_image, write_pyramid

    path = folder / "big.svs"
    if not path.exists():
        image, _ = tissue_image(4096, 4096)
        part = path.with_suffix(".part.svs")
        write_pyramid(part, image, scales=(1, 4, 16), mpp=0.25, bigtiff=True, quality=50, repeat=SIDE // 4096)
        part.rename(path)
    return path


def many_nuclei(count: int, seed: int = 0) -> Any:
    """Nuclei of 20 corners and 4 classes, spread over the slide."""
    from wsi_umedpt.store import MEASURES, Objects

    rng = np.random.default_rng(seed)
    centre = rng.uniform(100, SIDE - 100, (count, 2)).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False, dtype=np.float32)
    radius = rng.uniform(10, 18, (count, 1)).astype(np.float32) * (1 + 0.1 * np.sin(3 * angle))
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # (corner, 2)
    outline = (centre[:, None] + radius[..., None] * ring).reshape(-1, 2)
    return Objects(
        ("tumour", "lymphocyte", "stroma", "other"),
        rng.integers(0, 4, count).astype(np.uint8),
        rng.uniform(0.5, 1, count).astype(np.float32),
        centre,
        np.ones((count, len(MEASURES)), np.float32),
        np.arange(count + 1, dtype=np.int64) * 20,
        outline.astype(np.float32),
    )


class Window:
    """An empty viewer, drawn, and what is measured in it."""

    def __init__(self) -> None:
        import napari
        import psutil
        from qtpy.QtWidgets import QApplication

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*_CANVAS)
        self.app = QApplication.instance()
        self._process = psutil.Process()
        self.cpu_ms = 0.0
        self.wait(1.0)
        self.empty = self._process.memory_info().rss

    @property
    def above_empty_mb(self) -> float:
        """Memory above that of the empty viewer."""
        return (self._process.memory_info().rss - self.empty) / 1e6

    @property
    def held_mb(self) -> float:
        """Memory above that of the empty viewer, without what was given back already and glibc still keeps."""
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        return round(self.above_empty_mb, 1)

    def wait(self, seconds: float) -> None:
        """Let the window live."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.app.processEvents()
            time.sleep(0.002)

    def settle(self, work: Callable[[], Any] = lambda: None) -> float:
        """Milliseconds that something takes until all layers are loaded and drawn; `cpu_ms` says of how much work."""
        start, worked = time.perf_counter(), time.process_time()
        work()
        while True:
            self.app.processEvents()
            if all(layer.loaded for layer in self.viewer.layers):
                break
            time.sleep(0.001)
        self.viewer.window._qt_viewer.canvas._scene_canvas.update()
        self.app.processEvents()
        self.cpu_ms = (time.process_time() - worked) * 1e3
        return (time.perf_counter() - start) * 1e3

    def pan(self, zoom: float, steps: int = 120, share: float = 0.06) -> dict[str, float]:
        """Move the field by `share` of its width 33 times a second; the longest stall and the highest memory."""
        from qtpy.QtCore import QEventLoop, QTimer

        camera = self.viewer.scene.camera
        camera.zoom = zoom
        step = share * 1100 / zoom
        middle = SIDE * 0.25 / 2
        camera.center = (0, middle, middle - step * steps / 2)
        self.settle()
        self.wait(0.5)
        beats, worked, peak, done = [time.perf_counter()], [time.thread_time()], [0.0], [0]

        def beat() -> None:
            beats.append(time.perf_counter())
            worked.append(time.thread_time())

        def move() -> None:
            x = camera.center[2] + step
            camera.center = (0, camera.center[1] + step / 3, x)
            peak[0] = max(peak[0], self.above_empty_mb)
            done[0] += 1
            if done[0] == steps:
                loop.quit()

        loop, timers = QEventLoop(), []
        for interval, call in ((2, beat), (30, move)):
            timer = QTimer()
            timer.timeout.connect(call)
            timer.start(interval)
            timers.append(timer)
        loop.exec_()
        for timer in timers:
            timer.stop()
        gaps = np.diff(beats) * 1e3
        return {
            "longest_stall_ms": round(float(gaps.max()), 1),
            "longest_work_ms": round(float(np.diff(worked).max()) * 1e3, 1),
            "peak_mb_above_empty": round(peak[0], 1),
        }


def measure_panning(folder: Path) -> dict[str, Any]:
    """The slide alone."""
    from napari_wsi_umedpt.logic.navigation import zoom_of
    from napari_wsi_umedpt.opening.load import open_path
    from napari_wsi_umedpt.window.viewer import add_layers

    slide = big_slide(folder)
    window = Window()
    layers = None

    def open_it() -> None:
        nonlocal layers
        layers = add_layers(window.viewer, open_path(slide, print))

    found: dict[str, Any] = {"open_ms": round(window.settle(open_it))}
    window.viewer.reset_view()
    window.settle()
    for magnification in (40, 20, 10, 5, 1.25, 40):
        found[f"{magnification}x"] = window.pan(zoom_of(magnification))
    window.wait(1)
    found["mb_held_above_empty"] = window.held_mb
    return found


class Nothing:
    """A level that costs nothing: what napari, OpenGL and the window cost alone."""

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, scale: int) -> None:
        self.shape = (SIDE // scale, SIDE // scale, 3)
        self.chunks = (256, 256, 3)
        self.size = SIDE // scale * SIDE // scale * 3

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:, :]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, cols = (len(range(*key.indices(n))) for key, n in zip(index[:2], self.shape, strict=False))
        return np.full((rows, cols, 3), 200, np.uint8)


def measure_bare(folder: Path) -> dict[str, Any]:
    """The same way over a picture that costs nothing, with the scale bar: what is left is not ours."""
    from napari_wsi_umedpt.logic.navigation import zoom_of
    from napari_wsi_umedpt.window.viewer import scale_bar

    window = Window()
    options = {"rgb": True, "multiscale": True, "interpolation2d": "linear"}
    levels = [Nothing(1 << k) for k in range(9)]
    options |= {"scale": (0.25, 0.25), "units": ("um", "um")}
    window.settle(lambda: window.viewer.add_image(levels, **options))
    scale_bar(window.viewer).visible = True
    window.viewer.reset_view()
    window.settle()
    found: dict[str, Any] = {}
    for magnification in (40, 20, 10, 5, 1.25, 40):
        found[f"{magnification}x"] = window.pan(zoom_of(magnification))
    window.wait(1)
    found["mb_held_above_empty"] = window.held_mb
    return found


def measure_nuclei(folder: Path) -> dict[str, Any]:
    """Half a million nuclei, alone: what they cost, not the slide below them."""
    from napari_wsi_umedpt.layers.build import Place, Shown, objects_layer
    from napari_wsi_umedpt.logic import legend
    from napari_wsi_umedpt.window.viewer import add_layers

    window = Window()
    objects = many_nuclei(NUCLEI)
    shown = Shown("objects", Place("big", (SIDE, SIDE), 0.25), name="n")
    camera = window.viewer.scene.camera
    layers: list[Any] = []
    found: dict[str, Any] = {}
    warm = objects_layer(many_nuclei(10), replace(shown, name="warm"))
    window.settle(lambda: add_layers(window.viewer, [warm]))
    window.viewer.layers.clear()
    window.wait(0.2)
    found["show_ms"] = round(
        window.settle(lambda: layers.extend(add_layers(window.viewer, [objects_layer(objects, shown)])))
    )
    found["show_cpu_ms"] = round(window.cpu_ms)
    window.viewer.reset_view()
    found["overview_ms"] = round(window.settle())
    for name, zoom in (("40x", 4.0), ("20x", 2.0), ("10x", 1.0), ("5x", 0.5), ("1.25x", 0.125)):
        camera.zoom = zoom * 0.99
        camera.center = (0, SIDE / 8, SIDE / 8)
        window.settle()
        redraws, work = [], []
        for _ in range(20):
            centre = camera.center
            to = (0, centre[1], centre[2] + 0.25 * 1100 / zoom)
            redraws.append(window.settle(lambda to=to: setattr(camera, "center", to)))
            work.append(window.cpu_ms)
        found[f"redraw_{name}_ms"] = {
            "median": round(float(np.median(redraws))),
            "most": round(max(redraws)),
            "cpu_median": round(float(np.median(work))),
        }
    legend = legend.Legend(layers[0])
    found["recolour_ms"] = round(window.settle(lambda: legend.recolour(0, (10, 20, 30))))
    found["recolour_cpu_ms"] = round(window.cpu_ms)
    found["hide_class_ms"] = round(window.settle(lambda: legend.show(1, False)))
    field = layers[0].metadata["wsi_umedpt"].objects
    start = time.perf_counter()
    for place in field.objects.centroid[:100].tolist():
        field.at(*place)
    found["click_ms"] = round((time.perf_counter() - start) * 10, 2)
    found["mb_above_empty"] = round(window.above_empty_mb, 1)
    return found


MEASUREMENTS = {"bare": measure_bare, "panning": measure_panning, "nuclei": measure_nuclei}


def main() -> None:
    """Run all measurements, or one by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=MEASUREMENTS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "viewing")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.only:
        print(json.dumps(MEASUREMENTS[given.only](given.folder)))
        sys.stdout.flush()
        os._exit(0)  # the window is not worth tidying up
    big_slide(given.folder)
    found = {}
    for name in MEASUREMENTS:
        # Settings and what is known of slides are the benchmark's own, not the user's.
        own = {key: str(given.folder / "home") for key in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
        command = [sys.executable, "-m", "benchmarks.viewing", name, "--folder", str(given.folder)]
        done = subprocess.run(
            command, env={**os.environ, **own, "NAPARI_ASYNC": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        for key, value in found[name].items():
            print(f"{name:10s} {key:28s} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
