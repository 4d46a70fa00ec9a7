"""Memory that reader processes share with their parent: slots of a batch each, without a name that could be left."""

import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_umedpt.slides.readers.base import Pixels


class Ring:
    """Slots of `batch_size` tiles of any of the sides, and of a flag for each, in shared memory."""

    def __init__(self, memory: mmap.mmap, batch_size: int, sides: Sequence[int]) -> None:
        self.slots = len(memory) // self.slot_bytes(batch_size, sides)
        self._batch_size, self._sides = batch_size, sides
        self._bytes = np.frombuffer(memory, np.uint8).reshape(self.slots, -1)

    @staticmethod
    def slot_bytes(batch_size: int, sides: Sequence[int]) -> int:
        """Bytes of a slot: pixels of the largest tiles, flags, and what makes a whole number of pages."""
        return -(-batch_size * (3 * max(sides) ** 2 + 1) // 4096) * 4096

    def pixels(self, slot: int, grid: int) -> Pixels:
        """Pixels of a slot with tiles of a grid, uint8 (batch, size_px, size_px, 3)."""
        shape = self._batch_size, self._sides[grid], self._sides[grid], 3
        return self._bytes[slot, : math.prod(shape)].reshape(shape)

    def ok(self, slot: int) -> npt.NDArray[np.bool_]:
        """Flags of the tiles that could be read, (batch,)."""
        return self._bytes[slot, -self._batch_size :].view(np.bool_)


def nameless_file(size: int) -> int:
    """A file in memory that is gone with the last process that has it open; its descriptor."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("wsi-umedpt-tiles", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
