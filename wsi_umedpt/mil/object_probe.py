"""Few labelled cells to a classifier of cells: a probe on objects' vectors and measures.

`ObjectFeatures` is what a slide's objects are known by, and is read once; `label_objects` finds which objects the user
labelled, `wsi_umedpt.mil.linear_probe.fit_probe` fits and cross-validates, `score_objects` gives each object of a store
the probability of every class.

A row of features is an object's vector and, where the objects have them, its measures (size, shape, stains); of
objects without vectors the measures alone.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import torch

from wsi_umedpt.annotations.labels import NumberedObject, Point, Region, labels_at
from wsi_umedpt.errors import AnnotationError, ProbeError
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.data.blocks import blocks, moments
from wsi_umedpt.mil.linear_probe import Probe, channels_of, check_channels
from wsi_umedpt.mil.probe_fit import Background, Floats, Labelled, one_patient, softmax
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.objects_io import found_name, has_vectors, read_object_vectors, read_objects
from wsi_umedpt.store.scores_io import write_object_scores
from wsi_umedpt.store.slide_store import SlideStore

_REACH_UM = 2.0
"""Distance from an outline within which a point still labels the object."""
_BLOCK_UM = 256.0
"""Side of a block of neighbours that cross-validation keeps together within a slide."""
_SAME = ("maps", "mpp", "measures")

Numbers = npt.NDArray[np.int64]


class ObjectFeatures:
    """Features of the objects of one slide; see `ObjectFeatures.read`.

    Parameters
    ----------
    store, objects
        Store of the slide, and its objects.
    vectors : (object, dim)
        Vectors of the objects; of no columns where they have none.
    made_of
        Kind of the features, as a probe says it.
    """

    def __init__(
        self, store: SlideStore, objects: Objects, vectors: npt.NDArray[np.float16], made_of: Mapping[str, Any]
    ) -> None:
        self.store, self.objects, self.made_of = store, objects, made_of
        self._vectors = vectors
        self._measures = objects.measures[:, : len(made_of["objects"]["measures"])]
        self._parts = tuple(part.shape[1] for part in (vectors, self._measures) if part.shape[1])

    @classmethod
    def read(cls, store: SlideStore, kind: str | None = None) -> "ObjectFeatures":
        """Read vectors and measures of a store's objects; of objects without vectors the measures.

        Parameters
        ----------
        store
            Store of the slide.
        kind
            Kind of the objects, as ``nuclei``, or its beginning; may be left out where there is one.

        Raises
        ------
        StoreError
            If there are no such objects, or they have neither vectors nor all measures.
        """
        kind = found_name(store, kind)
        objects, made_by = read_objects(store, kind)
        measures = [*MEASURES] if np.isfinite(objects.measures).all() else []
        if measures and not has_vectors(store, kind):
            vectors, about = np.empty((len(objects), 0), np.float16), made_by
            said = {"maps": [], "mpp": made_by.get("spec", {}).get("mpp", store.attrs["slide"]["mpp"])}
        else:
            vectors, about = read_object_vectors(store, kind)
            said = {key: about[key] for key in ("maps", "mpp")}
        encoder = {"name": about.get("model", ""), "weights_sha256": about.get("weights_sha256", "")}
        encoder |= {key: about[key] for key in ("precision",) if key in about} | channels_of(store)
        return cls(
            store, objects, vectors, {"encoder": encoder, "objects": {"head": kind, **said, "measures": measures}}
        )

    @property
    def kind(self) -> str:
        """Kind of the objects, as ``nuclei``."""
        return str(self.made_of["objects"]["head"])

    @property
    def has_vectors(self) -> bool:
        """True if objects have vectors; else their measures are all that they are known by."""
        return bool(self._vectors.shape[1])

    def of(self, rows: Numbers | slice) -> Floats:
        """(row, dim) features of some objects."""
        return np.concatenate([self._vectors[rows].astype(np.float32), self._measures[rows]], axis=1)

    @cached_property
    def background(self) -> Background:
        """Mean and variance over all objects."""
        dim = sum(self._parts)
        return Background(*moments(map(self.of, blocks(len(self.objects), dim)), dim), self._parts)

    def objects_at(self, points: Sequence[Point]) -> list[int]:
        """The object whose outline holds each point, else the nearest within 2 um; -1 where there is none."""
        if not len(self.objects) or not points:
            return [-1] * len(points)
        return _objects_at(self.objects, self._boxes, points, _REACH_UM / self.store.attrs["slide"]["mpp"])

    @cached_property
    def _boxes(self) -> shapely.STRtree:
        """Bounds of all objects."""
        return shapely.STRtree(shapely.box(*self.objects.boxes().astype(np.float64).T))

    def labelled_rows(
        self,
        *,
        regions: Sequence[Region] = (),
        points: Sequence[Point] = (),
        numbers: Sequence[NumberedObject] = (),
    ) -> tuple[dict[int, str], list[str]]:
        """Find which objects are labelled, and which points lie on none, in words; see `label_objects`."""
        slide_id, objects = self.store.slide_id, self.objects
        found: dict[int, str] = {}
        missed: list[str] = []

        def put(row: int, label: str) -> None:
            if found.setdefault(row, label) != label:
                x, y = objects.centroid[row]
                raise ProbeError(
                    f"{slide_id}: object {row}, at {x:.0f}, {y:.0f}, is labelled both {found[row]!r} and {label!r}"
                )

        for row, label in enumerate(_labels_of(self.store, objects, regions)):
            if label:
                put(row, label)
        for point, row in zip(points, self.objects_at(points), strict=True):
            if row < 0:
                missed.append(f"{point.label!r} at {point.x:g}, {point.y:g}")
            else:
                put(row, point.label)
        for one in numbers:
            if not 0 <= one.object < len(objects):
                raise ProbeError(f"{slide_id} has objects 0 to {len(objects) - 1}; object {one.object} is labelled")
            put(one.object, one.label)
        if len(missed) > len(found):
            raise ProbeError(
                f"{slide_id}: {counted(len(missed), 'label lies', 'labels lie')} on no object and {len(found)} do; the "
                f"first that does not: {missed[0]}. Coordinates are level-0 pixels, and "
                f"{counted(len(objects), 'object was', 'objects were')} found on the slide."
            )
        return dict(sorted(found.items())), missed

    def labelled(self, labels: Mapping[int, str], *, patient: str = "", missed: int = 0) -> Labelled:
        """Return the features of labelled objects, as `fit_probe` takes them.

        Parameters
        ----------
        labels
            Labels of objects, by row.
        patient
            Patient of the slide; empty if not known.
        missed
            Number of labels that lie on no object.
        """
        slide_id, block_px = self.store.slide_id, _BLOCK_UM / self.store.attrs["slide"]["mpp"]
        rows = np.array(sorted(labels), np.int64)
        blocks = (self.objects.centroid[rows] // block_px).astype(int).reshape(-1, 2)
        return Labelled(
            slide_id, patient, self.of(rows), tuple(labels[row] for row in rows.tolist()),
            tuple(f"{slide_id}/{x}/{y}" for x, y in blocks), self.background, missed, self.made_of,
        )  # fmt: skip

    def predict(self, probe: Probe) -> Floats:
        """Predict the probability of every class for every object.

        Parameters
        ----------
        probe
            Fitted on such features.

        Returns
        -------
        float32 (object, class)
            Rows add up to 1.

        Raises
        ------
        ProbeError
            If it is no probe of objects, or was fitted on features that were made otherwise.
        """
        _check(probe, self.made_of, self.store)
        split = self._vectors.shape[1]
        of_vectors, of_measures = probe.weight[:, :split].T, probe.weight[:, split:].T
        logits = self._measures @ of_measures + probe.bias
        for rows in blocks(len(logits), max(1, split)):
            # torch widens half floats ten times as fast as NumPy does.
            wide = torch.from_numpy(self._vectors[rows]).float().numpy()
            logits[rows] += wide @ of_vectors
        return softmax(logits)


def label_objects(
    store: SlideStore,
    kind: str | None = None,
    *,
    regions: Sequence[Region] = (),
    points: Sequence[Point] = (),
    numbers: Sequence[NumberedObject] = (),
    patient: str = "",
) -> Labelled:
    """Find the labelled objects of a slide.

    Parameters
    ----------
    store
        Store of the slide.
    kind
        Kind of the objects, as ``nuclei``, or its beginning; may be left out where there is one.
    regions
        Each labels the objects whose centroid it holds; of nested ones the innermost, see
        `wsi_umedpt.annotations.labels.labels_at`. Outlines of classified objects of QuPath are such regions.
    points
        Each labels the object whose outline holds it, else the nearest within 2 um.
    numbers
        Labels of objects by their row.
    patient
        Patient of the slide, where known; points may state their own.

    Returns
    -------
    Labelled
        Features and label of each, and the mean and variance of all objects' features, as `fit_probe` takes them.

    Raises
    ------
    ProbeError
        If an object gets two labels, most labels lie on no object, or the slide gets two patients.
    StoreError
        If there are no such objects, or they have neither vectors nor all measures.
    """
    features = ObjectFeatures.read(store, kind)
    labels, missed = features.labelled_rows(regions=regions, points=points, numbers=numbers)
    patient = one_patient(store.slide_id, (patient, *(p.patient for p in points), *(n.patient for n in numbers)))
    return features.labelled(labels, patient=patient, missed=len(missed))


def score_objects(store: SlideStore, probe: Probe, kind: str | None = None) -> dict[str, int]:
    """Give every object of a store the probability of each class, written into the store under the probe's name.

    Parameters
    ----------
    store
        Store of a slide.
    probe
        Fitted on objects.
    kind
        Kind of the objects; by default the one that the probe was fitted on.

    Returns
    -------
    dict
        Number of objects that each class is likeliest for.

    Raises
    ------
    ProbeError
        If it is no probe of objects, or the store's features were made otherwise than those it was fitted on.
    StoreError
        If there are no such objects, or they have neither vectors nor all measures.
    """
    features = ObjectFeatures.read(store, kind or str(_objects_of(probe)["head"]))
    return write_object_chances(features, probe, features.predict(probe))


def write_object_chances(features: ObjectFeatures, probe: Probe, chances: Floats) -> dict[str, int]:
    """Write what a probe says of a slide's objects into its store, under the probe's name.

    Parameters
    ----------
    features, probe
        Features and probe of the prediction.
    chances : float32 (object, class)
        As `ObjectFeatures.predict` gives them.

    Returns
    -------
    dict
        Number of objects that each class is likeliest for.
    """
    write_object_scores(features.store, probe.name, chances, probe.said_of_scores, features.kind)
    counts = np.bincount(chances.argmax(axis=1), minlength=len(probe.classes))
    return dict(zip(probe.classes, counts.tolist(), strict=True))


def _objects_of(probe: Probe) -> dict[str, Any]:
    """Features of objects that a probe was fitted on, as it says them; refused where it classifies tiles."""
    if "objects" not in probe.about:
        raise ProbeError(f"{probe.name} classifies tiles, not objects: use `score_store`")
    found: dict[str, Any] = probe.about["objects"]
    return found


def _check(probe: Probe, made_of: Mapping[str, Any], store: SlideStore) -> None:
    fitted = _objects_of(probe)
    wanted, encoder, said = probe.about["encoder"], made_of["encoder"], made_of["objects"]
    if encoder["weights_sha256"] != wanted["weights_sha256"]:
        raise ProbeError(
            f"{store.path} has objects with vectors of {encoder['name']}, weights {encoder['weights_sha256'][:12]}, "
            f"the probe was fitted on {wanted['name']}, {wanted['weights_sha256'][:12]}. Segment the slide with that "
            "model."
        )
    check_channels(probe, store)
    other = [name for name in _SAME if said[name] != fitted[name]]
    if other:
        raise ProbeError(
            f"{store.path} has objects with {other[0]} {said[other[0]]}, the probe was fitted on "
            f"{fitted[other[0]]}. Segment the slide as those that it was fitted on."
        )


def _labels_of(store: SlideStore, objects: Objects, regions: Sequence[Region]) -> list[str]:
    if not regions:
        return []
    try:
        labels, missed = labels_at(regions, objects.centroid)
    except AnnotationError as error:
        raise ProbeError(f"{store.slide_id}: {error}") from None
    if missed and len(missed) == len(regions):
        raise ProbeError(f"{store.slide_id}: none of {counted(len(regions), 'region')} holds the middle of an object")
    return labels


def _objects_at(objects: Objects, boxes: shapely.STRtree, points: Sequence[Point], reach: float) -> list[int]:
    """The object that each point lies on, or the nearest within `reach` px; -1 where there is none."""
    out = [-1] * len(points)
    places = shapely.points([(p.x, p.y) for p in points])
    point, row = boxes.query(places, predicate="dwithin", distance=reach)
    if not len(row):
        return out
    near, which = np.unique(row, return_inverse=True)
    apart = shapely.distance(objects.taken(near).polygons()[which], places[point])
    middle = np.linalg.norm(objects.centroid[row] - shapely.get_coordinates(places[point]), axis=1)
    for k in np.lexsort((row, middle, apart)):  # of outlines that lie over each other, the one with the nearer middle
        if apart[k] <= reach and out[point[k]] < 0:
            out[point[k]] = int(row[k])
    return out
