"""Corrected objects teach a head: fields in which every outline is right in, a head of the user's own out.

The shared model and its decoder stay as they are, and so do their features; what learns is the head's last layer, a
convolution of 3 x 3 from the decoder's 16 channels to classes. It begins where it is, is held there by a penalty, and
is fitted to all pixels of the fields at once, in seconds on one core. Fields are cut into windows; F1 after the
lesson is of windows that were left out of the fit.

Read top to bottom: `CorrectedField`, `correct_head`, `save_head`; what is learned and measured is in `pipeline.lesson`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.annotations.annotation import Geometry
from wsi_umedpt.datasets.samples import IGNORED
from wsi_umedpt.errors import AnnotationError, EncoderError, SlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.io import checkpoint
from wsi_umedpt.messages import counted
from wsi_umedpt.models.bundle import Release
from wsi_umedpt.pipeline.lesson import FOLDS, Learning, Lesson, Numbers, Steps, Windows
from wsi_umedpt.pipeline.segment import calibration_tiles
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.segmentation.object_writer import MIN_SCORE
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.tasks.multihead import ObjectHeads, OnePass, find_heads
from wsi_umedpt.tasks.segmentation import Segmentation

WINDOW_PX, MARGIN_PX = 256, 32
"""Side of the part of a window that is learned from, and of its surroundings on each side."""
_MIN_UM2 = 10.0
"""Objects of less area are dropped, as in `wsi-umedpt segment`."""

_Window = tuple[float, float, Box]
"""Corner of a window, level-0 px, and the part of a field that it is to be learned from."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectedField:
    """A field of a slide in which every object is outlined, and nothing else."""

    box: Box
    """Level-0 px."""
    outlines: Sequence[npt.NDArray[np.floating]]
    """(corner, 2) of each object, level-0 px; those that reach into the field count as far as they lie in it."""


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
    outlines = [np.array(part.exterior.coords[:-1]) for part in parts if part.geom_type == "Polygon"]
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
    progress: Progress | None = None,
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
        Resolution that the release states for its encoder, um/px, for heads that state none; by default 0.5.
    progress
        Told of the steps of the lesson; an exception raised there ends it.

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
    steps = Steps(progress or Progress())
    learning = Learning(read_windows(slide, tissue, fields, _teachable(release, head), mpp=mpp, steps=steps), steps)
    return learning.lesson(began)


def _teachable(release: Release, head: str) -> tuple[Release, ObjectHeads]:
    (of,) = find_heads(release, [head])
    if of.pixels is None or len(of.classes) != 1:
        raise EncoderError(
            f"head {head} finds {', '.join(of.classes)}; corrections teach heads for segmentation with one class"
        )
    return release, of


def read_windows(
    slide: Slide,
    tissue: TissueMask,
    fields: Sequence[CorrectedField],
    model: tuple[Release, ObjectHeads],
    *,
    mpp: float | None = None,
    steps: Steps | None = None,
) -> Windows:
    """Read fields as windows: what the head reads of each, and its true objects.

    Parameters
    ----------
    slide, tissue, fields, mpp
        As `correct_head` takes them.
    model
        Model, and one of its heads.
    steps
        Told of each window.

    Raises
    ------
    SlideError
        If no field lies on the slide.
    """
    release, of = model
    # As `segment` does: a head's own resolution, or that of a coarser slide; the encoder's where the head states none.
    scale = max(of.mpp / slide.mpp, 1.0) if of.mpp else (mpp or TileSpec.mpp) / slide.mpp
    windows = _windows_over(fields, scale)
    if not windows:
        raise SlideError(f"none of {counted(len(fields), 'field')} of corrections has an area")
    size, steps = WINDOW_PX + 2 * MARGIN_PX, steps or Steps(Progress())
    steps.expect(len(windows))
    one_pass = OnePass(release, [of], size_px=size)
    one_pass.calibrate(calibration_tiles(slide, tissue, TileSpec(size_px=size, mpp=scale * slide.mpp)))
    seen, centres = [], []
    for window in windows:
        pixels = _pixels(slide, window, scale, size)[None]
        seen.append(one_pass.embed_pixels(pixels))
        boxes = one_pass.submit(pixels)().boxes[of.name][0] if of.boxes else None
        centres.append(None if boxes is None else boxes.centres[boxes.score >= MIN_SCORE])
        steps.one()
    true = np.stack([_instances(fields, windows, at, scale, size) for at in range(len(windows))])
    known = [k for k in range(len(windows)) if (true[k] != IGNORED).any()]
    if not known or of.pixels is None:
        raise SlideError("no field of corrections lies on the slide")
    return Windows(
        head=of.pixels, embedded=torch.cat([seen[k] for k in known]), true=true[known],
        centres=[centres[k] for k in known], parts=[windows[k][2] for k in known],
        min_px=max(1, round(_MIN_UM2 / (scale * slide.mpp) ** 2)), vouched=of.vouched,
    )  # fmt: skip


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
    taught |= {"corrections": lesson.corrections._asdict(), "f1_before": lesson.before, "f1_after": lesson.after}
    kept = {key: value for key, value in about.items() if key not in ("tensors", "tensors_sha256", "sha256")}
    said = {**kept, "name": name, "heads": [*about["heads"], *added], "taught": taught}
    checkpoint.save(path, {**tensors, **new}, said)


