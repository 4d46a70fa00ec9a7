"""Corrected objects teach a head: fields in which every outline is right in, a head of the user's own out.

The shared model and its decoder stay as they are, and so do their features; what learns is the head's last layer, a
convolution of 3 x 3 from the decoder's 16 channels to classes. It begins where it is, is held there by a penalty, and
is fitted to all pixels of the fields at once, in seconds on one core. Fields are cut into windows; F1 after the
lesson is of windows that were left out of the fit.

Read top to bottom: `CorrectedField`, `Lesson`, `correct_head`, `save_head`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.annotations.annotation import Geometry
from wsi_umedpt.datasets.samples import IGNORED, Batch
from wsi_umedpt.datasets.targets import class_mask
from wsi_umedpt.errors import AnnotationError, EncoderError, SlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.io import checkpoint
from wsi_umedpt.messages import counted
from wsi_umedpt.models.bundle import Release
from wsi_umedpt.pipeline.segment import calibration_tiles
from wsi_umedpt.segmentation.watershed import separate
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.tasks.instances import panoptic_quality
from wsi_umedpt.tasks.multihead import BORDER, OnePass, find_heads
from wsi_umedpt.tasks.segmentation import Segmentation

WINDOW_PX, MARGIN_PX = 256, 32
"""Side of the part of a window that is learned from, and of its surroundings on each side."""
_FOLDS = 5
_PULL = 1e-2
"""Penalty on the squared distance to the head as it was; fixed, and chosen by no figure."""
_ROUNDS = 40
_MIN_UM2 = 10.0
"""Objects of less area are dropped, as in `wsi-umedpt segment`."""

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectedField:
    """A field of a slide in which every object is outlined, and nothing else."""

    box: Box
    """Level-0 px."""
    outlines: Sequence[npt.NDArray[np.floating]]
    """(corner, 2) of each object, level-0 px; those that reach into the field count as far as they lie in it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """Result of teaching a head."""

    head: Segmentation
    """Taught on all windows."""
    windows: int
    objects: int
    """Number of objects in the fields, those cut by windows counted in each."""
    before: float
    """F1 of the objects (IoU over 0.5) by the head as it was."""
    after: float | None
    """F1 on windows that were left out of the fit; None where there is one window only."""
    seconds: float


def fields_of(areas: Sequence[tuple[str, Geometry]], field: str) -> list[CorrectedField]:
    """Sort annotations into fields and the outlines in them.

    Parameters
    ----------
    areas
        Class and area of each, level-0 px.
    field
        Class of the fields; their bounds count.

    Raises
    ------
    AnnotationError
        If there is no field.
    """
    boxes = [area.bounds for name, area in areas if name == field]
    if not boxes:
        raise AnnotationError(
            f"there is no region of the class {field!r}: draw one around what was corrected, and put right all in it"
        )
    parts = [part for name, area in areas if name != field for part in getattr(area, "geoms", [area])]
    outlines = [np.array(part.exterior.coords[:-1]) for part in parts]
    return [
        CorrectedField(
            box=Box(int(left), int(top), int(right) - int(left), int(bottom) - int(top)),
            outlines=[ring for ring in outlines if _meet(ring, (left, top, right, bottom))],
        )
        for left, top, right, bottom in boxes
    ]


