"""Corrected nuclei as a lesson for a head: what was drawn in, a head of the user's own out. No Qt, no viewer.

The calls are those of ``wsi-umedpt correct``, with the numbers that a file of the corrections would hold, so that the
same corrections make the same head there, in Python and in the window.

Read top to bottom: `corrections_of` (what is in view, to be corrected), `Correcting` (the order), `teach`, `save`.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import platformdirs
import shapely
from shapely.geometry.base import BaseGeometry
from wsi_umedpt.errors import AnnotationError, WsiError
from wsi_umedpt.slides import ChannelChoice, find_tissue, open_slide

from napari_wsi_umedpt.layers.build import Colour, Place, Shown
from napari_wsi_umedpt.layers.objects import Field
from napari_wsi_umedpt.layers.shapes import CORRECTED, Drawing
from napari_wsi_umedpt.logic.annotations import Annotation, objects_in
from napari_wsi_umedpt.logic.napari_shapes import Ring
from napari_wsi_umedpt.logic.navigation import Viewport
from napari_wsi_umedpt.logic.regions import drawn_areas
from napari_wsi_umedpt.logic.torch_import import importing_networks

if TYPE_CHECKING:
    from wsi_umedpt.pipeline import Lesson

FIELD_COLOUR: Colour = (255, 140, 0)
_FOLDER = "heads"
OF_SLIDES = ("microscopy", "fluorescence", "")
"""Modalities of heads that are offered; others are of X-rays and tomography."""
_NAME = re.compile(r"[A-Za-z][\w-]{0,59}", re.ASCII)
_DIGITS = 3
"""As files of annotations have them."""


def own_heads() -> list[Path]:
    """Models with a head that was taught in this window or another, saved as the user's own; by name."""
    return sorted(_folder().glob("*.json"))


def _folder() -> Path:
    return Path(platformdirs.user_data_dir("wsi_umedpt", appauthor=False)) / _FOLDER


class HeadChoice(NamedTuple):
    """A head that can be taught."""

    release: Path
    """JSON file of its model."""
    head: str
    words: str
    """Objects that it finds, and its name."""


def heads_to_teach() -> list[HeadChoice]:
    """Heads of models that ship, and of the user's own, that find one class of objects on slides by their pixels.

    Takes seconds at first, as networks are imported.
    """
    with importing_networks():
        import wsi_umedpt.tasks.multihead  # noqa: F401
        from wsi_umedpt.models import release_heads, shipped

    found = []
    for path in [*shipped().values(), *own_heads()]:
        try:
            heads = release_heads(path)
        except WsiError:
            continue  # a file of the user's folder that is damaged: the dock Analyse says so once it is chosen
        for one in heads:
            objects = {*one.classes} - {"background", "border"}
            if one.kind != "segmentation" or one.modality not in OF_SLIDES or len(objects) != 1:
                continue
            if path in shipped().values() or one.name == path.stem:
                found.append(HeadChoice(path, one.name, f"{one.about or ', '.join(objects)} ({one.name})"))
    return found


# ---- what is corrected ----


def corrections_of(
    what: Shown, viewport: Viewport, colours: Sequence[Colour], known: Sequence[tuple[str, BaseGeometry]] = ()
) -> list[Annotation]:
    """The field of view and the objects in it as annotations, to be corrected.

    Parameters
    ----------
    known
        Fields and outlines of earlier corrections: their objects are left out.

    Raises
    ------
    AnnotationError
        If no object is in view, or too many, or all of it is in a field already.
    """
    found = objects_in(what, viewport, colours)
    width, height = what.place.size
    left, top = max(round(viewport.x), 0), max(round(viewport.y), 0)
    right, bottom = min(round(viewport.x + viewport.width), width), min(round(viewport.y + viewport.height), height)
    fields = shapely.union_all([area for name, area in known if name == CORRECTED])
    if fields.covers(shapely.box(left, top, right, bottom)):
        raise AnnotationError("all that is in view is in a region that you correct already. Move on, or go on there.")
    before = shapely.union_all([area for _, area in known])
    fresh = [one for one in found if not before.contains(shapely.Polygon(one.parts[0][0]).centroid)]
    ring = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return [Annotation(((ring,),), CORRECTED, FIELD_COLOUR, drawn_as="rectangle"), *fresh]


