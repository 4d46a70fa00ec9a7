"""`SlideModel`: a trained slide classifier that predicts, explains itself, and says when not to be believed.

An ensemble of networks, one an inner fold (and seed), whose logits are averaged; what they contribute to is
averaged too, so that contributions still add up. It carries the kind of features that it takes and refuses
others. Saved as safetensors and JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt import checkpoint
from wsi_umedpt.bag import FeatureKind
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.calibrate import Calibration
from wsi_umedpt.mil.cohort import Unit
from wsi_umedpt.mil.kernel import join
from wsi_umedpt.mil.losses import predicted_of
from wsi_umedpt.mil.models import build
from wsi_umedpt.mil.moments import mean_of
from wsi_umedpt.mil.network import SlideNetwork
from wsi_umedpt.mil.reading import Features
from wsi_umedpt.mil.settings import ModelSettings
from wsi_umedpt.mil.targets import CLASS_KINDS, Target, spans
from wsi_umedpt.mil.typical import Typical

_SCHEMA = 1
UNLIKE = 0.05
"""p-value below which a slide is called unlike those that were trained on."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Forecast:
    """What is predicted of one case for one target."""

    target: Target
    predicted: Floats
    """(p,) see `Target.predicted`"""
    decided: Floats
    """(d,) see `wsi_umedpt.mil.study.HeldOut.decided`"""
    spread: Floats
    """(p,) standard deviation of `predicted` over the networks"""
    conformal: npt.NDArray[np.bool_] | None
    """(class,) which classes cannot be ruled out; None without classes"""
    interval: Floats | None
    """(2,) where a value lies; None for other targets"""

    @property
    def answer(self) -> str:
        """The decision in words; empty for survival."""
        if self.target.kind in CLASS_KINDS:
            return self.target.classes[int(self.decided[0])]
        if self.target.kind == "multilabel":
            return "+".join(n for n, d in zip(self.target.classes, self.decided, strict=True) if d)
        return f"{self.predicted[0]:.4g}" if self.target.kind == "regression" else ""


@dataclass(frozen=True, eq=False, kw_only=True)
class TileShares:
    """What each tile of one bag did."""

    attention: npt.NDArray[np.float32]
    """(tile,) sums to 1; mean of the networks'"""
    contribution: npt.NDArray[np.float32]
    """(tile, output) signed, on the scale of the logits; see `SlideModel.outputs`"""


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideModel:
    """A trained slide classifier."""

    targets: tuple[Target, ...]
    kind: FeatureKind
    networks: tuple[SlideNetwork, ...]
    calibrations: tuple[Calibration, ...]
    """A target each."""
    typical: Typical
    coverage: float
    """What conformal sets promise."""
    about: dict[str, Any]
    """What made it: settings, cases, seeds, versions."""

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
        """Whether contributions add up to the logits."""
        return self.networks[0].contributions == "exact"

    def check(self, kind: FeatureKind, where: object) -> None:
        """Refuse features of another kind than it was trained on."""
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
        """What the networks' logits (network, output) of one case say: a `Forecast` a target."""
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
        """p-value of the case being like the training slides: of its least typical bag, times bags (Bonferroni)."""
        return min(1.0, len(bags) * min(self.typical.p_value(mean_of(bag)) for bag in bags))

    def explain(self, features: Features) -> TileShares:
        """Attention and contributions of one bag's tiles; see `exact`."""
        tiles = torch.from_numpy(features)
        results = [network.explain(tiles) for network in self.networks]
        return TileShares(
            attention=torch.stack([r.attention for r in results]).mean(0).numpy(),
            contribution=torch.stack([r.contribution for r in results]).mean(0).numpy(),
        )

    @torch.no_grad()
    def without_each(self, features: Features) -> npt.NDArray[np.float32]:
        """How much the logits fall if a tile is left out: (tile, output), logits less those without it."""
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
        """Write ``path`` (.json) and its tensors beside it."""
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

        Raises
        ------
        CheckpointError
            If it is damaged.
        MilError
            If it is no slide classifier that this version reads.
        """
        tensors, about = checkpoint.load(path)
        if about.get("artifact") != "slide classifier" or about.get("schema") != _SCHEMA:
            raise MilError(f"{path} is no slide classifier that this version reads")
        try:
            made = _read(tensors, about)
            # What cannot predict a tile of zeros is no classifier, whatever its checksums say.
            made.forecast([np.zeros((1, made.kind.dim), np.float32)])
            made.unlike([np.zeros((1, made.kind.dim), np.float32)])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise MilError(f"{path} is no slide classifier that this version reads: {error}") from None
        return made


def _read(tensors: checkpoint.State, about: Mapping[str, Any]) -> SlideModel:
    targets = tuple(Target.from_dict(t) for t in about["targets"])
    kind = FeatureKind.from_dict(about["features"])
    settings = settings_from(about["network"])
    classes = [len(t.classes) for t in targets if t.kind in CLASS_KINDS]
    networks = []
    for n in range(about["networks"]):
        network = build(kind.dim, spans(targets)[-1].stop, settings, classes)
        network.load_state_dict(checkpoint.tensors_under(tensors, f"network{n}"))
        networks.append(network.eval().requires_grad_(False))
    calibrations = tuple(
        Calibration(temperature, tuple(thresholds), tensors[f"nonconformity{n}"].double().numpy())
        for n, (temperature, thresholds) in enumerate(zip(about["temperatures"], about["thresholds"], strict=True))
    )
    if about["trained_on"]["unit"] not in get_args(Unit) or not 0 < about["coverage"] < 1:
        raise MilError(f"unit {about['trained_on']['unit']!r}, coverage {about['coverage']!r}")
    typical = Typical(*(tensors[f"typical.{field.name}"].double().numpy() for field in fields(Typical)))
    return SlideModel(
        targets=targets,
        kind=kind,
        networks=tuple(networks),
        calibrations=calibrations,
        typical=typical,
        coverage=about["coverage"],
        about={k: v for k, v in about.items() if k not in ("tensors", "tensors_sha256", "sha256")},
    )


def settings_from(content: Mapping[str, Any]) -> ModelSettings:
    """Network settings from JSON; those of training are left out."""
    return ModelSettings(**{field.name: content[field.name] for field in fields(ModelSettings)})