def correct_head(
    slide: Slide,
    tissue: TissueMask,
    fields: Sequence[CorrectedField],
    release: Release,
    head: str,
    *,
    mpp: float | None = None,
    device: str = "cpu",
) -> Lesson:
    """Teach the last layer of a head by corrected fields of a slide.

    Parameters
    ----------
    slide, tissue
        Slide, and its tissue, by which the decoder's norms are fixed as `wsi-umedpt segment` does it.
    fields
        Corrections.
    release
        Model with the head.
    head
        Name of a head for segmentation that finds one class of objects.
    mpp
        um/px of the windows; by default those that the head was trained at.
    device
        Device of the networks.

    Returns
    -------
    Lesson
        The taught head and its figures.

    Raises
    ------
    EncoderError
        If the release has no such head, or it finds several classes.
    SlideError
        If no field lies on the slide.
    """
    began = perf_counter()
    (of,) = find_heads(release, [head])
    if of.pixels is None or len(of.classes) != 1:
        raise EncoderError(
            f"head {head} finds {', '.join(of.classes)}; corrections teach heads for segmentation with one class"
        )
    scale = (mpp or of.mpp or TileSpec.mpp) / slide.mpp
    windows = [window for one in fields for window in _windows(one.box, scale)]
    if not windows:
        raise SlideError(f"none of {counted(len(fields), 'field')} of corrections has an area")
    size = WINDOW_PX + 2 * MARGIN_PX
    model = OnePass(release, [replace(of, boxes=None)], size_px=size, device=device)
    model.calibrate(calibration_tiles(slide, tissue, TileSpec(size_px=size, mpp=scale * slide.mpp)))
    pixels = np.stack([_pixels(slide, window, scale, size) for window in windows])
    embedded = model.embed_pixels(pixels)
    true = np.stack([_instances(fields, window, scale, size) for window in windows])
    known = [k for k in range(len(windows)) if (true[k] != IGNORED).any()]
    if not known:
        raise SlideError("no field of corrections lies on the slide")
    embedded, true = embedded[known], true[known]
    learning = _Learning(of.pixels, embedded, true, round(_MIN_UM2 / (scale * slide.mpp) ** 2))
    return Lesson(
        head=learning.fit(np.arange(len(true))), windows=len(true),
        objects=sum(len(np.unique(one[one > 0])) for one in true), before=learning.before(),
        after=learning.held_out(), seconds=perf_counter() - began,
    )  # fmt: skip


