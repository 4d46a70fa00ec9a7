"""Few labels to a tile classifier: a linear layer on frozen features, fitted in seconds.

`label_tiles` finds which tiles the user labelled, `fit_probe` fits and cross-validates,
`Probe.predict` scores every tile of a store. The fit is logistic regression on standardised
features with a fixed penalty, so that nothing is chosen by the figures that are reported.

Cross-validation keeps patients, else slides, together; within one slide it keeps blocks of
neighbouring tiles together and says that its figures are of that slide alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from wsi_umedpt import __version__, checkpoint
from wsi_umedpt.annotations import Point, Region, check_patients, labels_at
from wsi_umedpt.bag import SlideBag
from wsi_umedpt.config import build_known
from wsi_umedpt.errors import AnnotationError, ConfigError, ProbeError
from wsi_umedpt.matching import features_for
from wsi_umedpt.scores import write_scores
from wsi_umedpt.spelling import quoted, several_spellings, spelled
from wsi_umedpt.store import SlideStore
from wsi_umedpt.tensors import Outline, flaw, misfit
from wsi_umedpt.tiling import TileSpec

PENALTY = 0.1
"""scikit-learn's C, the inverse of the penalty on standardised features."""
_FOLDS = 5
_BLOCK = 4
"""Tiles across a block of neighbours that cross-validation keeps together within a slide."""
_ROUNDS = 1000
_SCHEMA = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelledTiles:
    """Tiles of one slide that have a label."""

    slide_id: str
    patient: str
    """Empty if not known."""
    features: Floats
    """(tile, dim)"""
    labels: tuple[str, ...]
    blocks: tuple[str, ...]
    """The block of neighbours that each tile lies in."""


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """What made the features that a probe was fitted on."""

    name: str
    weights_sha256: str
    precision: str = "fp32"
    mpp: float | None = None
    size_px: int | None = None

    def __post_init__(self) -> None:
        if (self.mpp is None) != (self.size_px is None):
            raise ValueError("mpp and size_px of its tiles are stated together, or not at all")


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a probe's JSON file must say for its weights to be used."""

    name: str
    classes: tuple[str, ...]
    encoder: _Encoder

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len({*self.classes}) < len(self.classes):
            raise ValueError(f"a probe tells two classes or more apart, got {', '.join(self.classes)}")


