"""`SlideBag`: the readable tiles of one slide and their features, free of paths and files."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class SlideBag:
    """The readable tiles of one slide and their features: what MIL eats."""

    slide_id: str
    features: npt.NDArray[np.float16]
    """(tile, dim)"""
    xy: npt.NDArray[np.int32]
    """(tile, 2) top left corners, level-0 px"""
    index: npt.NDArray[np.int64]
    """(tile,) rows of the grid"""
    encoder_id: str = ""
    grid_id: str = ""
    """Which features these are."""
