"""Cells of a slide, taught by a few clicks: the classifier of all its objects, and where it is applied. No Qt.

Read top to bottom: `TeachableCells` (a slide's objects), `open_cells`, `classify_slides`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from wsi_umedpt.annotations import NumberedObject, Point, Region, read_drawn_labels, read_object_labels
from wsi_umedpt.errors import AnnotationError, WsiError
from wsi_umedpt.io import TABLE_SUFFIXES
from wsi_umedpt.slides import match_slides
from wsi_umedpt.store import Objects, SlideStore, found_names

from napari_wsi_umedpt.layers.build import Colour, Place
from napari_wsi_umedpt.layers.objects import Field
from napari_wsi_umedpt.logic.annotations import Annotation, write_annotations
from napari_wsi_umedpt.logic.teachable import NothingToTeach, Taught, least_sure
from napari_wsi_umedpt.logic.tile_labels import Labels
from napari_wsi_umedpt.logic.torch_import import importing_networks
from napari_wsi_umedpt.opening.load import place_of

if TYPE_CHECKING:
    from wsi_umedpt.mil import Labelled, ObjectFeatures, Probe

NAME = "cells"
"""Name of what is learned, and of its scores in stores."""
_SEEN_UM = 32.0
"""Side of the picture of a cell."""


class Windows(NamedTuple):
    """Squares around cells."""

    xy: npt.NDArray[np.float64]
    side: float


@dataclass(frozen=True, eq=False)
class TeachableCells:
    """A slide's objects, ready to be learned from; see `napari_wsi_umedpt.logic.teachable.Teachable`."""

    features: "ObjectFeatures"
    place: Place
    field: Field
    tissue_mm2: float
    what: str = "cells"
    _points: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def store(self) -> SlideStore:
        """Store of the slide."""
        return self.features.store

    @property
    def kind(self) -> str:
        """Kind of the objects."""
        return self.features.kind

    @property
    def squares(self) -> Windows:
        """Squares that are seen in pictures of cells."""
        side = _SEEN_UM / self.place.mpp
        return Windows(self.field.objects.centroid.astype(np.float64) - side / 2, side)

    def cell_at(self, x: float, y: float, reach: float = 0.0) -> int | None:
        """Row of the object at a place, or of the nearest within reach, level-0 px; None where there is none."""
        return self.field.at(x, y, reach)

    def objects_of(self, rows: npt.NDArray[np.int64], numbers: Sequence[int], classes: Sequence[str]) -> Objects:
        """Some objects, of other classes; numbers from 0."""
        return replace(self.field.objects.taken(rows), classes=tuple(classes), class_index=np.array(numbers, np.uint8))

    def classified(self, taught: Taught) -> Objects:
        """All objects, each of the class that is likeliest."""
        return self.field.objects.classified(taught.probe.classes, taught.chances)

    def points_of(self, labels: Labels) -> list[Point]:
        """A point on each cell, which `wsi_umedpt.mil.label_objects` takes for that very one."""
        for row in labels.keys() - self._points.keys():
            self._points[row] = self._place_on(row)
        return [Point(self.store.slide_id, *self._points[row], labels[row], "") for row in sorted(labels)]

    def _place_on(self, row: int) -> tuple[float, float]:
        objects = self.field.objects
        inside = objects.taken(np.array([row])).polygons()[0].representative_point()
        x, y = objects.centroid[row].astype(np.float64).tolist()
        middle = Point("", x, y, "", "")
        return (x, y) if self.features.objects_at([middle]) == [row] else (inside.x, inside.y)

    def at(self, points: Sequence[Point]) -> tuple[dict[int, str], list[Point]]:
        """Find the cells that points mean, and the points that lie on none."""
        rows = self.features.objects_at(points)
        found = {row: point.label for point, row in zip(points, rows, strict=True) if row >= 0}
        return found, [point for point, row in zip(points, rows, strict=True) if row < 0]

    def read_labels(self, path: Path) -> dict[int, str]:
        """Read a table of points or of objects, or annotations."""
        slide_id = self.store.slide_id
        regions: list[Region] = []
        numbers: list[NumberedObject] = []
        if path.suffix.lower() in TABLE_SUFFIXES:
            points, numbers = read_object_labels(path)
            named = sorted({*(one.slide_id for one in points), *(one.slide_id for one in numbers)})
            ours = match_slides(named, [slide_id], AnnotationError)
            if not ours:
                raise AnnotationError(
                    f"{path.name} labels no cell of {slide_id}; it is of {', '.join(named[:5])}. Open one of those "
                    "slides."
                )
            points = [one for one in points if one.slide_id in ours]
            numbers = [NumberedObject(slide_id, *one[1:]) for one in numbers if one.slide_id in ours]
        else:
            regions, points, _ = read_drawn_labels(path, slide_id, self.place.corner)
        found, _ = self.features.labelled_rows(regions=regions, points=points, numbers=numbers)
        return found

    def write_regions(self, path: Path, labels: Labels, colours: Mapping[str, Colour]) -> None:
        """Write the outlines of labelled cells."""
        objects = self.field.objects
        drawn = [
            Annotation(((objects.outline[objects.starts[row] : objects.starts[row + 1]].astype(np.float64),),), name,
                       colours.get(name))
            for row, name in sorted(labels.items())
        ]  # fmt: skip
        write_annotations(path, drawn, self.place.corner)

    def labelled(self, labels: Labels) -> "Labelled":
        """Features of labelled cells, which are learned from with those of other slides."""
        return self.features.labelled(labels)

    def teach(self, slides: Sequence["Labelled"], labels: Labels, *, suggest: int = 8) -> Taught:
        """Fit, cross-validate, and classify all cells; half a second for half a million.

        Parameters
        ----------
        slides
            Labelled cells of this slide and others.
        labels
            Labels of this slide.

        Raises
        ------
        ProbeError
            If fewer than two classes are labelled, or features differ.
        """
        from wsi_umedpt.mil import fit_probe

        ordered = sorted((one for one in slides if one.labels), key=lambda one: one.slide_id)
        return self.taught(fit_probe(ordered, name=NAME), labels, suggest=suggest)

    def taught(self, probe: "Probe", labels: Labels, *, suggest: int = 8) -> Taught:
        """Predict all cells by a probe.

        Raises
        ------
        ProbeError
            If it was fitted on other features.
        """
        chances = self.features.predict(probe)
        return Taught(probe, chances, least_sure(chances, labels, self.squares, suggest), self.what)

    def keep_scores(self, taught: Taught) -> None:
        """Write the probabilities of all cells."""
        from wsi_umedpt.mil import write_object_chances

        write_object_chances(self.features, taught.probe, taught.chances)

    def export(self, taught: Taught, path: Path, colours: Mapping[str, Colour]) -> None:
        """Write all cells as classified detections for QuPath, as ``wsi-umedpt export --scores`` does."""
        from wsi_umedpt.interop import write_geojson

        write_geojson(
            path, self.classified(taught), slide_id=self.store.slide_id, colours=dict(colours),
            corner=self.place.corner, probability=taught.chances.max(axis=1, initial=0),
        )  # fmt: skip