@dataclass(frozen=True)
class Probe:
    """A fitted tile classifier."""

    classes: tuple[str, ...]
    weight: Floats
    """(class, dim), on features as they are stored."""
    bias: Floats
    """(class,)"""
    about: dict[str, Any]
    """What it was made of: encoder, weights, tiles, figures, versions."""

    @property
    def name(self) -> str:
        """Names its scores in a store."""
        return str(self.about["name"])

    def predict(self, features: npt.NDArray[np.floating]) -> Floats:
        """Probability of every class for every tile: (tile, dim) to float32 (tile, class)."""
        logits = features.astype(np.float32) @ self.weight.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        return np.asarray(chances / chances.sum(axis=1, keepdims=True), np.float32)

    def save(self, path: Path) -> None:
        """Write ``path`` (.json) and its weights beside it."""
        tensors = {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        checkpoint.save(path, tensors, {**self.about, "classes": [*self.classes]})

    @classmethod
    def load(cls, path: Path) -> "Probe":
        """Read what `save` wrote.

        Raises
        ------
        CheckpointError
            If it is damaged.
        ProbeError
            If it is no probe, or its weights are not of its classes, NaN or infinite.
        """
        about = checkpoint.read_about(path)
        if about.get("kind") != "probe" or about.get("schema") != _SCHEMA:
            raise ProbeError(f"{path} is no probe that this version reads")
        try:
            said = build_known(_Said, about, f"{path}, a probe")
        except ConfigError as error:
            raise ProbeError(str(error)) from None

        def fits(found: Outline) -> str:
            dim = found["weight"].shape[-1] if "weight" in found and found["weight"].shape else 0
            k = len(said.classes)
            return misfit({"weight": torch.empty(k, dim, device="meta"), "bias": torch.empty(k, device="meta")}, found)

        tensors, about = checkpoint.load(path, fits)
        if why := flaw(tensors):
            raise ProbeError(f"the weights of {path} cannot be used: {why}")
        return cls(said.classes, tensors["weight"].float().numpy(), tensors["bias"].float().numpy(), about)

    def check(self, made_by: Mapping[str, Any], spec: TileSpec, where: object) -> None:
        """Refuse features of another encoder, or of tiles of another size or scale, than it was fitted on."""
        encoder = self.about["encoder"]
        for name, found in (("mpp", spec.mpp), ("size_px", spec.size_px)):
            if name in encoder and encoder[name] != found:
                raise ProbeError(
                    f"{where} has tiles of {spec.size_px} px at {spec.mpp:g} um/px, the probe was fitted on "
                    f"{encoder['size_px']} px at {encoder['mpp']}. Embed the slide with such tiles."
                )
        if made_by["weights_sha256"] != self.about["encoder"]["weights_sha256"]:
            raise ProbeError(
                f"{where} was embedded with weights {str(made_by['weights_sha256'])[:12]}, the probe was fitted on "
                f"{self.about['encoder']['weights_sha256'][:12]} ({self.about['encoder']['name']}). "
                "Embed the slide with that encoder."
            )


def label_tiles(
    store: SlideStore,
    bag: SlideBag,
    side: float,
    *,
    regions: Sequence[Region] = (),
    points: Sequence[Point] = (),
    patient: str = "",
) -> LabelledTiles:
    """Find the labelled tiles of a slide: those whose centre lies in a region, or that hold a point.

    Of regions that lie in one another the innermost counts; see `wsi_umedpt.annotations.labels_at`.

    Parameters
    ----------
    store, bag
        The slide and its features.
    side
        Of a tile, level-0 px.
    regions, points
        What was drawn; points of this slide only.
    patient
        Of the slide, where known; points may state their own.

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
    stated = {p.patient for p in points if p.patient} | ({patient} if patient else set())
    if len(stated) > 1:
        raise ProbeError(f"{store.slide_id} is said to be of several patients: {', '.join(sorted(stated))}")
    patient = next(iter(stated), "")
    if lost:
        raise ProbeError(
            f"{store.slide_id}: {len(lost)} labels hold no readable tile, the first: {lost[0]}. Coordinates are "
            f"level-0 pixels; tiles of {side:g} px cover tissue only, and a region labels those whose centre it holds."
        )
    rows = np.array(sorted(found), np.int64)
    blocks = (bag.xy[rows] // (side * _BLOCK)).astype(int)
    return LabelledTiles(
        store.slide_id, patient, bag.features[rows].astype(np.float32), tuple(found[int(r)] for r in rows),
        tuple(f"{store.slide_id}/{x}/{y}" for x, y in blocks),
    )  # fmt: skip


def fit_probe(tiles: Sequence[LabelledTiles], *, name: str, encoder: Mapping[str, Any], seed: int = 0) -> Probe:
    """Fit a classifier and cross-validate it.

    Parameters
    ----------
    tiles
        Of all slides.
    name
        Names its scores in stores.
    encoder
        What made the features: ``name``, ``weights_sha256``, and the tiles' ``mpp`` and ``size_px``.
    seed
        Deals groups to folds.

    Raises
    ------
    ProbeError
        If fewer than two classes are labelled, the patient of some slides alone is known, or patients or classes are
        one but for how they are spelled.
    """
    known = [t.slide_id for t in tiles if t.patient]
    if 0 < len(known) < len(tiles):
        unknown = [t.slide_id for t in tiles if not t.patient]
        raise ProbeError(
            f"the patient of {len(unknown)} of {len(tiles)} slides is not stated, the first {unknown[0]}; state all or "
            "none, or slides of one patient stand on both sides of the cross-validation"
        )
    check_patients((t.patient for t in tiles if t.patient), "the labels", ProbeError)
    features = np.concatenate([t.features for t in tiles])
    labels = np.concatenate([np.array(t.labels, object) for t in tiles])
    classes = tuple(sorted({*labels}))
    if len(classes) < 2:
        raise ProbeError(f"at least two classes must be labelled, got {', '.join(classes) or 'none'}")
    if alike := several_spellings(classes, spelled):
        raise ProbeError(f"are these one class? {'; '.join(map(quoted, alike))}. Write it in one way")
    numbers = np.searchsorted(np.array(classes, object), labels)
    groups, kept_together = _groups(tiles, numbers)
    weight, bias = _fit(features, numbers, len(classes))
    about = {
        "schema": _SCHEMA,
        "kind": "probe",
        "name": name,
        "encoder": dict(encoder),
        "labelled": {c: int((numbers == k).sum()) for k, c in enumerate(classes)},
        "slides": sorted({t.slide_id for t in tiles}),
        "cross_validation": _cross_validate(features, numbers, groups, len(classes), seed) | {"groups": kept_together},
        "penalty": PENALTY,
        "seed": seed,
        "version": __version__,
    }
    return Probe(classes, weight, bias, about)


def score_store(
    store: SlideStore, probe: Probe, encoder_id: str | None = None, grid_id: str | None = None
) -> dict[str, float]:
    """Score every tile of a store and write the scores into it.

    Of several encoders and grids those are taken that the probe was fitted on, where none are named.

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
            probe.check(store.feature_attrs(encoder, grid), store.grid(grid).spec, f"{encoder}, grid {grid}")
        except ProbeError as error:
            return str(error)
        return ""

    wanted = ", ".join(
        str(probe.about["encoder"][k]) for k in ("name", "size_px", "mpp") if k in probe.about["encoder"]
    )
    encoder_id, grid_id = features_for(store, fits, wanted, encoder_id=encoder_id, grid_id=grid_id)
    bag = store.bag(encoder_id, grid_id)
    if not len(bag.index):
        raise ProbeError(f"{store.path} has no readable tiles to score")
    grid = store.grid(bag.grid_id)
    probe.check(store.feature_attrs(bag.encoder_id, bag.grid_id), grid.spec, store.path)
    chances = probe.predict(bag.features)
    rows = np.full((len(grid), len(probe.classes)), np.nan, np.float32)
    rows[bag.index] = chances
    # Slides that it was fitted on may be of other people's patients.
    kept = {k: v for k, v in probe.about.items() if k not in ("tensors", "slides")}
    about = {"columns": [*probe.classes], "model": kept}
    write_scores(store, probe.name, rows, about, bag.grid_id)
    likeliest = chances.argmax(axis=1)
    return {name: float((likeliest == k).mean()) for k, name in enumerate(probe.classes)}


def _groups(tiles: Sequence[LabelledTiles], numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.object_], str]:
    """What cross-validation keeps together, and its name: the largest unit that every class is found in twice."""
    by = {
        "patient": [t.patient for t in tiles for _ in t.labels] if any(t.patient for t in tiles) else [],
        "slide": [t.slide_id for t in tiles for _ in t.labels],
        "block of neighbours": [b for t in tiles for b in t.blocks],
    }
    for name, groups in by.items():
        found = np.array(groups, object)
        if len(found) and all(len({*found[numbers == k]}) > 1 for k in np.unique(numbers)):
            return found, name
        if name == "patient" and len(found):
            break  # patients are known: nothing smaller would be honest
    return np.array([], object), "none"


