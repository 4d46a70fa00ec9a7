"""Slides of painted nuclei, and a network that finds them by their colour: all but the network is real."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from wsi_umedpt.pipeline.segment import FeaturesToo, SegmentTask, segment_slide
from wsi_umedpt.pipeline.task import Progress, TaskResult
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.objects import TileBoxes
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks.multihead import CALIBRATION_PX, ObjectHeads, Outputs
from wsi_umedpt.testing import write_pyramid

STROMA, NUCLEUS = np.array([235, 190, 215]), np.array([80, 50, 140])
WINDOWS = TileSpec(size_px=224, stride_px=160, mpp=0.5)
STEP = 16
"""Level-0 px of a cell of tissue masks."""


@dataclass(frozen=True)
class Painted:
    """A slide, and where its nuclei are, level-0 px."""

    path: Path
    size: tuple[int, int]
    centres: np.ndarray
    radii: np.ndarray

    def tissue(self, *, everywhere: bool = True) -> TissueMask:
        """A mask of all of the slide, or of nothing, as if it was found."""
        width, height = self.size
        return TissueMask(np.full((-(-height // STEP), -(-width // STEP)), everywhere), STEP)


def paint(path: Path, size: tuple[int, int], disks: np.ndarray, mpp: float = 0.5) -> Painted:
    """Disks (x, y, radius) of nuclear colour on stroma, as a slide."""
    width, height = size
    image = np.full((height, width, 3), STROMA, np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    for cx, cy, r in disks:
        near = np.s_[max(0, int(cy - r - 2)) : int(cy + r + 3), max(0, int(cx - r - 2)) : int(cx + r + 3)]
        image[near][np.hypot(x[near] - cx, y[near] - cy) <= r] = NUCLEUS
    return Painted(write_pyramid(path, image, mpp=mpp, quality=95, subsampling="444"), size, disks[:, :2], disks[:, 2])


def scatter(size: tuple[int, int], count: int, rng: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    """Disks apart from each other: first on every line where windows begin, end, or share an object, then anywhere."""
    width, height = size
    lines = [k * 160 * scale + at for k in range(8) for at in (0, 32 * scale, 64 * scale, 224 * scale)]
    wanted = [(x, rng.uniform(0, height)) for x in lines] + [(rng.uniform(0, width), y) for y in lines]
    wanted += [(x, y) for x in lines for y in lines]
    wanted += list(zip(rng.uniform(0, width, count), rng.uniform(0, height, count), strict=True))
    disks = np.empty((0, 3))
    for x, y in wanted:
        r = rng.uniform(5, 11) * scale
        inside = min(x, y, width - x, height - y) > r + 2
        if inside and (np.hypot(*(disks[:, :2] - (x, y)).T) > disks[:, 2] + r + 4 * scale).all():
            disks = np.concatenate([disks, [[x, y, r]]])
    return disks


class ByColour:
    """What stands in for a `OnePass`: nuclear colour is a nucleus, its connected parts are boxes.

    Parameters
    ----------
    pixels, boxes
        What its head says of windows.
    batches
        So many are run; the next one is a Ctrl-C.
    maps
        Whether it gives maps: the mean colour of every 8 x 8 and every 32 x 32 pixels.
    """

    def __init__(
        self, *, pixels: bool = True, boxes: bool = False, batches: int | None = None, maps: bool = True
    ) -> None:
        self.maps = {8: 3, 32: 3} if maps else {}
        self.heads = (ObjectHeads("nuclei", ("nucleus",), False, pixels or None, boxes or None, None),)
        self._left = batches

    def calibrate(self, tiles: np.ndarray) -> None:
        """Fix nothing; what is given must be tiles."""
        assert tiles.shape[1:] == (CALIBRATION_PX, CALIBRATION_PX, 3)
        assert len(tiles)

    def submit(self, pixels: np.ndarray, part_done=None) -> Callable[[], Outputs]:
        """See `OnePass.submit`."""
        if self._left == 0:
            raise KeyboardInterrupt
        self._left = None if self._left is None else self._left - 1
        far = np.abs(pixels.astype(int) - NUCLEUS).sum(-1)
        fine = np.clip(255 - far * 255 // np.abs(STROMA - NUCLEUS).sum(), 0, 255).astype(np.uint8)
        half = np.stack([cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for f in fine])[:, None]
        [head] = self.heads
        chances = {"nuclei": half} if head.pixels else {}
        boxes = {"nuclei": [boxes_of(f) for f in fine]} if head.boxes else {}
        return lambda: Outputs(vectors_of(pixels), chances, boxes, tuple(means_of(pixels, s) for s in self.maps))


def boxes_of(chances: np.ndarray) -> TileBoxes:
    """Bounds of the connected parts; of those that the window's border cuts, what is left, less surely."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((chances > 127).astype(np.uint8))
    x, y, w, h = stats[1:, :4].T
    xyxy = np.stack([x, y, x + w, y + h], 1).astype(np.float32)
    cut = (xyxy.min(1) == 0) | (xyxy.max(1) == len(chances))
    return TileBoxes(xyxy, np.zeros(len(x), np.int64), np.where(cut, 0.6, 0.9).astype(np.float32))


def means_of(pixels: np.ndarray, stride: int) -> np.ndarray:
    """Mean colour of the cells of a map."""
    n, h, w, _ = pixels.shape
    cells = pixels.reshape(n, h // stride, stride, w // stride, stride, 3)
    return cells.mean((2, 4)).astype(np.float16)


def vectors_of(pixels: np.ndarray) -> np.ndarray:
    """Embed a tile as a few of its pixels."""
    return pixels[:, ::56, ::56, 1].reshape(len(pixels), -1).astype(np.float32)


def paint_nuclei(folder: Path) -> Painted:
    """A slide of 880 x 700 px at 0.5 um/px, whose last windows cross its edges."""
    size = 880, 700
    return paint(folder / "nuclei.svs", size, scatter(size, 1500, np.random.default_rng(1)))


def damage(painted: Painted, folder: Path) -> Painted:
    """The same slide with one of its own tiles, x 256 to 511 and y 256 to 511, overwritten by zeros."""
    path = folder / "nuclei.svs"
    path.write_bytes(painted.path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        across = -(-painted.size[0] // 256)
        offset, count = page.dataoffsets[across + 1], page.databytecounts[across + 1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    return Painted(path, painted.size, painted.centres, painted.radii)


def segment(
    slide: Painted, store: Path, model: Any = None, *, tissue: TissueMask | None = None, spec: TileSpec = WINDOWS,
    embed: bool = False, made_by: str = "by colour", progress: Any = None, **settings: Any,
) -> TaskResult:  # fmt: skip
    """Segment a painted slide into a store, with a small batch, saving after every one."""
    features = FeaturesToo("means", {"card": {"dim": 16}, "engine": "none"}, 16) if embed else None
    told = Progress()
    if progress:
        told.tiles_done = progress
    with open_slide(slide.path) as opened:
        tissue = tissue or slide.tissue()
        grid = lay_grid(opened.size, opened.mpp, spec, within=tissue)
        with SlideStore.create(store, opened, tissue, grid) as made:
            task = SegmentTask(
                model=model or ByColour(), spec=spec, made_by={"model": made_by}, features=features, save_s=-1.0,
                settings=RunSettings(**{"batch_size": 4, "readers": 0, **settings}),
            )  # fmt: skip
            return segment_slide(opened, made, task, told)
