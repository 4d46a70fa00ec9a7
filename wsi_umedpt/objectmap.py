"""`ObjectMap`: windows of a slide in, one kind of object out; stopped at any time, it goes on.

Everything grows in a folder: the label image, parts of the objects, and the state from which
the next window goes on. Nothing here imports torch; who runs the network is `dense`.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.arrays import discard, sync_folder, whole_file, write_json
from wsi_umedpt.canvas import Canvas, Rows
from wsi_umedpt.errors import OptionError, StoreError
from wsi_umedpt.found import write_objects
from wsi_umedpt.labels import CHUNK_PX, LabelInfo, LabelWriter
from wsi_umedpt.objects import MEASURES, PALETTE, Objects, TileBoxes
from wsi_umedpt.stitching import Stitcher
from wsi_umedpt.tiling import TileGrid

MIN_SCORE = 0.3
"""Boxes of a lower score are left out."""
_SLACK_PX = 4
"""How far beyond its own half of the overlap a window's boxes are looked at: two windows may put the
centre of one box on either side of the line between them."""
_SAME = 0.3
"""Boxes of neighbouring windows that overlap by more (IoU) are one."""
_PROGRESS = "progress.json"

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What kind of object is looked for, and how."""

    name: str
    classes: tuple[str, ...]
    border: bool = False
    """Whether the windows' last channel of chances is the border between objects."""
    pixels: bool = True
    """Whether windows come with chances; else objects are boxes alone."""
    min_um2: float = 10.0
    """Objects of less area are dropped."""
    min_score: float = MIN_SCORE


class Frame:
    """Windows of a grid in px of the windows: where each lies, and which part of it is its own.

    Parameters
    ----------
    grid
        Laid with `whole` off.
    size : (width, height)
        Of the slide, level-0 px.
    """

    def __init__(self, grid: TileGrid, size: tuple[int, int]) -> None:
        spec = grid.spec
        if spec.size_px % 32 or spec.stride % 2 or spec.stride > spec.size_px:
            raise OptionError(
                f"heads need windows whose side is a multiple of 32 px and whose stride is even and no more than "
                f"the side; got {spec.size_px} and {spec.stride} px (--size, --stride)"
            )
        self.spec, self.scale = spec, grid.scale
        self.width, self.height = (max(1, int(np.ceil(n / grid.scale - 1e-6))) for n in size)
        cells = np.round(grid.xy / (spec.stride * grid.scale)).astype(np.int64)
        self.xy = cells * spec.stride
        """(window, 2) top left corners, px of the windows."""
        reach = int(self.xy[:, 0].max(initial=0)) + spec.size_px
        self.canvas_width = max(reach, self.width + self.width % 2)
        here = {(x, y) for x, y in cells.tolist()}
        half = (spec.size_px - spec.stride) / 2
        sides = ((-1, 0), (0, -1), (1, 0), (0, 1))
        neighbour = np.array([[(x + dx, y + dy) in here for dx, dy in sides] for x, y in cells.tolist()]).reshape(-1, 4)
        far = np.array([-np.inf, -np.inf, np.inf, np.inf])
        self.own = np.where(neighbour, np.array([half, half, spec.size_px - half, spec.size_px - half]), far)
        """(window, 4) left, top, right, bottom of a window's own part, px of the window."""


