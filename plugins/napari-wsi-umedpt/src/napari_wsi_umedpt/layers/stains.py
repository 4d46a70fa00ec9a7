"""One stain of a slide as a layer: optical densities, computed where the slide is looked at, in the dye's colour."""

from collections.abc import Iterable

import numpy as np
from napari.utils.colormaps import Colormap
from wsi_umedpt.slides import STAININGS, stain_colour, stain_density

from napari_wsi_umedpt.layers.build import KEY, LayerTuple, Place, Shown
from napari_wsi_umedpt.layers.multiscale import CLASS_CACHE_BYTES, Array, ImagePyramid, Level, Window

NAMES = {"hematoxylin": "Haematoxylin", "eosin": "Eosin", "dab": "DAB"}
PER_OD = 100
"""Steps of the layer's pixels for each unit of optical density; 255 is 2.55."""
DARKEST_OD = {"hematoxylin": 1.2, "eosin": 0.8, "dab": 1.2}
"""Optical density that is drawn darkest, at first."""
_COLOUR_OD = 1.5
"""Optical density whose colour the darkest has."""
_STEPS = 33


def stain_layer(levels: Iterable[Level], place: Place, stain: str, staining: str, darkest_od: float) -> LayerTuple:
    """One dye of a slide, on white.

    Parameters
    ----------
    levels
        Levels of the slide, as its own layer has them.
    stain, staining
        As `wsi_umedpt.slides.STAININGS` names them.
    darkest_od
        Optical density that is drawn darkest; the layer's contrast limits.
    """
    of_scale = {level.scale: level for level in levels}
    finest = of_scale[1]

    def draw(window: Window) -> Array:
        scale, x, y, width, height = window
        pixels = of_scale[scale][y : y + height, x : x + width]
        steps = np.rint(stain_density(pixels, stain, STAININGS[staining]) * np.float32(PER_OD))
        return np.asarray(np.clip(steps, 0, 255), np.uint8)

    colours = np.array([stain_colour(stain, part * _COLOUR_OD) for part in np.linspace(0, 1, _STEPS)]) / 255
    meta = {
        **place.meta(),
        "name": NAMES[stain],
        "multiscale": True,
        "interpolation2d": "linear",
        "colormap": Colormap(np.column_stack([colours, np.ones(_STEPS)]), name=f"{NAMES[stain]} on white"),
        "contrast_limits": (0, darkest_od * PER_OD),
        "metadata": {KEY: Shown("stain", place, name=stain, about={"staining": staining})},
    }
    chunk_px = finest.chunks[0]
    return (
        ImagePyramid(place.size, draw, colours=False, cache_bytes=CLASS_CACHE_BYTES, chunk_px=chunk_px), meta, "image",
    )  # fmt: skip
