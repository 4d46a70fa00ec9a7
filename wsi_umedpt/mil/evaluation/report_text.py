"""Figures in words: what a pathologist reads first, and what they must know before they believe it.

Nothing here decides by a p value: an arm is called better only where the interval of the
difference lies on one side of 0.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from wsi_umedpt.messages import noun
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.evaluation.bootstrap import Interval
from wsi_umedpt.mil.evaluation.heldout import Study
from wsi_umedpt.mil.evaluation.metric_table import FIGURES
from wsi_umedpt.mil.evaluation.summary import UNLIKE, Difference, StudyFigures
from wsi_umedpt.plotting.web_page import NOTHING

FEW_PATIENTS, FEW_EVENTS, FEW_OF_CLASS = 100, 50, 10
_NARROW = 40
"""Patients below which percentile intervals are too narrow: simulated, 83 to 95 of 100 hold the truth at 20."""
_NAMED = 6
_MINUS = "\u2212"
Verdict = Literal["better", "worse", "unclear", "not compared"]


def number(value: float | None, digits: int = 2) -> str:
    """A number as it is printed, with a true minus; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return NOTHING
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f").replace("-", _MINUS)
    text = f"{value:.{digits}f}"
    return text.replace("-", _MINUS) if float(text) else text.lstrip("-")


def digits_of(figure: str, value: float | None) -> int:
    """Decimals of a figure: two, or for one in a unit of its own as many as say three figures."""
    if not FIGURES[figure].unit or not value:
        return 2
    return int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 6))


def ends(found: Interval, digits: int = 2) -> str:
    """``0.78 to 0.89``; empty where there is no interval."""
    return "" if found.low is None else f"{number(found.low, digits)} to {number(found.high, digits)}"


def with_interval(found: Interval, digits: int = 2) -> str:
    """``0.84 (0.78 to 0.89)``."""
    return number(found.value, digits) + (f" ({ends(found, digits)})" if found.low is not None else "")


def difference(found: Interval, digits: int = 2, *, turned: bool = False) -> tuple[str, str]:
    """``+0.04`` and ``+0.01 to +0.07``; more digits where an end would be printed as 0; `turned`: of other sign."""
    three = [found.value, found.low, found.high]
    if turned:
        three = [None if v is None else -v for v in (found.value, found.high, found.low)]
    while digits < 5 and any(v is not None and 1e-6 < abs(v) < 0.5 * 10**-digits for v in three):
        digits += 1
    told = [("+" if v is not None and round(v, digits) > 0 else "") + number(v, digits) for v in three]
    return told[0], "" if found.low is None else f"{told[1]} to {told[2]}"


def percent(value: float | None) -> str:
    """A share in whole percent; one decimal below 10 % and above 90 %."""
    if value is None or not np.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f} %" if value not in (0, 1) and not 0.1 <= value <= 0.9 else f"{100 * value:.0f} %"