class ObjectMap:
    """Objects of one kind over the windows of a slide.

    Parameters
    ----------
    folder
        To grow in. What an interrupted run left there is gone on with if it is of the same origin.
    kind, frame
        What is looked for, and where the windows lie.
    mpp
        um/px of the windows.
    made_by
        What the result will say of its making; JSON.
    made_of
        Slide and grid that this is of; JSON.
    """

    def __init__(
        self, folder: Path, kind: Kind, frame: Frame, *, mpp: float, made_by: dict[str, Any], made_of: dict[str, Any]
    ) -> None:
        self._folder, self._kind, self._frame = folder, kind, frame
        self._made_by = made_by
        self._origin = json.loads(json.dumps({"made_by": made_by, "made_of": made_of}))
        width = frame.canvas_width if kind.pixels else 0  # boxes alone need no memory of pixels
        self._canvas = Canvas(width, frame.spec.size_px, frame.spec.stride, len(kind.classes) + kind.border)
        self._stitcher = Stitcher(
            width, kind.classes, border=kind.border, scale=frame.scale, mpp=mpp, min_um2=kind.min_um2
        )
        colours = tuple(PALETTE[i % len(PALETTE)] for i in range(len(kind.classes)))
        self._info = LabelInfo(
            name=kind.name, shape=(frame.height, frame.width), mpp=mpp, scale=frame.scale, classes=kind.classes,
            colours=colours, source={"fingerprint": made_of.get("fingerprint", "")}, made_by=self._origin["made_by"],
        )  # fmt: skip
        self.windows_done = 0
        """Windows whose result is durable; a run that goes on begins with the next."""
        self.unreadable: list[int] = []
        """Windows that could not be read."""
        self._torn = False
        """Whether a window is being added, as when Ctrl-C comes: then what is there must not be saved."""
        self._parts = 0
        self._fresh: list[Objects] = []
        self._boxes = np.empty((0, 7), np.float32)
        """Waiting: left, top, right, bottom (px of the windows' plane), class, score, whether other windows
        may have found it too."""
        self._labels: LabelWriter | None = None
        if not self._resumed():
            discard(folder)
            folder.mkdir(parents=True)
            self._labels = LabelWriter(folder / "labels", self._info) if kind.pixels else None
        self._next = self.windows_done

    def add(
        self, index: int, pixels: npt.NDArray[np.uint8], chances: npt.NDArray[np.uint8] | None,
        boxes: TileBoxes | None,
    ) -> None:  # fmt: skip
        """Take the next window.

        Parameters
        ----------
        index
            Row of the grid; those already done are passed over.
        pixels : uint8 (size, size, 3)
        chances : uint8 (class, size / 2, size / 2)
        """
        if index < self._next:
            return
        self._torn = True
        x, y = self._frame.xy[index].tolist()
        if y > self._canvas.top:
            self._advance(y)
        if chances is not None:
            self._canvas.add(x, y, chances, pixels)
        if boxes is not None:
            self._boxes = np.concatenate([self._boxes, self._owned(index, boxes)])
        self._next, self._torn = index + 1, False

    def leave_out(self, index: int) -> None:
        """Pass over the next window, which could not be read."""
        if index >= self._next:
            self.unreadable.append(index)
            self._next = index + 1

    def save(self) -> None:
        """Make durable what was found in all windows that were added."""
        windows = self._next
        if self._torn or windows == self.windows_done:  # of a run that goes on, and is not yet where this map is
            return
        if self._fresh:
            _save_npz(
                self._folder / f"objects-{self._parts:05d}.npz",
                _fields(Objects.joined(self._fresh, self._kind.classes)),
            )
            self._parts, self._fresh = self._parts + 1, []
        groups = {"canvas": self._canvas.state(), "stitcher": self._stitcher.state()}
        if self._labels:
            groups["labels"] = self._labels.state()
        state = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
        _save_npz(self._folder / f"state-{windows}.npz", {**state, "boxes": self._boxes})
        progress = {"windows_done": windows, "parts": self._parts, "unreadable": self.unreadable}
        write_json(self._folder / _PROGRESS, {**progress, **self._origin})
        for old in self._folder.glob("state-*.npz"):
            if old.name != f"state-{windows}.npz":
                old.unlink()
        self.windows_done = windows

    def finish(self, unreadable: list[list[int]] | None = None) -> Objects:
        """Take what is left, and seal label image and objects; they lie in ``labels`` and ``detections``.

        Parameters
        ----------
        unreadable
            Top left corners of windows that could not be read, level-0 px.
        """
        self._advance(self._canvas.top + self._frame.spec.size_px, last=True)
        if self._labels:
            while rest := self._frame.height - self._labels.rows_done:
                self._labels.append(np.zeros((min(rest, CHUNK_PX), self._frame.width), np.uint8))
            self._labels.finish()
        names = tuple(self._kind.classes)
        parts = [Objects(names, **_load_npz(self._part(i))) for i in range(self._parts)]
        objects = Objects.joined([*parts, *self._fresh], names)
        write_objects(self._folder / "detections", objects, {**self._made_by, "unreadable": unreadable or []})
        return objects

    def _advance(self, y: int, *, last: bool = False) -> None:
        """Take all rows above `y` from the canvas, and the objects that end in them."""
        ready = self._without_doubles(y, last=last)
        if not self._kind.pixels:
            self._fresh.append(_as_objects(ready, self._kind.classes, self._frame.scale))
            self._canvas.top = y
            return
        centres = ((ready[:, :2] + ready[:, 2:4]) / 2).astype(np.float32)
        # Where no window is, over many rows, they are not all held at once.
        for end in range(self._canvas.top + self._frame.spec.size_px, y, self._frame.spec.size_px):
            self._stitch(self._canvas.rows_until(end), centres, last=False)
            centres = centres[:0]
        self._stitch(self._canvas.rest() if last else self._canvas.rows_until(y), centres, last=last)

    def _stitch(self, rows: Rows, centres: Boxes, *, last: bool) -> None:
        found = self._stitcher.add(rows, centres, last=last)
        if len(found.objects):
            self._fresh.append(found.objects)
        if self._labels:
            room = self._frame.height - self._labels.rows_done
            self._labels.append(np.ascontiguousarray(found.labels[:room, : self._frame.width]))

    def _owned(self, index: int, boxes: TileBoxes) -> Boxes:
        """Boxes whose centre lies in a window's own part, or nearly; in px of the windows' plane."""
        centre = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2
        own = self._frame.own[index]
        inside = np.minimum(centre - own[:2], own[2:] - centre).min(axis=1)
        kept = (inside >= -_SLACK_PX) & (boxes.score >= self._kind.min_score)
        moved = boxes.xyxy + np.tile(self._frame.xy[index], 2)
        # In the corners, where four windows overlap, a window that is left out has two others own its part.
        spec = self._frame.spec
        corner = np.minimum(centre, spec.size_px - centre) < spec.size_px - spec.stride + _SLACK_PX
        shared = (inside < _SLACK_PX) | corner.all(axis=1)
        columns = (boxes.class_index[:, None], boxes.score[:, None], shared[:, None])
        out: Boxes = np.concatenate([moved, *columns], axis=1)[kept].astype(np.float32)
        return out

    def _without_doubles(self, y: int, *, last: bool) -> Boxes:
        """Take the waiting boxes whose centre is above `y`, each once."""
        middle = (self._boxes[:, 1] + self._boxes[:, 3]) / 2
        above = np.ones(len(self._boxes), bool) if last else middle < y
        ready, self._boxes = self._boxes[above], self._boxes[~above]
        near = ready[:, 6] > 0
        return np.concatenate([ready[~near], _apart(ready[near])])

    def _resumed(self) -> bool:
        try:
            progress = json.loads((self._folder / _PROGRESS).read_bytes())
            if {k: progress[k] for k in self._origin} != self._origin:
                return False
            windows, parts = int(progress["windows_done"]), int(progress["parts"])
            unreadable = [int(i) for i in progress["unreadable"]]
            state = _load_npz(self._folder / f"state-{windows}.npz")
            if not all(self._part(i).exists() for i in range(parts)):
                return False

            def group(name: str) -> dict[str, Any]:
                return {k.partition(".")[2]: v for k, v in state.items() if k.startswith(name + ".")}

            if self._kind.pixels:
                self._labels = LabelWriter.resume(self._folder / "labels", self._info, group("labels"))
            self._canvas.restore(group("canvas"))
            self._stitcher.restore(group("stitcher"))
            self._boxes = state["boxes"]
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, StoreError):
            return False  # StoreError: killed when the label image was on its way into the store
        self.windows_done, self._parts, self.unreadable = windows, parts, unreadable
        return True

    def _part(self, number: int) -> Path:
        return self._folder / f"objects-{number:05d}.npz"


