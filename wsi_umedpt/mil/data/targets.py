"""Targets of prediction: a `Target` describes its labels, and the number and meaning of a model's outputs.

Kinds, and what stands in the arrays of `wsi_umedpt.mil.evaluation.heldout`:

=============  ==============================  =============================  ==================================
kind           logits a bag (`outputs`)        truth, t columns               predicted, p columns
=============  ==============================  =============================  ==================================
``binary``     1, of the second class          1: index of the class          2: probability of each class
``multiclass`` one a class                     1: index of the class          one a class: probability
``multilabel`` one a label                     one a label: 0 or 1            one a label: probability
``regression`` 1                               1: the value                   1: the value
``ordinal``    classes - 1, of being above     1: index of the class          one a class: probability
``cox``        1, log hazard ratio             2: time, event (1) or not (0)  1: log hazard ratio
``discrete``   one an interval, of the hazard  2: time, event (1) or not (0)  one an edge: survival to it
=============  ==============================  =============================  ==================================
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import MilError

Floats = npt.NDArray[np.float64]
Kind = Literal["binary", "multiclass", "multilabel", "regression", "ordinal", "cox", "discrete"]
CLASS_KINDS = ("binary", "multiclass", "ordinal")
"""Kinds of target with one right class of several."""
SURVIVAL_KINDS = ("cox", "discrete")

_ASKED = re.compile(r"(?P<name>[^:()]+)(?::(?P<kind>\w+)(?:\((?P<inside>[^()]*)\))?)?")
INTERVALS = 4
"""Number of intervals of discrete-time survival, where the user gives none."""
_LISTING = (*CLASS_KINDS, "multilabel", *SURVIVAL_KINDS)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to predict; made by `asked` and filled in from the labels."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    """Columns of the table of labels."""
    classes: tuple[str, ...] = ()
    """Names of the classes in order (binary: the second is positive; ordinal: low to high), or of the labels."""
    edges: tuple[float, ...] = ()
    """Ends of the intervals of discrete-time survival, each the begin of the next; the last is open."""
    intervals: int = INTERVALS
    """Number of intervals wanted; there are fewer where events happen at the same times."""
    centre: float = 0.0
    scale: float = 1.0
    """Regression: what the model gives is (value - centre) / scale, of the training labels."""

    @property
    def outputs(self) -> int:
        """Logits that a model gives for it."""
        match self.kind:
            case "binary" | "regression" | "cox":
                return 1
            case "ordinal":
                return len(self.classes) - 1
            case "discrete":
                return len(self.edges) + 1
        return len(self.classes)

    @property
    def truth(self) -> int:
        """Columns of its labels as numbers."""
        if self.kind in SURVIVAL_KINDS:
            return 2
        return len(self.classes) if self.kind == "multilabel" else 1

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of the columns that are predicted: classes, labels, or what the number is."""
        match self.kind:
            case "regression":
                return ("value",)
            case "cox":
                return ("log_hazard_ratio",)
            case "discrete":
                return tuple(f"survival_to_{edge:g}" for edge in self.edges)
        return self.classes

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Undo `to_dict`."""
        tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        if tuples.get("kind") not in get_args(Kind):
            raise MilError(f"there is no kind of target {tuples.get('kind')!r}")
        return cls(**tuples)


@dataclass(frozen=True)
class Asked:
    """A target as the user named it: NAME, NAME:KIND or NAME:KIND(A,B,...)."""

    name: str
    kind: Kind | None
    """None: to be seen from the labels."""
    inside: tuple[str, ...] = ()


def asked(text: str) -> Asked:
    """Parse a target of the command line.

    Parameters
    ----------
    text
        ``grade`` (kind seen from the labels), ``grade:multiclass``, ``her2:binary(negative,positive)``,
        ``stage:ordinal(I,II,III)``, ``markers:multilabel(er,pr,her2)`` (columns), ``age:regression``,
        ``os:cox(days,event)`` or ``os:discrete(days,event)`` (columns), ``os:discrete(days,event,6)``
        (intervals).

    Raises
    ------
    MilError
        If it cannot be understood.
    """
    found = _ASKED.fullmatch(text.strip())
    if not found:
        raise MilError(f"target {text!r} cannot be understood; write NAME, NAME:KIND or NAME:KIND(A,B,...)")
    kind: Any = found["kind"]
    inside = found["inside"]
    if kind is not None and kind not in get_args(Kind):
        raise MilError(f"target {text!r}: there is no kind {kind!r}; there are {', '.join(get_args(Kind))}")
    parts = tuple(part.strip() for part in inside.split(",") if part.strip()) if inside else ()
    if parts and kind not in _LISTING:
        raise MilError(f"target {text!r}: {kind} takes nothing in brackets, write {found['name']}:{kind}")
    if len({*parts}) < len(parts):
        raise MilError(f"target {text!r} names the same twice")
    if kind in SURVIVAL_KINDS and len(parts) not in ((2,) if kind == "cox" else (2, 3)):
        raise MilError(f"target {text!r}: survival names its columns, as in {found['name']}:{kind}(days,event)")
    if kind == "multilabel" and len(parts) < 1:
        raise MilError(f"target {text!r} names its columns, as in {found['name']}:multilabel(er,pr,her2)")
    return Asked(found["name"].strip(), kind, parts)


def columns_of(named: Asked) -> tuple[str, ...]:
    """Columns of the table of labels that a target reads."""
    if named.kind == "multilabel":
        return named.inside
    return named.inside[:2] if named.kind in SURVIVAL_KINDS else (named.name,)


def spans(targets: Sequence[Target]) -> list[slice]:
    """Slice of each target's logits among those of all."""
    ends = [0]
    for target in targets:
        ends.append(ends[-1] + target.outputs)
    return [slice(*pair) for pair in pairwise(ends)]


def with_edges(target: Target, truth: Floats) -> Target:
    """A target of discrete-time survival whose intervals hold equally many of the events in `truth`."""
    if not 2 <= target.intervals <= 50:
        raise MilError(f"target {target.name}: survival takes 2 to 50 intervals, got {target.intervals}")
    times = truth[truth[:, 1] > 0, 0]
    edges = np.unique(np.quantile(times, np.linspace(0, 1, target.intervals + 1)[1:-1]))
    return replace(target, edges=tuple(float(e) for e in edges))


def with_scale(target: Target, truth: Floats) -> Target:
    """A regression target centred and scaled by the values in `truth`."""
    values = truth[~np.isnan(truth[:, 0]), 0]
    return replace(target, centre=float(values.mean()), scale=float(values.std()) or 1.0)
