"""Compressed tiles of a level of a TIFF: their place in the file, and their samples as they are stored.

Offsets are parsed once; a tile is then one `pread` and one decode, from any thread.
"""

import os
from collections.abc import Sequence

import numpy as np
import tifffile

from wsi_umedpt.slides.readers.base import ContentRefused, Refused
from wsi_umedpt.slides.readers.colour import Samples
from wsi_umedpt.slides.readers.segments import decode_segment


class StoredTiles:
    """The compressed tiles of one level: a TIFF page, or one page a colour."""

    def __init__(self, file: int, name: str, pages: Sequence[tifffile.TiffPage]) -> None:
        page = pages[0]
        self._file, self.name = file, name
        self.tile_width, self.tile_height = page.tilewidth, page.tilelength
        self.columns = -(-page.imagewidth // page.tilewidth)
        self.rows = -(-page.imagelength // page.tilelength)
        each = self.columns * self.rows
        in_planes = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        planes = page.samplesperpixel if in_planes else 1
        if in_planes and len(pages) > 1:
            raise ContentRefused("its colours lie in planes of pages of their own")
        for one in pages:
            if not len(one.dataoffsets) == len(one.databytecounts) == each * planes:
                raise Refused(f"a level of {self.columns} x {self.rows} tiles lists {len(one.dataoffsets)} of them")
        self._offsets = np.concatenate([np.asarray(one.dataoffsets, np.int64) for one in pages])
        self._counts = np.concatenate([np.asarray(one.databytecounts, np.int64) for one in pages])
        # (page, index of its first tile in our lists, index of that tile in its own)
        self._planes = [(one, n * each, 0) for n, one in enumerate(pages)]
        if in_planes:
            self._planes = [(page, n * each, n * each) for n in range(planes)]
        # Over twice the raw pixels.
        self._most_bytes = (
            64 + 3 * self.tile_width * self.tile_height * page.samplesperpixel * np.dtype(page.dtype).itemsize
        )

    @property
    def sparse(self) -> bool:
        """True if the file leaves tiles out."""
        return bool((self._counts == 0).any())

    def is_left_out(self, index: int) -> bool:
        """Return whether the file leaves a tile out, in all of its colours."""
        return int(self._counts[index]) == 0 and not any(self._counts[n + index] for _, n, _ in self._planes)

    def stored(self, index: int) -> bytes:
        """The bytes of a tile."""
        count = int(self._counts[index])
        if count == 0:
            raise ValueError("one of its colours is missing")
        data = os.pread(self._file, min(count, self._most_bytes), int(self._offsets[index]))
        if len(data) != count:
            raise ValueError(f"the file ends inside it ({len(data)} of {count} bytes)")
        return data

    def samples(self, index: int) -> Samples:
        """A tile as it is stored: (rows, cols, samples)."""
        planes = []
        for page, ours, its in self._planes:
            data = self.stored(ours + index)
            segment = decode_segment(page, data, its + index, (self.tile_width, self.tile_height))[0]
            if segment is None:
                raise ValueError("decodes to nothing")
            planes.append(segment[0])
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