def without(field: Field, areas: Sequence[BaseGeometry]) -> Field:
    """Objects that have their middle in none of the areas."""
    if not areas:
        return field
    x, y = field.objects.centroid.astype(np.float64).T
    return Field(field.objects.taken(np.flatnonzero(~shapely.contains_xy(shapely.union_all(list(areas)), x, y))))


# ---- the lesson ----


@dataclass(frozen=True, kw_only=True)
class Correcting:
    """Order of a lesson."""

    slide: Path
    mpp: float | None = None
    """um/px, where the user stated it."""
    channels: tuple[ChannelChoice, ...] = ()
    areas: Sequence[tuple[str, BaseGeometry]]
    """Class and area of what was drawn in layers of corrections, level-0 px."""
    release: Path
    """JSON file of the model."""
    head: str
    """Name of the head that is taught."""

    @property
    def objects(self) -> int:
        """Number of outlines."""
        return sum(name != CORRECTED for name, _ in self.areas)


@dataclass(eq=False)
class LessonProgress:
    """Progress of a lesson: written by its thread, read by the window, which may ask it to stop."""

    done: int = 0
    total: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ask the lesson to stop."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """True once it was asked to stop."""
        return self._stop.is_set()


class _LessonStopped(BaseException):
    """The user asked to stop. No `Exception`: it passes what catches errors."""


def areas_of(drawing: Drawing, meta: Mapping[str, Any], place: Place) -> list[tuple[str, BaseGeometry]]:
    """Class and area of each shape of a layer of corrections, with the digits that a file would hold."""
    corner = np.array(place.corner)

    def rounded(xy: Ring) -> Ring:
        there: Ring = np.round(xy - corner, _DIGITS) + corner
        return there

    return [(name, shapely.transform(area, rounded)) for name, area in drawn_areas(drawing.shapes, meta, place)]


def teach(order: Correcting, progress: LessonProgress) -> "Lesson | None":
    """Teach a head by corrections, as ``wsi-umedpt correct`` does; in a thread. None where it was stopped.

    Raises
    ------
    AnnotationError, EncoderError, SlideError
        If nothing can be learned from them.
    """
    with importing_networks():
        from wsi_umedpt.models import load_release, release_card
        from wsi_umedpt.pipeline import Progress, correct_head, fields_of

    class Told(Progress):
        def started(self, tiles: int) -> None:
            progress.total = tiles

        def tiles_done(self, done: int, total: int) -> None:
            if progress.stopping:
                raise _LessonStopped
            progress.done = done

    fields = fields_of(order.areas, CORRECTED)
    if not any(one.outlines for one in fields):
        raise AnnotationError("no nucleus is outlined in the corrected regions: draw around those that are there")
    try:
        with open_slide(order.slide, mpp=order.mpp, channels=order.channels) as slide:
            return correct_head(
                slide, find_tissue(slide), fields, load_release(order.release), order.head,
                mpp=release_card(order.release).mpp, progress=Told(),
            )  # fmt: skip
    except _LessonStopped:
        return None


def free_name(release: Path, head: str) -> str:
    """A name for what is taught from a head: one that neither the model nor a head of the user's has."""
    from wsi_umedpt.models import release_heads

    taken = {one.name for one in release_heads(release)} | {path.stem for path in own_heads()}
    stem = f"{head.split('_corrected')[0]}_corrected"
    return next(name for n in range(1, len(taken) + 2) if (name := stem if n == 1 else f"{stem}_{n}") not in taken)


def save(order: Correcting, lesson: "Lesson", name: str) -> Path:
    """Save a taught head as the user's own.

    Returns
    -------
    Path
        The model's JSON file; its head is called as the file is.

    Raises
    ------
    AnnotationError
        If the name is none, or another head of the user's has it.
    EncoderError
        If a head of the model has it.
    """
    from wsi_umedpt.pipeline import save_head

    path = _folder() / f"{name}.json"
    if not _NAME.fullmatch(name):
        raise AnnotationError(f"{name!r} is no name for a head: letters, digits, '-' and '_', the first a letter")
    if path.exists():
        raise AnnotationError(f"you have a head called {name} already: {path}. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_head(path, order.release, lesson.head, order.head, lesson)
    return path
