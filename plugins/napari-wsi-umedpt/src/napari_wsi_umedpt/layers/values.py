"""Values of tiles as layers: scores as heatmaps, features as colours.

Apart from `_layers`, as what ranks values takes a second to import, and most stores hold none.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from wsi_umedpt.heatmaps import SCALINGS, Heatmap, Scaling, fitting_scaling, scaled

from napari_wsi_umedpt.layers.build import KEY, LayerTuple, Shown
from napari_wsi_umedpt.layers.thin_lines import TileLines

_COLOURMAPS: dict[Scaling, str] = {"signed": "PiYG"}
_RAMP = "inferno"


def heatmap_layer(
    values: npt.NDArray[Any], tiles: TileLines, shown: Shown, *, scaling: Scaling | None = None, visible: bool = True
) -> LayerTuple:
    """A value of each tile as colours.

    Parameters
    ----------
    values : (tile,)
        nan where a tile has none.
    shown
        Place, store and name of the values; tiles and heatmap are filled in.
    scaling
        By default the one that shows most; see `wsi_umedpt.heatmaps.raster.fitting_scaling`.
    """
    heat = Heatmap.from_tiles(tiles.grid.xy, tiles.grid.side, values)
    scaling = scaling or fitting_scaling(values)
    data, limits = heat_picture(heat, scaling)
    about = {**shown.about, "scaling": SCALINGS[scaling]}
    meta = {
        **shown.place.meta(heat.step, heat.origin_xy),
        "name": shown.name,
        "colormap": _COLOURMAPS.get(scaling, _RAMP),
        "contrast_limits": limits,
        "opacity": 0.55,
        "visible": visible,
        "metadata": {KEY: replace(shown, tiles=tiles, heat=heat, about=about)},
    }
    return data, meta, "image"


def heat_picture(heat: Heatmap, scaling: Scaling) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Picture of a heatmap, and the limits of its colours: raw values, unless only their rank is meant."""
    if scaling == "percentile":
        return scaled(heat.values, scaling), (0.0, 1.0)
    known = heat.values[np.isfinite(heat.values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if scaling == "signed":
        low, high = -max(-low, high), max(-low, high)
    limits = (0.0, 1.0) if scaling == "raw" else (low, high)
    return heat.values, limits if limits[0] < limits[1] else (limits[0], limits[0] + 1)


def features_layer(
    colours: npt.NDArray[np.uint8], tiles: TileLines, rows: npt.NDArray[Any], shown: Shown
) -> LayerTuple:
    """Features as colours, as `wsi_umedpt.plotting.sheets.pca_colours` makes them.

    Parameters
    ----------
    colours : uint8 (row, 3)
    rows : (row,) tiles of the grid
    shown
        Place, store and name of the features; tiles are filled in.
    """
    channels = np.full((len(tiles.grid), 3), np.nan)
    channels[rows] = colours
    heats = [Heatmap.from_tiles(tiles.grid.xy, tiles.grid.side, channel) for channel in channels.T]
    stacked = np.stack([heat.values for heat in heats], axis=-1)  # (rows, cols, 3)
    there = np.isfinite(stacked[..., 0])  # all channels are of the same tiles
    rgba = np.concatenate([np.nan_to_num(stacked), 255.0 * there[..., None]], axis=-1).astype(np.uint8)
    meta = {
        **shown.place.meta(heats[0].step, heats[0].origin_xy),
        "name": shown.name,
        "rgb": True,
        "opacity": 0.7,
        "metadata": {KEY: replace(shown, tiles=tiles)},
    }
    return rgba, meta, "image"
