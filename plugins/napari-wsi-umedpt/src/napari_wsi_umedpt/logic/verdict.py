"""Verdict of a slide classifier, as a person reads it: what its word is worth, the answer, then details. No Qt.

Read top to bottom: `Verdict`, `verdict`; the plain words, the statistics.
"""

from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from wsi_umedpt.mil import Forecast, Judgement, SlideModel

_BAR_PX = 80
_FULL, _EMPTY, _ALARM = "#4f9bd9", "#5a5f66", "#e0533d"
_WIDE_SPREAD = 0.15
"""Standard deviation of a probability over the networks from which they are said to disagree."""


class Verdict(NamedTuple):
    """Rich text."""

    plain: str
    """Quality of the model in testing, and its answer, in words."""
    details: str
    """Probabilities, intervals, and what they rest on."""


def verdict(model: "SlideModel", found: "Judgement", whole: "Judgement", total: int) -> Verdict:
    """Say what was judged.

    Parameters
    ----------
    found
        Judgement to show.
    whole
        Judgement of all tiles, to compare with.
    total
        Tiles of the slide.
    """
    part = found.tiles < total
    plain = [_unlike(found.unlike)]
    for number, forecast in enumerate(found.forecasts):
        plain.append(_target(model, forecast))
        if part:
            plain.append(f"<p>Of the whole slide: {escape(answer(whole.forecasts[number]))}</p>")
    if part:
        plain.append(
            f"<p>{found.tiles:,} of {total:,} tiles judged. The model was tested on whole slides: of a region its "
            "answer is a guide.</p>"
        )
    if (unit := model.about.get("trained_on", {}).get("unit", "slide")) != "slide":
        plain.append(
            f"<p>The model learned to judge all slides of a patient together ({escape(unit)}); this is one slide.</p>"
        )
    details = [_statistics(model, number, forecast) for number, forecast in enumerate(found.forecasts)]
    judged = f"{found.tiles:,} of {total:,} tiles judged" if part else f"All {total:,} tiles judged"
    details.append(f"<p>Like the slides that the model learned from: p = {found.unlike:.2g}.</p>")
    details.append(f"<p>{judged}, {_networks(model)}.</p>")
    return Verdict("".join(plain), "".join(details))


# ---- plain words ----


def answer(forecast: "Forecast") -> str:
    """The answer in a sentence: what is possible, and what is unlikely."""
    target, classes = forecast.target, forecast.target.classes
    if target.kind == "multilabel":
        likely = [name for name, there in zip(classes, forecast.decided, strict=True) if there]
        return f"Likely: {_listed(likely)}." if likely else f"None of {_listed([*classes])} is likely."
    if not classes:
        names = [target.name] if target.kind == "regression" else target.predicted
        values = zip(names, forecast.predicted.tolist(), strict=True)
        said = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values)
        if forecast.interval is None:
            return f"{said}."
        low, high = forecast.interval.tolist()
        return f"{said}; between {low:.3g} and {high:.3g}."
    if forecast.conformal is None:
        return f"{_capital(forecast.answer)} is the likeliest."
    possible = [name for name, there in zip(classes, forecast.conformal, strict=True) if there]
    unlikely = [name for name in classes if name not in possible]
    if not possible:
        return "No class fits well: the slide is unlike those that the model learned from."
    if not unlikely:
        return f"Undecided: {_listed(possible)} are {'both' if len(possible) == 2 else 'all'} possible."
    rest = f"{_listed(unlikely)} {'is' if len(unlikely) == 1 else 'are'} unlikely."
    if len(possible) > 1:
        return f"Undecided between {_listed(possible)}; {rest}"
    called = "" if forecast.answer == possible[0] else f" By the threshold of training it is called {forecast.answer}."
    return f"{_capital(possible[0])} is likely; {rest}{called}"


def _target(model: "SlideModel", forecast: "Forecast") -> str:
    from wsi_umedpt.mil import in_testing, tested_of  # torch, which whoever has a judgement has loaded

    name = forecast.target.name
    tested = tested_of(model, name)
    shown = tested is not None and tested.against_guessing == "better"
    said = escape(in_testing(model, name))
    testing = f"<p>{said}</p>" if shown else f'<p style="color:{_ALARM}">{said}</p>'
    notes = ""
    if forecast.target.classes and float(np.max(forecast.spread)) > _WIDE_SPREAD:
        notes = f'<p style="color:{_ALARM}">The networks disagree.</p>'
    return f"<h3>{escape(name)}</h3>{testing}<p><b>{escape(answer(forecast))}</b></p>{notes}"


def _unlike(p: float) -> str:
    from wsi_umedpt.mil import UNLIKE

    if p >= UNLIKE:
        return ""
    return (
        f'<p style="color:{_ALARM}"><b>Unlike the slides that the model learned from</b>: do not rely on what is said '
        "below.</p>"
    )


# ---- statistics ----


def _statistics(model: "SlideModel", number: int, forecast: "Forecast") -> str:
    target = forecast.target
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
        in_set = "" if forecast.conformal is None else "possible" if forecast.conformal[k] else "unlikely"
        rows.append(
            f"<tr><td>{escape(words)}&nbsp;&nbsp;</td><td>{bar}</td><td>&nbsp;{number_words}</td>"
            f"<td>&nbsp;&nbsp;{in_set}</td></tr>"
        )
    head = f"<p><b>{escape(target.name)}</b>{f': called {escape(forecast.answer)}' if forecast.answer else ''}</p>"
    text = f"{head}<table cellspacing=2>{''.join(rows)}</table>"
    notes = []
    if forecast.conformal is not None:
        notes.append(f"The truth is among what is possible for {_in_100(model)}.")
    if forecast.interval is not None:
        low, high = forecast.interval.tolist()
        notes.append(f"Between {low:.4g} and {high:.4g}, true for {_in_100(model)}.")
    thresholds = model.calibrations[number].thresholds
    if target.kind == "binary" and thresholds and abs(thresholds[0] - 0.5) > 0.005:
        notes.append(f"{escape(target.classes[1])} is called from {thresholds[0]:.2f} on, as chosen in training.")
    return text + (f"<p>{' '.join(notes)}</p>" if notes else "")


def _bar(share: float) -> str:
    width = round(max(0.0, min(1.0, share)) * _BAR_PX)
    parts = [(width, _FULL), (_BAR_PX - width, _EMPTY)]
    cells = "".join(f'<td width="{w}" bgcolor="{colour}"></td>' for w, colour in parts if w)
    return f'<table cellspacing=0 cellpadding=0><tr height="12">{cells}</tr></table>'


def _networks(model: "SlideModel") -> str:
    count = len(model.networks)
    return f"{count} networks; &#177; is how much they differ" if count > 1 else "by 1 network"


def _in_100(model: "SlideModel") -> str:
    """Share of sets or intervals that hold the truth, as was tested."""
    return f"{100 * model.coverage:.3g} of 100 slides like those that it learned from"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]
