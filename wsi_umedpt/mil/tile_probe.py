"""Linear probes of tiles: the labelled tiles of a slide, and scores of all its tiles.

`label_tiles` finds which tiles the user labelled, `wsi_umedpt.mil.linear_probe.fit_probe` fits and cross-validates on
them, and `score_store` writes what the probe says of every tile of a store into it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsi_umedpt.annotations.labels import Point, Region, labels_at
from wsi_umedpt.errors import AnnotationError, ProbeError
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.linear_probe import Probe, channels_of
from wsi_umedpt.mil.probe_fit import Labelled, one_patient
from wsi_umedpt.store.feature_choice import features_for
from wsi_umedpt.store.features import Bag
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore

_BLOCK = 4
"""Tiles across a block of neighbours that cross-validation keeps together within a slide."""


def label_tiles(
    store: SlideStore,
    bag: Bag,
    side: float,
    *,
    regions: Sequence[Region] = (),
    points: Sequence[Point] = (),
    patient: str = "",
) -> Labelled:
    """Find the labelled tiles of a slide: those whose centre lies in a region, or that hold a point.

    Of regions that lie in one another the innermost counts; see `wsi_umedpt.annotations.labels.labels_at`.

    Parameters
    ----------
    store, bag
        The slide and its features.
    side
        Side of a tile, level-0 px.
    regions, points
        Regions and points that were drawn; points of this slide only.
    patient
        Patient of the slide, where known; points may state their own.

    Returns
    -------
    Labelled
        Features and labels of the labelled tiles alone.

    Raises
    ------
    ProbeError
        If a tile gets two different labels, a region or a point holds no tile, or the slide gets two patients.
    """
    found: dict[int, str] = {}

    def put(row: int, label: str) -> None:
        if found.setdefault(row, label) != label:
            x, y = bag.xy[row]
            raise ProbeError(
                f"{store.slide_id}: the tile at {x}, {y} is labelled both {found[row]!r} and {label!r}; a point must "
                "not contradict another point or the region that it lies in"
            )

    try:
        labels, missed = labels_at(regions, bag.xy + side / 2)
    except AnnotationError as error:
        raise ProbeError(f"{store.slide_id}: {error}") from None
    lost = []
    for region in missed:
        left, top, right, bottom = region.area.bounds
        lost.append(f"region {region.label!r}, x {left:g} to {right:g}, y {top:g} to {bottom:g}")
    for row, label in enumerate(labels):
        if label:
            put(row, label)
    for point in points:
        rows = np.flatnonzero(((bag.xy <= (point.x, point.y)) & ((point.x, point.y) < bag.xy + side)).all(axis=1))
        if not len(rows):
            lost.append(f"point {point.x:g}, {point.y:g}")
        for row in rows[:1]:
            put(int(row), point.label)
    patient = one_patient(store.slide_id, (patient, *(p.patient for p in points)))
    if lost:
        raise ProbeError(
            f"{store.slide_id}: {counted(len(lost), 'label holds', 'labels hold')} no readable tile, the first: "
            f"{lost[0]}. Coordinates are level-0 pixels; tiles of {side:g} px cover tissue only, and a region labels "
            "those whose centre it holds."
        )
    rows = np.array(sorted(found), np.int64)
    blocks = (bag.xy[rows] // (side * _BLOCK)).astype(int)
    return Labelled(
        store.slide_id, patient, bag.features[rows].astype(np.float32), tuple(found[int(r)] for r in rows),
        tuple(f"{store.slide_id}/{x}/{y}" for x, y in blocks), made_of={"encoder": _encoder_of(store, bag)},
    )  # fmt: skip


def _encoder_of(store: SlideStore, bag: Bag) -> dict[str, Any]:
    made_by, spec = store.feature_attrs(bag.encoder_id, bag.grid_id), store.grid(bag.grid_id).spec
    return {
        "name": made_by["card"]["name"], "weights_sha256": made_by["weights_sha256"],
        "precision": made_by["precision"], "mpp": spec.mpp, "size_px": spec.size_px, **channels_of(store),
    }  # fmt: skip


def score_store(
    store: SlideStore, probe: Probe, encoder_id: str | None = None, grid_id: str | None = None
) -> dict[str, float]:
    """Score every tile of a store and write the scores into it.

    Parameters
    ----------
    store
        The slide's results.
    probe
        Tile classifier.
    encoder_id, grid_id
        Encoder and grid of the features; by default those that the probe was fitted on.

    Returns
    -------
    dict
        Share of the tiles that each class is likeliest for.

    Raises
    ------
    ProbeError
        If the store's features are of another encoder.
    StoreError
        If none of several features fit, or more than one does.
    """

    def fits(encoder: str, grid: str) -> str:
        try:
            probe.check(store, encoder, grid)
        except ProbeError as error:
            return str(error)
        return ""

    wanted = ", ".join(
        str(probe.about["encoder"][k]) for k in ("name", "size_px", "mpp") if k in probe.about["encoder"]
    )
    encoder_id, grid_id = features_for(store, fits, wanted, encoder_id=encoder_id, grid_id=grid_id)
    bag = store.features(encoder_id, grid_id)
    if not len(bag.index):
        raise ProbeError(f"{store.path} has no readable tiles to score")
    grid = store.grid(bag.grid_id)
    probe.check(store, bag.encoder_id, bag.grid_id)
    chances = probe.predict(bag.features)
    rows = np.full((len(grid), len(probe.classes)), np.nan, np.float32)
    rows[bag.index] = chances
    write_scores(store, probe.name, rows, probe.said_of_scores, bag.grid_id)
    likeliest = chances.argmax(axis=1)
    return {name: float((likeliest == k).mean()) for k, name in enumerate(probe.classes)}
