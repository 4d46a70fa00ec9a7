"""What a slide classifier says, as a person reads it: rich text with a bar for each class, and plain words. No Qt."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wsi_umedpt.mil.live import Judgement
    from wsi_umedpt.mil.slidemodel import Forecast, SlideModel

_BAR_PX = 80
_FULL, _EMPTY, _ALARM = "#4f9bd9", "#5a5f66", "#e0533d"
_WIDE_SPREAD = 0.15
"""Standard deviation of a probability over the networks from which they are said to disagree."""


def verdict(model: "SlideModel", found: "Judgement", whole: "Judgement", total: int) -> str:
    """Rich text of a judgement.

    Parameters
    ----------
    found
        What is shown.
    whole
        Of all tiles, to compare with.
    total
        Tiles of the slide.
    """
    part = found.tiles < total
    lines = []
    for number, forecast in enumerate(found.forecasts):
        lines.append(_target(model, number, forecast))
        if part:
            lines.append(f"<p>Of the whole slide: {escape(in_short(whole.forecasts[number]))}</p>")
    lines.append(_unlike(found.unlike))
    judged = f"{found.tiles:,} of {total:,} tiles judged"
    lines.append(f"<p>{judged if part else f'All {total:,} tiles judged'}, {_networks(model)}.")
    if part:
        lines.append(" What is promised of probabilities and sets is promised of whole slides, not of regions.")
    lines.append("</p>")
    if (unit := model.about.get("trained_on", {}).get("unit", "slide")) != "slide":
        lines.append(
            f"<p>The model was trained to judge a patient's slides together ({escape(unit)}); this is one slide.</p>"
        )
    return "".join(lines)


def in_short(forecast: "Forecast") -> str:
    """One line: the answer and how sure it is."""
    target, predicted = forecast.target, forecast.predicted
    if target.classes:
        chances = ", ".join(f"{name} {p:.2f}" for name, p in zip(target.classes, predicted, strict=True))
        return chances if target.kind == "multilabel" else f"{forecast.answer} ({chances})"
    values = zip(target.predicted, predicted.tolist(), strict=True)
    return ", ".join(f"{name} {value:.3g}" for name, value in values)


def _target(model: "SlideModel", number: int, forecast: "Forecast") -> str:
    target = forecast.target
    head = f"<h3>{escape(target.name)}{f': {escape(forecast.answer)}' if forecast.answer else ''}</h3>"
    chances = bool(target.classes) or target.kind == "discrete"
    rows = []
    for k, (name, value, spread) in enumerate(
        zip(target.predicted, forecast.predicted.tolist(), forecast.spread.tolist(), strict=True)
    ):
        words = target.classes[k] if target.classes else name
        bar = _bar(value) if chances else ""
        number_words = (
            f"{value:.2f}&nbsp;&#177;&nbsp;{spread:.2f}" if chances else f"{value:.4g}&nbsp;&#177;&nbsp;{spread:.2g}"
        )
        in_set = "" if forecast.conformal is None else "possible" if forecast.conformal[k] else "ruled&nbsp;out"
        rows.append(
            f"<tr><td>{escape(words)}&nbsp;&nbsp;</td><td>{bar}</td><td>&nbsp;{number_words}</td>"
            f"<td>&nbsp;&nbsp;{in_set}</td></tr>"
        )
    text = f"{head}<table cellspacing=2>{''.join(rows)}</table>"
    notes = []
    if forecast.conformal is not None:
        there = [c for c, s in zip(target.classes, forecast.conformal, strict=True) if s]
        notes.append(
            f"At {model.coverage:.0%} coverage, {_possible(there)}."
            if there
            else f"No class is likely enough at {model.coverage:.0%} coverage: unlike what was trained on."
        )
    if forecast.interval is not None:
        low, high = forecast.interval.tolist()
        notes.append(f"At {model.coverage:.0%} coverage, between {low:.4g} and {high:.4g}.")
    thresholds = model.calibrations[number].thresholds
    if target.kind == "binary" and thresholds and abs(thresholds[0] - 0.5) > 0.005:
        notes.append(f"{escape(target.classes[1])} is called from {thresholds[0]:.2f} on, as chosen in training.")
    if chances and float(np.max(forecast.spread)) > _WIDE_SPREAD:
        notes.append(f'<span style="color:{_ALARM}">The networks disagree.</span>')
    return text + (f"<p>{' '.join(notes)}</p>" if notes else "")


def _bar(share: float) -> str:
    width = round(max(0.0, min(1.0, share)) * _BAR_PX)
    parts = [(width, _FULL), (_BAR_PX - width, _EMPTY)]
    cells = "".join(f'<td width="{w}" bgcolor="{colour}"></td>' for w, colour in parts if w)
    return f'<table cellspacing=0 cellpadding=0><tr height="12">{cells}</tr></table>'


def _unlike(p: float) -> str:
    from wsi_umedpt.mil.slidemodel import UNLIKE  # torch, which whoever has a judgement has loaded

    if p < UNLIKE:
        return (
            f'<p style="color:{_ALARM}"><b>Unlike the training slides</b> (p = {p:.3f}): '
            "do not rely on what is said above.</p>"
        )
    return f"<p>Like the training slides (p = {p:.2f}).</p>"


def _networks(model: "SlideModel") -> str:
    count = len(model.networks)
    return f"{count} networks; &#177; is their spread" if count > 1 else "1 network: nothing is known of its spread"


def _possible(names: list[str]) -> str:
    if len(names) == 1:
        return f"{escape(names[0])} alone is possible"
    return f"{escape(_listed(names))} cannot be ruled out"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
