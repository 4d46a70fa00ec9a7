"""Five pictures of the napari plugin on the demo slide: docks opened, pressed and photographed by a script.

Needs the plugin (pip install -e 'plugins/napari-wsi-umedpt[qt]') and a minute; the slide is downloaded once (2 MB).
Run it:  python examples/napari_scenes.py docs
Some of them:  python examples/napari_scenes.py docs nuclei fewshot
Without a screen:  xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX" python examples/napari_scenes.py docs

The slide classifier in the pictures is a toy. It was trained on handfuls of tiles of this very slide, so that its
probabilities mean nothing; what it looks at can be checked by eye, for it was asked where the epidermis is.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")  # napari as it comes, not as set here

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from wsi_umedpt.bag import SlideBag
from wsi_umedpt.encode import encode_slide
from wsi_umedpt.interop.sources import StoreSource
from wsi_umedpt.mil.cohort import Case, Cohort
from wsi_umedpt.mil.develop import develop
from wsi_umedpt.mil.reading import BagReader
from wsi_umedpt.mil.settings import FitSettings, StudySettings
from wsi_umedpt.mil.targets import Target
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.sample import sample_slide
from wsi_umedpt.slide import open_slide
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tiling import TileSpec, lay_grid
from wsi_umedpt.tissue import find_tissue

PLUGIN = "napari-wsi-umedpt"
SPEC = TileSpec(stride_px=112)  # half a tile: a finer map
POINTS = {
    "Epidermis": [(1245, 720), (1360, 740), (1206, 913), (1168, 1453), (1148, 1684), (1206, 1992), (1168, 2300),
                  (686, 2705), (1707, 2416), (1630, 2802)],
    "Other": [(1495, 952), (1360, 1183), (1630, 1453), (936, 1530), (898, 1992), (1013, 2532), (1245, 2763),
              (1553, 2108), (397, 1067), (1013, 258), (860, 2340)],
}  # fmt: skip
"""What a pathologist would point at, level-0 px."""
FOLD = np.array([[1450, 1350], [2000, 1250], [2050, 1600], [1500, 1800]])
"""Corners of what the classifier is to leave out, level-0 px: a flake of keratin."""
NUCLEUS = (1171, 1128)
"""What is clicked on, level-0 px."""
MOST_S = 180.0
"""After which what did not come does not come."""


@cache
def embedded() -> Path:
    """The demo slide's results, tiles embedded."""
    path = Path("CMU-1-Small-Region.zarr")
    with open_slide(sample_slide()) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
        with SlideStore.create(path, slide, tissue, grid) as store:
            encode_slide(slide, store, [load_encoder(device="cpu")], grid_id=SPEC.grid_id)
    return path


def apart(bag: SlideBag, side: float, points: list[tuple[int, int]]) -> np.ndarray:
    """How far the middles of tiles are from points, (tile, point) level-0 px."""
    return np.linalg.norm((bag.xy + side / 2)[:, None] - np.array(points), axis=2)


@cache
def toy() -> Path:
    """A slide classifier, trained to tell handfuls of tiles with epidermis from those without."""
    source, rng = StoreSource.open(embedded()), np.random.default_rng(0)
    bag = source.load()
    near = [apart(bag, source.side, points).min(1) < source.side / 2 for points in POINTS.values()]
    epidermis, other = (np.flatnonzero(rows) for rows in near)
    handfuls, present = {}, np.arange(40) % 2
    for n, there in enumerate(present):
        some = 3 if there else 0
        drawn = np.concatenate([rng.choice(epidermis, some), rng.choice(other, 30 - some)])
        # As if they were a slide: of a source of features, no more is asked for.
        few = replace(bag, features=bag.features[drawn], xy=bag.xy[drawn], index=bag.index[drawn])
        handfuls[f"H{n:02}"] = SimpleNamespace(tiles=len(drawn), load=lambda few=few: few)
    target = Target(name="epidermis", kind="binary", columns=("epidermis",), classes=("absent", "present"))
    cases = tuple(Case(name, name, (name,)) for name in handfuls)
    cohort = Cohort(cases, (target,), (present[:, None].astype(float),), "slide", source.kind)
    model = develop(cohort, BagReader(handfuls), [FitSettings(epochs=6)], StudySettings(), seeds=(0,))
    path = Path("toy/model.json")
    path.parent.mkdir()
    model.save(path)
    return path


