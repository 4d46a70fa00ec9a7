"""Tiles as an encoder's recipe wants them: resized and cropped as its card says, still uint8.

Recipes resize pictures with Pillow; what it rounds is part of what a network sees, so it does it here too. Tiles
that have the recipe's size already are not touched.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_umedpt.models.cards import EncoderCard

_KINDS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def prepare_tiles(pixels: npt.NDArray[np.uint8], card: EncoderCard) -> npt.NDArray[np.uint8]:
    """Resize tiles to `card.resize_px` and cut out their centre of `card.crop_px`.

    Parameters
    ----------
    pixels : uint8 (batch, h, w, 3)
        Square tiles.
    card
        Card of the encoder; without either number tiles are as they come.

    Returns
    -------
    uint8 (batch, side, side, 3)
    """
    side = pixels.shape[1]
    if card.resize_px is not None and side != card.resize_px:
        size, kind = (card.resize_px, card.resize_px), _KINDS[card.interpolation]
        pixels = np.stack([np.asarray(Image.fromarray(tile).resize(size, kind)) for tile in pixels])
        side = card.resize_px
    if card.crop_px is not None and side > card.crop_px:
        # As torchvision's CenterCrop rounds.
        first = round((side - card.crop_px) / 2.0)
        pixels = np.ascontiguousarray(pixels[:, first : first + card.crop_px, first : first + card.crop_px])
    return pixels
