"""Pictures in which every case counts: ROC and precision-recall curves, reliability, values, survival.

Each takes a study and what was measured of it; those of classes are None where there is nothing to draw.
"""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from wsi_umedpt.mil.evaluation.curves import GRID, Band, positives, precision_recall, reliability, risk_groups, roc
from wsi_umedpt.mil.evaluation.heldout import Floats, Study
from wsi_umedpt.mil.evaluation.metrics import BINS
from wsi_umedpt.mil.evaluation.report_text import number, p_value, percent, survival_words, with_interval
from wsi_umedpt.mil.evaluation.summary import StudyFigures
from wsi_umedpt.mil.evaluation.survival import kaplan_meier
from wsi_umedpt.mil.evaluation.svg import BLUE, COLOURS, INK, LINES, ORANGE, STYLES, Drawn, axes_of, clean

_POINTS = 2000
"""Cases beyond which points are drawn as one small picture."""

_Curve = Callable[..., Band | None]


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")


def _curves(axes: Axes, study: Study, found: StudyFigures, curve: _Curve, figure: str) -> tuple[list[str], bool]:
    """Draw the model's curve with its band: beside the baselines' (binary), or the classes' own (others)."""
    model, handles, told = study.arms[0], list[Line2D](), list[str]()

    def line(band: Band, label: str, value: str, colour: str, style: object, width: float = 1.6) -> None:
        # A ROC curve begins at the corner; a precision has no value before the first case is called.
        x, y = (np.append(0, GRID), np.append(0, band.middle)) if curve is roc else (GRID, band.middle)
        (one,) = axes.plot(x, y, color=colour, linestyle=style, linewidth=width)
        handles.append(one)
        told.append(f"{clean(label)}: {value}")

    if study.target.kind == "binary":
        labels, main = [1], model.arm
    else:
        labels = [k for k in range(len(study.target.classes)) if curve(study, model, [k], resamples=1) is not None]
        main = "mean"
    band = curve(study, model, labels) if labels else None
    if band is not None:
        axes.fill_between(GRID, band.low, band.high, color=BLUE if main != "mean" else INK, alpha=0.15, linewidth=0)
        colour = BLUE if main != "mean" else INK
        line(band, main, with_interval(found.model.figures[figure]), colour, "-", 2.2)
    if study.target.kind == "binary":
        for k, (arm, figures) in enumerate(zip(study.arms[1:], found.arms[1:], strict=True), 1):
            other = curve(study, arm, [1], resamples=1)
            if other is not None:
                line(other, arm.arm, number(figures.figures[figure].value), COLOURS[k % LINES], STYLES[k % LINES], 1.2)
    elif len(labels) <= LINES:
        for k in labels:
            own = curve(study, model, [k], resamples=1)
            if own is not None:
                value = number(found.model.classes[k].figures[figure].value)
                line(own, study.target.classes[k], value, COLOURS[k % LINES], STYLES[k % LINES], 1.2)
    axes.legend(handles, told, loc="upper left", bbox_to_anchor=(0, -0.15), handlelength=2.8, borderaxespad=0)
    return told, band is not None


def draw_roc(study: Study, found: StudyFigures) -> Drawn | None:
    """ROC curves: of two classes every arm's, of more every class's."""
    canvas, axes = axes_of()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    _unit_square(axes, "1 \u2212 specificity (false alarms)", "sensitivity (found)")
    told, drawn = _curves(axes, study, found, roc, "roc_auc")
    if not drawn:
        return None
    return Drawn(
        canvas,
        "ROC curve",
        "Up and to the left is better; the dotted line is guessing. Mean over folds and seeds; the band holds 95 % of "
        "the curves of resampled patients. The numbers are areas under the curves (ROC AUC within folds).",
        f"ROC curves. Area under the curve: {'; '.join(told)}.",
    )


