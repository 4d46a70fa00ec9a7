"""`ObjectMap`: windows of a slide in, one kind of object out; stopped at any time, it goes on.

Everything grows in a folder: the label image, parts of the objects and their vectors, and the state from
which the next window goes on. Nothing here imports torch; `pipeline.segment` runs the network.
"""

import itertools
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import StoreError
from wsi_umedpt.segmentation.blending import Canvas, Rows
from wsi_umedpt.segmentation.row_stream import Stitcher
from wsi_umedpt.segmentation.window_layout import WindowLayout
from wsi_umedpt.segmentation.window_maps import Maps, Vectors, WindowMaps
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.label_info import LabelInfo
from wsi_umedpt.store.label_pyramid import CHUNK_PX, LabelWriter
from wsi_umedpt.store.objects import MEASURES, PALETTE, Objects, TileBoxes
from wsi_umedpt.store.objects_io import NewVectors, write_objects
from wsi_umedpt.store.zarr_io import discard, sync_folder, whole_file, write_json

MIN_SCORE = 0.3
"""Boxes of a lower score are left out."""
_SLACK_PX = 4
"""Distance beyond its own half of the overlap to which a window's boxes are looked at: two windows may put the
centre of one box on either side of the line between them."""
_SAME = 0.3
"""Boxes of neighbouring windows that overlap by more (IoU) are one."""
_PROGRESS = "progress.json"

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Kind of object, and the parameters of its detection."""

    name: str
    classes: tuple[str, ...]
    border: bool = False
    """True if the windows' last channel is the border between objects."""
    vouched: bool = False
    """True if an object needs a box, or a likely inner part: where windows come with both boxes and a border."""
    pixels: bool = True
    """True if windows come with probabilities of pixels; else objects are boxes alone."""
    min_um2: float = 10.0
    """Objects of less area are dropped."""
    min_score: float = MIN_SCORE
    maps: Mapping[int, int] = field(default_factory=dict)
    """Channels of the encoder's maps by their stride, whose means are objects' vectors; without any there are none."""