class _Learning:
    """Windows of one slide, and a head that is fitted to some of them."""

    def __init__(self, head: Segmentation, embedded: torch.Tensor, true: Numbers, min_px: int) -> None:
        self._head, self._embedded, self._true, self._min_px = head, embedded, true, max(1, min_px)
        classes = head.spec.classes
        masks = [class_mask(one, classes, instances=True) for one in true]
        self._masks = torch.from_numpy(np.stack(masks))

    def fit(self, rows: npt.NDArray[np.int64]) -> Segmentation:
        """Fit a copy of the head to some windows."""
        taught = copy.deepcopy(self._head).train().requires_grad_(True)
        start = [p.detach().clone() for p in taught.parameters()]
        some, masks = self._embedded[rows], self._masks[rows]
        batch = Batch(images=torch.empty(0), masks=masks)
        size = (masks.shape[1], masks.shape[2])
        descent = torch.optim.LBFGS(taught.parameters(), max_iter=_ROUNDS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            descent.zero_grad()
            held = sum(((p - q) ** 2).sum() for p, q in zip(taught.parameters(), start, strict=True))
            value: torch.Tensor = taught.loss_of(taught.logits(some, size), batch) + _PULL * held
            value.backward()  # type: ignore[no-untyped-call]
            return value

        descent.step(loss)  # type: ignore[no-untyped-call]
        return taught.eval().requires_grad_(False)

    def before(self) -> float:
        """F1 of the head as it was, over all windows."""
        return self._f1([(self._head, np.arange(len(self._true)))])

    def held_out(self) -> float | None:
        """F1 over all windows, each by a head that was fitted without it; None where there is one only."""
        count = len(self._true)
        if count < 2:
            return None
        fold = np.arange(count) % min(_FOLDS, count)
        return self._f1([(self.fit(np.flatnonzero(fold != k)), np.flatnonzero(fold == k)) for k in np.unique(fold)])

    def _f1(self, parts: Sequence[tuple[Segmentation, npt.NDArray[np.int64]]]) -> float:
        """F1 of all objects together."""
        hits, objects = 0.0, 0
        for head, rows in parts:
            for row in rows.tolist():
                true, found = self._true[row], self._found(head, row)
                there = [_numbered(np.where(one > 0, one, 0)) for one in (true, np.where(true == IGNORED, 0, found))]
                both = sum(int(one.max(initial=0)) for one in there)
                if both:
                    hits += panoptic_quality(there[0], there[1]).detection * both / 2
                    objects += both
        return 2 * hits / objects if objects else float("nan")

    @torch.no_grad()
    def _found(self, head: Segmentation, row: int) -> Numbers:
        size = self._true.shape[1:]
        chances = head.logits(self._embedded[row : row + 1], (size[0], size[1])).softmax(1)[0].cpu().numpy()
        border = head.spec.classes[-1] == BORDER
        front = ((1 - chances[0]) * 255).round().astype(np.uint8)
        inner = (chances[1] * 255).round().astype(np.uint8) if border else front
        return separate(front, inner, min_px=self._min_px)


def save_head(path: Path, release: Path, head: Segmentation, of: str, lesson: Lesson) -> None:
    """Write a release with one more head, called as the file is; all else of it stays.

    Parameters
    ----------
    path
        ``NAME.json``; `wsi-umedpt segment -m umedpt:NAME.json --heads NAME` finds objects by it.
    release
        JSON file of the release that the head was taught from.
    head, of
        Taught head, and name of the one that it began as.
    lesson
        Figures to keep with it.

    Raises
    ------
    EncoderError
        If the name does not end in .json, or a head of the release has it.
    """
    name, boxes = path.stem, f"{of}_boxes"
    tensors, about = checkpoint.load(release)
    specs = {one["name"]: one for one in about["heads"]}
    if path.suffix != ".json" or name in specs:
        raise EncoderError(
            f"a taught head is saved as NAME.json, NAME being none of {', '.join(specs)}; got {path.name}"
        )
    words = f"{specs[of].get('about') or of}, taught by {counted(lesson.objects, 'corrected object')}"
    added = [{**specs[of], "name": name, "about": words}]
    new = {f"heads.{name}.{key}": value.half() for key, value in head.state_dict().items()}
    if boxes in specs:  # they go with it
        added.append({**specs[boxes], "name": f"{name}_boxes"})
        new |= {
            f"heads.{name}_boxes.{key}": v for key, v in checkpoint.tensors_under(tensors, f"heads.{boxes}").items()
        }
    taught = {"from": of, "windows": lesson.windows, "objects": lesson.objects}
    taught |= {"f1_before": lesson.before, "f1_after": lesson.after}
    kept = {key: value for key, value in about.items() if key not in ("tensors", "tensors_sha256", "sha256")}
    said = {**kept, "name": name, "heads": [*about["heads"], *added], "taught": taught}
    checkpoint.save(path, {**tensors, **new}, said)


def _meet(ring: npt.NDArray[np.floating], bounds: tuple[float, float, float, float]) -> bool:
    """Return whether the bounds of an outline meet others."""
    low, high = ring.min(axis=0), ring.max(axis=0)
    return bool((low <= bounds[2:]).all() and (high >= bounds[:2]).all())


def _windows(box: Box, scale: float) -> list[tuple[float, float, Box]]:
    """Windows over a field: the corner of each, level-0 px, and the part of the field that it is to be learned from."""
    step, margin, found = WINDOW_PX * scale, MARGIN_PX * scale, []
    for top in np.arange(box.y, box.y + box.height, step).tolist():
        for left in np.arange(box.x, box.x + box.width, step).tolist():
            right, bottom = min(left + step, box.x + box.width), min(top + step, box.y + box.height)
            part = Box(round(left), round(top), round(right - left), round(bottom - top))
            found.append((left - margin, top - margin, part))
    return found


def _pixels(slide: Slide, window: tuple[float, float, Box], scale: float, size: int) -> npt.NDArray[np.uint8]:
    x, y, _ = window
    side = round(size * scale)
    read = slide.read(Box(round(x), round(y), side, side), slide.mpp * side / size, upsample=True)
    return np.ascontiguousarray(read[:size, :size])


def _instances(fields: Sequence[CorrectedField], window: tuple[float, float, Box], scale: float, size: int) -> Numbers:
    """Number of the object at each pixel of a window, 0 for none, and `IGNORED` beside the field."""
    x, y, part = window
    out = np.zeros((size, size), np.int32)
    number = 0
    for one in fields:
        for outline in one.outlines:
            corners = (np.asarray(outline, np.float64) - (x, y)) / scale
            if not _meet(corners, (0, 0, size, size)):
                continue
            number += 1
            cv2.fillPoly(out, [np.round((corners - 0.5) * 16).astype(np.int32)], number, cv2.LINE_8, 4)
    left, top = (part.x - x) / scale, (part.y - y) / scale
    right, bottom = left + part.width / scale, top + part.height / scale
    inside = np.zeros((size, size), bool)
    inside[round(max(top, 0)) : round(bottom), round(max(left, 0)) : round(right)] = True
    out[~inside] = IGNORED
    return out


def _numbered(labels: Numbers) -> Numbers:
    """The same objects, numbered 1, 2, ... without gaps."""
    numbers, which = np.unique(labels, return_inverse=True)
    return (which.reshape(labels.shape) + (0 if numbers[0] == 0 else 1)).astype(np.int32)
