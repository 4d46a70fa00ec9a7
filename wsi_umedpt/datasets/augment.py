"""Random views of a sample: one affine map, then intensities as its modality allows.

`draw_view` chooses a map and `take` applies it to image, mask and boxes alike, so that they
cannot fall apart. Shapes are (h, w). Everything random comes from the generator passed in.
"""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.datasets.samples import IGNORED, Image, Sample

Modality = Literal["microscopy", "fluorescence", "xray", "tomography", "photograph"]
Framing = Literal["crop", "whole"]
"""crop: a window at some zoom. whole: the whole image, scaled to fit."""
Rng = np.random.Generator
Matrix = npt.NDArray[np.float64]

_TILT = {"microscopy": 180.0, "fluorescence": 180.0, "xray": 10.0, "tomography": 45.0, "photograph": 180.0}
"""Rotations up to so many degrees, where labels allow any."""
_FLIPS = ("microscopy", "fluorescence", "tomography", "photograph")  # a mirrored chest has its heart on the wrong side
_COLOURED = ("microscopy", "photograph")
_MIN_VISIBLE = 0.4
_MIN_SIDE_PX = 3.0
_BEFORE = 0.6
_FROM_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Densities of red, green and blue of haematoxylin, eosin and DAB (Ruifrok and Johnston, AQCH 2001)."""
_FROM_STAINS_INVERSE = np.linalg.inv(_FROM_STAINS)


@dataclass(frozen=True)
class View:
    """Image to output: scale, then everything else."""

    matrix: Matrix
    """float64 (2, 3): output point = matrix @ (x, y, 1); points are corners of pixels, not centres."""
    shape: tuple[int, int]


def draw_view(
    sample: Sample, shape: tuple[int, int], zoom: tuple[float, float], framing: Framing, modality: Modality, rng: Rng
) -> View:
    """A random view of a sample.

    Parameters
    ----------
    sample
        Cases with boxes are turned by quarters only, so that boxes stay boxes.
    shape : (h, w)
        Shape of the output, px.
    zoom
        Least and greatest, output px per image px; with framing 'whole', relative to what fits.
    framing, modality
        Kind of view, and of image, which decides the turns and flips that make sense.
    """
    height, width = sample.image.shape[:2]
    scale = float(np.exp(rng.uniform(*np.log(zoom))))
    if framing == "whole":
        scale *= min(shape[0] / height, shape[1] / width)
    if modality == "xray" or sample.xyxy is None:
        angle = float(rng.uniform(-1, 1) * _TILT[modality]) if sample.xyxy is None else 0.0
    else:
        angle = 90.0 * int(rng.integers(4))
    flip = -1.0 if modality in _FLIPS and rng.random() < 0.5 else 1.0
    if framing == "whole":
        centre = np.array([width, height]) * (0.5 + rng.uniform(-0.05, 0.05, 2))
    else:
        # The window lies inside the image where it can; an image smaller than the window is centred.
        reach = np.array([shape[1], shape[0]]) / scale / 2
        size = np.array([width, height], float)
        low, high = np.minimum(reach, size / 2), np.maximum(size - reach, size / 2)
        centre = rng.uniform(low, high)
    return View(_matrix(centre, scale, angle, flip, shape), shape)


def still_view(sample: Sample, zoom: float, framing: Framing, edge_px: int) -> View:
    """The view that is evaluated: all of the image at one zoom; 'whole' fits its longer side to `edge_px`."""
    height, width = sample.image.shape[:2]
    scale = edge_px / max(height, width) if framing == "whole" else zoom
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    return View(np.array([[shape[1] / width, 0.0, 0.0], [0.0, shape[0] / height, 0.0]]), shape)


def take(sample: Sample, view: View) -> Sample:
    """Take a view of a sample. Outside the image is its border's mean colour; masks are -1 there."""
    image, matrix = sample.image, view.matrix
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).mean(0)
    warped_from, to_image = image, matrix
    if scale < _BEFORE:  # bilinear sampling would skip pixels: average first
        small = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        warped_from = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        to_image = matrix @ np.diag([image.shape[1] / small[0], image.shape[0] / small[1], 1.0])
    size = (view.shape[1], view.shape[0])
    picture = cv2.warpAffine(
        warped_from, _centred(to_image), size, flags=cv2.INTER_LINEAR, borderValue=tuple(float(b) for b in border)
    )
    taken = replace(sample, image=picture)
    if sample.mask is not None:
        # warpAffine knows no int32; float32 holds instances up to 16 million exactly.
        mask = cv2.warpAffine(
            sample.mask.astype(np.float32), _centred(matrix), size, flags=cv2.INTER_NEAREST, borderValue=(IGNORED,)
        )
        taken = replace(taken, mask=mask.astype(np.int32))
    if sample.xyxy is not None and sample.box_classes is not None:
        xyxy, kept = _moved(sample.xyxy, view)
        taken = replace(taken, xyxy=xyxy[kept], box_classes=sample.box_classes[kept])
    return taken