class ObjectMap:
    """Objects of one kind over the windows of a slide.

    Parameters
    ----------
    folder
        Work folder. Work that an interrupted run left there is resumed if it is of the same origin.
    kind, layout
        Kind of the objects, and positions of the windows.
    mpp
        um/px of the windows.
    made_by
        Origin that the result will state; JSON.
    made_of
        Slide and grid that this is of; JSON.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        layout: WindowLayout,
        *,
        mpp: float,
        made_by: dict[str, Any],
        made_of: dict[str, Any],
    ) -> None:
        self._folder, self._kind, self._layout = folder, kind, layout
        self._made_by = made_by
        self._origin = json.loads(json.dumps({"made_by": made_by, "made_of": made_of}))
        width = layout.canvas_width if kind.pixels else 0  # boxes alone need no memory of pixels
        self._canvas = Canvas(width, layout.spec.size_px, layout.spec.stride, len(kind.classes) + kind.border)
        self._stitcher = Stitcher(
            width,
            kind.classes,
            border=kind.border,
            scale=layout.scale,
            mpp=mpp,
            min_um2=kind.min_um2,
            vouched=kind.vouched,
        )
        colours = tuple(PALETTE[i % len(PALETTE)] for i in range(len(kind.classes)))
        self._maps = WindowMaps(layout, kind.maps)
        self._info = LabelInfo(
            name=kind.name, shape=(layout.height, layout.width), mpp=mpp, scale=layout.scale, classes=kind.classes,
            colours=colours, source={"fingerprint": made_of.get("fingerprint", "")}, made_by=self._origin["made_by"],
        )  # fmt: skip
        self.windows_done = 0
        """Windows whose result is durable; a run that goes on begins with the next."""
        self.unreadable: list[int] = []
        """Windows that could not be read."""
        self._torn = False
        """True while a window is being added, as when Ctrl-C comes: then what is there must not be saved."""
        self._parts = 0
        self._fresh: list[Objects] = []
        self._fresh_vectors: list[Vectors] = []
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
        boxes: TileBoxes | None, maps: Maps = (),
    ) -> None:  # fmt: skip
        """Take the next window.

        Parameters
        ----------
        index
            Row of the grid; those already done are passed over.
        pixels : uint8 (size, size, 3)
        chances : uint8 (class, size / 2, size / 2)
        maps : float16 (size / stride, size / stride, channel) for each stride of the kind's
        """
        if index < self._next:
            return
        self._torn = True
        x, y = self._layout.xy[index].tolist()
        if y > self._canvas.top:
            self._advance(y)
        if self._kind.maps:
            self._maps.add(index, maps)
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
            if self._kind.maps:
                with whole_file(self._vector_part(self._parts)) as file:
                    np.save(file, np.concatenate(self._fresh_vectors), allow_pickle=False)
            _save_npz(self._part(self._parts), _fields(Objects.joined(self._fresh, self._kind.classes)))
            self._parts, self._fresh, self._fresh_vectors = self._parts + 1, [], []
        groups = {"canvas": self._canvas.state(), "stitcher": self._stitcher.state(), "maps": self._maps.state()}
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

    def finish(self, unreadable: list[list[int]] | None = None, within: TissueMask | None = None) -> Objects:
        """Take what is left, and seal label image and objects; they lie in ``labels`` and ``detections``.

        Parameters
        ----------
        unreadable
            Top left corners of windows that could not be read, level-0 px.
        within
            Objects whose centroid lies elsewhere are left out; the label image shows them all the same.
        """
        self._advance(self._canvas.top + self._layout.spec.size_px, last=True)
        if self._labels:
            while rest := self._layout.height - self._labels.rows_done:
                self._labels.append(np.zeros((min(rest, CHUNK_PX), self._layout.width), np.uint8))
            self._labels.finish()
        names = tuple(self._kind.classes)
        parts = [Objects(names, **_load_npz(self._part(i))) for i in range(self._parts)]
        objects = Objects.joined([*parts, *self._fresh], names)
        kept = np.ones(len(objects), bool) if within is None else within.holds(objects.centroid)
        objects = objects if kept.all() else objects.taken(kept)
        made_by, vectors = {**self._made_by, "unreadable": unreadable or []}, None
        if self._kind.maps:
            about = {"maps": [*self._kind.maps], "channels": [*self._kind.maps.values()], "mpp": self._info.mpp}
            vectors = NewVectors(self._maps.dim, self._vectors(kept), {**self._made_by, **about})
        write_objects(self._folder / "detections", objects, made_by, vectors)
        return objects

    def _vectors(self, kept: npt.NDArray[np.bool_]) -> Iterator[Vectors]:
        """Vectors of the objects that are kept, a part after the other."""
        done = 0
        for part in itertools.chain(map(_load_npy, map(self._vector_part, range(self._parts))), self._fresh_vectors):
            yield part[kept[done : done + len(part)]]
            done += len(part)

    def _advance(self, y: int, *, last: bool = False) -> None:
        """Take all rows above `y` from the canvas, and the objects that end in them."""
        ready = self._without_doubles(y, last=last)
        if not self._kind.pixels:
            self._found(_as_objects(ready, self._kind.classes, self._layout.scale))
            self._canvas.top = y
            self._maps.drop_above(y - self._layout.spec.size_px)  # boxes whose middle is below y may begin above it
            return
        centres = ((ready[:, :2] + ready[:, 2:4]) / 2).astype(np.float32)
        # Where no window is, over many rows, they are not all held at once.
        for end in range(self._canvas.top + self._layout.spec.size_px, y, self._layout.spec.size_px):
            self._stitch(self._canvas.rows_until(end), centres, last=False)
            centres = centres[:0]
        self._stitch(self._canvas.rest() if last else self._canvas.rows_until(y), centres, last=last)

    def _stitch(self, rows: Rows, centres: Boxes, *, last: bool) -> None:
        found = self._stitcher.add(rows, centres, last=last)
        self._found(found.objects)
        self._maps.drop_above(self._stitcher.top)
        if self._labels:
            room = self._layout.height - self._labels.rows_done
            self._labels.append(np.ascontiguousarray(found.labels[:room, : self._layout.width]))

    def _found(self, objects: Objects) -> None:
        if not len(objects):
            return
        self._fresh.append(objects)
        if self._kind.maps:
            self._fresh_vectors.append(self._maps.vectors(objects))

    def _owned(self, index: int, boxes: TileBoxes) -> Boxes:
        """Boxes whose centre lies in a window's own part, or nearly; in px of the windows' plane."""
        centre = boxes.centres
        own = self._layout.own[index]
        inside = np.minimum(centre - own[:2], own[2:] - centre).min(axis=1)
        kept = (inside >= -_SLACK_PX) & (boxes.score >= self._kind.min_score)
        moved = boxes.xyxy + np.tile(self._layout.xy[index], 2)
        # In the corners, where four windows overlap, a window that is left out has two others own its part.
        spec = self._layout.spec
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
            needed = [self._part(i) for i in range(parts)]
            if self._kind.maps:
                needed += [self._vector_part(i) for i in range(parts)]
            if not all(path.exists() for path in needed):
                return False

            def group(name: str) -> dict[str, Any]:
                return {k.partition(".")[2]: v for k, v in state.items() if k.startswith(name + ".")}

            if self._kind.pixels:
                self._labels = LabelWriter.resume(self._folder / "labels", self._info, group("labels"))
            self._canvas.restore(group("canvas"))
            self._stitcher.restore(group("stitcher"))
            self._maps.restore(group("maps"))
            self._boxes = state["boxes"]
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, StoreError):
            return False  # StoreError: killed when the label image was on its way into the store
        self.windows_done, self._parts, self.unreadable = windows, parts, unreadable
        return True

    def _part(self, number: int) -> Path:
        return self._folder / f"objects-{number:05d}.npz"

    def _vector_part(self, number: int) -> Path:
        return self._folder / f"vectors-{number:05d}.npy"


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


def _load_npy(path: Path) -> Vectors:
    vectors: Vectors = np.load(path, allow_pickle=False)
    return vectors


def _save_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Whole or absent."""
    with whole_file(path) as file:
        np.savez(file, **arrays)
    sync_folder(path.parent)
