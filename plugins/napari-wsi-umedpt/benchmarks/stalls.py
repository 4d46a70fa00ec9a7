"""How long the window halts where something is needed for the first time, and where a layer goes.

    xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX" python -m benchmarks.stalls

Each measurement is a process of its own. A stall is the longest time in which the window's event loop did not turn,
while it should do so every 5 ms; "bare" is a window in which nothing happens for two seconds, and "picture" one
that gets a picture that costs nothing. ``--cold`` takes the files of torch out of the system's cache first; ``--slide``
opens one of yours.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.viewing import Nothing, big_slide

MANY = 60
"""Slides before the right one, in the folder that a slide was moved to."""


class Beat:
    """Turns of the window's event loop while something is done."""

    def __init__(self) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        self.viewer = napari.Viewer(show=True)
        self.app = QApplication.instance()
        self.turn_until(lambda: False, 1.0)

    def turn_until(self, true: Callable[[], bool], most_s: float = 300.0) -> None:
        """Let the window live until something is so."""
        from qtpy.QtCore import QEventLoop, QTimer

        end = time.perf_counter() + most_s
        loop, timer = QEventLoop(), QTimer()
        timer.timeout.connect(lambda: loop.quit() if true() or time.perf_counter() > end else None)
        timer.start(2)
        loop.exec_()

    def during(self, work: Callable[[], Any], true: Callable[[], bool], most_s: float = 300.0) -> dict[str, Any]:
        """The longest stalls from a call until something is so, and the window's own work in the longest."""
        from qtpy.QtCore import QTimer

        beats: list[float] = []
        worked: list[float] = []

        def beat() -> None:
            beats.append(time.perf_counter())
            worked.append(time.thread_time())

        timer = QTimer()
        timer.timeout.connect(beat)
        timer.start(5)
        self.turn_until(lambda: len(beats) > 2)
        began = time.perf_counter()
        QTimer.singleShot(0, work)
        self.turn_until(true, most_s)
        took = time.perf_counter() - began
        self.turn_until(lambda: False, 0.5)
        timer.stop()
        gaps = np.diff(beats) * 1e3
        order = np.argsort(-gaps)
        return {
            "longest_stall_ms": round(float(gaps[order[0]])),
            "its_work_ms": round(float(np.diff(worked)[order[0]]) * 1e3),
            "next_ms": [round(float(gap)) for gap in gaps[order[1:4]]],
            "took_s": round(took, 2),
            "load": round(os.getloadavg()[0], 1),
        }


def bare(folder: Path, slide: Path) -> dict[str, Any]:
    """Nothing."""
    return Beat().during(lambda: None, lambda: False, 2.0)


def picture(folder: Path, slide: Path) -> dict[str, Any]:
    """A picture that costs nothing, in place of a slide: what napari takes."""
    beat = _used()
    return beat.during(lambda: _add_nothing(beat), lambda: any(layer.loaded for layer in beat.viewer.layers))


def _used() -> Beat:
    """A window with a scale bar, in which a picture and labels were shown: the first of each takes napari a second."""
    from napari_wsi_umedpt.window.viewer import scale_bar

    beat = Beat()
    _add_nothing(beat)
    beat.viewer.add_labels(np.ones((64, 64), np.uint8), units=("um", "um"))
    scale_bar(beat.viewer).visible = True
    beat.turn_until(lambda: False, 1.0)
    beat.viewer.layers.clear()
    beat.turn_until(lambda: False, 0.5)
    return beat


def _add_nothing(beat: Beat) -> None:
    levels = [Nothing(1 << k) for k in range(9)]
    beat.viewer.add_image(levels, rgb=True, multiscale=True, scale=(0.25, 0.25), units=("um", "um"))


def classifier(folder: Path, slide: Path) -> dict[str, Any]:
    """A slide classifier, as the first that needs torch."""
    from napari_wsi_umedpt.docks.classifier import ClassifierDock

    beat = _with_results(folder)
    dock = ClassifierDock(beat.viewer)
    beat.viewer.window.add_dock_widget(dock)
    beat.turn_until(lambda: False, 0.5)
    return beat.during(lambda: dock.open(folder / "model.json"), lambda: dock.judgement is not None)


def fewshot(folder: Path, slide: Path) -> dict[str, Any]:
    """The few-shot dock, as the first that needs torch."""
    from napari_wsi_umedpt.docks.few_shot import FewShotDock

    beat, docks = _with_results(folder), []

    def open_it() -> None:
        docks.append(FewShotDock(beat.viewer))
        beat.viewer.window.add_dock_widget(docks[0])

    return beat.during(open_it, lambda: bool(docks) and docks[0].slide is not None)


