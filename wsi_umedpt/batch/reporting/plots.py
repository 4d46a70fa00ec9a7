"""Small pictures of numbers, as SVG for a page: columns over time, and how a number is spread over slides.

Text in them is escaped; they need no font, script or style of their own.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape

import numpy as np

WIDTH, HEIGHT = 520, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 24
_BLUE, _SOFT, _LINE = "#0072b2", "#5a6472", "#d9dee5"


def columns_over_time(
    times: Sequence[float], weights: Sequence[float], unit: str, alt: str, *, width: int = 2 * WIDTH
) -> str:
    """Plot amounts that ended per second over time.

    Parameters
    ----------
    times : seconds since 1970
    weights
        Amount of each time.
    unit
        Unit of the amounts, per second.
    """
    begin, end = min(times), max(times)
    span = max(end - begin, 1.0)
    bins = 80
    counts, _ = np.histogram(times, bins=bins, range=(begin, begin + span), weights=weights)
    rates = counts / (span / bins)
    style = "%H:%M:%S" if span < 600 else "%d %b %H:%M" if span < 30 * 86_400 else "%d %b %Y"
    marks = [
        (n / 4, datetime.fromtimestamp(begin + n / 4 * span, UTC).strftime(style).lstrip("0")) for n in range(5)
    ]  # fmt: skip
    return _columns(rates.tolist(), marks, f" {unit}/s", alt, width)


def spread(values: Sequence[float], words: Callable[[float], str], alt: str, *, log: bool = False) -> str:
    """Plot the histogram of a value over slides; on a logarithmic axis if asked and possible."""
    found = np.asarray(values, np.float64)
    log = log and float(found.min()) > 0
    scaled = np.log10(found) if log else found
    low, high = float(scaled.min()), float(scaled.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(scaled, bins=32, range=(low, high))
    ends = [low + (high - low) * n / 4 for n in range(5)]
    marks = [(n / 4, words(10**end if log else end)) for n, end in enumerate(ends)]
    return _columns(counts.tolist(), marks, "", alt, WIDTH)


def _columns(heights: Sequence[float], marks: Sequence[tuple[float, str]], unit: str, alt: str, width: int) -> str:
    inner, top = width - _LEFT - _RIGHT, max(heights, default=0) or 1
    floor = HEIGHT - _BOTTOM
    step = inner / max(len(heights), 1)
    parts = [
        f'<svg viewBox="0 0 {width} {HEIGHT}" width="{width}" role="img" aria-label="{escape(alt)}" '
        f'font-size="11" font-family="system-ui, sans-serif">'
    ]
    for share in (0.5, 1.0):
        y = floor - share * (floor - _TOP)
        parts.append(f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LINE}"/>')
    for share in (0.0, 1.0):
        y = floor - share * (floor - _TOP)
        label = f"{share * top:,.3g}" if top < 1000 else f"{share * top:,.0f}"
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{_SOFT}">{label}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{floor}" y2="{floor}" stroke="{_SOFT}"/>')
    for n, height in enumerate(heights):
        if height:
            tall = max(height / top * (floor - _TOP), 1.0)
            parts.append(
                f'<rect x="{_LEFT + n * step + 0.5:.1f}" y="{floor - tall:.1f}" width="{max(step - 1, 0.8):.1f}" '
                f'height="{tall:.1f}" fill="{_BLUE}"><title>{height:,.3g}{escape(unit)}</title></rect>'
            )
    for place, text in marks:
        anchor = "start" if place == 0 else "end" if place == 1 else "middle"
        parts.append(
            f'<text x="{_LEFT + place * inner:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}" '
            f'fill="{_SOFT}">{escape(text)}</text>'
        )
    return "".join([*parts, "</svg>"])
