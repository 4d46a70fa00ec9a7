"""Pictures of the window of `wsi-umedpt view` on the demo slide: docks opened, pressed and photographed by a script.

Each scene is photographed on a laptop's screen and on a monitor's (saved at two thirds). Needs the plugin
(pip install -e 'plugins/napari-wsi-umedpt[qt]') and some minutes; the slide is downloaded once (2 MB).
Run it:  python examples/napari_scenes.py docs/napari
Some of them:  python examples/napari_scenes.py docs/napari nuclei fewshot
Without a screen:  xvfb-run -a -s "-screen 0 1920x1080x24 +extension GLX" python examples/napari_scenes.py docs/napari

The slide classifier in the pictures is a toy. It was trained on handfuls of tiles of this very slide, so that its
probabilities mean nothing; what it looks at can be checked by eye, for it was asked where the epidermis is.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, closing
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")  # napari as it comes, not as set here

import cv2
import numpy as np
from napari_wsi_umedpt.docks.base import Dock, frame_of_dock, open_dock
from napari_wsi_umedpt.window.runs import Runs
from napari_wsi_umedpt.window.shortcuts import KeyList
from napari_wsi_umedpt.window.viewer import current_place
from napari_wsi_umedpt.window.window import window, window_beside
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QGuiApplication, QImage
from qtpy.QtWidgets import QApplication, QMessageBox, QPushButton

import wsi_umedpt as wu
from wsi_umedpt.geometry import Box
from wsi_umedpt.interop import StoreSource
from wsi_umedpt.mil import BagReader, Case, Cohort, FitSettings, StudySettings, Target, develop
from wsi_umedpt.models import load_encoder
from wsi_umedpt.pipeline import encode_slide
from wsi_umedpt.slides import TileSpec, find_tissue, lay_grid, open_slide, sample_slide
from wsi_umedpt.store import Bag, SlideStore
from wsi_umedpt.testing import write_pyramid

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
DRAWN = (
    ("Tumor", [(1130, 640), (1420, 660), (1350, 900), (1230, 1380), (1060, 1500), (1090, 1100)], "polygon"),
    ("Stroma", [(760, 1560), (1010, 1560), (1010, 2200), (760, 2200)], "ellipse"),
)
"""Classes, corners in level-0 px, and kinds of shapes."""
RULER = [(1090, 1090), (1290, 1150)]
"""Ends of a line, level-0 px."""
NUCLEUS = (1171, 1128)
"""What is clicked on, level-0 px."""
BESIDE = (1230, 1180)
"""Where a nucleus is drawn, level-0 px."""
TURN = 25.0
"""Degrees by which the second of two slides lies turned."""
BORDER = (1090, 1500)
"""Where epidermis ends, level-0 px."""
RESULTS, MODEL = Path("CMU-1-Small-Region.zarr"), Path("toy/model.json")
SIZES = LAPTOP, MONITOR = (1280, 720), (1920, 1080)
"""(width, height) of screens."""
SAVED = (1280, 720)
"""A monitor's pictures are made as small as a laptop's: their layout is what is to be seen."""
COLOURS = ((160, 96), (64, 64), (32, 48), (24, 24))
"""Of tissue, and of small things."""
MOST_BYTES = 130_000
SCALES = (1.0, 0.75, 0.6)
"""Of a picture's width and height, where few colours are not enough: many nuclei have many edges."""
GAP_PX, ACROSS = 12, 5
"""Between docks of a sheet, and docks in a row of it."""
MOST_S = 900.0
"""After which what did not come does not come."""


@cache
def embedded() -> Path:
    """The demo slide's results, tiles embedded."""
    path = Path(tempfile.mkdtemp()) / RESULTS
    with open_slide(sample_slide()) as slide:
        tissue = find_tissue(slide)
        grid = lay_grid(slide.size, slide.mpp, SPEC, within=tissue)
        with SlideStore.create(path, slide, tissue, grid) as store:
            encode_slide(slide, store, [load_encoder(device="cpu")], grid_id=SPEC.grid_id)
    return path


def apart(bag: Bag, side: float, points: list[tuple[int, int]]) -> np.ndarray:
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
    path = Path(tempfile.mkdtemp()) / MODEL
    path.parent.mkdir()
    model.save(path)
    return path


