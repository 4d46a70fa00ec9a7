"""Small cohorts and banks for the tests of MIL: features made up, labels known."""

from dataclasses import dataclass, replace

import numpy as np

from wsi_umedpt.mil.data.cohort import Case, Cohort
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.settings import FitSettings, StudySettings
from wsi_umedpt.store.features import Bag, FeatureKind

DIM = 6
KIND = FeatureKind(encoder="toy", dim=DIM)
BINARY = Target(name="grade", kind="binary", columns=("grade",), classes=("low", "high"))
THREE = Target(name="type", kind="multiclass", columns=("type",), classes=("a", "b", "c"))
STAGE = Target(name="stage", kind="ordinal", columns=("stage",), classes=("I", "II", "III"))
AGE = Target(name="age", kind="regression", columns=("age",))
MARKERS = Target(name="markers", kind="multilabel", columns=("er", "pr"), classes=("er", "pr"))
COX = Target(name="os", kind="cox", columns=("days", "died"))
DISCRETE = Target(name="os", kind="discrete", columns=("days", "died"), edges=(5.0,), intervals=3)
TARGETS = {t.kind: t for t in (BINARY, THREE, STAGE, AGE, MARKERS, COX, DISCRETE)}

QUICK = FitSettings(model="mean", hidden=8, attention=4, epochs=3, dropout=0.0, lr=0.01, tile_dropout=0.2)
STUDY = StudySettings(folds=3, inner_folds=2, seeds=(0,))


@dataclass(frozen=True, eq=False)
class Bank:
    """The features of one slide, in memory."""

    slide_id: str
    features: np.ndarray
    kind: FeatureKind = KIND
    side: float | None = 100.0

    @property
    def tiles(self) -> int:
        """Tiles there are."""
        return len(self.features)

    def load(self) -> Bag:
        """All of them, in a row."""
        rows = np.arange(len(self.features))
        return Bag(self.slide_id, self.features, np.stack([rows * 100, rows * 0], 1).astype(np.int32), rows)


def labels_of(target, count, rng):
    """Labels that have nothing to do with anything, of which each class is among any third of the cases."""
    match target.kind:
        case "regression":
            return rng.normal(60, 10, (count, 1))
        case "cox" | "discrete":
            return np.stack([rng.integers(1, 100, count) + rng.random(count), np.arange(count) % 3 > 0], 1)
        case "multilabel":
            return np.stack([rng.permutation(count) % 2 for _ in target.classes], 1).astype(float)
    return (rng.permutation(count) % len(target.classes))[:, None].astype(float)


def cohort_of(
    *targets, cases=24, slides=1, patients=None, unit="slide", signal=0.0, tiles=(3, 12), seed=0, sites=None, dim=DIM
):
    """Cases, and their features: noise, and in column 0 `signal` times the first target's label.

    Parameters
    ----------
    targets
        What is labelled; by default one of two classes.
    slides
        Of a case.
    patients : (case,)
        By default one each.
    sites : (case,)
        By default not known.
    """
    rng = np.random.default_rng(seed)
    targets = targets or (BINARY,)
    truth = tuple(labels_of(target, cases, rng) for target in targets)
    made = tuple(
        Case(
            f"c{n}",
            patients[n] if patients else f"p{n}",
            tuple(f"c{n}s{k}" for k in range(slides)),
            sites[n] if sites else "",
        )
        for n in range(cases)
    )
    banks = {}
    for case, label in zip(made, np.nan_to_num(truth[0][:, 0]), strict=True):
        for slide in case.slides:
            features = rng.normal(size=(int(rng.integers(*tiles)), dim))
            features[:, 0] += signal * label
            banks[slide] = Bank(slide, features.astype(np.float32), replace(KIND, dim=dim))
    return Cohort(made, targets, truth, unit, replace(KIND, dim=dim)), banks


def same(one, other):
    """Whether two networks' or models' numbers are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


def tensors_of(model):
    """All that a slide classifier has learned, by name."""
    found = {}
    for n, network in enumerate(model.networks):
        found |= {f"network{n}.{k}": v.numpy() for k, v in network.state_dict().items()}
    for n, c in enumerate(model.calibrations):
        found |= {f"temperature{n}": c.temperature, f"thresholds{n}": c.thresholds, f"scores{n}": c.nonconformity}
    for name in ("centre", "scale", "known", "distances"):
        found[f"typical.{name}"] = getattr(model.typical, name)
    for n, target in enumerate(model.targets):
        found |= {f"edges{n}": target.edges, f"centre{n}": target.centre, f"scale{n}": target.scale}
    return found
