"""Legend of a layer's classes, with counts and densities, shown or not; and the objects and tiles at a place.

No Qt. Read top to bottom: `Entry`, `Legend` (one layer's classes), `what_is_at` (a click, in words).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from wsi_umedpt.store import MEASURES

from napari_wsi_umedpt.layers.build import COLOURS, FILLED, Colour, Shown, class_colormap, objects_pyramid, shown_by
from napari_wsi_umedpt.layers.objects import Field

_DIGITS = {"area_um2": "um2", "perimeter_um": "um"}
_CLASSES = ("objects", "labels", "tiles", "tissue")
"""Kinds of layers that have a legend."""


@dataclass(frozen=True)
class Entry:
    """One class of a layer."""

    name: str
    colour: Colour
    count: int | None
    """Objects or tiles of the class; None where pixels alone are known."""
    per_mm2: float | None
    """Per mm2 of tissue; None where the tissue's area is not known."""
    shown: bool
    mm2: float = 0.0
    """Area, of what is no number of things; 0 where it is not known."""

    @property
    def numbers(self) -> str:
        """Count and density, or area, as a person reads them."""
        if self.mm2 > 0:
            return f"{self.mm2:,.2f} mm2"
        if self.count is None:
            return ""
        density = "" if self.per_mm2 is None else f", {self.per_mm2:,.0f} per mm2"
        return f"{self.count:,}{density}"


def has_legend(layer: Any) -> bool:
    """Return whether a layer's colours are classes."""
    shown = shown_by(layer)
    return shown is not None and shown.kind in _CLASSES


class Legend:
    """The classes of one layer, and how they are shown. The layer's colour map holds it all."""

    def __init__(self, layer: Any) -> None:
        shown = shown_by(layer)
        if shown is None or shown.kind not in _CLASSES:
            raise ValueError(f"{layer.name} has no classes of its own")
        self.layer, self.what = layer, shown

    def entries(self) -> list[Entry]:
        """All classes, in their order."""
        counts, area = self._counts(), self.what.tissue_mm2
        mm2 = area if self.what.kind == "tissue" else 0.0
        table = self.layer.colormap.color_dict
        found = []
        for k, name in enumerate(self.what.classes):
            count = None if counts is None else int(counts[k])
            density = count / area if count is not None and area > 0 and self.what.kind == "objects" else None
            found.append(Entry(name, self._colours()[k], count, density, bool(table[k + 1][3] > 0), mm2))
        return found

    def show(self, class_index: int, shown: bool) -> None:
        """Show a class, or hide it."""
        hidden = self._hidden()
        self._colour(self._colours(), hidden - {class_index} if shown else hidden | {class_index})

    def recolour(self, class_index: int, colour: Colour) -> None:
        """Give a class another colour."""
        colours = list(self._colours())
        colours[class_index] = colour
        self.layer.metadata[COLOURS] = tuple(colours)
        self._colour(tuple(colours), self._hidden())

    @property
    def can_fill(self) -> bool:
        """Return whether there are outlines, which can be drawn filled."""
        return self.what.objects is not None

    @property
    def filled(self) -> bool:
        """Return whether outlines are drawn filled."""
        return bool(self.layer.metadata.get(FILLED, False))

    def fill(self, filled: bool) -> None:
        """Draw objects filled, or their outlines."""
        if self.what.objects is not None:
            self.layer.metadata[FILLED] = filled
            self.layer.data = objects_pyramid(self.what.objects, self.what.place, filled=filled)

    def _counts(self) -> Any:
        if self.what.objects is not None:
            return np.bincount(self.what.objects.objects.class_index, minlength=len(self.what.classes))
        if self.what.kind == "tiles" and self.what.tiles is not None:
            bad = int(self.what.tiles.unreadable.sum())
            return [len(self.what.tiles.grid) - bad, bad]
        return None

    def _colours(self) -> tuple[Colour, ...]:
        # A hidden class is transparent in the layer's own map, and must come back in its colour.
        chosen: tuple[Colour, ...] = self.layer.metadata.get(COLOURS, self.what.colours)
        return chosen

    def _hidden(self) -> frozenset[int]:
        table = self.layer.colormap.color_dict
        return frozenset(k for k in range(len(self.what.classes)) if table[k + 1][3] == 0)

    def _colour(self, colours: tuple[Colour, ...], hidden: frozenset[int]) -> None:
        self.layer.colormap = class_colormap(colours, hidden)


# ---- what lies at a place ----


def what_is_at(layers: list[Any], x: float, y: float) -> str:
    """Facts of all visible layers about a place, in words: objects first, then tiles and their values.

    Parameters
    ----------
    layers
        Layers of a viewer, lowest first.
    x, y : level-0 px
    """
    things: list[str] = []
    found: list[str] = []
    for layer in reversed(layers):
        shown = shown_by(layer)
        if shown is None or not layer.visible:
            continue
        if shown.objects is not None:
            things += _object_at(shown.objects, shown.name, x, y)
        elif shown.kind == "tiles" and shown.tiles is not None:
            found += [_tile(shown, tile) for tile in shown.tiles.at(x, y)]
        elif shown.heat is not None:
            value = float(shown.heat.at(np.array([[x, y]]))[0])
            if np.isfinite(value):
                found.append(f"{shown.name}: {value:.4g}")
    return "\n\n".join([f"x {x:,.0f}, y {y:,.0f} px", *things, *found])


def object_outline_at(layers: list[Any], x: float, y: float) -> Any:
    """Outline of the uppermost object that is seen at a place, (corner, 2) level-0 px; None if there is none."""
    for layer in reversed(layers):
        shown = shown_by(layer)
        if shown is None or not layer.visible or (field := shown.objects) is None:
            continue
        if (row := field.at(x, y)) is not None:
            return field.objects.outline[field.objects.starts[row] : field.objects.starts[row + 1]]
    return None


def _object_at(field: Field, name: str, x: float, y: float) -> list[str]:
    row = field.at(x, y)
    if row is None:
        return []
    objects = field.objects
    lines = [
        f"{objects.classes[int(objects.class_index[row])]} ({name}, object {row})",
        f"score {float(objects.score[row]):.3f}",
    ]
    for measure, value in zip(MEASURES, objects.measures[row].tolist(), strict=True):
        if np.isfinite(value):
            unit = _DIGITS.get(measure)
            words = measure.removesuffix(f"_{unit}").replace("_", " ") if unit else f"{measure} OD"
            words = "circularity" if measure == "circularity" else words
            lines.append(f"{words} {value:.3g}{f' {unit}' if unit else ''}")
    return ["\n".join(lines)]


def _tile(shown: Shown, tile: int) -> str:
    lines = shown.tiles
    if lines is None:
        return ""
    x, y = lines.grid.xy[tile].tolist()
    state = "unreadable" if lines.unreadable[tile] else f"{float(lines.grid.tissue[tile]):.0%} tissue"
    return f"tile {tile} of {len(lines.grid)} at {x}, {y}\n{lines.grid.side:g} px wide, {state}"
