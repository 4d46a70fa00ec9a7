"""Stains seen apart: colour deconvolution after Ruifrok and Johnston.

Light that passes a dye is weakened in proportion to 10^(-density) (Beer and Lambert), so that optical densities of
dyes that lie over each other add up: the density of each is found by inverting a matrix of their colours.
Ruifrok and Johnston, *Quantification of histochemical staining by color deconvolution*, Analytical and Quantitative
Cytology and Histology 23 (2001) 291-299; the colours are those of its table 1. Where a staining has two dyes, the third
colour is at right angles to both, and takes what neither explains.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides.readers.base import Pixels

STAINS = {"hematoxylin": (0.65, 0.70, 0.29), "eosin": (0.07, 0.99, 0.11), "dab": (0.27, 0.57, 0.78)}
"""Optical density of red, green and blue of each dye."""
STAININGS = {"H&E": ("hematoxylin", "eosin"), "H-DAB": ("hematoxylin", "dab")}
"""Dyes of usual stainings."""
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
"""Optical density of a value of 0 to 255, which is white."""


def unmixing(stains: Sequence[str]) -> npt.NDArray[np.float64]:
    """Matrix from optical densities of red, green and blue to those of dyes.

    Parameters
    ----------
    stains
        Two or three of `STAINS`.

    Returns
    -------
    float64 (3, 3)
        A pixel's densities times this are those of the dyes, in their order; of two, the third is what is left.

    Raises
    ------
    OptionError
        If a dye is not known, or there are other than two or three.
    """
    if unknown := [name for name in stains if name not in STAINS]:
        raise OptionError(f"{unknown[0]!r} is no dye that is known. Known are: {', '.join(STAINS)}")
    if len(stains) not in (2, 3):
        raise OptionError(f"{len(stains)} dyes were named; two or three can be told apart by red, green and blue")
    colours = np.array([STAINS[name] for name in stains])
    colours = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    if len(colours) == 2:
        across = np.cross(colours[0], colours[1])
        colours = np.concatenate([colours, across[None] / np.linalg.norm(across)])
    return np.linalg.inv(colours)


def stain_density(pixels: Pixels, stain: str, stains: Sequence[str] = STAININGS["H&E"]) -> npt.NDArray[np.float32]:
    """Optical density of one dye in every pixel.

    Parameters
    ----------
    pixels : uint8 (..., 3)
        RGB.
    stain
        One of `stains`.
    stains
        All dyes of the slide, as in `STAININGS`.

    Returns
    -------
    float32 (...)
        0 where there is none; below 0 where a pixel is of a colour that the dyes cannot have.

    Raises
    ------
    OptionError
        If the dye is none of those of the slide, or as of `unmixing`.
    """
    matrix = unmixing(stains)
    if stain not in stains:
        raise OptionError(f"{stain!r} is none of the dyes of the slide: {', '.join(stains)}")
    weights = matrix[:, list(stains).index(stain)].astype(np.float32)
    # A table for each colour: no logarithm a pixel.
    red, green, blue = (DENSITY * weight for weight in weights)
    density: npt.NDArray[np.float32] = red[pixels[..., 0]] + green[pixels[..., 1]] + blue[pixels[..., 2]]
    return density


def stain_colour(stain: str, density: float) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of light that passed a dye of an optical density on white.

    Parameters
    ----------
    stain
        One of `STAINS`.
    density
        Optical density.

    Examples
    --------
    >>> stain_colour("dab", 0), stain_colour("dab", 1)
    ((255, 255, 255), (137, 69, 43))
    """
    colour = np.array(STAINS[stain])
    red, green, blue = np.rint(255 * 10 ** (-density * colour / np.linalg.norm(colour))).astype(int).tolist()
    return red, green, blue
