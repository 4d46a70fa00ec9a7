"""Pictures and volumes from files, as arrays of one shape and range.

Images come out uint8 (h, w, 3) whatever they were; grey ones repeat their channel. Masks come
out int32 (h, w). Intensities without a fixed range (DICOM, NIfTI) are stretched between their
percentiles 2.5 and 97.5, as the method's authors do.
"""

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

from wsi_umedpt.datasets.samples import Image, Mask
from wsi_umedpt.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
_PERCENTILES = (2.5, 97.5)
_GREY_STEPS = {2: 85, 4: 17}
"""Between the greys that decoders make of pixels of so many bits."""


def read_image(path: Path) -> Image:
    """Read a picture or a DICOM X-ray as uint8 (h, w, 3).

    Raises
    ------
    DataError
        If it cannot be read.
    """
    if path.suffix.lower() == ".dcm":
        return _read_dicom(path)
    found = _decode(path)
    if found.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path} has pixels of type {found.dtype}, expected uint8 or uint16")
    if found.dtype == np.uint16:
        found = found // 257
    found = found.astype(np.uint8)
    if found.ndim == 2:
        return grey(found)
    if found.shape[2] not in (3, 4):
        raise DataError(f"{path} has {found.shape[2]} channels, expected 1, 3 or 4")
    found = found[:, :, :3]
    return np.ascontiguousarray(found[:, :, ::-1])  # OpenCV gives blue first


def read_mask(path: Path) -> Mask:
    """Read a picture of classes or instances as int32 (h, w).

    A colour picture of grey values counts as grey. Pixels of less than 8 bits are the numbers that are stored,
    0 and 1 of one bit, and not the greys that viewers show for them. Of a palette in colour the numbers of the colours
    count, as in VOC's masks; of one in grey the greys, save that black and white are 0 and 1.

    Raises
    ------
    DataError
        If it cannot be read, or is a picture in colour.
    """
    found = _stored(path)
    if found is None:
        found = _decode(path)
    if found.ndim == 3:
        if not (found[:, :, :1] == found[:, :, :3]).all():
            raise DataError(f"{path} is a colour picture, expected one number for each pixel")
        found = found[:, :, 0]
    return found.astype(np.int32)


def _stored(path: Path) -> npt.NDArray[Any] | None:
    """Numbers of a picture with a palette or of less than 8 bits a pixel; None of all others."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # OpenCV has a limit of its own
            picture = PIL.Image.open(path)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None  # as DICOM, or damage, which is said where it is decoded
    with picture:
        step = _GREY_STEPS.get(_bits_of_grey(path), 0) if picture.format == "PNG" and picture.mode in ("1", "L") else 0
        if picture.mode not in ("1", "P") and not step:
            return None
        if picture.format == "BMP" and picture.mode == "1" and _bits_of_bmp(path) != 1:
            return None  # 8 bits and a palette of two greys, which Pillow takes for one bit
        try:
            values = np.asarray(picture)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        if picture.mode == "1":
            return values.astype(np.uint8)
        if picture.mode == "L":
            return values // np.uint8(step)
        colours = np.asarray(picture.convert("RGB"))
    if (colours != colours[:, :, :1]).any():
        return values
    greys = colours[:, :, 0]
    return (greys > 0).astype(np.uint8) if np.isin(greys, (0, 255)).all() else greys


def _bits_of_grey(path: Path) -> int:
    """Bits a pixel of a grey PNG, from its header; 0 of one in colour."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] if head[25:26] == b"\0" else 0


def _bits_of_bmp(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(30)[28:30], "little")


def read_volume(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Read a NIfTI volume.

    Returns
    -------
    values : float32 (slice, row, col)
        In the orientation they are stored in.
    affine : float64 (4, 4)
        Map of voxel (col, row, slice) to mm.
    """
    volume = _open_volume(path)
    try:
        values = np.asarray(volume.dataobj, np.float32)
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        raise DataError(f"{path} cannot be read as NIfTI: {error}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite")
    return np.ascontiguousarray(values.transpose(2, 1, 0)), np.asarray(volume.affine, np.float64)


def read_labels(path: Path) -> tuple[Mask, npt.NDArray[np.float64]]:
    """Read a NIfTI volume of classes as int32 (slice, row, col), and its affine; see `read_volume`."""
    values, affine = read_volume(path)
    classes = np.rint(values)
    if (np.abs(values - classes) > 1e-3).any():
        raise DataError(f"{path} holds values between whole numbers, expected classes")
    return classes.astype(np.int32), affine


def count_slices(path: Path) -> int:
    """Slices of a NIfTI volume, by its header."""
    return int(_open_volume(path).shape[2])


def _open_volume(path: Path) -> Any:
    try:
        import nibabel
    except ImportError:
        raise DataError("reading NIfTI needs nibabel: pip install 'wsi-umedpt[train]'") from None
    try:
        volume: Any = nibabel.load(path)
        axes = len(volume.shape)
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        raise DataError(f"{path} cannot be read as NIfTI: {error}") from None
    if axes != 3:
        raise DataError(f"{path} has {axes} axes, expected 3")
    return volume


def stretch(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Intensities between their percentiles 2.5 and 97.5 as 0 to 255, clipped."""
    low, high = np.percentile(values, _PERCENTILES)
    scaled = (values - low) / max(float(high - low), 1e-6)
    out: npt.NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return out


def grey(values: npt.NDArray[np.uint8]) -> Image:
    """Grey uint8 (h, w) as (h, w, 3)."""
    return np.ascontiguousarray(np.repeat(values[:, :, None], 3, axis=2))


def _decode(path: Path) -> npt.NDArray[Any]:
    try:
        found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if found is None:
        raise DataError(f"{path} is no picture that can be decoded")
    out: npt.NDArray[Any] = found
    return out


def _read_dicom(path: Path) -> Image:
    try:
        import pydicom
    except ImportError:
        raise DataError("reading DICOM needs pydicom: pip install 'wsi-umedpt[train]'") from None
    try:
        data = pydicom.dcmread(path)
        values = data.pixel_array.astype(np.float32)
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        raise DataError(f"{path} cannot be read as DICOM: {error}") from None
    if values.ndim != 2:
        raise DataError(f"{path} has pixels of shape {values.shape}, expected one grey image")
    stretched = stretch(values)
    # MONOCHROME1 shows its lowest value white.
    return grey(255 - stretched if data.get("PhotometricInterpretation") == "MONOCHROME1" else stretched)
