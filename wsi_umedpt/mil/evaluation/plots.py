"""Pictures of a study, each an SVG that stands in a page: curves, tables as colours, and differences.

Read this file from its end: `draw_study` says which pictures a kind of target has.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from wsi_umedpt.mil.data.targets import SURVIVAL_KINDS
from wsi_umedpt.mil.evaluation.curve_plots import (
    draw_errors,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
    draw_survival,
    draw_values,
)
from wsi_umedpt.mil.evaluation.heldout import Study
from wsi_umedpt.mil.evaluation.metric_table import FIGURES
from wsi_umedpt.mil.evaluation.report_text import difference, number, percent, with_interval
from wsi_umedpt.mil.evaluation.summary import Figure, StudyFigures
from wsi_umedpt.mil.evaluation.svg import BLUE, COLOURS, GREEN, INK, LINES, ORANGE, Drawn, axes_of, clean, look, to_svg


@dataclass(frozen=True)
class Plot:
    """One picture."""

    name: str
    """Unique in its study."""
    title: str
    caption: str
    """Caption that says what to look for; plain text."""
    svg: str
    """SVG, to be put into a page as it is."""


def _draw_arms(study: Study, found: StudyFigures) -> Drawn | None:
    del study
    meaning = FIGURES[found.headline]
    shown = [(arm.arm, arm.figures[found.headline]) for arm in found.arms if found.headline in arm.figures]
    shown = [(arm, figure) for arm, figure in shown if figure.value is not None]
    if not shown:
        return None
    canvas, axes = axes_of(2.9, 0.5 + 0.42 * len(shown))
    for y, (arm, figure) in enumerate(shown):
        colour = BLUE if y == 0 else "#555555"
        if figure.low is not None and figure.high is not None:
            axes.plot([figure.low, figure.high], [y, y], color=colour, linewidth=2.2)
        axes.plot(np.array([figure.value], float), [y], "os"[y > 0], color=colour, ms=6)
        words = f"{clean(arm)}: {number(figure.value)}"
        axes.text(0, y - 0.3, words, transform=axes.get_yaxis_transform(), va="center", color=colour)
    if meaning.chance is not None:
        axes.axvline(meaning.chance, color="#999999", linewidth=0.8, linestyle=":")
    axes.set(ylim=(len(shown) - 0.7, -0.6), xlabel=meaning.label, yticks=[])
    axes.set_xlim(right=1.0)
    axes.spines["left"].set_visible(False)
    told = "; ".join(f"{arm} {with_interval(figure)}" for arm, figure in shown)
    words = f"{meaning.label} with its 95 % interval" + (
        "; the dotted line is guessing." if meaning.chance is not None else "."
    )
    return Drawn(canvas, meaning.label, words, f"{meaning.label} of the model and the baselines: {told}.")


def _draw_confusion(study: Study, found: StudyFigures) -> Drawn | None:
    if found.model.confusion is None:
        return None
    counts = np.array(found.model.confusion)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    classes = len(counts)
    side = float(np.clip(0.62 * classes, 2.6, 9))
    canvas, axes = axes_of(side + 1, side + 0.6)
    axes.pcolormesh(np.arange(classes + 1), np.arange(classes + 1), share, cmap="Blues", vmin=0, vmax=1)
    digits = 0 if np.allclose(counts, counts.round()) else 1
    if classes <= 16:
        for i, j in np.ndindex(counts.shape):
            words = number(float(counts[i, j]), digits) + (f"\n{100 * share[i, j]:.0f} %" if classes <= 12 else "")
            colour = "white" if share[i, j] > 0.55 else INK
            axes.text(
                j + 0.5, i + 0.5, words, ha="center", va="center", color=colour, fontsize=9 if classes <= 8 else 7
            )
    names = [clean(name, 18) for name in study.target.classes]
    turn = classes * max(map(len, names)) > 30
    axes.set_xticks(np.arange(classes) + 0.5, names, rotation=45 if turn else 0, ha="right" if turn else "center")
    axes.set_yticks(np.arange(classes) + 0.5, names)
    axes.set(xlabel="decided", ylabel="truth", aspect="equal")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    right = [f"{name}: {percent(float(share[k, k]))} right" for k, name in enumerate(names) if total[k] > 0]
    mean = "; mean over the seeds" if len(study.seeds) > 1 else ""
    return Drawn(
        canvas,
        "Confusion",
        f"Cases of each true class (row) by decided class (column){mean}; percent and colour are shares of the row.",
        f"Confusion matrix. {'; '.join(right)}.",
    )


def _draw_classes(study: Study, found: StudyFigures) -> Drawn:
    names = ("sensitivity", "precision", "roc_auc")
    classes = found.model.classes
    canvas = Canvas(figsize=(7.4, 0.9 + 0.34 * len(classes)))
    panels = canvas.subplots(1, len(names), sharey=True, gridspec_kw={"wspace": 0.14})
    place = np.arange(len(classes))
    told = []
    for axes, name, colour in zip(panels, names, (BLUE, ORANGE, GREEN), strict=True):
        _dots(axes, place, [c.figures[name] for c in classes], colour)
        axes.set(xlim=(-0.02, 1.02), xlabel=FIGURES[name].label)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(visible=False, axis="y")
        told += [f"{clean(c.name)} {FIGURES[name].label} {with_interval(c.figures[name])}" for c in classes]
    panels[0].set_yticks(place, [f"{clean(c.name)} (n = {c.cases})" for c in classes])
    panels[0].set_ylim(len(classes) - 0.4, -0.6)
    return Drawn(
        canvas,
        "Each label" if study.target.kind == "multilabel" else "Each class",
        "Bars end at the figure, lines are 95 % intervals; nothing is drawn where a figure is not defined.",
        f"Figures of each class with 95 % intervals: {'; '.join(told)}.",
    )


def _dots(axes: Axes, place: Iterable[float], found: Sequence[Figure], colour: str) -> None:
    for y, figure in zip(place, found, strict=True):
        if figure.value is not None:
            axes.barh(y, figure.value, height=0.62, color=colour, alpha=0.35, linewidth=0)
        if figure.low is not None and figure.high is not None:
            axes.plot([figure.low, figure.high], [y, y], color=colour, linewidth=2)


def _beside_others(name: str) -> bool:
    return not FIGURES[name].unit and not FIGURES[name].traded and name != "roc_auc_pooled"


def _draw_differences(study: Study, found: StudyFigures) -> Drawn | None:
    rows = []
    for name in found.model.figures:
        for held in study.arms[1:]:
            one = found.difference(held.arm, name)
            if one and one.low is not None and _beside_others(name):
                rows.append((name, held.arm, one))
    if not rows:
        return None
    names, arms = list(dict.fromkeys(name for name, _, _ in rows)), [held.arm for held in study.arms[1:]]
    canvas, axes = axes_of(6.2, 0.9 + 0.24 * (len(rows) + len(names)))
    axes.axvline(0, color=INK, linewidth=1)
    told, y = [], 0.0
    for name in names:
        turn = -1 if FIGURES[name].better == "lower" else 1
        label = FIGURES[name].label + (" (sign turned)" if turn < 0 else "")
        axes.text(-0.02, y, label, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8.5)
        for k, arm in enumerate(arms, 1):
            one = next((d for n, a, d in rows if (n, a) == (name, arm)), None)
            if one is None or one.value is None or one.low is None or one.high is None:
                continue
            ends = sorted((turn * one.low, turn * one.high))
            axes.plot(ends, [y, y], color=COLOURS[k % LINES], linewidth=1.8)
            axes.plot(turn * one.value, y, "osD^v"[(k - 1) % 5], color=COLOURS[k % LINES], ms=5)
            words = "{} ({})".format(*difference(one, turned=turn < 0))
            axes.text(1.02, y, words, transform=axes.get_yaxis_transform(), ha="left", va="center", fontsize=8)
            told.append(f"{label} against {arm}: {words}")
            y += 1
        y += 0.5
    keys = [
        Line2D([], [], color=COLOURS[k % LINES], marker="osD^v"[(k - 1) % 5], ms=5) for k in range(1, len(study.arms))
    ]
    axes.legend(
        keys, [f"against {clean(arm)}" for arm in arms], loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0
    )
    axes.set(ylim=(y - 0.7, -0.8), xlabel="difference to the baseline; right of 0 the model is better")
    axes.set_yticks([])
    return Drawn(
        canvas,
        "Model against baselines",
        "Differences on the same patients with 95 % intervals; one that crosses 0 does not show that there is any. "
        "Where lower is better the sign is turned.",
        f"Differences of the model to the baselines. {'; '.join(told)}.",
    )


def draw_study(study: Study, found: StudyFigures, prefix: str = "plot") -> list[Plot]:
    """All pictures of a study.

    Parameters
    ----------
    study, found
        See `wsi_umedpt.mil.evaluation.summary.measure`.
    prefix
        Begins every id; another for every study of a page.
    """
    kind = study.target.kind
    wanted: dict[str, Callable[[Study, StudyFigures], Drawn | None]] = {"arms": _draw_arms}
    if kind == "regression":
        wanted |= {"values": draw_values, "errors": draw_errors}
    elif kind in SURVIVAL_KINDS:
        wanted["survival"] = draw_survival
    else:
        wanted |= {"roc": draw_roc, "precision_recall": draw_precision_recall, "confusion": _draw_confusion}
        wanted |= {"reliability": draw_reliability, "classes": _draw_classes}
    wanted["differences"] = _draw_differences
    out = []
    with look():
        for name, draw in wanted.items():
            drawn = draw(study, found)
            if drawn is not None:
                svg = to_svg(drawn.canvas, drawn.alt, f"{prefix}-{name}")
                out.append(Plot(name, drawn.title, drawn.caption, svg))
    return out