class Scene:
    """A window with a slide, its docks, and its picture."""

    def __init__(self, *docks: str) -> None:
        self.viewer = napari.Viewer(title="wsi_umedpt")
        self.viewer.window.resize(1320, 900)
        self.docks = {name: self.viewer.window.add_plugin_dock_widget(PLUGIN, name)[1] for name in docks}

    def close(self) -> None:
        """Close the window."""
        self.viewer.close()
        QApplication.processEvents()

    def open(self, results: Path | None = None) -> None:
        """Open the demo slide, or results over it, and look at all of it."""
        self.viewer.open(sample_slide(), plugin=PLUGIN)
        pause()
        if results is not None:  # their slide is found, as it was opened before
            self.viewer.layers.clear()
            pause()
            self.viewer.open(results, plugin=PLUGIN)
            pause()
        self.viewer.reset_view()

    def save(self, path: Path) -> None:
        """Save the window, with few enough colours for a page of text."""
        pause()
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)
        Image.fromarray(pixels[..., :3]).quantize(96).save(path, optimize=True)
        print(path)


def until(true: Callable[[], Any]) -> None:
    """Let the window work until something is so."""
    end = time.monotonic() + MOST_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"the window is not ready after {MOST_S:g} s")
        QApplication.processEvents()
        time.sleep(0.01)


def pause(seconds: float = 1.0) -> None:
    """Let the window work for a while."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


def overview(folder: Path) -> None:
    """All of the slide, and how much a slide classifier looked at each tile."""
    with closing(Scene("Navigator", "Slide classifier")) as scene:
        scene.open(embedded())
        dock = scene.docks["Slide classifier"]
        dock.open(toy())
        until(lambda: dock.judgement is not None)
        dock.column.setCurrentText("attention")
        pause()
        scene.save(folder / "napari-overview.png")


def nuclei(folder: Path) -> None:
    """Nuclei at 40x, and what was found where the user clicked."""
    with closing(Scene("Navigator", "Legend")) as scene:
        scene.viewer.open_sample(PLUGIN, "demo")
        pause()
        scene.docks["Navigator"].magnify(40)
        scene.docks["Navigator"].go_to(*NUCLEUS)
        pause()
        scene.docks["Legend"].tell_place(scene.viewer.scene.camera.center[-2:])
        scene.save(folder / "napari.png")


def fewshot(folder: Path) -> None:
    """A few labelled tiles, and the slide coloured by what was learned from them."""
    source = StoreSource.open(embedded())
    bag = source.load()
    labels = {}
    for name, points in POINTS.items():
        labels |= dict.fromkeys(bag.index[apart(bag, source.side, points).argmin(0)].tolist(), name)
    with closing(Scene("Few-shot classifier")) as scene:
        scene.open(embedded())
        dock = scene.docks["Few-shot classifier"]
        until(lambda: dock.slide is not None)
        dock.classes.table.item(0, 1).setText("Epidermis")
        dock.label(labels)
        until(lambda: dock.taught is not None)
        scene.save(folder / "napari-fewshot.png")


def classifier(folder: Path) -> None:
    """What a slide classifier says, of which tiles, and what it says without a region."""
    with closing(Scene("Slide classifier")) as scene:
        scene.open(embedded())
        dock = scene.docks["Slide classifier"]
        dock.open(toy())
        until(lambda: dock.judgement is not None)
        pause()
        whole = dock.judgement.tiles
        dock.draw("left out")
        um = FOLD[:, ::-1] * SlideStore.open(embedded()).attrs["slide"]["mpp"]
        scene.viewer.layers["regions judged"].add([um], shape_type="polygon")
        until(lambda: dock.judgement.tiles < whole)
        scene.save(folder / "napari-classifier.png")


def analyse(folder: Path) -> None:
    """The slide while it is embedded and searched for nuclei."""
    with closing(Scene("Analyse")) as scene:
        scene.open()
        dock = scene.docks["Analyse"]
        until(lambda: dock.heads.count() > 1)
        dock.folder.setText("results")
        dock.heads.item(0).setCheckState(Qt.CheckState.Checked)
        dock.start()
        until(lambda: dock.words.text().startswith("Looking for") and 2 * dock.bar.value() > dock.bar.maximum() > 0)
        scene.save(folder / "napari-analyse.png")
        dock.stop()
        until(lambda: dock.result is not None)


SCENES = {scene.__name__: scene for scene in (overview, nuclei, fewshot, classifier, analyse)}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/out").resolve()
    wanted = sys.argv[2:] or [*SCENES]
    if unknown := {*wanted} - {*SCENES}:
        sys.exit(f"no scene is called {' or '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, chdir(work):  # what is seen of paths is short
        for name in wanted:
            SCENES[name](folder)


if __name__ == "__main__":
    main()
