"""Heatmaps that change while they are looked at: values of tiles in, the picture of a layer out, and put into it.

What is made can be made in any thread; what is put into a layer is put in the window's own.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Layer
from napari.utils.colormaps import Colormap
from wsi_umedpt.heatmaps import Heatmap, Scaling

from napari_wsi_umedpt.layers.build import KEY, Place, Shown
from napari_wsi_umedpt.layers.thin_lines import TileLines
from napari_wsi_umedpt.layers.values import heat_picture, heatmap_layer
from napari_wsi_umedpt.window.viewer import add_layers

_MOST_EXACT = 1 << 24
"""Whole numbers up to which float32 holds each."""
_STEPS = 65
_MOST_ALPHA = 0.95
_AGAINST, _FOR = (0.79, 0.07, 0.48), (0.13, 0.5, 0.1)
"""Ends of matplotlib's PiYG, which no stain is and colour-blind people tell apart."""
_SHARE = 0.98
"""Share of signed values that is within the colours: a few tiles may have ten times as much as all others."""


@dataclass(frozen=True, eq=False)
class HeatmapState:
    """One state of a heatmap."""

    values: npt.NDArray[np.float32]
    """(tile of the grid,)"""
    heat: Heatmap
    picture: npt.NDArray[np.float32]
    limits: tuple[float, float]
    scaling: Scaling


class TileRasterizer:
    """Lays values of the same tiles out again and again; where none overlap, by looking up each cell's tile."""

    def __init__(self, tiles: TileLines) -> None:
        self._grid = tiles.grid
        self._places: Heatmap | None = None
        if self._grid.spec.stride >= self._grid.spec.size_px and len(self._grid) <= _MOST_EXACT:
            numbers = np.arange(len(self._grid), dtype=np.float32)
            # Tiles that do not overlap keep their value bit for bit.
            self._places = Heatmap.from_tiles(self._grid.xy, self._grid.side, numbers)
            self._tile = np.nan_to_num(self._places.values, nan=-1).astype(np.int64)

    def lay(self, values: npt.NDArray[np.float32]) -> Heatmap:
        """Lay out values (tile of the grid,) as `Heatmap.from_tiles` does."""
        if self._places is None:
            return Heatmap.from_tiles(self._grid.xy, self._grid.side, values)
        laid = np.where(self._tile < 0, np.float32(np.nan), values[self._tile])
        return Heatmap(laid, self._places.origin_xy, self._places.step)


def heatmap_state(values: npt.NDArray[np.float32], rasterizer: TileRasterizer, scaling: Scaling) -> HeatmapState:
    """Lay values of tiles out and scale them."""
    heat = rasterizer.lay(values)
    picture, limits = heat_picture(heat, scaling)
    known = np.abs(values[np.isfinite(values)])
    if scaling == "signed" and known.size and (most := float(np.quantile(known, _SHARE))) > 0:
        limits = -most, most
    return HeatmapState(values, heat, picture, limits, scaling)


def signed_colours() -> Colormap:
    """Pink, nothing, green: what speaks neither for nor against leaves the tissue as it is."""
    level = np.linspace(-1, 1, _STEPS)
    colours = np.where(level[:, None] < 0, _AGAINST, _FOR)
    return Colormap(np.column_stack([colours, np.abs(level) * _MOST_ALPHA]), name="against and for")


def show_state(layer: Layer, state: HeatmapState) -> None:
    """Put a state into a layer that shows another of the same tiles."""
    layer.data = state.picture
    layer.contrast_limits = state.limits
    layer.metadata[KEY] = replace(layer.metadata[KEY], heat=state.heat)


def add_state(
    viewer: Any, state: HeatmapState, tiles: TileLines, place: Place, name: str, *, store: Path, visible: bool
) -> Layer:
    """Add a layer that shows a state."""
    shown = Shown("heatmap", place, store, name, about={"model": name})
    made = heatmap_layer(state.values, tiles, shown, scaling=state.scaling, visible=visible)
    (layer,) = add_layers(viewer, [made])
    if state.scaling == "signed":
        layer.colormap, layer.opacity = signed_colours(), 0.8
    show_state(layer, state)
    return layer