def recolour(image: Image, modality: Modality, rng: Rng) -> Image:
    """Random intensities, as scanners, stains and files differ.

    Contrast, brightness and gamma; stains or colours where there are any; blur, noise, fewer pixels
    and JPEG; of X-rays, edges painted over, which tell one hospital from another.
    """
    if modality in _COLOURED and rng.random() < 0.5:
        image = _shift_colour(image, rng)
    if modality == "xray":
        image = _without_edges(image, rng) if rng.random() < 0.3 else image
        image = 255 - image if rng.random() < 0.3 else image
    if rng.random() < 0.6:
        ramp = np.arange(256) / 255.0
        ramp = ramp ** float(np.exp(rng.uniform(-0.35, 0.35)))
        ramp = (ramp - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.uniform(-0.1, 0.1)
        image = np.rint(np.clip(ramp, 0, 1) * 255).astype(np.uint8)[image]
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2)))
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(2, 10), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        image = _fewer_pixels(image, float(rng.uniform(0.5, 0.9)))
    if rng.random() < 0.15:
        image = _as_jpeg(image, int(rng.integers(30, 90)))
    return image


def _fewer_pixels(image: Image, scale: float) -> Image:
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    out: Image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return out


def _as_jpeg(image: Image, quality: int) -> Image:
    written = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return np.asarray(cv2.imdecode(written, cv2.IMREAD_COLOR), np.uint8)


def _without_edges(image: Image, rng: Rng) -> Image:
    """Up to a tenth of each side in one grey, as collimators and screens leave it."""
    height, width = image.shape[:2]
    top, bottom, left, right = (rng.uniform(0, 0.1, 4) * (height, height, width, width)).astype(int)
    out = np.full_like(image, rng.choice((0, 0, 255, int(image.mean()))))
    out[top : height - bottom, left : width - right] = image[top : height - bottom, left : width - right]
    return out


def _shift_colour(image: Image, rng: Rng) -> Image:
    chance = rng.random()
    if chance < 0.15:  # grey: what is learnt should also serve images without colour
        out: Image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return out
    if chance < 0.25:
        return np.ascontiguousarray(image[:, :, rng.permutation(3)])
    if chance < 0.65:
        return _shift_stains(image, rng)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)  # hue in 0 to 179
    hue, saturation, value = rng.uniform(-15, 15), rng.uniform(-30, 30), rng.uniform(-20, 20)
    hsv[:, :, 0] = (hsv[:, :, 0] + round(hue)) % 180
    hsv[:, :, 1:] = np.clip(hsv[:, :, 1:] + np.array([round(saturation), round(value)]), 0, 255)
    shifted: Image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return shifted


def _shift_stains(image: Image, rng: Rng) -> Image:
    """Haematoxylin, eosin and the rest each stronger or weaker, as between laboratories (Tellez et al., MedIA 2019)."""
    density = -np.log((image.reshape(-1, 3).astype(np.float32) + 1) / 256)
    # From the densities of red, green and blue to those of stains and back, with both changes between, in one product.
    change = np.diag(rng.uniform(0.7, 1.3, 3))
    shifted = density @ (_FROM_STAINS_INVERSE @ change @ _FROM_STAINS).astype(np.float32)
    shifted += (rng.uniform(-0.05, 0.05, 3) @ _FROM_STAINS).astype(np.float32)
    out: Image = np.clip(np.exp(-shifted) * 256 - 1, 0, 255).astype(np.uint8).reshape(image.shape)
    return out


def _matrix(centre: npt.NDArray[np.float64], scale: float, angle: float, flip: float, shape: tuple[int, int]) -> Matrix:
    """The map that turns, flips and scales about `centre` and brings it to the middle of the output."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    linear = scale * np.array([[c, -s], [s, c]]) @ np.diag([flip, 1.0])
    middle = np.array([shape[1], shape[0]]) / 2
    return np.column_stack([linear, middle - linear @ centre])


def _centred(matrix: Matrix) -> Matrix:
    """The same map between centres of pixels, which is what OpenCV counts from."""
    half = np.array([0.5, 0.5])
    return np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ half - half])


def _moved(xyxy: npt.NDArray[np.float32], view: View) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Boxes in the view, clipped to it, and which of them are still to be seen."""
    x, y = xyxy[:, [0, 2, 0, 2]], xyxy[:, [1, 1, 3, 3]]  # (box, corner)
    m = view.matrix
    u, v = m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]
    whole = np.stack([u.min(1), v.min(1), u.max(1), v.max(1)], 1) if len(xyxy) else np.zeros((0, 4))
    limit = np.array([view.shape[1], view.shape[0]] * 2)
    clipped = np.clip(whole, 0, limit)
    side, before = clipped[:, 2:] - clipped[:, :2], whole[:, 2:] - whole[:, :2]
    visible = side.prod(1) >= _MIN_VISIBLE * before.prod(1)
    return clipped.astype(np.float32), visible & (side.min(1) >= _MIN_SIDE_PX)
