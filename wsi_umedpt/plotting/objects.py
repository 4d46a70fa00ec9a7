"""Pictures of objects: an overview of a slide with all outlines, and close-ups to judge them by."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_umedpt.errors import PictureError
from wsi_umedpt.geometry import Box
from wsi_umedpt.plotting.sheets import Panel, enlarged, sheet
from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.store.objects import PALETTE, Objects
from wsi_umedpt.store.scores_io import read_classified
from wsi_umedpt.store.slide_store import SlideStore

CLOSE_UP_UM = 128.0
_BAR_UM = 25.0
_SUB = 4
"""Bits of the fractions in which OpenCV is told positions."""


class _View(NamedTuple):
    """A part of the slide, and pixels of a picture per level-0 px."""

    box: Box
    zoom: float


def object_sheet(
    store: SlideStore, name: str | None = None, slide: Slide | None = None, side: int = 700, scores: str | None = None
) -> Image.Image:
    """Four panels: the slide with all outlines, and three close-ups; without the slide, the first alone.

    The close-ups are not chosen by looks: of all fields of `CLOSE_UP_UM` that hold an object, the
    fullest, the one at three quarters, and the median by number of objects. Colours are of the classes of the head,
    or of those that `scores` give the objects.

    Raises
    ------
    PictureError
        If the slide is not the one of which the store is.
    """
    objects, _, about = read_classified(store, name, scores)
    of = store.attrs["slide"]
    tissue = store.tissue()
    base, zoom = enlarged(tissue, side)
    whole = _View(Box(0, 0, *of["size"]), zoom / tissue.step)
    mm2 = tissue.area_mm2(of["mpp"])
    density = f", {len(objects) / mm2:.0f} per mm2 of tissue" if mm2 else ""
    text = f"{store.slide_id}: {len(objects)} {about['head']}{density}"
    panels = [Panel(_drawn(base, objects, whole, 1), text)]
    if slide is not None:
        if slide.fingerprint != of["fingerprint"]:
            raise PictureError(f"{slide.path} is not the slide of {store.path}: their fingerprints differ")
        for box in close_ups(objects, of["mpp"]):
            view = _View(box, side / box.width)
            image = cv2.resize(slide.read(box), (side, side), interpolation=cv2.INTER_CUBIC)
            drawn = _with_bar(_drawn(np.asarray(image, np.uint8), objects, view, 2), _BAR_UM / of["mpp"] * view.zoom)
            panels.append(Panel(drawn, f"at {box.x}, {box.y}: {CLOSE_UP_UM:g} um wide, bar {_BAR_UM:g} um"))
    return sheet(panels, columns=2)


def close_ups(objects: Objects, mpp: float) -> list[Box]:
    """Up to three fields, from the fullest down; level-0 px."""
    side = round(CLOSE_UP_UM / mpp)
    fields, counts = np.unique(objects.centroid.astype(np.int64) // side, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ranks = dict.fromkeys(int(f * (len(order) - 1)) for f in (0, 0.25, 0.5)) if len(order) else {}
    corners = (fields[order[[*ranks]]] * side).tolist()
    return [Box(x, y, side, side) for x, y in corners]


def _drawn(image: Pixels, objects: Objects, view: _View, thickness: int) -> Pixels:
    """Outlines in the colours of their classes; in green, which no stain is, where there is one class only."""
    drawn = image.copy()
    shown = objects.taken(_within(objects, view.box))
    points = (shown.outline - (view.box.x, view.box.y)) * view.zoom * 2**_SUB
    rings = np.split(np.round(points).astype(np.int32), shown.starts[1:-1]) if len(shown) else []
    for k in range(len(objects.classes)):
        mine: Sequence[npt.NDArray[np.int32]] = [r for r, c in zip(rings, shown.class_index, strict=True) if c == k]
        cv2.polylines(
            drawn,
            mine,
            True,
            (0, 220, 0) if len(objects.classes) == 1 else PALETTE[k % len(PALETTE)],
            thickness,
            cv2.LINE_AA,
            _SUB,
        )
    return drawn


def _within(objects: Objects, box: Box) -> npt.NDArray[np.bool_]:
    reach = 0.1 * box.width
    low, high = np.array([box.x, box.y]) - reach, np.array([box.x + box.width, box.y + box.height]) + reach
    return np.asarray(((objects.centroid >= low) & (objects.centroid <= high)).all(axis=1), bool)


def _with_bar(image: Pixels, length: float) -> Pixels:
    bottom = image.shape[0] - 20
    cv2.rectangle(image, (18, bottom - 7), (22 + round(length), bottom + 2), (255, 255, 255), -1)
    cv2.rectangle(image, (20, bottom - 5), (20 + round(length), bottom), (20, 20, 20), -1)
    return image