def _fit(features: Floats, numbers: npt.NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=_ROUNDS)
    model.fit((features - mean) / spread, numbers)
    weight, bias = model.coef_, model.intercept_
    if classes == 2:  # one row says how much the second is likelier than the first
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def _cross_validate(
    features: Floats, numbers: npt.NDArray[np.int64], groups: npt.NDArray[np.object_], classes: int, seed: int
) -> dict[str, Any]:
    """AUC and balanced accuracy on groups that were left out, mean over folds; empty if there are too few.

    Folds in which a class is missing are left out: they have no AUC.
    """
    if not len(groups):
        return {}
    least = min(len({*groups[numbers == k]}) for k in range(classes))
    folds = min(_FOLDS, least)
    areas, accuracies, tiles = [], [], 0
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in dealer.split(features, numbers, groups):
        if len(np.unique(numbers[train])) < classes or len(np.unique(numbers[test])) < classes:
            continue
        weight, bias = _fit(features[train], numbers[train], classes)
        chances = Probe((), weight, bias, {}).predict(features[test])
        one = chances[:, 1] if classes == 2 else chances
        areas.append(float(roc_auc_score(numbers[test], one, multi_class="ovr")))
        accuracies.append(float(balanced_accuracy_score(numbers[test], chances.argmax(axis=1))))
        tiles += len(test)
    if not areas:
        return {}
    return {
        "folds": len(areas),
        "auc": float(np.mean(areas)),
        "balanced_accuracy": float(np.mean(accuracies)),
        "tiles": tiles,
    }
