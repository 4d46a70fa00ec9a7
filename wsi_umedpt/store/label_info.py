"""Metadata of a label image, and its form in OME-Zarr 0.5.

Positions are level-0 pixels of the slide, x before y. In um, the origin is the middle of the slide's first level-0
pixel, as napari, ITK and DICOM have it (OME-Zarr 0.5 leaves it open, ome/ngff#89).
"""

import json
from dataclasses import dataclass, field
from typing import Any

from wsi_umedpt.errors import StoreError

OME_VERSION = "0.5"
COARSEST_PX = 512
"""No side of the coarsest level is longer."""


@dataclass(frozen=True, kw_only=True)
class LabelInfo:
    """Metadata of a label image."""

    name: str
    shape: tuple[int, int]
    """(rows, cols) of the finest level."""
    mpp: float
    """Microns per pixel of the finest level."""
    scale: float
    """Level-0 px of the slide per px of the finest level; `mpp / scale` is the slide's mpp."""
    classes: tuple[str, ...]
    """Names of the classes 1, 2, ...; 0 is background."""
    colours: tuple[tuple[int, int, int], ...]
    """(red, green, blue) of each class, 0 to 255."""
    origin: tuple[float, float] = (0.0, 0.0)
    """(x, y) of the image's upper left corner, level-0 px of the slide."""
    source: dict[str, Any] = field(default_factory=dict)
    """Slide of the image, as its ``fingerprint``; ``image`` is the path to an OME-Zarr image, if there is one."""
    made_by: dict[str, Any] = field(default_factory=dict)
    """Origin of the image: model, versions, settings."""

    def __post_init__(self) -> None:
        for name, values in (("shape", self.shape), ("mpp", [self.mpp]), ("scale", [self.scale])):
            if min(values) <= 0:
                raise StoreError(f"LabelInfo.{name} must be positive, got {getattr(self, name)}")
        if not 1 <= len(self.classes) <= 255 or len(set(self.classes)) != len(self.classes):
            raise StoreError(f"a label image has 1 to 255 classes of different names, got {self.classes}")
        if len(self.colours) != len(self.classes):
            raise StoreError(f"{len(self.classes)} classes were given {len(self.colours)} colours")
        for colour in self.colours:
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise StoreError(f"a colour is (red, green, blue), each 0 to 255, got {colour}")
        # What JSON cannot hold is found now, not when the last row is there.
        json.dumps([self.source, self.made_by], allow_nan=False)

    def level_shapes(self) -> list[tuple[int, int]]:
        """(rows, cols) of each level, finest first."""
        shapes = [self.shape]
        while max(shapes[-1]) > COARSEST_PX:
            rows, cols = shapes[-1]
            shapes.append((-(-rows // 2), -(-cols // 2)))
        return shapes

    def ome(self) -> dict[str, Any]:
        """Metadata that OME-Zarr 0.5 asks of a label image, what is below the key ``ome``."""
        names, colours = ["background", *self.classes], [[0, 0, 0, 0], *([*c, 255] for c in self.colours)]
        return {
            "version": OME_VERSION,
            "multiscales": [
                {
                    "name": self.name,
                    "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"],
                    "datasets": [self._dataset(level) for level in range(len(self.level_shapes()))],
                    "type": "rank",
                    "metadata": {
                        "method": "wsi_umedpt.store.label_pyramid.halve",
                        "description": "third smallest of 2 x 2",
                    },
                }
            ],
            "image-label": {
                "version": OME_VERSION,
                "colors": [{"label-value": value, "rgba": rgba} for value, rgba in enumerate(colours)],
                "properties": [{"label-value": value, "name": name} for value, name in enumerate(names)],
                "source": self.source,
            },
        }

    def _dataset(self, level: int) -> dict[str, Any]:
        # A pixel covers `wide` level-0 px from the origin on, and its middle is where it is;
        # the middle of the first level-0 px lies half of that px from the slide's corner.
        wide, mpp_0 = self.scale * 2**level, self.mpp / self.scale
        x, y = ((corner + (wide - 1) / 2) * mpp_0 for corner in self.origin)
        return {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [self.mpp * 2**level] * 2},
                {"type": "translation", "translation": [y, x]},
            ],
        }