def draw_precision_recall(study: Study, found: StudyFigures) -> Drawn | None:
    """Precision-recall curves, as `draw_roc`, with the share of each class."""
    canvas, axes = axes_of()
    _unit_square(axes, "recall (found)", "precision (right among called)")
    shown = [1] if study.target.kind == "binary" else range(len(study.target.classes))
    for k in shown if len(shown) <= LINES else ():
        has, known = positives(study, k)
        colour = "#999999" if len(shown) == 1 else COLOURS[k % LINES]
        axes.axhline(has.sum() / max(1, known.sum()), color=colour, linewidth=0.8, linestyle=":")
    told, drawn = _curves(axes, study, found, precision_recall, "average_precision")
    if not drawn:
        return None
    return Drawn(
        canvas,
        "Precision and recall",
        "Up and to the right is better; a dotted line is the share of the class, which guessing reaches. The band "
        "holds 95 % of the curves of resampled patients. The numbers are average precision.",
        f"Precision-recall curves of all folds together. Average precision: {'; '.join(told)}.",
    )


def draw_reliability(study: Study, found: StudyFigures) -> Drawn:
    """Predicted probabilities and what came true, with the cases behind each point."""
    shown = reliability(study)
    canvas = Canvas(figsize=(4.4, 4.6))
    axes, counts = canvas.subplots(2, 1, sharex=True, height_ratios=(3.4, 1), gridspec_kw={"hspace": 0.08})
    there = shown.cases > 0
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    ends = np.abs(np.stack([shown.low, shown.high])[:, there] - shown.share[there])
    axes.errorbar(shown.chance[there], shown.share[there], ends, color=BLUE, marker="o", linewidth=1.2, capsize=2)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.03, 1.03), ylabel="share that came true")
    counts.bar((np.arange(BINS) + 0.5) / BINS, shown.cases, width=0.9 / BINS, color="#BBBBBB")
    for k in np.flatnonzero(there):
        where = (k + 0.5) / BINS, shown.cases[k]
        counts.annotate(
            number(max(1.0, shown.cases[k]), 0), where, (0, 2), textcoords="offset points", ha="center", fontsize=7
        )
    counts.set(ylim=(0, 1.3 * shown.cases.max(initial=1)), ylabel="cases", xlabel=_chance_of(study))
    counts.grid(visible=False)
    error = number(found.model.figures["calibration_error"].value)
    rows = [
        f"{percent(c)} predicted, {percent(s)} true"
        for c, s in zip(shown.chance[there], shown.share[there], strict=True)
    ]
    return Drawn(
        canvas,
        "Are its probabilities right?",
        f"On the dotted line, 70 % means right 7 times of 10; below it the model is too sure. Calibration error "
        f"{error}. Bars are 95 % intervals of each point (Wilson, as if no two cases were of one "
        "patient), below are the cases behind it.",
        f"Reliability diagram. {'; '.join(rows)}.",
    )


def _chance_of(study: Study) -> str:
    if study.target.kind == "binary":
        return f"predicted probability of {clean(study.target.classes[1])}"
    return "predicted probability of " + ("a label" if study.target.kind == "multilabel" else "the most probable class")


def draw_values(study: Study, found: StudyFigures) -> Drawn:
    """Predicted over true values."""
    known = np.isfinite(study.truth[:, 0])
    truth, predicted = study.truth[known, 0], study.arms[0].predicted[:, known, 0].mean(axis=0)
    canvas, axes = axes_of(4.6, 4.4)
    low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())
    margin = 0.04 * (high - low or 1)
    ends = low - margin, high + margin
    axes.plot(ends, ends, color="#999999", linewidth=0.8, linestyle=":")
    _points(axes, truth, predicted)
    name = clean(study.target.name)
    axes.set(xlim=ends, ylim=ends, xlabel=f"true {name}", ylabel=f"predicted {name}", aspect="equal")
    figures = found.model.figures
    return Drawn(
        canvas,
        "Predicted and true",
        "A point a case, its prediction the mean over the seeds; on the dotted line both agree.",
        f"Predicted over true values. R² {with_interval(figures['r2'])}, Spearman's correlation "
        f"{with_interval(figures['spearman'])}.",
    )


