"""The slides that `embedding.py` and others measure on: real H&E texture in Aperio-like pyramids, made once.

A piece of CMU-1-Small-Region.svs that is tissue all over is mirrored into large blobs that
cover 45 % of a square; a piece of the same slide's glass is mirrored into the rest. Tiles
are 256 px JPEG, 4:2:0, at quality 85: 21 kB where there is tissue, 0.33 bytes per px. (The
real slide has 0.40 on its tissue; quality 70 would give 0.24.)

The large slide is the small one laid 3 x 3, so that both hold the same tissue per area.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks import DATA
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.testing import write_pyramid

SIDE_PX = 20_480
LARGE_REPEAT = 3
TISSUE_SHARE = 0.45
QUALITY = 85
MPP = 0.25
SCALES = (1, 4, 16)
# Of CMU-1-Small-Region, level-0 px: epidermis and dermis without a gap; clean glass.
_TISSUE_BOX = Box(960, 384, 512, 1536)
_GLASS_BOX = Box(60, 1500, 480, 960)

Pixels = npt.NDArray[np.uint8]


def small_slide() -> Path:
    """The slide of 20,480 px square, 0.25 um/px."""
    return _made("small", 1)


def large_slide() -> Path:
    """The slide of 61,440 px square, 0.25 um/px."""
    return _made("large", LARGE_REPEAT)


def _made(name: str, repeat: int) -> Path:
    path = DATA / f"{name}-{SIDE_PX * repeat}px-q{QUALITY}.svs"
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        print(f"making {path.name}, once ...", flush=True)
        fresh = path.with_name(f".{path.name}")
        write_pyramid(fresh, _picture(), scales=SCALES, mpp=MPP, quality=QUALITY, repeat=repeat)
        fresh.rename(path)
    return path


def _picture() -> Pixels:
    """Tissue in blobs on glass, uint8 (SIDE_PX, SIDE_PX, 3)."""
    with open_slide(sample_slide()) as slide:
        tissue, glass = (_mirrored(slide.read(box)) for box in (_TISSUE_BOX, _GLASS_BOX))
    image = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    where = _blobs()
    # In bands: whole, the three pictures and the mask would take 5 GB.
    for top in range(0, SIDE_PX, 1024):
        rows = np.arange(top, min(top + 1024, SIDE_PX))
        inside = where[rows, :, None]
        image[rows] = np.where(inside, _across(tissue, rows), _across(glass, rows))
    return image


def _mirrored(piece: Pixels) -> Pixels:
    """A piece and its mirror images, 2 x 2: laid side by side they show no seam."""
    wide = np.concatenate([piece, piece[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]], axis=0)


def _across(pattern: Pixels, rows: npt.NDArray[np.int64]) -> Pixels:
    """Rows of a pattern that repeats without end."""
    columns = np.arange(SIDE_PX) % pattern.shape[1]
    return pattern[rows % pattern.shape[0]][:, columns]


def _blobs() -> npt.NDArray[np.bool_]:
    """Where the tissue is: noise of 2,300 px wavelength, cut so that the share is met."""
    coarse = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    field = cv2.resize(coarse, (SIDE_PX // 16, SIDE_PX // 16), interpolation=cv2.INTER_CUBIC)
    inside = (field > np.quantile(field, 1 - TISSUE_SHARE)).astype(np.uint8)
    return cv2.resize(inside, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST).astype(bool)