class Scene:
    """A window with docks, photographed on screens of several sizes."""

    def __init__(self) -> None:
        self.viewer = window()
        self.qt = self.viewer.window._qt_window
        self.qt.showNormal()
        self.size: tuple[int, int] = LAPTOP
        self.beside: Any = None
        """A second window, or None."""
        self.whole = True
        """Whether all of the slide is looked at."""
        self.sheets: dict[tuple[int, int], list[Image.Image]] = {size: [] for size in SIZES}
        """Pictures of docks, for each screen."""
        self.docks = {dock.tab: dock for dock in self.qt.findChildren(Dock)}
        self.resize(LAPTOP)

    def resize(self, size: tuple[int, int]) -> None:
        """Make the window as large as a screen."""
        self.size = size
        width = size[0] // 2 if self.beside is not None else size[0]
        self.qt.setGeometry(0, 0, width, size[1])
        if self.beside is not None:
            self.beside.window._qt_window.showNormal()
            self.beside.window._qt_window.setGeometry(width, 0, width, size[1])
        pause(0.3)
        frame = frame_of_dock(self.docks["Navigator"])  # which keeps the height that it had in a larger window
        self.qt.resizeDocks([frame], [frame.minimumSizeHint().height()], Qt.Orientation.Vertical)
        if self.whole and self.viewer.layers:
            self.viewer.reset_view()
        for box in self.qt.findChildren(QMessageBox):  # it finds its place when it is shown
            box.hide()
            box.show()
        pause()

    def dock(self, name: str) -> Any:
        """Open a dock by its name in the menu Plugins, or bring it to the front."""
        dock = self.docks[name] = open_dock(self.viewer, name)
        pause(0.5)
        return dock

    def close(self) -> None:
        """Close the window, and what it still asks or does."""
        for box in self.qt.findChildren(QMessageBox):
            box.reject()
        runs = Runs.of(self.viewer)
        if runs.current is not None:
            runs.stop()
            until(lambda: runs.current is None)
        if self.beside is not None:
            self.beside.close()
        self.viewer.close()
        QApplication.processEvents()

    def open(self, path: Path | None = None) -> None:
        """Open the demo slide, or results over it, and look at all of it."""
        self.viewer.open(path or sample_slide(), plugin=PLUGIN)
        pause()
        self.viewer.reset_view()

    def picture(self) -> Image.Image:
        """What is on the screen where the window is."""
        screen = QGuiApplication.primaryScreen().grabWindow(0, 0, 0, *self.size)
        image = screen.toImage().convertToFormat(QImage.Format.Format_RGB888)
        rows = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
        rows = rows.reshape(image.height(), image.bytesPerLine())[:, : 3 * image.width()]
        return Image.fromarray(rows.reshape(image.height(), image.width(), 3).copy())

    def add_to_sheets(self, dock: Dock) -> None:
        """Keep what is on each screen where a dock is."""
        for size, sheet in self.sheets.items():
            self.resize(size)
            frame = frame_of_dock(dock)
            at = frame.mapTo(self.qt, QPoint(0, 0))
            sheet.append(self.picture().crop((at.x(), at.y(), at.x() + frame.width(), at.y() + frame.height())))
        self.resize(LAPTOP)


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of docks in rows of five."""
    width, height = max(one.width for one in pictures), max(one.height for one in pictures)
    across = min(ACROSS, len(pictures))
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * (width + GAP_PX) - GAP_PX, down * (height + GAP_PX) - GAP_PX), "white")
    for n, one in enumerate(pictures):
        sheet.paste(one, (n % across * (width + GAP_PX), n // across * (height + GAP_PX)))
    return sheet


def save(image: Image.Image, path: Path) -> None:
    """Save a picture with as many colours, and as large, as a small file has room for."""
    for scale, (of_tissue, of_small_things) in product(SCALES, COLOURS):
        one = image.resize([round(scale * length) for length in image.size], Image.Resampling.LANCZOS)
        few_colours(one, of_tissue, of_small_things).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(path)


def few_colours(image: Image.Image, many: int, apart: int) -> Image.Image:
    """A picture in colours of which there are many px, and in those that are far apart, which small things have."""
    colours = image.quantize(many).getpalette()[: 3 * many]
    colours += image.quantize(apart, method=Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * apart]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def until(true: Callable[[], Any]) -> None:
    """Let the window work until something is so."""
    end = time.monotonic() + MOST_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"the window is not ready after {MOST_S:g} s")
        QApplication.processEvents()
        time.sleep(0.01)


def pause(seconds: float = 1.0) -> None:
    """Let the window work until it had nothing to do for so long, or for five times as long."""
    idle, end = 0.0, time.monotonic() + 5 * seconds
    while idle < seconds and time.monotonic() < end:
        began = time.monotonic()
        QApplication.processEvents()
        worked = time.monotonic() - began
        time.sleep(0.01)
        idle += 0.01 if worked < 0.03 else 0.0


def results() -> Path:
    """The demo slide's results in the folder that is worked in."""
    if not RESULTS.exists():
        shutil.copytree(embedded(), RESULTS)
    return RESULTS


