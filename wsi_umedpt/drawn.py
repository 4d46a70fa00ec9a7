"""Tissue masks that the user drew: GeoJSON polygons or a picture in, a `TissueMask` out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
import shapely.geometry
from PIL import Image

from wsi_umedpt.errors import MaskError
from wsi_umedpt.files import check_regular, read_regular
from wsi_umedpt.tissue import TissueMask

Mask = npt.NDArray[np.bool_]

MOST_BYTES = 1 << 30
"""Of a file that holds a mask."""


def mask_from_file(path: Path, size: tuple[int, int], mpp: float, cell_um: float = 16.0) -> TissueMask:
    """A tissue mask that the user drew: GeoJSON polygons (level-0 px) or a PNG of the whole slide.

    Parameters
    ----------
    path
        ``.geojson``/``.json`` as QuPath writes it, or an image: non-zero is tissue, and it
        is taken to cover the whole slide.
    size : (width, height) of the slide, level-0 px
    mpp : um/px of the slide

    Raises
    ------
    MaskError
        If it cannot be read, holds no polygon, has another aspect ratio than the slide, or
        marks nothing of it.
    """
    step = max(1, round(cell_um / mpp))
    cols, rows = -(-size[0] // step), -(-size[1] // step)
    method, parameters = drawn_by(path, cell_um)
    if method == "geojson":
        areas = _polygons(path)
        cells = _raster(areas, step, rows, cols)
        if not cells.any():
            left, top, right, bottom = shapely.total_bounds(areas)
            raise MaskError(
                f"{path.name} marks nothing of the slide: its polygons span x {left:g} to {right:g} and y {top:g} to "
                f"{bottom:g}, the slide is {size[0]} x {size[1]} px. Coordinates must be level-0 pixels, not microns."
            )
        return TissueMask(cells, step, None, method, parameters)
    try:
        check_regular(path, MOST_BYTES)
        with Image.open(path, formats=("PNG", "BMP")) as image:
            drawn = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError(f"{path} is neither GeoJSON nor a PNG mask: {error}") from None
    across, down = size[0] / drawn.shape[1], size[1] / drawn.shape[0]
    # One pixel of the mask, rounded either way, is what honest rounding can explain.
    if abs(across - down) > max(across / drawn.shape[1], down / drawn.shape[0]) + 1e-9:
        raise MaskError(
            f"{path.name} is {drawn.shape[1]} x {drawn.shape[0]} px, which is not the shape of the slide "
            f"({size[0]} x {size[1]} px): it must show the whole slide"
        )
    centres_x = np.minimum(((np.arange(cols) + 0.5) * step / across).astype(int), drawn.shape[1] - 1)
    centres_y = np.minimum(((np.arange(rows) + 0.5) * step / down).astype(int), drawn.shape[0] - 1)
    cells = drawn[np.ix_(centres_y, centres_x)]
    if not cells.any():
        raise MaskError(
            f"{path.name} marks nothing of the slide: {drawn.sum()} of its {drawn.size} pixels are not zero, none of "
            f"them at the centre of a cell of {step} level-0 px. Non-zero is tissue."
        )
    return TissueMask(cells, step, None, method, parameters)


def drawn_by(path: Path, cell_um: float) -> tuple[str, dict[str, float | bool | str]]:
    """Method and parameters of a mask that the user drew; another content is another sha256."""
    try:
        digest = hashlib.sha256(read_regular(path, MOST_BYTES)).hexdigest()
    except OSError as error:
        raise MaskError(f"the mask {path} cannot be read: {error.strerror or error}") from None
    method = "geojson" if path.suffix.lower() in (".geojson", ".json") else "png"
    return method, {"sha256": digest, "cell_um": cell_um}


def _polygons(path: Path) -> list[shapely.geometry.base.BaseGeometry]:
    try:
        data = json.loads(path.read_bytes())
        features = data if isinstance(data, list) else data.get("features", [data])
        shapes = [shapely.geometry.shape(f.get("geometry") or f) for f in features]
        areas = [shapely.make_valid(s) for s in shapes if s.geom_type in ("Polygon", "MultiPolygon")]
        areas = [area for area in areas if not area.is_empty]
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        raise MaskError(f"{path} cannot be read as GeoJSON: {type(error).__name__}: {error}") from None
    if not areas:
        raise MaskError(f"{path} holds no polygon")
    return areas


def _raster(areas: list[shapely.geometry.base.BaseGeometry], step: int, rows: int, cols: int) -> Mask:
    """Cells whose centre lies in a polygon."""
    mask = np.zeros((rows, cols), bool)
    for area in areas:
        left, top, right, bottom = (int(v // step) for v in area.bounds)
        c0, c1, r0, r1 = max(left, 0), min(right + 1, cols), max(top, 0), min(bottom + 1, rows)
        if c1 > c0 and r1 > r0:
            xs, ys = np.meshgrid((np.arange(c0, c1) + 0.5) * step, (np.arange(r0, r1) + 0.5) * step)
            mask[r0:r1, c0:c1] |= shapely.contains_xy(area, xs, ys)
    return mask