def _apart(boxes: Boxes) -> Boxes:
    """Greedy suppression over all classes: the best of boxes that overlap."""
    boxes = boxes[np.argsort(-boxes[:, 5], kind="stable")]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if kept[i]:
            low, high = np.maximum(boxes[i, :2], boxes[i + 1 :, :2]), np.minimum(boxes[i, 2:4], boxes[i + 1 :, 2:4])
            shared = np.prod(np.maximum(high - low, 0), axis=1)
            kept[i + 1 :] &= shared <= _SAME * (area[i] + area[i + 1 :] - shared)
    return boxes[kept]


def _as_objects(boxes: Boxes, classes: tuple[str, ...], scale: float) -> Objects:
    """Boxes as objects whose outline is the box; nothing is measured of them."""
    n = len(boxes)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2) * scale
    return Objects(
        classes,
        boxes[:, 4].astype(np.uint8),
        boxes[:, 5],
        ((boxes[:, :2] + boxes[:, 2:4]) / 2 * scale).astype(np.float32),
        np.full((n, len(MEASURES)), np.nan, np.float32),
        np.arange(n + 1, dtype=np.int64) * 4,
        corners.astype(np.float32),
    )


def _fields(objects: Objects) -> dict[str, Any]:
    return {k: v for k, v in vars(objects).items() if k != "classes"}


def _load_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:  # opened here, as numpy leaves a torn file open
        return dict(np.load(file))


def _save_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Whole or absent."""
    with whole_file(path) as file:
        np.savez(file, **arrays)
    sync_folder(path.parent)