def analyse(folder: Path, slide: Path) -> dict[str, Any]:
    """The dock Analyse, until it has listed the models."""
    from napari_wsi_umedpt.docks.analyse import AnalyseDock

    beat, docks = _with_results(folder), []

    def open_it() -> None:
        docks.append(AnalyseDock(beat.viewer))
        beat.viewer.window.add_dock_widget(docks[0])

    return beat.during(open_it, lambda: bool(docks) and docks[0].model.isEnabled())


def _with_results(folder: Path) -> Beat:
    from napari_wsi_umedpt.opening.load import open_path
    from napari_wsi_umedpt.window.viewer import add_layers

    beat = Beat()
    add_layers(beat.viewer, open_path(folder / "many.zarr", print, slide=folder / "many.svs"))
    beat.turn_until(lambda: False, 1.0)
    assert "torch" not in sys.modules
    return beat


def opening(folder: Path, slide: Path) -> dict[str, Any]:
    """A large slide, dropped onto the window."""
    beat = _used()
    return beat.during(
        lambda: beat.viewer.open(slide, plugin="napari-wsi-umedpt"),
        lambda: any(layer.loaded for layer in beat.viewer.layers),
    )


def moved(folder: Path, slide: Path) -> dict[str, Any]:
    """Results dropped onto the window, whose slide has another name and lies among many."""
    beat = _used()
    return beat.during(
        lambda: beat.viewer.open(folder / "moved" / "out" / "many.zarr", plugin="napari-wsi-umedpt"),
        lambda: any(layer.metadata["wsi_umedpt"].slide is not None for layer in beat.viewer.layers),
    )


def removed(folder: Path, slide: Path) -> dict[str, Any]:
    """A layer goes once networks are loaded, in a window of `wsi-umedpt view`: napari looks for garbage then."""
    from napari_wsi_umedpt.logic.torch_import import importing_networks

    beat = _with_results(folder)
    gc.freeze()  # as `napari_wsi_umedpt.__main__`
    with importing_networks():
        import wsi_umedpt.mil.linear_probe  # noqa: F401
    beat.turn_until(lambda: False, 1.0)
    count = len(beat.viewer.layers)
    return beat.during(beat.viewer.layers.pop, lambda: len(beat.viewer.layers) < count)


MEASUREMENTS = {one.__name__: one for one in (bare, picture, classifier, fewshot, analyse, opening, moved, removed)}


def make(folder: Path) -> None:
    """What is opened; in a process of its own, as it needs torch."""
    from benchmarks.docks import make_model, make_store

    folder.mkdir(parents=True, exist_ok=True)
    store = make_store(folder)
    make_model(folder / "model.json", store)
    among = folder / "moved"
    shutil.copytree(store, among / "out" / "many.zarr")
    body = (folder / "many.svs").read_bytes()
    for n in range(MANY):
        # As long as the right one, and as much read to tell them apart.
        (among / f"case-{n:03d}.svs").write_bytes(bytes([n]) + body[1:])
    (among / "the one.svs").write_bytes(body)


def forget_files() -> None:
    """Take torch's files out of the system's cache, so that they are read from the disk again."""
    import importlib.util

    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    for path in [*home.rglob("*"), *(home.parent / "nvidia").rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Run all measurements, or one by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=[*MEASUREMENTS, "make"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "stalls")
    parser.add_argument("--slide", type=Path, help="a large slide; by default that of viewing.py")
    parser.add_argument("--cold", action="store_true")
    given = parser.parse_args()
    if given.only == "make":
        make(given.folder)
        return
    given.slide = given.slide or big_slide(Path(tempfile.gettempdir()) / "viewing")
    if given.only:
        if given.cold:
            forget_files()
        print(json.dumps(MEASUREMENTS[given.only](given.folder, given.slide)))
        sys.stdout.flush()
        os._exit(0)  # the window is not worth tidying up
    own = {key: str(given.folder / "home") for key in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    # Shaders that a software renderer has compiled are kept: half a second each time is its own, and no user's.
    env = {**os.environ, **own, "NAPARI_ASYNC": "1", "MESA_SHADER_CACHE_DIR": str(given.folder / "shaders")}
    module = [sys.executable, "-m", "benchmarks.stalls"]
    rest = ["--folder", str(given.folder), "--slide", str(given.slide), *(["--cold"] if given.cold else [])]
    if not (given.folder / "moved" / "the one.svs").exists():
        shutil.rmtree(given.folder, ignore_errors=True)
        subprocess.run([*module, "make", *rest], env=env, check=True)
    for name in MEASUREMENTS:
        # What is known of slides is forgotten, or nothing would be looked for.
        shutil.rmtree(given.folder / "home", ignore_errors=True)
        done = subprocess.run([*module, name, *rest], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
        print(f"{name:12s} {done.stdout.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
