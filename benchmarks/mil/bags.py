"""Bags for `figures.py`: public feature bags, digits, algorithmic unit tests, planted tumours, GlaS.

Each maker gives a `Bags`: features, labels and whose they are. What is drawn is a function of the seed.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from wsi_umedpt.mil.data.cohort import Case, Cohort
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.store.features import Bag, FeatureKind


@dataclass(frozen=True)
class InMemory:
    """A slide's features in memory, as a source."""

    slide_id: str
    features: np.ndarray
    kind: FeatureKind
    side: float | None = None

    @property
    def tiles(self) -> int:
        return len(self.features)

    def load(self) -> Bag:
        n = len(self.features)
        return Bag(self.slide_id, self.features, np.zeros((n, 2), np.int32), np.arange(n))


@dataclass
class Bags:
    """Bags, their labels, and what is known of their instances."""

    features: list[np.ndarray]
    labels: np.ndarray
    patients: list[str] = field(default_factory=list)
    instances: list[np.ndarray] = field(default_factory=list)

    def cohort(self, prefix: str = "b") -> tuple[Cohort, BagReader]:
        names = [f"{prefix}{n}" for n in range(len(self.features))]
        kind = FeatureKind(dim=self.features[0].shape[1])
        sources = {
            name: InMemory(name, x.astype(np.float32), kind) for name, x in zip(names, self.features, strict=True)
        }
        patients = self.patients or names
        cases = tuple(Case(name, patient, (name,)) for name, patient in zip(names, patients, strict=True))
        target = Target(name="y", kind="binary", columns=("y",), classes=("0", "1"))
        return Cohort(cases, (target,), (self.labels.astype(float)[:, None],), "slide", kind), BagReader(sources)


def public(path: Path) -> Bags:
    """MUSK1, MUSK2, UCSB breast."""
    with np.load(path, allow_pickle=False) as file:
        data = dict(file)
    return Bags([data["X"][data["bag"] == b] for b in data["bag_ids"]], data["bag_y"])


def digits(bags: int, seed: int, *, train: bool) -> Bags:
    """Bags of about 10 digits; positive if there is a 9. Digits of training bags are never in test bags."""
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(2023).permutation(len(images))
    rows = order[:1200] if train else order[1200:]
    images, classes = images[rows] / 16, classes[rows]
    draw = np.random.default_rng((seed, train))
    features, labels = [], []
    for n in range(bags):
        count = max(2, round(draw.normal(10, 2)))
        pool = np.arange(len(images)) if n % 2 else np.flatnonzero(classes != 9)
        chosen = draw.choice(pool, count)
        if n % 2 and not (classes[chosen] == 9).any():
            chosen[0] = draw.choice(np.flatnonzero(classes == 9))
        features.append(images[chosen])
        labels.append(n % 2)
    return Bags(features, np.array(labels))


def unit_test(name: str, bags: int, seed: int, *, train: bool, dim: int = 16) -> Bags:
    """Algorithms 1 to 3 of Raff and Holt 2023 (arXiv 2310.17867), in the sizes that torchmil uses.

    Something stands in the bags of one class in training and in those of the other in testing that a model which keeps
    to the standard assumption (a bag is positive because of what is in it) has no use for.
    """
    draw = np.random.default_rng((seed, train, len(name)))
    ones = np.ones(dim)

    def poison() -> np.ndarray:
        return draw.normal(-10, 0.1, (1, dim))

    def concept(k: int, count: int) -> np.ndarray:
        return draw.normal((2 + k) * ones, 0.1, (count, dim))

    features, labels = [], []
    for n in range(bags):
        positive = n % 2 == 1
        parts = [draw.normal(0, 1, (10 if name == "single concept" else draw.integers(1, 10), dim))]
        if name == "single concept":
            if positive:
                for _ in range(draw.integers(1, 4)):
                    parts.append(draw.normal(0, 3, (1, dim)) if draw.random() < 0.5 else draw.normal(1, 1, (1, dim)))
            if positive != train:
                parts.append(poison())
        elif name == "two concepts":
            if positive:
                count = int(draw.integers(1, 4))
                parts += [concept(0, count), concept(1, count)]
            else:
                parts.append(concept(int(draw.integers(2)), 1))
            if positive != train:
                parts.append(poison())
        elif positive:
            parts += [concept(0, 1), concept(1, 1)]
        else:
            parts.append(concept(0, 1 if train else int(draw.integers(35, 45))))
        features.append(np.concatenate(parts))
        labels.append(int(positive))
    return Bags(features, np.array(labels))


def planted(share: float, seed: int, slides: int = 100, dim: int = 64) -> Bags:
    """Slides of 200 to 500 tiles; in every second one a share of tiles is tumour.

    A tumour tile lies 5 deviations away in a direction of its own, give or take a fifth; every slide is shifted as a
    whole (stain, scanner) by 0.3 deviations a number, which mean pooling cannot tell from tumour.
    """
    draw = np.random.default_rng((seed, round(share * 1000)))
    direction = np.random.default_rng(7).normal(size=dim)
    direction *= 5 / np.linalg.norm(direction)
    features, labels, instances = [], [], []
    for n in range(slides):
        count = int(draw.integers(200, 500))
        x = draw.normal(size=(count, dim)) + draw.normal(0, 0.3, dim)
        tumour = np.zeros(count, bool)
        if n % 2:
            tumour[draw.choice(count, max(1, round(share * count)), replace=False)] = True
            x[tumour] += direction * draw.normal(1, 0.2, (tumour.sum(), 1))
        features.append(x)
        labels.append(n % 2)
        instances.append(tumour)
    return Bags(features, np.array(labels), instances=instances)