def open_cells(path: Path, kind: str | None = None) -> TeachableCells:
    """Read a store's objects, and load what learns from them, so that the first fit is as fast as all others.

    Parameters
    ----------
    path
        The store.
    kind
        Kind of the objects; by default the first.

    Raises
    ------
    NothingToTeach, StoreError
        If there are none, or nothing is known of them that could be learned from.
    """
    with importing_networks():
        from wsi_umedpt.mil import ObjectFeatures

    store = SlideStore.open(path)
    known = found_names(store)
    if not known:
        raise NothingToTeach(
            f"{path.name} holds no cells to learn from. Find nuclei first, in the dock Analyse or with: "
            f"wsi-umedpt segment SLIDE -o {path.parent}"
        )
    features = ObjectFeatures.read(store, kind or known[0])
    _ = features.background  # asked for by the first fit
    place = place_of(store)
    return TeachableCells(features, place, Field(features.objects), store.tissue().area_mm2(place.mpp))


def classify_slides(stores: Sequence[Path], probe: "Probe") -> tuple[dict[str, dict[str, int]], dict[str, WsiError]]:
    """Classify the cells of several slides, as ``wsi-umedpt probe predict`` does; what fails is listed.

    Parameters
    ----------
    stores
        Stores of the slides.

    Returns
    -------
    counts : number of cells of each class, by slide
    failed : why, by slide
    """
    from wsi_umedpt.mil import score_objects

    counts: dict[str, dict[str, int]] = {}
    failed: dict[str, WsiError] = {}
    for path in stores:
        name = path.name.removesuffix(".zarr")
        try:
            counts[name] = score_objects(SlideStore.open(path), probe)
        except WsiError as error:
            failed[name] = error
    return counts, failed
