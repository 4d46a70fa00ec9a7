"""Pictures of maps: a dot a point, its colour a name or a value, with a legend beside it.

Read top to bottom: `PointColours` (colours and what they mean), `colours_of_names`, `colours_of_values`, `draw_points`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_umedpt.plotting.legend import LegendGroup, with_legend
from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.store.objects import PALETTE

GREY = (170, 170, 170)
"""Points without a name or a value."""
_MARGIN = 0.03
_STEPS = 5
_MOST_NAMED = 24


class PointColours(NamedTuple):
    """Colours of points."""

    rgb: Pixels
    """(point, 3)"""
    legend: LegendGroup


def colours_of_names(names: Sequence[str], title: str, order: Sequence[str] = ()) -> PointColours:
    """Give each name a colour, the most frequent first; an empty name, and those beyond the 24 most frequent, are grey.

    Parameters
    ----------
    names
        A name a point.
    title
        Meaning of the names.
    order
        Names that have the first colours, whether they are there or not.
    """
    counts = Counter(name for name in names if name)
    known = sorted(counts, key=lambda name: (-counts[name], name))
    # In the order of names, so that a colour does not change with the sample.
    shown = sorted(known[:_MOST_NAMED])
    table = {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(dict.fromkeys((*order, *shown)))}
    rgb = np.array([table.get(name, GREY) for name in names], np.uint8).reshape(-1, 3)
    entries = [(table[name], f"{name} ({counts[name]:,})") for name in shown]
    if others := len(names) - sum(counts[name] for name in shown):
        entries.append((GREY, f"{'others' if len(known) > len(shown) else 'none'} ({others:,})"))
    return PointColours(rgb, LegendGroup(title, entries))


def colours_of_values(values: npt.NDArray[np.floating], title: str) -> PointColours:
    """Give values colours, from the least (dark) to the greatest (bright); nan is grey.

    Parameters
    ----------
    values : (point,)
        A value a point.
    title
        Meaning of the values.
    """
    there = np.isfinite(values)
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    low, high = (float(values[there].min()), float(values[there].max())) if there.any() else (0.0, 1.0)
    levels = np.clip((np.where(there, values, low) - low) / max(high - low, 1e-12) * 255, 0, 255).astype(int)
    rgb = np.where(there[:, None], ramp[levels], np.uint8(GREY[0])).astype(np.uint8)
    steps = np.linspace(0, 1, _STEPS)
    entries = [(_triple(ramp[round(step * 255)]), f"{low + step * (high - low):.3g}") for step in steps]
    if lacking := int((~there).sum()):
        entries.append((GREY, f"none ({lacking:,})"))
    return PointColours(rgb, LegendGroup(title, entries))


def draw_points(
    places: npt.NDArray[np.floating], colours: PointColours, *, title: str = "", side: int = 900
) -> Image.Image:
    """Draw a map on white.

    Parameters
    ----------
    places : (point, 2)
        Places, x before y, y upwards.
    colours
        Colour of each point.
    title
        Line above it.
    side
        Width and height of the map, px.
    """
    canvas = np.full((side, side, 3), 255, np.uint8)
    low, high = places.min(axis=0), places.max(axis=0)
    scale = side * (1 - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    at = (places - (low + high) / 2) * (scale, -scale) + side / 2
    radius = 5 if len(places) <= 500 else 2 if len(places) <= 20_000 else 1
    # In no order, or what comes last would hide what came before; grey lies below.
    order = np.random.default_rng(0).permutation(len(places))
    grey = (colours.rgb[order] == GREY).all(axis=1)
    for n in (*order[grey].tolist(), *order[~grey].tolist()):
        x, y = at[n].round().astype(int).tolist()
        cv2.circle(canvas, (x, y), radius, colours.rgb[n].tolist(), -1, cv2.LINE_AA)
    return with_legend(canvas, [colours.legend], title=title)


def _triple(colour: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = colour.tolist()
    return red, green, blue
