"""A batch of tiles, and memory that is used again when the last view of it is gone."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_umedpt.slides.readers.base import Pixels

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TileBatch:
    """Some tiles of a grid, in its order. The pixels stay yours for as long as you hold them."""

    pixels: Pixels
    """uint8 (batch, size_px, size_px, 3)"""
    index: Index
    """(batch,) rows of the grid"""
    ok: npt.NDArray[np.bool_]
    """(batch,) False where the file is damaged; those pixels are white and mean nothing."""
    grid: int = 0
    """Number of its grid, where several are read."""


class Batches(Iterator[TileBatch], Protocol):
    """Batches of one slide, in order; to be closed by who does not want them all."""

    def close(self) -> None:
        """Stop reading."""
        ...


class _Lease:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def lease(array: Pixels, give_back: Callable[[], object]) -> Pixels:
    """A view of an array; `give_back` is called when it, and all views of it, are gone."""
    lent = _Lease(array.__array_interface__)
    # numpy keeps the lease as the base of every view made of this array.
    view = np.asarray(lent)
    weakref.finalize(lent, give_back).atexit = False
    return view
