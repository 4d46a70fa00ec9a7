"""A slide format of your own: a reader states levels and scale, and reads boxes; all else follows.

The format here is a toy: a NumPy file of pixels whose name states the scale, as in ``tissue@0.5.npyslide``.

Run it:  python examples/06_own_reader.py
"""

from pathlib import Path

import numpy as np

import wsi_umedpt as wu
from wsi_umedpt.geometry import Mpp
from wsi_umedpt.slides import Level, Pixels, Refused, SlideInfo
from wsi_umedpt.testing import tissue_image

OUT = Path(__file__).parent / "out"
SUFFIX = ".npyslide"


class NumpyReader:
    """Reads ``NAME@MPP.npyslide``, uint8 (h, w, 3)."""

    name = "numpy"

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._pixels = np.load(file, allow_pickle=False)
            mpp = float(path.name.removesuffix(SUFFIX).rpartition("@")[2])
        except ValueError as error:
            raise Refused(f"not a NumPy slide: {error}") from None
        height, width = self._pixels.shape[:2]
        self.levels = (Level(width, height, 1.0),)
        self.info = SlideInfo("numpy", Mpp(mpp, mpp, "vendor"))

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle that lies inside a level."""
        return self._pixels[y : y + height, x : x + width]

    def native_tiles(self, level: int) -> None:
        """Pixels do not come as compressed tiles."""

    def close(self) -> None:
        """Nothing is held open."""


def main() -> None:
    """Write a slide of that format, register its reader, embed, look."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"tissue@0.5{SUFFIX}"
    with path.open("wb") as file:
        np.save(file, tissue_image(1500, 1100)[0])
    wu.register_reader("numpy", [SUFFIX], NumpyReader)
    with wu.open_slide(path) as slide:
        print(slide)
        store = wu.embed(slide, OUT / "own_reader.zarr")
    wu.plot.overview(store).savefig(OUT / "06_own_reader.png")


if __name__ == "__main__":
    main()
