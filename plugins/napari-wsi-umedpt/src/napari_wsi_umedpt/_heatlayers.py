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
from wsi_umedpt.heatmap import Heatmap, Scaling

from napari_wsi_umedpt._layers import KEY, Place
from napari_wsi_umedpt._marks import TileLines
from napari_wsi_umedpt._values import heat_picture, heatmap_layer
from napari_wsi_umedpt._viewer import add_layers

_STEPS = 65
_MOST_ALPHA = 0.95
_AGAINST, _FOR = (0.79, 0.07, 0.48), (0.13, 0.5, 0.1)
"""Ends of matplotlib's PiYG, which no stain is and colour-blind people tell apart."""
_SHARE = 0.98
"""Of signed values, share that is within the colours: a few tiles may have ten times as much as all others."""


@dataclass(frozen=True, eq=False)
class HeatFrame:
    """One state of a heatmap."""

    values: npt.NDArray[np.float32]
    """(tile of the grid,)"""
    heat: Heatmap
    picture: npt.NDArray[np.float32]
    limits: tuple[float, float]
    scaling: Scaling


def heat_frame(values: npt.NDArray[np.float32], tiles: TileLines, scaling: Scaling) -> HeatFrame:
    """Lay values of tiles out and scale them."""
    heat = Heatmap.from_tiles(tiles.grid.xy, tiles.grid.side, values)
    picture, limits = heat_picture(heat, scaling)
    known = np.abs(values[np.isfinite(values)])
    if scaling == "signed" and known.size and (most := float(np.quantile(known, _SHARE))) > 0:
        limits = -most, most
    return HeatFrame(values, heat, picture, limits, scaling)


def signed_colours() -> Colormap:
    """Pink, nothing, green: what speaks neither for nor against leaves the tissue as it is."""
    level = np.linspace(-1, 1, _STEPS)
    colours = np.where(level[:, None] < 0, _AGAINST, _FOR)
    return Colormap(np.column_stack([colours, np.abs(level) * _MOST_ALPHA]), name="against and for")


def show_frame(layer: Layer, frame: HeatFrame) -> None:
    """Put a state into a layer that shows another of the same tiles."""
    layer.data = frame.picture
    layer.contrast_limits = frame.limits
    layer.metadata[KEY] = replace(layer.metadata[KEY], heat=frame.heat)


def add_frame(
    viewer: Any, frame: HeatFrame, tiles: TileLines, place: Place, name: str, *, store: Path, visible: bool
) -> Layer:
    """Add a layer that shows a state."""
    made = heatmap_layer(
        frame.values, tiles, place, name, store=store, scaling=frame.scaling, about={"model": name}, visible=visible
    )
    (layer,) = add_layers(viewer, [made])
    if frame.scaling == "signed":
        layer.colormap, layer.opacity = signed_colours(), 0.8
    show_frame(layer, frame)
    return layer
