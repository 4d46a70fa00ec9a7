"""Tissue masks that the user drew: annotations or a picture in, a `TissueMask` out."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image

from wsi_umedpt.annotations.annotation import (
    FRAME,
    Geometry,
    Origin,
    is_starred,
    polygons_of,
    skipped_words,
)
from wsi_umedpt.annotations.filling import Work, fill_window, share_within
from wsi_umedpt.annotations.reading import kind_of_file, read_annotation_file
from wsi_umedpt.errors import AnnotationError, MaskError
from wsi_umedpt.geometry import Box
from wsi_umedpt.io.files import check_regular, read_regular
from wsi_umedpt.slides.tissue import TissueMask

Mask = npt.NDArray[np.bool_]

MOST_BYTES = 1 << 30
"""Most bytes of a file that holds a mask."""
MOST_FILLED = 2_000_000_000
"""Cells that may be filled, of all areas together."""
MOST_PAIRS = 20_000
"""Areas that are compared with areas of starred classes."""
_NESTED = 0.95
"""Share of an area that lies in another which it is drawn within: hands cross outlines by a little."""


def mask_from_file(
    path: Path,
    size: tuple[int, int],
    mpp: float,
    cell_um: float = 16.0,
    *,
    bounds: Box | None = None,
    origin: Origin | None = None,
) -> TissueMask:
    """A tissue mask that the user drew: annotations of QuPath, ASAP, ImageScope or HALO, or a picture.

    Of annotations areas are tissue, and what lies in one of a starred class of QuPath (Ignore*) is not, unless
    it lies in a further area that was drawn within; Region* says nothing, as lines and points do.

    Parameters
    ----------
    path
        GeoJSON (packed or not), XML, or PNG or BMP: non-zero is tissue, and it covers the whole slide or its
        bounds, whichever it has the shape of.
    size : (width, height) of the slide, level-0 px
    mpp : um/px of the slide
    bounds
        Bounds of the slide, where it states them.
    origin
        The corner that the mask counts from; by default that of its format, see `read_annotation_file`.

    Returns
    -------
    TissueMask
        With a note of what was left out.

    Raises
    ------
    MaskError
        If it cannot be read, holds no area, has another aspect ratio than the slide, or marks nothing of it.
    """
    step = max(1, round(cell_um / mpp))
    cols, rows = -(-size[0] // step), -(-size[1] // step)
    method, parameters = drawn_by(path, cell_um, origin)
    if method == "png":
        cells = _picture_cells(path, size, step, (rows, cols), bounds, origin)
        return TissueMask(cells, step, None, method, parameters)
    try:
        found = read_annotation_file(path, (bounds.x, bounds.y) if bounds else (0, 0), origin)
    except AnnotationError as error:
        raise MaskError(str(error)) from None
    skipped = found.skipped.copy()
    areas = [one for one in found.annotations if one.shape == "area" and one.name != FRAME]
    skipped[f"of the class {FRAME}"] = sum(one.shape == "area" and one.name == FRAME for one in found.annotations)
    for kind in ("line", "point"):
        skipped[f"{kind}s"] = sum(one.shape == kind for one in found.annotations)
    note = skipped_words(skipped)
    counted = [one.geometry for one in areas if not is_starred(one.name)]
    if not counted:
        starred = f", and {len(areas):,} areas of starred classes" if areas else ""
        raise MaskError(f"{path} holds no polygon that is tissue{starred}{f' ({note})' if note else ''}")
    try:
        cells = _cells_of(counted, [one.geometry for one in areas if is_starred(one.name)], step, rows, cols)
    except AnnotationError as error:
        raise MaskError(f"{path}: {error}") from None
    if not cells.any():
        left, top, right, bottom = shapely.total_bounds(counted)
        corner = f", counted from its bounds at {bounds.x}, {bounds.y}" if bounds and found.origin == "bounds" else ""
        raise MaskError(
            f"{path.name} marks nothing of the slide: its polygons span x {left:g} to {right:g} and y {top:g} to "
            f"{bottom:g}, the slide is {size[0]} x {size[1]} px{corner}. Coordinates must be "
            "level-0 pixels, not microns."
        )
    return TissueMask(cells, step, None, method, parameters, note)


def _picture_cells(
    path: Path, size: tuple[int, int], step: int, shape: tuple[int, int], bounds: Box | None, origin: Origin | None
) -> Mask:
    """Cells whose middle is not zero in a picture of the slide, or of its bounds."""
    try:
        check_regular(path, MOST_BYTES)
        with Image.open(path, formats=("PNG", "BMP")) as image:
            drawn = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError(
            f"{path} is neither GeoJSON nor a PNG mask, nor XML of ASAP, ImageScope or HALO: {error}"
        ) from None
    covered = _covered(path, (drawn.shape[1], drawn.shape[0]), size, bounds, origin)
    x, y = ((np.arange(n) + 0.5) * step for n in reversed(shape))
    col = np.floor((x - covered.x) * drawn.shape[1] / covered.width).astype(int)
    row = np.floor((y - covered.y) * drawn.shape[0] / covered.height).astype(int)
    # The middle of the last cell may lie beyond a slide that it covers in part.
    inside_x = (x >= covered.x) & (np.minimum(x, size[0] - 1) < covered.x + covered.width)
    inside_y = (y >= covered.y) & (np.minimum(y, size[1] - 1) < covered.y + covered.height)
    cells: Mask = drawn[np.ix_(np.clip(row, 0, drawn.shape[0] - 1), np.clip(col, 0, drawn.shape[1] - 1))]
    cells &= inside_x[None] & inside_y[:, None]
    if not cells.any():
        raise MaskError(
            f"{path.name} marks nothing of the slide: {drawn.sum()} of its {drawn.size} pixels are not zero, none of "
            f"them at the centre of a cell of {step} level-0 px. Non-zero is tissue."
        )
    return cells


def _covered(
    path: Path, drawn: tuple[int, int], size: tuple[int, int], bounds: Box | None, origin: Origin | None
) -> Box:
    """The part of the slide that a picture shows."""
    whole = Box(0, 0, *size)
    choices = {"level-0": whole} if bounds is None else {"level-0": whole, "bounds": bounds}
    if origin is not None:
        choices = {origin: bounds if bounds and origin == "bounds" else whole}
    fitting = {name: box for name, box in choices.items() if _fits(drawn, box)}
    if len(fitting) > 1:
        raise MaskError(
            f"{path.name} ({drawn[0]} x {drawn[1]} px) has the shape of the slide and that of its bounds: say which it "
            "shows, `no_bounds` for the whole slide, `bounds` for what QuPath shows of it"
        )
    if not fitting:
        shapes = " or ".join(
            f"{'the slide' if box is whole else 'its bounds'} ({box.width} x {box.height} px)"
            for box in choices.values()
        )
        raise MaskError(
            f"{path.name} is {drawn[0]} x {drawn[1]} px, which is not the shape of {shapes}: it must show the whole "
            f"{'slide' if whole in choices.values() else 'of them'}"
        )
    return next(iter(fitting.values()))


def _fits(drawn: tuple[int, int], box: Box) -> bool:
    across, down = box.width / drawn[0], box.height / drawn[1]
    # One pixel of the mask, rounded either way, is what honest rounding can explain.
    return abs(across - down) <= max(across / drawn[0], down / drawn[1]) + 1e-9


def drawn_by(path: Path, cell_um: float, origin: Origin | None = None) -> tuple[str, dict[str, float | bool | str]]:
    """Method and parameters of a mask that the user drew; another content is another sha256."""
    try:
        digest = hashlib.sha256(read_regular(path, MOST_BYTES)).hexdigest()
        method = kind_of_file(path) or "png"
    except (OSError, AnnotationError) as error:
        raise MaskError(f"the mask {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return method, {"sha256": digest, "cell_um": cell_um, "origin": origin or "of the format"}


def _cells_of(counted: Sequence[Geometry], starred: Sequence[Geometry], step: int, rows: int, cols: int) -> Mask:
    """Cells whose centre lies in an area that counts, and in none that does not and lies in no further one."""
    xs, ys = (np.arange(n, dtype=np.float64) * step + step / 2 for n in (cols, rows))
    work, mask, cut = Work(), np.zeros((rows, cols), bool), np.zeros((rows, cols), bool)
    filled = pairs = 0
    boxes = shapely.bounds(np.array(starred, object)) if starred else np.zeros((0, 4))

    def windows(area: Geometry) -> Iterator[tuple[tuple[slice, slice], Mask]]:
        nonlocal filled
        for rings in polygons_of(area):
            at_rows, at_cols, cells = fill_window(rings, xs, ys, work)
            filled += cells.size
            if filled > MOST_FILLED:
                raise AnnotationError(
                    f"its areas fill over {MOST_FILLED:,} cells of {step} px: they lie over each other many times. "
                    "Merge them in the program that drew them."
                )
            yield (at_rows, at_cols), cells

    for area in starred:
        for at, cells in windows(area):
            cut[at] |= cells
    for area in counted:
        left, top, right, bottom = shapely.bounds(area)
        reaching = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
        near = np.flatnonzero(reaching).tolist()
        pairs += len(near)
        if pairs > MOST_PAIRS:
            raise AnnotationError(
                f"its areas lie over those of starred classes more than {MOST_PAIRS:,} times. Merge those of one class."
            )
        within = [n for n in near if share_within(area, starred[n]) >= _NESTED]
        mine = cut
        if within:  # those that it was drawn within do not count against it
            mine = np.zeros_like(cut)
            for n in near:
                if n not in within:
                    for at, cells in windows(starred[n]):
                        mine[at] |= cells
        for at, cells in windows(area):
            mask[at] |= cells & ~mine[at]
    return mask
