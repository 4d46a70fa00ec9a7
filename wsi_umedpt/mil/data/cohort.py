"""Cohort of a study: cases, their slides and labels.

A `Cohort` of some cases holds nothing of the others: what trains on it cannot see them.
`wsi_umedpt.mil.data.labels_csv` reads one from a table of labels.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.store.features import FeatureKind

Unit = Literal["slide", "union", "late"]
"""Unit of a case: a slide; a patient, whose slides are one bag; a patient, whose slides are predicted and averaged."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Case: slides of one patient that get one prediction."""

    case_id: str
    patient: str
    slides: tuple[str, ...]
    site: str = ""
    """Several with a + between them, where its slides are of several."""
    fold: str = ""
    """Fold that the user gave the case; empty where they gave none."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Each of them; one empty name where none is known."""
        return tuple(self.site.split("+"))


def bags_of(slides: tuple[str, ...], unit: Unit) -> list[tuple[str, ...]]:
    """Slides of each bag of a case: all in one, or each alone where slides are averaged late."""
    return [(slide,) for slide in slides] if unit == "late" else [slides]


@dataclass(frozen=True)
class Item:
    """One bag of training."""

    case: int
    """Its row in the cohort."""
    slides: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Cohort:
    """Cases and their labels."""

    cases: tuple[Case, ...]
    targets: tuple[Target, ...]
    truth: tuple[Floats, ...]
    """A target: (case, `Target.truth`), nan where not known."""
    unit: Unit
    kind: FeatureKind
    """Kind of all features."""

    def __len__(self) -> int:
        return len(self.cases)

    def only(self, rows: Iterable[int] | npt.NDArray[np.int64]) -> "Cohort":
        """A cohort of some cases, which holds nothing of the others."""
        chosen = np.asarray([*rows], np.int64)
        return replace(
            self, cases=tuple(self.cases[r] for r in chosen), truth=tuple(values[chosen] for values in self.truth)
        )

    @property
    def items(self) -> list[Item]:
        """Bags to train on, with the rows of their cases."""
        return [Item(row, bag) for row, case in enumerate(self.cases) for bag in bags_of(case.slides, self.unit)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over cases, labels and the kind of the features."""
        told = [
            [[c.case_id, c.patient, c.site, *c.slides] for c in self.cases],
            [t.to_dict() for t in self.targets],
            [str(v.tolist()) for v in self.truth],
            self.unit, self.kind.to_dict(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