def p_value(p: float | None, least: float = 0.001) -> str:
    """``p = 0.03``, or that p is not above the least that is told apart."""
    if p is None:
        return "no p"
    if p <= least * 1.001:  # what no number of resamples, or no reader, can tell from less
        return f"p \u2264 {least:.1g}"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 patient``, ``12 patients``."""
    return f"{number(count, 0)} {noun(count, one, many)}"


def verdict(found: Difference | None) -> Verdict:
    """Verdict on a difference to a baseline."""
    if found is None or found.low is None or found.high is None or FIGURES[found.figure].traded:
        return "not compared"
    low, high = found.low, found.high
    if FIGURES[found.figure].better == "lower":
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def against_chance(found: StudyFigures) -> Verdict:
    """Verdict on the headline figure against guessing, where guessing has a fixed figure."""
    own, chance = found.model.figures[found.headline], FIGURES[found.headline].chance
    if chance is None or own.low is None or own.high is None:
        return "not compared"
    return "better" if own.low > chance else "worse" if own.high < chance else "unclear"


def what_was_predicted(target: Target) -> str:
    """Name and possible values of a target."""
    names = target.classes
    match target.kind:
        case "binary":
            return f"{target.name} ({names[1]} or {names[0]})"
        case "multiclass" | "multilabel" if len(names) > _NAMED:
            return f"{target.name} ({len(names)} {'classes' if target.kind == 'multiclass' else 'labels'})"
        case "multiclass":
            return f"{target.name} (one of {', '.join(names)})"
        case "multilabel":
            return f"{target.name} (each of {', '.join(names)})"
        case "ordinal":
            return f"{target.name} (from {names[0]} to {names[-1]})"
        case "regression":
            return f"{target.name} (a number)"
    return f"{target.name} (time to an event)"


def headline(found: StudyFigures) -> list[str]:
    """Target, quality of prediction, and comparison to the baselines; a sentence each."""
    said = [_how_many(found)]
    own, meaning = found.model.figures[found.headline], FIGURES[found.headline]
    if own.value is None:
        return [*said, f"{meaning.label} is not defined for these cases; see the notes."]
    interval = "no interval" if own.low is None else f"95 % interval {number(own.low)} to {number(own.high)}"
    over = {"multiclass": ", mean over the classes,", "multilabel": ", mean over the labels,"}
    said.append(
        f"{meaning.label}{over.get(found.target.kind, '')} is {number(own.value)} ({interval}){_in_words(found)}."
    )
    if against_chance(found) == "worse":
        said.append("That is worse than guessing.")
    elif against_chance(found) == "unclear":
        said.append(f"That is not shown to be better than guessing: the interval includes {meaning.chance:g}.")
    return [*said, *(_against(found, arm.arm) for arm in found.arms[1:])]


def _how_many(found: StudyFigures) -> str:
    who = counted(found.patients, "patient")
    if found.cases != found.patients:
        who = f"{counted(found.cases, 'case')} of {who}"
    if found.slides is not None:
        who += f" ({counted(found.slides, 'slide')})"
    if found.events is not None:
        who += f", {number(found.events, 0)} of whom had the event"
    seen = ", each time by a model that had never seen the patient."
    if found.patients_in_several_folds:
        seen = ". Patients lie in several folds: models had seen some of them."
    return f"{what_was_predicted(found.target)} was predicted for {who}{seen}"


def _in_words(found: StudyFigures) -> str:
    value = found.model.figures[found.headline].value or 0
    of_100 = number(100 * value, 0)
    match found.headline:
        case "roc_auc":
            has, lacks = {
                "binary": (f"is {found.target.classes[-1]}", "is not"),
                "multilabel": ("has the label", "has not"),
            }.get(found.target.kind, ("is in the class", "is not"))
            return (
                f": of two cases, one that {has} and one that {lacks}, the first got the higher probability {of_100} "
                "times of 100; guessing gives 50"
            )
        case "c_index":
            return (
                f": of two patients, the one with the sooner event got the higher risk {of_100} times of 100; "
                "guessing gives 50"
            )
        case "r2":
            error = found.model.figures["mean_error"].value
            return (
                f": the predictions explain {of_100} % of the variance, and are off by "
                f"{number(error, digits_of('mean_error', error))} on average"
                if value > 0
                else ": the predictions are worse than the mean of all cases"
            )
    return "; 0 is agreement by chance, 1 is perfect"


def _against(found: StudyFigures, baseline: str) -> str:
    one = found.difference(baseline, found.headline)
    theirs = next(arm for arm in found.arms if arm.arm == baseline).figures.get(found.headline)
    shown = verdict(one)
    if one is None or theirs is None or shown == "not compared":
        return f"It cannot be compared with the baseline “{baseline}”, for which the figure is not defined."
    apart, span = difference(one)
    told = f"{number(theirs.value)}; difference {apart}, 95 % interval {span}"
    match shown:
        case "better":
            return f"It is better than the baseline “{baseline}” ({told})."
        case "worse":
            return f"It is worse than the baseline “{baseline}” ({told}): the simpler model is to be preferred."
    return f"It is not shown to be better than the baseline “{baseline}” ({told}): the interval includes 0."


def protocol(study: Study, found: StudyFigures, chosen: Sequence[str]) -> list[str]:
    """Protocol of the evaluation; a paragraph each."""
    sizes = np.concatenate([np.unique(row, return_counts=True)[1] for row in study.fold])
    seeds, many = len(found.seeds), f"{sizes.min()}" if np.ptp(sizes) == 0 else f"{sizes.min()} to {sizes.max()}"
    whole = (
        "All cases of a patient lie in one fold (checked)."
        if not found.patients_in_several_folds
        else f"{counted(found.patients_in_several_folds, 'patient lies', 'patients lie')} in several folds."
    )
    times = f" This was done {seeds} times, with seeds {', '.join(map(str, found.seeds))}." if seeds > 1 else ""
    return [
        f"Cross-validation: the cases were dealt to {found.folds} folds of {many} cases. Each "
        f"fold was held out once, a model was developed on the others, and it predicted the held-out cases. {whole}"
        f"{_of_sites(study)}{times} Every figure on this page is of such held-out predictions.",
        f"Nothing was chosen on the fold that is reported. {_listed(_chosen(study, chosen))} chosen on inner folds, "
        "dealt by patient from the remaining cases."
        if _chosen(study, chosen)
        else "Nothing was chosen on the fold that is reported.",
        f"A figure is the mean over the {'seeds' if seeds > 1 else 'cases of the one seed'}. Its 95 % interval comes "
        f"from {number(found.resamples, 0)} bootstrap resamples of the patients (not of slides: slides of one patient "
        "are alike); a difference of two models is measured on the same resamples. Intervals say what other patients "
        "like these would change, not what another laboratory, scanner or training cohort would"
        + ("; the figures over seeds show what training again changes." if seeds > 1 else "."),
    ]  # fmt: skip


def _of_sites(study: Study) -> str:
    """Sentence on whether a model had seen other patients of the site that it was tried on."""
    sites = sorted({site for site in study.sites if site})
    if len(sites) < 2:
        return ""
    index = np.array([sites.index(site) if site else -1 for site in study.sites])
    whole = all(len(np.unique(row[index == k])) == 1 for row in study.fold for k in range(len(sites)))
    if whole:
        return " All cases of a site lie in one fold, too: sites are as unseen as patients."
    return " Sites lie in several folds: models had seen other patients of the same sites."


def _chosen(study: Study, chosen: Sequence[str]) -> list[str]:
    thresholds = ["the thresholds of decisions"] if study.target.kind in ("binary", "multilabel") else []
    promised = study.arms[0].sets is not None or study.arms[0].intervals is not None
    return [*chosen, *thresholds, *([f"the size of the {_promising(study)}"] if promised else [])]


def _promising(study: Study) -> str:
    return "intervals" if study.target.kind == "regression" else "sets"


def _listed(things: Sequence[str]) -> str:
    text = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return f"{text[:1].upper()}{text[1:]} {'was' if len(things) == 1 else 'were'}"


def notes(study: Study, found: StudyFigures) -> list[str]:
    """Notes that a reader must know before believing the figures; the gravest first."""
    said = []
    if found.patients_in_several_folds:
        said.append(
            f"{counted(found.patients_in_several_folds, 'patient has', 'patients have')} cases in several folds: the "
            "figures are not of unseen patients and are likely too good."
        )
    if found.patients < FEW_PATIENTS:
        narrow = ", and from so few it is rather too narrow" if found.patients < _NARROW else ""
        said.append(f"Only {counted(found.patients, 'patient')}: every interval is wide{narrow}.")
    if found.events is not None and found.events < FEW_EVENTS:
        said.append(f"Only {counted(found.events, 'event')}: the order of risks is measured on few pairs of patients.")
    if found.model.figures[found.headline].value is None:
        said.append(_why_undefined(found))
    rare = [f"{c.name} ({c.cases})" for c in found.model.classes if c.cases < FEW_OF_CLASS]
    if rare:
        said.append(f"Fewer than {FEW_OF_CLASS} cases: {', '.join(rare)}. Figures of these say little.")
    said += _of_intervals(found)
    said += _of_seeds(found)
    sites = {site for site in study.sites if site}
    if len(sites) < 2:
        where = "All cases are of one site" if sites else "No sites are known"
        said.append(f"{where}: how well it works elsewhere was not seen.")
    coverage = found.model.figures.get("coverage")
    if coverage and coverage.high is not None and study.coverage is not None and coverage.high < study.coverage:
        said.append(
            f"The {_promising(study)} hold the truth in {percent(coverage.value)} of cases, less than the promised "
            f"{percent(study.coverage)}."
        )
    if found.unlike and found.unlike.low is not None and found.unlike.low > 2 * UNLIKE:
        said.append(
            f"{percent(found.unlike.value)} of cases were flagged as unlike the training slides, where "
            f"{100 * UNLIKE:g} % were to be expected: folds or sites differ."
        )
    return [*said, *study.notes]


def _why_undefined(found: StudyFigures) -> str:
    label = FIGURES[found.headline].label
    match found.headline:
        case "roc_auc":
            return f"{label} is not defined: no fold holds cases with a class and cases without it, for every class."
        case "c_index":
            return f"{label} is not defined: no fold holds two patients of whom it is known who had the event first."
    return f"{label} is not defined: truth or predictions do not vary."


def _of_intervals(found: StudyFigures) -> list[str]:
    said = []
    figures = found.model.figures
    lost = {name: f.undefined for name, f in figures.items() if f.undefined}
    if lost:
        most = max(lost, key=lambda name: lost[name])
        said.append(
            f"In up to {number(lost[most], 0)} of {number(found.resamples, 0)} resamples a figure was not defined "
            f"({', '.join(FIGURES[name].label for name in lost)}), as where a class was not drawn. These resamples "
            "were left out."
        )
    flat = [
        FIGURES[name].label
        for name, f in figures.items()
        if f.low is not None and f.low == f.high and name not in ("set_empty", "set_single")
    ]
    if flat:
        said.append(
            f"The same in every resample: {', '.join(flat)}. An interval without width means that no case here spoke "
            "against it, not that it is certain."
        )
    return said


def _of_seeds(found: StudyFigures) -> list[str]:
    if len(found.seeds) == 1:
        return ["One seed: how much chance in the training changes the figures was not seen."]
    values = [v for v in found.model.figures[found.headline].by_seed if v is not None]
    if not values or number(min(values)) == number(max(values)):
        return []
    label = FIGURES[found.headline].label
    return [f"Over the {len(values)} seeds, {label} was from {number(min(values))} to {number(max(values))}."]


def survival_words(found: StudyFigures) -> str:
    """Meaning of the test of groups by risk, and its limits."""
    test = "The log-rank test could not be made."
    if found.logrank:
        test = f"Log-rank test: chi-squared {number(found.logrank.statistic, 1)}, {p_value(found.logrank.p)}."
    return (
        f"{test} Patients are split at the median of the predicted risk within the fold that they were held out in, "
        "averaged over seeds, because risks of different folds have no common zero. The split was not fixed "
        "beforehand, and predictions of one fold are not independent: p is approximate."
    )
