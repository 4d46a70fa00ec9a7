"""Figures of a slide classifier in testing, as the model itself carries them, and a sentence that says them.

`report_run` lets a model `remember`; `in_testing` says it to whoever looks at one slide, and must know what an answer
is worth before the answer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from wsi_umedpt.config import build_known
from wsi_umedpt.errors import ConfigError
from wsi_umedpt.mil.evaluation.bootstrap import Interval
from wsi_umedpt.mil.evaluation.metric_table import FIGURES
from wsi_umedpt.mil.evaluation.report_text import (
    FEW_PATIENTS,
    Verdict,
    against_chance,
    counted,
    ends,
    number,
)
from wsi_umedpt.mil.evaluation.summary import StudyFigures
from wsi_umedpt.mil.inference.slide_model import SlideModel

TESTED = "tested"
"""Name of the member of a model's ``about``."""
_SHORT = {
    "roc_auc": "AUC", "quadratic_kappa": "quadratic kappa", "r2": "R²", "c_index": "concordance",
}  # fmt: skip
_SHOWN = {
    "better": "better than guessing",
    "unclear": "not shown to be better than guessing",
    "worse": "worse than guessing",
    "not compared": "not compared with guessing",
}


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The headline figure of one target, of patients that the models had not seen."""

    figure: str
    """One of `FIGURES`."""
    value: float | None
    low: float | None
    high: float | None
    patients: int
    against_guessing: Verdict
    unseen_patients: bool = True
    """True if no patient had cases in several folds."""

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise ValueError(f"no figure is called {self.figure!r}")

    @classmethod
    def of(cls, found: StudyFigures) -> "Tested":
        """Take the headline figure of what was measured of one target."""
        own = found.model.figures[found.headline]
        return cls(
            figure=found.headline, value=own.value, low=own.low, high=own.high, patients=found.patients,
            against_guessing=against_chance(found), unseen_patients=found.patients_in_several_folds == 0,
        )  # fmt: skip

    @property
    def words(self) -> str:
        """All of it, in a sentence or two."""
        who = counted(self.patients, "patient")
        if self.value is None:
            return f"In testing: nothing could be measured on {who}."
        name = _SHORT.get(self.figure, FIGURES[self.figure].label)
        span = ends(Interval(value=self.value, low=self.low, high=self.high, undefined=0))
        seen = "" if self.unseen_patients else " Models had seen some of these patients: the figure is likely too good."
        few = " Few patients: others may give another figure." if self.patients < FEW_PATIENTS else ""
        return (
            f"In testing: {name} {number(self.value)}{f' ({span})' if span else ''} on {who}, "
            f"{_SHOWN[self.against_guessing]}.{seen}{few}"
        )


def remember(model: SlideModel, found: Sequence[StudyFigures]) -> None:
    """Let a model carry the headline figure of each of its targets."""
    model.about[TESTED] = {one.target.name: asdict(Tested.of(one)) for one in found}


def tested_of(model: SlideModel, target: str) -> Tested | None:
    """Read what testing showed of a target; None where the model does not carry it."""
    said = model.about.get(TESTED)
    of = said.get(target) if isinstance(said, dict) else None
    if not isinstance(of, dict):
        return None
    try:
        return build_known(Tested, of, "what testing showed")
    except ConfigError:
        return None  # a file that somebody changed: as good as none


def in_testing(model: SlideModel, target: str) -> str:
    """Say how good a model was in testing: what an answer is worth.

    Parameters
    ----------
    model
        As ``wsi-umedpt mil train`` made it.
    target
        Name of the target.

    Returns
    -------
    str
        The headline figure with its 95 % interval, on how many patients, and whether it is better than guessing, as
        "In testing: AUC 0.75 (0.44 to 0.93) on 25 patients, not shown to be better than guessing."; or that the
        model does not say.
    """
    found = tested_of(model, target)
    if found is None:
        return "In testing: not known, as the model does not carry its figures. Its report has them (report.html)."
    return found.words