def draw_errors(study: Study, found: StudyFigures) -> Drawn:
    """Errors over true values, with their mean and the band that holds 95 % of them (Bland and Altman 1986)."""
    del found
    known = np.isfinite(study.truth[:, 0])
    truth = study.truth[known, 0]
    error = study.arms[0].predicted[:, known, 0].mean(axis=0) - truth
    mean, spread = float(error.mean()), float(1.96 * error.std(ddof=1)) if len(error) > 1 else 0.0
    canvas, axes = axes_of(4.6, 4.4)
    axes.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
    axes.axhspan(mean - spread, mean + spread, color=BLUE, alpha=0.08, linewidth=0)
    axes.axhline(mean, color=BLUE, linewidth=1.2)
    _points(axes, truth, error)
    axes.set(xlabel=f"true {clean(study.target.name)}", ylabel="predicted less true")
    digits = int(np.clip(2 - np.floor(np.log10(spread or 1)), 0, 4))
    ends = f"{number(mean - spread, digits)} to {number(mean + spread, digits)}"
    return Drawn(
        canvas,
        "Errors",
        f"The line is the mean error, {number(mean, digits)}; the band holds about 95 % of errors, {ends}. A slope "
        "down means that small values are predicted too large and large ones too small.",
        f"Errors over true values. Mean {number(mean, digits)}, 95 % of errors from {ends}.",
    )


def _points(axes: Axes, x: Floats, y: Floats) -> None:
    alpha = float(np.clip(60 / len(x), 0.15, 0.6))
    axes.scatter(x, y, s=14, color=BLUE, alpha=alpha, linewidths=0, rasterized=len(x) > _POINTS)


def draw_survival(study: Study, found: StudyFigures) -> Drawn:
    """Survival of patients of higher and lower predicted risk, with how many were still followed."""
    groups = risk_groups(study)
    canvas, axes = axes_of(6.0, 3.6)
    limit = float(groups.time.max())
    ticks = [t for t in axes.xaxis.get_major_locator().tick_values(0, limit) if 0 <= t <= limit]
    told = []
    for k, (mine, label) in enumerate(((~groups.high, "lower risk"), (groups.high, "higher risk"))):
        if not mine.any():
            continue
        curve = kaplan_meier(groups.time[mine], groups.event[mine])
        time, alive = np.append(0, curve.time), np.append(1, curve.survival)
        colour, style = (BLUE, "-") if k == 0 else (ORANGE, "--")
        axes.step(time, alive, where="post", color=colour, linestyle=style, label=f"{label} (n = {mine.sum()})")
        # Where the interval is not defined there is none to be drawn.
        axes.fill_between(curve.time, curve.low, curve.high, step="post", color=colour, alpha=0.15, linewidth=0)
        lost = groups.time[mine & (groups.event == 0)]
        axes.plot(
            lost, np.append(1, curve.survival)[np.searchsorted(curve.time, lost, "right")], "|", color=colour, ms=5
        )
        for tick, n in zip(ticks, curve.still_at_risk(ticks), strict=True):
            at = axes.get_xaxis_transform()
            axes.text(tick, -0.30 - 0.08 * k, str(n), transform=at, ha="center", fontsize=8)
        axes.text(-0.14, -0.30 - 0.08 * k, label, transform=axes.transAxes, ha="right", color=colour, fontsize=8)
        median = "not reached" if curve.median is None else number(curve.median, 0)
        told.append(f"{label}, {mine.sum()} patients, median {median}")
    axes.text(-0.14, -0.22, "at risk", transform=axes.transAxes, ha="right", fontsize=8)
    axes.set(
        ylim=(0, 1.03),
        xlim=(0, limit * 1.02),
        xlabel=f"time ({clean(study.target.columns[0])})",
        ylabel="without the event",
    )
    axes.set_xticks(ticks)
    axes.legend(loc="best")
    test = p_value(found.logrank.p) if found.logrank else "no log-rank test"
    return Drawn(
        canvas,
        "Survival by predicted risk",
        "Kaplan-Meier curves with 95 % intervals (log-log); a tick is a patient last seen then. "
        f"{survival_words(found)}",
        f"Kaplan-Meier curves: {'; '.join(told)}. Log-rank {test}.",
    )