def turned_slide() -> tuple[Path, np.ndarray]:
    """The demo slide turned by `TURN` degrees, and the matrix (2, 3) from its places to those of the turned one."""
    with open_slide(sample_slide()) as slide:
        size, mpp = slide.size, slide.mpp
        pixels = slide.read(Box(0, 0, *size), mpp)
    onto = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), TURN, 1.0)
    turned = cv2.warpAffine(pixels, onto, size, borderValue=(243, 243, 243))
    return write_pyramid(Path("turned.svs"), turned, mpp=mpp), onto


def segmented() -> Path:
    """Nuclei of the demo slide, with vectors, in the folder that is worked in."""
    with open_slide(sample_slide()) as slide:
        return wu.segment(slide, Path("nuclei") / RESULTS, heads="nuclei").path


def overview(scene: Scene) -> None:
    """All of the slide, and how much a slide classifier looked at each tile."""
    scene.open(results())
    judge(scene).column.setCurrentText("attention")


def nuclei(scene: Scene) -> None:
    """Nuclei at 40x, and what was found where the user clicked."""
    scene.viewer.open_sample(PLUGIN, "demo")
    pause()
    look_at(scene, 40)
    scene.docks["Legend"].tell_place(scene.viewer.scene.camera.center[-2:])


def corrected(scene: Scene) -> None:
    """Nuclei in view as shapes, one of which gets another class."""
    scene.viewer.open_sample(PLUGIN, "demo")
    pause()
    look_at(scene, 40)
    press(scene.docks["Legend"], "Edit those in view")
    dock = scene.dock("Annotations")
    layer = scene.viewer.layers.selection.active
    middle = current_place(scene.viewer).to_world(np.array(NUCLEUS))
    layer.selected_data = {int(np.argmin([np.linalg.norm(corners.mean(0) - middle) for corners in layer.data]))}
    dock.choose_class("Immune cells")


def correct(scene: Scene) -> None:
    """Nuclei in view, put right in a frame, and what the head learned from them."""
    scene.viewer.open_sample(PLUGIN, "demo")
    pause()
    look_at(scene, 40)
    dock = scene.dock("Annotations")
    panel = dock.correcting
    dock.correct_button.setChecked(True)
    until(lambda: panel.heads.count() > 0)
    panel.correct()
    layer = scene.viewer.layers.selection.active
    middles = np.array([corners.mean(0) for corners in layer.data[1:]])
    layer.selected_data = {1 + int(row) for row in np.argsort(middles[:, 0])[:3]}
    layer.remove_selected()
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.array(BESIDE) + 16 * np.stack([np.cos(around), np.sin(around)], 1)
    layer.add_polygons(current_place(scene.viewer).to_world(ring))
    panel.learn()
    until(lambda: panel.lesson is not None)
    pause()
    panel.parentWidget().parentWidget().parentWidget().verticalScrollBar().setValue(10_000)


def annotations(scene: Scene) -> None:
    """Regions that were drawn, with their classes."""
    scene.open()
    draw(scene)


def measure(scene: Scene) -> None:
    """A region with its size and the nuclei in it, a ruler, and where nuclei lie most densely."""
    scene.viewer.open_sample(PLUGIN, "demo")
    pause()
    scene.viewer.reset_view()
    draw(scene)
    count(scene)


def stains(scene: Scene) -> None:
    """The haematoxylin of a field alone."""
    scene.open()
    scene.whole = False
    scene.docks["Navigator"].magnify(10)
    scene.docks["Navigator"].go_to(*NUCLEUS)
    scene.dock("Stains").show_stain("hematoxylin")
    pause()


def keys(scene: Scene) -> None:
    """The list of keys."""
    scene.open()
    KeyList.toggle(scene.viewer)


