"""Linear probes: a classifier of tiles or objects from few labels, a linear layer on frozen features.

`fit_probe` fits a `Probe` in seconds and cross-validates it. Labels and scores of tiles are made by
`wsi_umedpt.mil.tile_probe`, those of objects by `wsi_umedpt.mil.object_probe`.

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

from wsi_umedpt import __version__
from wsi_umedpt.annotations.labels import check_patients
from wsi_umedpt.config import build_known
from wsi_umedpt.errors import ConfigError, ProbeError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.io.spelling import quoted, several_spellings, spelled
from wsi_umedpt.io.tensors import Outline, flaw, misfit
from wsi_umedpt.mil.probe_fit import (
    Labelled,
    cross_validate,
    fit_linear,
    kept_together,
    penalty_of,
    softmax,
)
from wsi_umedpt.store.slide_store import SlideStore

_SCHEMA = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Origin of the features that a probe was fitted on."""

    name: str
    weights_sha256: str
    precision: str = "fp32"
    mpp: float | None = None
    size_px: int | None = None

    def __post_init__(self) -> None:
        if (self.mpp is None) != (self.size_px is None):
            raise ValueError("mpp and size_px of its tiles are stated together, or not at all")


@dataclass(frozen=True, kw_only=True)
class _OfObjects:
    """Objects that a probe was fitted on, and their features."""

    head: str
    maps: tuple[int, ...]
    mpp: float
    measures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Said:
    """Fields that a probe's JSON file must have for its weights to be used."""

    name: str
    classes: tuple[str, ...]
    encoder: _Encoder
    objects: _OfObjects | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len({*self.classes}) < len(self.classes):
            raise ValueError(f"a probe tells two classes or more apart, got {', '.join(self.classes)}")


