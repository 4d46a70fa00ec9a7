"""`WindowLayout`: positions of the windows of a slide, in px of the windows."""

import numpy as np

from wsi_umedpt.errors import OptionError
from wsi_umedpt.slides.tiling import TileGrid


class WindowLayout:
    """Windows of a grid in px of the windows: the position of each, and the part that no neighbour covers better.

    Parameters
    ----------
    grid
        Laid with `whole` off.
    size : (width, height)
        Size of the slide, level-0 px.
    """

    def __init__(self, grid: TileGrid, size: tuple[int, int]) -> None:
        spec = grid.spec
        if spec.size_px % 32 or spec.stride % 2 or spec.stride > spec.size_px:
            raise OptionError(
                f"heads need windows whose side is a multiple of 32 px and whose stride is even and no more than "
                f"the side; got {spec.size_px} and {spec.stride} px (`size_px`, `stride_px`)"
            )
        self.spec, self.scale = spec, grid.scale
        self.width, self.height = (max(1, int(np.ceil(n / grid.scale - 1e-6))) for n in size)
        cells = np.round(grid.xy / (spec.stride * grid.scale)).astype(np.int64)
        self.xy = cells * spec.stride
        """(window, 2) top left corners, px of the windows."""
        reach = int(self.xy[:, 0].max(initial=0)) + spec.size_px
        self.canvas_width = max(reach, self.width + self.width % 2)
        here = {(x, y) for x, y in cells.tolist()}
        half = (spec.size_px - spec.stride) / 2
        sides = ((-1, 0), (0, -1), (1, 0), (0, 1))
        neighbour = np.array([[(x + dx, y + dy) in here for dx, dy in sides] for x, y in cells.tolist()]).reshape(-1, 4)
        far = np.array([-np.inf, -np.inf, np.inf, np.inf])
        self.own = np.where(neighbour, np.array([half, half, spec.size_px - half, spec.size_px - half]), far)
        """(window, 4) left, top, right, bottom of a window's own part, px of the window."""
