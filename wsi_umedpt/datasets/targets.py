"""Training targets of samples: masks and boxes turned into the label that a task's kind needs.

Labels that depend on what is in view (the share of nuclei, which parts a slice shows) are taken
from the mask after it was cropped, so that they are true of what the network sees.
"""

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.datasets.samples import IGNORED, Mask, Sample
from wsi_umedpt.errors import DataError

BORDER = "border"
"""Name of the class of pixels between or around instances."""
FROM_MASK = {"area_fraction": "share of pixels inside an instance", "count": "instances per 10,000 pixels"}
"""Values that regression can take from a mask of instances."""


def class_mask(mask: Mask, classes: tuple[str, ...], *, instances: bool) -> npt.NDArray[np.int64]:
    """Class of every pixel, int64 (h, w).

    Instances become class 1; where the third class is `BORDER`, their outlines and the lines
    between those that touch become class 2, so that inner parts can be told apart.
    """
    if not instances:
        return mask.astype(np.int64)
    out = np.where(mask > 0, 1, mask).astype(np.int64)  # 0 and -1 stay
    if len(classes) > 2 and classes[2] == BORDER:
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        # What is not labelled makes no edge: it is never the highest, and here never the lowest.
        low = np.where(mask == IGNORED, np.iinfo(np.int32).max, mask).astype(np.float32)
        edge = cv2.dilate(mask.astype(np.float32), cross) != cv2.erode(low, cross)
        out[edge & (mask > 0)] = 2
    return out


def label_of(sample: Sample, kind: str, classes: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """The label of a whole image: as its record says, or from its mask."""
    if sample.label is not None:
        return sample.label
    if sample.mask is None:
        raise DataError(f"{kind} needs a label or a mask")
    if kind == "multilabel":  # which of the mask's classes 1, 2, ... are in view
        return np.array([(sample.mask == k + 1).any() for k in range(len(classes))], np.float32)
    if kind == "regression":
        return np.array([_measure(sample.mask, name) for name in classes], np.float32)
    raise DataError(f"{kind} cannot take its label from a mask")


def _measure(mask: Mask, name: str) -> float:
    known = mask != IGNORED
    if not known.any():
        return float("nan")
    if name == "area_fraction":
        return float((mask > 0)[known].mean())
    if name == "count":
        return float(len(np.unique(mask[mask > 0])) * 1e4 / known.sum())
    raise DataError(f"a mask gives {', '.join(FROM_MASK)}, not {name!r}")