@dataclass(frozen=True)
class Probe:
    """A fitted classifier of tiles or of objects."""

    classes: tuple[str, ...]
    """Names, sorted."""
    weight: Floats
    """(class, dim), on features as they are stored."""
    bias: Floats
    """(class,), added to the logits."""
    about: dict[str, Any]
    """Origin of the probe: encoder, weights, tiles, figures, versions."""

    @property
    def name(self) -> str:
        """Names its scores in a store."""
        return str(self.about["name"])

    @property
    def said_of_scores(self) -> dict[str, Any]:
        """Columns and origin of its scores, as they are kept in a store.

        Without the slides that it was fitted on, which may be of other people's patients.
        """
        kept = {key: value for key, value in self.about.items() if key not in ("tensors", "slides")}
        return {"columns": [*self.classes], "model": kept}

    def predict(self, features: npt.NDArray[np.floating]) -> Floats:
        """Predict the probability of every class for every tile or object.

        Parameters
        ----------
        features : (row, dim)
            Features of the encoder that the probe was fitted on.

        Returns
        -------
        float32 (row, class)
            Rows add up to 1.
        """
        return softmax(features.astype(np.float32) @ self.weight.T + self.bias)

    def save(self, path: Path) -> None:
        """Write the probe.

        Parameters
        ----------
        path
            JSON file; its weights are written beside it.
        """
        tensors = {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        checkpoint.save(path, tensors, {**self.about, "classes": [*self.classes]})

    @classmethod
    def load(cls, path: Path) -> "Probe":
        """Read what `save` wrote.

        Parameters
        ----------
        path
            The probe's JSON file.

        Returns
        -------
        Probe
            Ready to predict.

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

    def check(self, store: SlideStore, encoder_id: str, grid_id: str) -> None:
        """Refuse features of another encoder, or of other tiles or channels, than the probe was fitted on.

        Parameters
        ----------
        store
            Store that holds the features.
        encoder_id, grid_id
            Their names.

        Raises
        ------
        ProbeError
            If they differ, or the probe is of objects.
        """
        if "objects" in self.about:
            raise ProbeError(f"{self.name} classifies {self.about['objects']['head']}, not tiles: use `score_objects`")
        encoder, where = self.about["encoder"], f"{store.path}, {encoder_id}, grid {grid_id}"
        made_by, spec = store.feature_attrs(encoder_id, grid_id), store.grid(grid_id).spec
        check_channels(self, store)
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


def channels_of(store: SlideStore) -> dict[str, Any]:
    """Entry for the channels of a store in what a probe says of its features; empty where the slide is in colour."""
    return {"channels": [one.name for one in store.channels]} if store.channels else {}


def check_channels(probe: Probe, store: SlideStore) -> None:
    """Refuse a store of other channels than a probe was fitted on.

    Raises
    ------
    ProbeError
        If they differ, or one of them is in colour.
    """
    wanted, found = (of.get("channels", []) for of in (probe.about["encoder"], channels_of(store)))
    if wanted != found:
        raise ProbeError(
            f"{store.path} was made of {', '.join(found) or 'colours'}, the probe was fitted on "
            f"{', '.join(wanted) or 'colours'}. Choose those (`channels`)."
        )


def _made_of(slides: Sequence[Labelled]) -> dict[str, Any]:
    """Kind of the features of all slides; refused where they differ."""
    first, *others = slides
    for other in others:
        if other.made_of != first.made_of:
            raise ProbeError(
                f"{other.slide_id} has features of {dict(other.made_of)}, {first.slide_id} of {dict(first.made_of)}; "
                "they must agree"
            )
    return dict(first.made_of)


def fit_probe(
    tiles: Sequence[Labelled], *, name: str, encoder: Mapping[str, Any] | None = None, seed: int = 0
) -> Probe:
    """Fit a classifier and cross-validate it.

    Parameters
    ----------
    tiles
        Or objects, of all slides.
    name
        Names its scores in stores.
    encoder
        Origin of the features: ``name``, ``weights_sha256``, and the tiles' ``mpp`` and ``size_px``; by default what
        `tiles` say, as `label_tiles` and `wsi_umedpt.mil.object_probe.label_objects` make them.
    seed
        Deals groups to folds.

    Returns
    -------
    Probe
        With the figures of its cross-validation in `about`.

    Raises
    ------
    ProbeError
        If fewer than two classes are labelled, slides have features of different encoders, the patient of some slides
        alone is known, or patients or classes are one but for how they are spelled.
    """
    made_of = {**_made_of(tiles), **({"encoder": dict(encoder)} if encoder else {})}
    if "encoder" not in made_of:
        raise ProbeError("nothing says what made the features: state it by `encoder`")
    known = [t.slide_id for t in tiles if t.patient]
    if 0 < len(known) < len(tiles):
        unknown = [t.slide_id for t in tiles if not t.patient]
        raise ProbeError(
            f"the patient of {len(unknown)} of {len(tiles)} slides is not stated, the first {unknown[0]}; state all or "
            "none, or slides of one patient stand on both sides of the cross-validation"
        )
    check_patients((t.patient for t in tiles if t.patient), "the labels", ProbeError)
    labels = np.concatenate([np.array(t.labels, object) for t in tiles])
    classes = tuple(sorted({*labels}))
    if len(classes) < 2:
        raise ProbeError(f"at least two classes must be labelled, got {', '.join(classes) or 'none'}")
    if alike := several_spellings(classes, spelled):
        raise ProbeError(f"are these one class? {'; '.join(map(quoted, alike))}. Write it in one way")
    numbers = np.searchsorted(np.array(classes, object), labels)
    groups, unit = kept_together(tiles, numbers)
    weight, bias = fit_linear(tiles, numbers, np.ones(len(numbers), bool), len(classes))
    about = {
        "schema": _SCHEMA,
        "kind": "probe",
        "name": name,
        **made_of,
        "labelled": {c: int((numbers == k).sum()) for k, c in enumerate(classes)},
        "slides": sorted({t.slide_id for t in tiles}),
        "cross_validation": cross_validate(tiles, numbers, groups, len(classes), seed) | {"groups": unit},
        "penalty": penalty_of(tiles),
        "seed": seed,
        "version": __version__,
    }
    return Probe(classes, weight, bias, about)