def linked(scene: Scene) -> None:
    """Two windows with linked views; the second slide lies turned and shows haematoxylin alone."""
    scene.open()
    scene.beside = window_beside(scene.viewer)
    path, onto = turned_slide()
    scene.beside.open(path, plugin=PLUGIN)
    open_dock(scene.beside, "Stains").show_stain("hematoxylin")
    frame_of_dock(open_dock(scene.beside, "Stains")).hide()
    scene.resize(LAPTOP)
    scene.beside.reset_view()
    dock = scene.dock("Two slides")
    dock.pick()
    same = np.array(POINTS["Epidermis"][:3], float)
    there = same @ onto[:, :2].T + onto[:, 2]
    for viewer, clicks, points in zip((scene.viewer, scene.beside), dock.points, (same, there), strict=True):
        clicks += [(y, x) for y, x in current_place(viewer).to_world(points).tolist()]
    dock._register()
    look_at(scene, 10)


def fewshot(scene: Scene) -> None:
    """A few labelled tiles, and the slide coloured by what was learned from them."""
    scene.open(results())
    label(scene)


def cells(scene: Scene) -> None:
    """A few clicked nuclei, and all others in the colours of what was learned from them."""
    scene.open(segmented())
    click_cells(scene)
    scene.whole = False
    scene.docks["Navigator"].magnify(20)
    scene.docks["Navigator"].go_to(*BORDER)


def alike(scene: Scene) -> None:
    """A tile of epidermis, and the tiles that look most like it."""
    scene.open(results())
    search(scene)


def classifier(scene: Scene) -> None:
    """What a slide classifier says, of which tiles, and what it says without a region."""
    scene.open(results())
    dock = judge(scene)
    whole = dock.judgement.tiles
    dock.draw("left out")
    um = FOLD[:, ::-1] * SlideStore.open(results()).attrs["slide"]["mpp"]
    scene.viewer.layers["regions judged"].add([um], shape_type="polygon")
    until(lambda: dock.judgement.tiles < whole)


def analyse(scene: Scene) -> None:
    """The slide while its features are computed and nuclei are looked for."""
    scene.open()
    dock = ask(scene)
    dock.folder.setText("results")
    dock.start()
    until(lambda: dock.words.text().startswith("Looking for") and 2 * dock.bar.value() > dock.bar.maximum() > 0)


def closing_it(scene: Scene) -> None:
    """What is asked when the window is closed while something is computed."""
    analyse(scene)
    scene.qt.close(confirm_need=True)


def cases(scene: Scene) -> None:
    """A folder of slides, gone through one after the other."""
    review(scene)


def docks(scene: Scene) -> None:
    """Every dock with what it holds."""
    scene.open(results())
    scene.add_to_sheets(scene.docks["Navigator"])
    for make in (ask, judge, label, search):
        scene.add_to_sheets(make(scene))
    for name in ("Legend", "Slides and results", "Stains", "Two slides"):
        scene.add_to_sheets(scene.dock(name))
    scene.viewer.layers.clear()
    pause()
    scene.open(segmented())
    for make in (click_cells, draw, count):
        scene.add_to_sheets(make(scene))
    scene.viewer.layers.clear()
    pause()
    scene.add_to_sheets(review(scene))


def press(dock: Dock, text: str) -> None:
    """Press a button of a dock by what is written on it."""
    next(button for button in dock.findChildren(QPushButton) if button.text() == text).click()


def look_at(scene: Scene, power: float) -> None:
    """Look at a nucleus."""
    scene.whole = False
    scene.docks["Navigator"].magnify(power)
    scene.docks["Navigator"].go_to(*NUCLEUS)
    pause()


def judge(scene: Scene) -> Any:
    """Let the toy judge the slide."""
    dock = scene.dock("Slide classifier")
    if not MODEL.exists():
        shutil.copytree(toy().parent, MODEL.parent)
    dock.open(MODEL)
    until(lambda: dock.judgement is not None)
    pause()
    return dock


def label(scene: Scene) -> Any:
    """Label the tiles that a pathologist would point at."""
    source = StoreSource.open(results())
    bag = source.load()
    labels = {}
    for name, points in POINTS.items():
        labels |= dict.fromkeys(bag.index[apart(bag, source.side, points).argmin(0)].tolist(), name)
    dock = scene.dock("Few-shot classifier")
    until(lambda: dock.slide is not None)
    dock.classes.table.item(0, 1).setText("Epidermis")
    dock.labelling.label(labels)
    until(lambda: dock.taught is not None)
    return dock


