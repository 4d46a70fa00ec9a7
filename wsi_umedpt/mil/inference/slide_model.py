"""`SlideModel`: a trained slide classifier that predicts, explains itself, and says when not to be believed.

An ensemble of networks, one an inner fold (and seed), whose logits are averaged; what they contribute to is
averaged too, so that contributions still add up. It carries the kind of features that it takes and refuses
others. Saved as safetensors and JSON.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.config import build_known
from wsi_umedpt.errors import CheckpointError, MilError
from wsi_umedpt.io import checkpoint
from wsi_umedpt.io.tensors import Described, Outline, flaw, misfit, outline
from wsi_umedpt.mil.data.cohort import Unit
from wsi_umedpt.mil.data.feature_loader import Features
from wsi_umedpt.mil.data.standardize import mean_of
from wsi_umedpt.mil.data.targets import CLASS_KINDS, Target, spans
from wsi_umedpt.mil.inference.forecast import Forecast, TileShares
from wsi_umedpt.mil.networks.base import SlideNetwork
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.networks.ragged_pooling import join
from wsi_umedpt.mil.settings import ModelSettings
from wsi_umedpt.mil.training.calibration import Calibration
from wsi_umedpt.mil.training.losses import predicted_of
from wsi_umedpt.mil.training.ood import Typical
from wsi_umedpt.store.features import FeatureKind

_SCHEMA = 1
_MOST_NETWORKS = 10_000
_MOST_DIM = 100_000
UNLIKE = 0.05
"""p-value below which a slide is called unlike those that were trained on."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideModel:
    """A trained slide classifier."""

    targets: tuple[Target, ...]
    """Targets of prediction."""
    kind: FeatureKind
    """Features that it takes."""
    networks: tuple[SlideNetwork, ...]
    """Ensemble, whose predictions are averaged."""
    calibrations: tuple[Calibration, ...]
    """Calibration of each target: temperature, thresholds, conformal scores."""
    typical: Typical
    """Distribution of the training slides, for out-of-distribution tests."""
    coverage: float
    """Nominal coverage of conformal sets."""
    about: dict[str, Any]
    """Origin of the model: settings, cases, seeds, versions."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns of contributions: what a positive one speaks for."""
        names: list[str] = []
        for target in self.targets:
            match target.kind:
                case "binary":
                    parts: Sequence[str] = target.classes[1:]
                case "ordinal":
                    parts = [f"above_{name}" for name in target.classes[:-1]]
                case "discrete":
                    parts = [f"hazard_{k}" for k in range(target.outputs)]
                case "regression" | "cox":
                    parts = target.predicted
                case _:
                    parts = target.classes
            names += [f"{target.name}:{part}" for part in parts]
        return tuple(names)

    @property
    def exact(self) -> bool:
        """Return whether contributions add up to the logits."""
        return self.networks[0].contributions == "exact"

    def check(self, kind: FeatureKind, where: object) -> None:
        """Refuse features of another kind than the model was trained on.

        Parameters
        ----------
        kind
            Encoder, tiles and dimension of the features.
        where
            Name of the features' slide or store, for the message.

        Raises
        ------
        MilError
            If they differ.
        """
        if different := self.kind.differences(kind):
            raise MilError(f"{where} has features that this model was not trained on: {'; '.join(different)}")

    @torch.no_grad()
    def forecast(self, bags: Sequence[Features]) -> list[Forecast]:
        """Predict one case.

        Parameters
        ----------
        bags : each (tile, dim)
            Usually one; the logits of several are averaged.

        Returns
        -------
        list
            A target each.
        """
        return self.read(np.stack([self._logits(bag) for bag in bags]).mean(0))

    def read(self, logits: Floats) -> list[Forecast]:
        """Turn the logits of one case into predictions.

        Parameters
        ----------
        logits : float64 (network, output)
            Logits of each network of the ensemble.

        Returns
        -------
        list of Forecast
            One for each target.
        """
        found = []
        for target, span, fixed in zip(self.targets, spans(self.targets), self.calibrations, strict=True):
            each = predicted_of(target, logits[:, span], fixed.temperature)
            predicted = predicted_of(target, logits[:, span].mean(0, keepdims=True), fixed.temperature)
            sets = fixed.sets(target, predicted, self.coverage)
            interval = fixed.interval(target, predicted, self.coverage)
            found.append(
                Forecast(
                    target=target,
                    predicted=predicted[0],
                    decided=fixed.decide(target, predicted)[0],
                    spread=each.std(0),
                    conformal=None if sets is None else sets[0],
                    interval=None if interval is None else interval[0],
                )
            )
        return found

    def unlike(self, bags: Sequence[Features]) -> float:
        """Test whether a case is like the training slides.

        Parameters
        ----------
        bags
            Features (tile, dim) of each bag of the case.

        Returns
        -------
        float
            P-value of the least typical bag, times the number of bags (Bonferroni); small: out of distribution.
        """
        return min(1.0, len(bags) * min(self.typical.p_value(mean_of(bag)) for bag in bags))

    def explain(self, features: Features) -> TileShares:
        """Attribute a prediction to tiles; see `exact`.

        Parameters
        ----------
        features : float32 (tile, dim)
            Features of one bag.

        Returns
        -------
        TileShares
            Attention and contributions of each tile.
        """
        tiles = torch.from_numpy(features)
        results = [network.explain(tiles) for network in self.networks]
        return TileShares(
            attention=torch.stack([r.attention for r in results]).mean(0).numpy(),
            contribution=torch.stack([r.contribution for r in results]).mean(0).numpy(),
        )

    @torch.no_grad()
    def without_each(self, features: Features) -> npt.NDArray[np.float32]:
        """Measure how much the logits fall if a tile is left out.

        Parameters
        ----------
        features : float32 (tile, dim)
            Features of one bag.

        Returns
        -------
        float32 (tile, output)
            Logits of the whole bag minus those without the tile.
        """
        tiles = torch.from_numpy(features)
        whole = torch.from_numpy(self._logits(features)).float().mean(0)
        out: npt.NDArray[np.float32] = (
            whole - torch.stack([network.without_each(tiles) for network in self.networks]).mean(0)
        ).numpy()
        return out

    def _logits(self, features: Features) -> Floats:
        bag = join([torch.from_numpy(features)])
        return torch.cat([network(bag) for network in self.networks]).double().numpy()

    def save(self, path: Path) -> None:
        """Write the model.

        Parameters
        ----------
        path
            JSON file; its tensors are written beside it.
        """
        tensors = {
            f"network{n}.{key}": value
            for n, network in enumerate(self.networks)
            for key, value in network.state_dict().items()
        }
        for field in fields(self.typical):
            tensors[f"typical.{field.name}"] = torch.from_numpy(getattr(self.typical, field.name)).float()
        for n, calibration in enumerate(self.calibrations):
            tensors[f"nonconformity{n}"] = torch.from_numpy(calibration.nonconformity)
        checkpoint.save(
            path,
            tensors,
            {
                **self.about,
                "schema": _SCHEMA,
                "artifact": "slide classifier",
                "targets": [t.to_dict() for t in self.targets],
                "features": self.kind.to_dict(),
                "network": asdict(self.networks[0].settings),
                "networks": len(self.networks),
                "temperatures": [c.temperature for c in self.calibrations],
                "thresholds": [list(c.thresholds) for c in self.calibrations],
                "coverage": self.coverage,
            },
        )

    @classmethod
    def load(cls, path: Path) -> "SlideModel":
        """Read what `save` wrote.

        Parameters
        ----------
        path
            The model's JSON file.

        Returns
        -------
        SlideModel
            On the CPU.

        Raises
        ------
        CheckpointError
            If it is damaged.
        MilError
            If it is no slide classifier that this version reads.
        """
        about = checkpoint.read_about(path)
        if about.get("artifact") != "slide classifier" or about.get("schema") != _SCHEMA:
            raise MilError(f"{path} is no slide classifier that this version reads")
        try:
            said = _said(about)
            tensors, about = checkpoint.load(path, partial(_check, said))
            if why := flaw(tensors):
                raise MilError(why)
            made = _made(said, tensors, about)
            # What cannot predict a tile of zeros is no classifier, whatever its checksums say.
            made.forecast([np.zeros((1, made.kind.dim), np.float32)])
            made.unlike([np.zeros((1, made.kind.dim), np.float32)])
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise MilError(f"{path} is no slide classifier that this version reads: {error}") from None
        return made