def _meet(ring: npt.NDArray[np.floating], bounds: tuple[float, float, float, float]) -> bool:
    """Return whether the bounds of an outline meet others."""
    low, high = ring.min(axis=0), ring.max(axis=0)
    return bool((low <= bounds[2:]).all() and (high >= bounds[:2]).all())


def _windows(box: Box, scale: float, most_px: int) -> list[_Window]:
    """Windows over a field, of parts of at most so many px."""
    margin, found = MARGIN_PX * scale, []
    across, down = (max(1, math.ceil(side / (most_px * scale) - 1e-6)) for side in (box.width, box.height))
    columns, rows = (
        np.linspace(start, start + side, count + 1).round().astype(int).tolist()
        for start, side, count in ((box.x, box.width, across), (box.y, box.height, down))
    )
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            if right > left and bottom > top:
                found.append((left - margin, top - margin, Box(left, top, right - left, bottom - top)))
    return found


def _windows_over(fields: Sequence[CorrectedField], scale: float) -> list[_Window]:
    """Windows over all fields; smaller parts where there would be too few to leave some out."""
    for most_px in (WINDOW_PX, WINDOW_PX // 2):
        found = [window for one in fields for window in _windows(one.box, scale, most_px)]
        if len(found) >= FOLDS:
            break
    return found


def _pixels(slide: Slide, window: _Window, scale: float, size: int) -> npt.NDArray[np.uint8]:
    x, y, _ = window
    side = round(size * scale)
    read = slide.read(Box(round(x), round(y), side, side), slide.mpp * side / size, upsample=True)
    return np.ascontiguousarray(read[:size, :size])


def _instances(
    fields: Sequence[CorrectedField], windows: Sequence[_Window], at: int, scale: float, size: int
) -> Numbers:
    """Number of the object at each pixel of a window, 0 for none; `IGNORED` beside its part, and in earlier parts."""
    x, y, part = windows[at]
    out = np.zeros((size, size), np.int32)
    number = 0
    for one in fields:
        for outline in one.outlines:
            corners = (np.asarray(outline, np.float64) - (x, y)) / scale
            if not _meet(corners, (0, 0, size, size)):
                continue
            number += 1
            cv2.fillPoly(out, [np.round((corners - 0.5) * 16).astype(np.int32)], number, cv2.LINE_8, 4)

    def place(of: Box) -> tuple[slice, slice]:
        left, top = (of.x - x) / scale, (of.y - y) / scale
        right, bottom = left + of.width / scale, top + of.height / scale
        rows, columns = (
            slice(round(max(top, 0)), max(0, round(bottom))),
            slice(round(max(left, 0)), max(0, round(right))),
        )
        return rows, columns

    inside = np.zeros((size, size), bool)
    inside[place(part)] = True
    for _, _, earlier in windows[:at]:  # fields may overlap: what is tested must not have been learned from
        inside[place(earlier)] = False
    out[~inside] = IGNORED
    return out