def click_cells(scene: Scene) -> Any:
    """Label the nuclei nearest to where a pathologist would point at epidermis, and at what is none."""
    dock = scene.dock("Cells")
    until(lambda: dock.slide is not None)
    dock.classes.table.item(0, 1).setText("Epidermis")
    middles, labels = dock.slide.field.objects.centroid, {}
    for name, points in POINTS.items():
        apart = np.linalg.norm(middles[:, None] - np.array(points), axis=2)
        labels |= dict.fromkeys(apart.argmin(0).tolist(), name)
    dock.labelling.label(labels)
    until(lambda: dock.taught is not None)
    return dock


def search(scene: Scene) -> Any:
    """Look for what is like a tile of epidermis."""
    dock = scene.dock("Find alike")
    dock.find(POINTS["Epidermis"][3])
    until(lambda: dock.found and not dock._reading.busy)
    return dock


def ask(scene: Scene) -> Any:
    """Tick the first that can be looked for."""
    dock = scene.dock("Analyse")
    until(lambda: dock.heads.count() > 1)
    dock.heads.item(0).setCheckState(Qt.CheckState.Checked)
    return dock


def draw(scene: Scene) -> Any:
    """Draw a region and an ellipse of two classes."""
    dock = scene.dock("Annotations")
    place = current_place(scene.viewer)
    for name, corners, kind in DRAWN:
        dock.take_tool("add_polygon")
        dock.choose_class(name)
        scene.viewer.layers["annotations"].add([place.to_world(np.array(corners))], shape_type=kind)
        pause(0.3)
    dock.take_tool("pan_zoom")
    return dock


def count(scene: Scene) -> Any:
    """Count in what is drawn, and measure the thickness of the epidermis."""
    dock = scene.dock("Measure")
    dock.take_ruler()
    place = current_place(scene.viewer)
    scene.viewer.layers["ruler"].add([place.to_world(np.array(RULER))], shape_type="line")
    dock.take_ruler()
    until(lambda: len(dock.counts) == len(DRAWN))
    dock.table.selectRow(0)
    pause()
    return dock


def review(scene: Scene) -> Any:
    """Go through three slides, with a state and a note."""
    slides = Path("slides")
    slides.mkdir()
    for name in ("S24-1031 A.svs", "S24-1031 B.svs", "S24-1032.svs"):
        shutil.copy(sample_slide(), slides / name)
    dock = scene.dock("Case list")
    dock.open(slides)
    until(lambda: dock.number is not None and len(scene.viewer.layers) > 0)
    pause()
    dock.review(state="done")
    dock.step(1)
    until(lambda: dock.number == 1)
    pause()
    dock.review(state="doubtful", note="fold: scan again?")
    scene.viewer.reset_view()
    return dock


SCENES = {
    "overview": overview, "nuclei": nuclei, "corrected": corrected, "annotations": annotations, "fewshot": fewshot,
    "measure": measure, "cells": cells, "alike": alike, "classifier": classifier, "analyse": analyse,
    "closing": closing_it, "cases": cases, "docks": docks, "stains": stains, "keys": keys, "linked": linked,
    "correct": correct,
}  # fmt: skip


def photograph(name: str, folder: Path) -> None:
    """Make a picture for each screen, in a folder in which nobody has drawn or labelled anything yet."""
    slide = sample_slide()
    with tempfile.TemporaryDirectory() as fresh, chdir(fresh):  # what is seen of paths is short
        shutil.copy(slide, fresh)
        own = {"WSI_UMEDPT_CACHE": fresh, "XDG_DATA_HOME": f"{fresh}/data"}
        with patch.dict(os.environ, own), closing(Scene()) as scene:
            SCENES[name](scene)
            for size, sheet in scene.sheets.items():
                path = folder / f"{name}-{size[0]}x{size[1]}.png"
                if sheet:
                    save(side_by_side(sheet), path)
                    continue
                scene.resize(size)
                image = scene.picture()
                save(image.resize(SAVED, Image.Resampling.LANCZOS) if size == MONITOR else image, path)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/out").resolve()
    wanted = sys.argv[2:] or [*SCENES]
    if unknown := {*wanted} - {*SCENES}:
        sys.exit(f"no scene is called {' or '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        photograph(name, folder)


if __name__ == "__main__":
    main()