@dataclass(frozen=True, kw_only=True)
class _Said:
    """Fields that a slide classifier's JSON file must have for its tensors to be used."""

    targets: tuple[Target, ...]
    features: FeatureKind
    network: ModelSettings
    networks: int
    temperatures: tuple[float, ...]
    thresholds: tuple[tuple[float, ...], ...]
    coverage: float

    def __post_init__(self) -> None:
        if not self.targets or not 1 <= self.networks <= _MOST_NETWORKS:
            raise ValueError(f"it has {len(self.targets)} targets and {self.networks} networks")
        if not 1 <= self.features.dim <= _MOST_DIM:
            raise ValueError(f"features have 1 to {_MOST_DIM:,} numbers, got {self.features.dim}")
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage is over 0 and below 1, got {self.coverage:g}")
        for target in self.targets:
            _check_target(target)
        for target, temperature, chances in zip(self.targets, self.temperatures, self.thresholds, strict=True):
            wanted = {"binary": 1, "multilabel": len(target.classes)}.get(target.kind, 0)
            if not 1e-3 <= temperature <= 1e3 or len(chances) != wanted or not all(0 <= c <= 1 for c in chances):
                raise ValueError(f"target {target.name}: temperature {temperature:g}, thresholds {[*chances]}")

    def expected(self) -> dict[str, torch.Tensor]:
        """Outline of one network's tensors."""
        classes = [len(t.classes) for t in self.targets if t.kind in CLASS_KINDS]
        return outline(partial(build_network, self.features.dim, spans(self.targets)[-1].stop, self.network, classes))


