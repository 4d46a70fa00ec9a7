"""Overlapping windows laid side by side and blended; rows come out once no later window can change them.

Windows come in rows, y slow, as a `TileGrid` has them. Memory is one row of windows over the
whole width, whatever the height. All lengths are px of the windows; chances are kept at half
that size and doubled when they come out.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Rows:
    """Finished rows over the whole width."""

    top: int
    """Top of the first row, px."""
    chances: npt.NDArray[np.uint8]
    """(channel, rows, width); 0 where no window was."""
    image: npt.NDArray[np.uint8]
    """(rows, width, 3); 0 where no window was."""


class Canvas:
    """Blends windows: each counts most in its middle and least at its border, linearly over the overlap.

    Parameters
    ----------
    width
        Width of the slide, px; even.
    size, stride
        Side of a window, and distance between two; both even.
    channels
        Chances of a pixel.
    """

    def __init__(self, width: int, size: int, stride: int, channels: int) -> None:
        if width % 2 or size % 2 or stride % 2 or not 0 < stride <= size:
            raise ValueError(
                f"width, size and stride are even, and stride no more than size; got {width}, {size}, {stride}"
            )
        self._size = size
        self._ramp = _ramp(size // 2, (size - stride) // 2)
        self.top = 0
        """First row that has not come out, of the image."""
        self._sum = np.zeros((channels, size // 2, width // 2), np.float32)
        self._weight = np.zeros((size // 2, width // 2), np.float32)
        self._image = np.zeros((size, width, 3), np.uint8)
        # Doubling a row of chances needs the rows above and below it: one row is held back.
        self._low = np.zeros((channels, 0, width // 2), np.uint8)
        self._late = np.zeros((0, width, 3), np.uint8)

    def add(self, x: int, y: int, chances: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint8]) -> None:
        """Blend in a window; rows above it must have been taken.

        Parameters
        ----------
        x, y
            Its top left corner, even.
        chances : uint8 (channel, size / 2, size / 2)
        pixels : uint8 (size, size, 3)
        """
        if y != self.top:
            raise ValueError(f"a window at row {y}, but rows from {self.top} on are still to be taken")
        columns = slice(x // 2, x // 2 + self._size // 2)
        self._sum[:, :, columns] += chances * self._ramp
        self._weight[:, columns] += self._ramp
        self._image[:, x : x + self._size] = pixels

    def rows_until(self, y: int) -> Rows:
        """Take the rows above `y`, which no window to come touches. One row of px waits for the next call."""
        low = np.empty((len(self._sum), 0, self._sum.shape[2]), np.uint8)
        image = self._image[:0]
        count = min(y - self.top, self._size)
        if count > 0:
            low, image = self._shifted(count)
        if y - self.top > count:  # no windows reach here
            gap = (y - self.top - count) // 2
            low = np.concatenate([low, np.zeros((len(low), gap, low.shape[2]), np.uint8)], axis=1)
            image = np.concatenate([image, np.zeros((2 * gap, *image.shape[1:]), np.uint8)])
        self.top = max(self.top, y)
        return self._doubled(low, image, last=False)

    def rest(self) -> Rows:
        """Take all that is left."""
        low, image = self._shifted(self._size)
        self.top += self._size
        return self._doubled(low, image, last=True)

    def state(self) -> dict[str, Array]:
        """All that a canvas of the same size needs to go on as this one."""
        return {
            "sum": self._sum, "weight": self._weight, "image": self._image, "low": self._low, "late": self._late,
            "top": np.array(self.top),
        }  # fmt: skip

    def restore(self, state: dict[str, Array]) -> None:
        """Go on where the canvas stood that gave this state."""
        for name, value in state.items():
            setattr(self, "top" if name == "top" else f"_{name}", int(value) if name == "top" else value)

    def _shifted(self, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Take rows off the top."""
        half = count // 2
        weight = self._weight[:half]
        mean = self._sum[:, :half] / np.where(weight > 0, weight, 1)
        low = np.round(mean).astype(np.uint8)
        image = self._image[:count].copy()
        for array, rows, axis in ((self._sum, half, 1), (self._weight, half, 0), (self._image, count, 0)):
            rolled = np.moveaxis(array, axis, 0)
            rolled[: len(rolled) - rows] = rolled[rows:].copy()
            rolled[len(rolled) - rows :] = 0
        return low, image

    def _doubled(self, low: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8], *, last: bool) -> Rows:
        first = self._low.shape[1] == 0
        low = np.concatenate([self._low, low], axis=1)
        late, height = len(self._late), low.shape[1]
        image = np.concatenate([self._late, image])
        top = self.top - len(image)
        if height == 0:
            return Rows(top, np.zeros((len(low), 0, image.shape[1]), np.uint8), image)
        doubled = np.stack([cv2.resize(c, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR) for c in low])
        # Of the row held back from before, the upper half is out already.
        doubled = doubled[:, 0 if first else 1 : doubled.shape[1] if last else -1]
        count = doubled.shape[1]
        self._low, self._late = low[:, -1:].copy(), image[count:].copy()
        assert len(image) - count == (0 if last else 1), (late, height, count)  # noqa: S101 - both are cut alike
        return Rows(top, doubled, image[:count])


def _ramp(size: int, overlap: int) -> npt.NDArray[np.float32]:
    """(size, size) weights: rising over the overlap, level in between."""
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    line = np.minimum(edge / max(overlap, 0.5), 1).astype(np.float32)
    return np.outer(line, line)