@dataclass(frozen=True, kw_only=True)
class _TrainedOn:
    unit: Unit


def _said(about: Mapping[str, Any]) -> _Said:
    tables = {name: about.get(name) for name in ("network", "trained_on")}
    if strange := [name for name, content in tables.items() if not isinstance(content, dict)]:
        raise MilError(f"{strange[0]} is a table, got {tables[strange[0]]!r:.60}")
    build_known(_TrainedOn, tables["trained_on"] or {}, "trained_on")
    # Settings of training may stand beside those of the network.
    network = {f.name: v for f in fields(ModelSettings) if (v := (tables["network"] or {}).get(f.name)) is not None}
    return build_known(_Said, {**about, "network": network}, "it")


def _check_target(target: Target) -> None:
    named = len(target.classes)
    counts = {"binary": named == 2, "multiclass": named >= 2, "ordinal": named >= 2, "multilabel": named >= 1}
    if not counts.get(target.kind, named == 0) or len({*target.classes}) < named:
        raise ValueError(f"target {target.name} is {target.kind} and has the classes {', '.join(target.classes)}")
    if target.scale <= 0 or [*target.edges] != sorted({*target.edges}):
        raise ValueError(f"target {target.name}: scale {target.scale:g}, edges {[*target.edges]}")


def _check(said: _Said, found: Outline) -> str:
    """Refuse tensors that are not those of a classifier as it is described."""
    one, dim = said.expected(), said.features.dim
    if said.networks * len(one) > len(found):
        raise MilError(f"{said.networks} networks of {len(one)} tensors are not among {len(found)}")
    expected: dict[str, Described] = {f"network{n}.{k}": v for n in range(said.networks) for k, v in one.items()}
    for k in range(len(said.targets)):
        cases = found.get(f"nonconformity{k}")
        expected[f"nonconformity{k}"] = torch.empty(math.prod(cases.shape) if cases else 0, device="meta")
    slides = found.get("typical.distances")
    rows = math.prod(slides.shape) if slides else 0
    shapes = {"centre": (dim,), "scale": (dim,), "known": (rows, dim), "distances": (rows,)}
    expected |= {f"typical.{field}": torch.empty(shape, device="meta") for field, shape in shapes.items()}
    if why := misfit(expected, found):
        raise MilError(f"its tensors are of another: {why}")
    return ""


def _made(said: _Said, tensors: checkpoint.State, about: Mapping[str, Any]) -> SlideModel:
    classes = [len(t.classes) for t in said.targets if t.kind in CLASS_KINDS]
    networks = []
    for n in range(said.networks):
        network = build_network(said.features.dim, spans(said.targets)[-1].stop, said.network, classes)
        network.load_state_dict(checkpoint.tensors_under(tensors, f"network{n}"))
        networks.append(network.eval().requires_grad_(False))
    calibrations = tuple(
        Calibration(temperature, thresholds, tensors[f"nonconformity{n}"].double().numpy())
        for n, (temperature, thresholds) in enumerate(zip(said.temperatures, said.thresholds, strict=True))
    )
    typical = Typical(*(tensors[f"typical.{field.name}"].double().numpy() for field in fields(Typical)))
    return SlideModel(
        targets=said.targets,
        kind=said.features,
        networks=tuple(networks),
        calibrations=calibrations,
        typical=typical,
        coverage=said.coverage,
        about={k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")},
    )
