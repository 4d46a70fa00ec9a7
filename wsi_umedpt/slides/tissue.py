"""Tissue detection: a slide in, a `TissueMask` and a thumbnail out.

Classical and auditable: background colour is measured, not assumed to be white; tissue is
what differs from it in colour or, where textured, in brightness; ink is what no stain can
be. Every threshold stands in `TissueParameters` and goes into the store.

Read top to bottom: `TissueMask` (what you get), `find_tissue` (how), `mask_from_file` (a
mask of the user's instead).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import PixelError, SlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.settings import TissueParameters
from wsi_umedpt.slides.area import shrink
from wsi_umedpt.slides.readers.base import Pixels, default_threads
from wsi_umedpt.slides.slide import ReadPlan, Slide

Mask = npt.NDArray[np.bool_]
Gray = npt.NDArray[np.float32]

_FOUND = "colour-distance"
METHOD = f"{_FOUND}.v2"
BRIGHTNESS = "brightness.v1"
"""Method where channels are seen that are no colours."""
_BAND_PX = 2_000_000  # of the level, read at a time
_MOST_CELLS = 100_000_000  # a slide of 160 mm square
_FINEST = 16  # px of a thumbnail: no smaller part is tried where the file is damaged
_THUMBNAIL_PX = 1600  # a side that thumbnails may reach
_SPECK_CELLS = 9  # pieces below 3 x 3 cells are noise, and must not be joined by the closing
_BLACK = 2  # grey values, of all pixels of a slide: no lamp, no scanner and no glass
_DIMMEST = 8.0  # grey values that tissue of fluorescence is brighter than the dark, at least
_NOISE = 3.0  # grey values: what JPEG and sensors add to an even background


@dataclass(frozen=True)
class TissueMask:
    """Mask of a slide's tissue; cell (r, c) covers `step` px from (c * step, r * step)."""

    mask: Mask
    """Bool (rows, cols), true where tissue is."""
    step: int
    """Side of a cell, level-0 px."""
    thumbnail: Pixels | None = field(default=None, compare=False)
    """The slide, (rows, cols, 3), if the mask was made from it: a cell is 1, 2 or 4 px wide."""
    method: str = METHOD
    """Method and parameters of its making."""
    parameters: dict[str, float | bool | str] = field(default_factory=dict)
    """Settings of the method."""
    note: str = field(default="", compare=False)
    """Note on parts of the user's mask that were left out; it is not stored."""

    @property
    def drawn(self) -> bool:
        """True if it was given, as a file of regions or a picture, and not found on the slide."""
        return not self.method.startswith((_FOUND, BRIGHTNESS))

    def holds(self, xy: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Look up whether positions lie in tissue.

        Parameters
        ----------
        xy : (position, 2) level-0 px
            Positions, x before y.

        Returns
        -------
        bool (position,)
            False outside the mask.
        """
        cells = np.floor(np.asarray(xy, np.float64) / self.step).astype(np.int64)
        rows, cols = self.mask.shape
        inside = (cells >= 0).all(axis=1) & (cells[:, 0] < cols) & (cells[:, 1] < rows)
        held = np.zeros(len(cells), bool)
        held[inside] = self.mask[cells[inside, 1], cells[inside, 0]]
        return held

    @property
    def origin(self) -> str:
        """Origin of the mask, in words."""
        return f"{self.method}: " + ", ".join(f"{name} {value}" for name, value in self.parameters.items())

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue, 0 to 1."""
        return float(self.mask.mean()) if self.mask.size else 0.0

    def area_mm2(self, mpp: float) -> float:
        """Measure the tissue.

        Parameters
        ----------
        mpp : um/px
            Scale of the slide at level 0.

        Returns
        -------
        float
            Area in mm2.
        """
        return float(self.mask.sum()) * (self.step * mpp / 1000) ** 2

    def covered(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], side: float) -> Gray:
        """Share of each square that is tissue, by exact area.

        The integral of a mask of square cells is linear between its grid points, so that
        reading it bilinearly loses nothing.

        Parameters
        ----------
        x, y : (tile,) level-0 px
            Top left corners of the squares.
        side : level-0 px
            Side of the squares.

        Returns
        -------
        float32 (tile,)
            0 to 1; what lies outside the mask counts as no tissue.
        """
        rows, cols = self.mask.shape
        table = np.zeros((rows + 1, cols + 1))
        table[1:, 1:] = self.mask.cumsum(0, dtype=np.float64).cumsum(1)

        def area(px: npt.NDArray[np.float64], py: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            c, r = np.clip(px / self.step, 0, cols), np.clip(py / self.step, 0, rows)
            c0, r0 = np.minimum(c.astype(int), cols - 1), np.minimum(r.astype(int), rows - 1)
            fc, fr = c - c0, r - r0
            top = table[r0, c0] * (1 - fc) + table[r0, c0 + 1] * fc
            bottom = table[r0 + 1, c0] * (1 - fc) + table[r0 + 1, c0 + 1] * fc
            value: npt.NDArray[np.float64] = top * (1 - fr) + bottom * fr
            return value

        total = area(x + side, y + side) - area(x, y + side) - area(x + side, y) + area(x, y)
        return np.clip(total * (self.step / side) ** 2, 0, 1).astype(np.float32)


def find_tissue(
    slide: Slide, parameters: TissueParameters | None = None, advanced: Callable[[], None] = lambda: None
) -> TissueMask:
    """Find tissue on the coarsest level that is fine enough.

    Parameters
    ----------
    slide
        Slide of any stain; background may be white, grey or black. Where channels of fluorescence are seen, tissue is
        what is brighter than the dark in any of them.
    parameters
        Defaults suit H&E and IHC.
    advanced
        Called whenever a part of the slide was read; from several threads.

    Returns
    -------
    TissueMask
        With the thumbnail it was made from.

    Raises
    ------
    SlideError
        If the slide is black throughout, or over half of it cannot be read.
    """
    p = parameters or TissueParameters()
    step = _cell(slide, p.cell_um)
    # People look at the thumbnail: that of a small slide is finer than the mask.
    fine = next((n for n in (4, 2) if step % n == 0 and max(slide.size) * n / step <= _THUMBNAIL_PX), 1)
    thumbnail, damaged = read_thumbnail(slide, step // fine, advanced)
    if not damaged.all() and thumbnail[~damaged].max(initial=0) <= _BLACK:
        raise SlideError(
            f"{slide.path.name} is black throughout: its pixels were never written, or were lost. Export it again, "
            "or copy it again."
        )
    rows, cols = -(-slide.size[1] // step), -(-slide.size[0] // step)
    missing = ((0, rows * fine - thumbnail.shape[0]), (0, cols * fine - thumbnail.shape[1]))
    whole = np.pad(thumbnail, (*missing, (0, 0)), constant_values=slide.blank)
    small, cell_um2 = shrink(whole, (cols, rows), fine), (step * slide.mpp) ** 2
    mask = _bright(small, p, cell_um2) if slide.channels else _segment(small, p, cell_um2)
    # What cannot be seen may be tissue: its tiles are laid, and recorded as unreadable.
    mask |= np.pad(damaged, missing).reshape(rows, fine, cols, fine).any(axis=(1, 3))
    return TissueMask(mask, step, thumbnail, method_for(bool(slide.channels)), asdict(p))


def method_for(channels: bool) -> str:
    """Name of the method of `find_tissue` on slides of channels that are no colours, or on others."""
    return BRIGHTNESS if channels else METHOD


def _cell(slide: Slide, cell_um: float) -> int:
    """About `cell_um` in level-0 px, a whole multiple of a level's scale: shrinking is then cheap."""
    wanted = max(1.0, cell_um / slide.mpp)
    base = max(level.scale for level in slide.levels if level.scale <= wanted * 1.1)
    return max(1, round(base * max(1, round(wanted / base))))


def read_thumbnail(slide: Slide, step: int, advanced: Callable[[], None] = lambda: None) -> tuple[Pixels, Mask]:
    """The whole slide at one pixel per `step` level-0 px, read in bands of bounded memory.

    `advanced` is called, from several threads, whenever a band was read.

    Returns
    -------
    thumbnail : uint8 (rows, cols, 3)
    damaged : bool (rows, cols)
        Cells that the file cannot give; the thumbnail is white there.

    Raises
    ------
    SlideError
        If over half of it cannot be read, or the slide is too large to be real.
    """
    width, height = slide.size
    cols, rows = -(-width // step), -(-height // step)
    if cols * rows > _MOST_CELLS:
        raise SlideError(f"{slide.path.name} claims {width} x {height} px at {slide.mpp:g} um/px: no slide is so large")
    plan = slide.plan(float(step), max(cols, rows))
    band = max(1, int(_BAND_PX // max(1, cols * plan.shrink**2)))
    tiles = slide.native_tiles(plan.level)
    if tiles is not None:  # whole rows of native tiles, so that none is decoded twice
        unit = max(1, round(tiles.tile_height / plan.shrink))
        band = max(1, band // unit) * unit
    out = np.empty((rows, cols, 3), np.uint8)
    damaged = np.zeros((rows, cols), bool)
    parts = [Box(0, top, cols, min(band, rows - top)) for top in range(0, rows, band)]

    def read(part: Box) -> None:
        _read_part(slide, plan, step, out, damaged, part)
        advanced()

    with ThreadPoolExecutor(default_threads()) as pool:
        list(pool.map(read, parts))
    if damaged.mean() > 0.5:
        raise SlideError(f"{slide.path.name}: level {plan.level} cannot be read: the file is damaged. Copy it again.")
    return out, damaged


def _read_part(slide: Slide, plan: ReadPlan, step: int, out: Pixels, damaged: Mask, part: Box) -> None:
    """Read a part of the thumbnail; where the file is damaged, halve it until the rest is read."""
    area = slice(part.y, part.y + part.height), slice(part.x, part.x + part.width)
    try:
        out[area] = slide.read_tile((part.x * step, part.y * step), (part.width, part.height), plan)
    except PixelError:
        if part.width <= _FINEST and part.height <= _FINEST:
            out[area], damaged[area] = slide.blank, True
            return
        for piece in _halves(part):
            _read_part(slide, plan, step, out, damaged, piece)


def _halves(box: Box) -> tuple[Box, Box]:
    if box.width >= box.height:
        half = box.width // 2
        return Box(box.x, box.y, half, box.height), Box(box.x + half, box.y, box.width - half, box.height)
    half = box.height // 2
    return Box(box.x, box.y, box.width, half), Box(box.x, box.y + half, box.width, box.height - half)


def _segment(thumbnail: Pixels, p: TissueParameters, cell_um2: float) -> Mask:
    smooth = cv2.medianBlur(thumbnail, 3)
    light, a, b = cv2.split(cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
    chroma, hue = cv2.cartToPolar(a, b, angleInDegrees=True)
    texture = _texture(light)
    red, green, blue = cv2.split(smooth)
    void = cv2.max(cv2.max(red, green), blue) < 16  # black filler, which scanners put between regions
    glass = _glass(light, a, b, (texture < 2.0) & (chroma < 12) & (light > 25) & ~void)

    # a* and b* are distances as the eye sees them; brightness alone (dust, shading) must
    # come with texture before it counts.
    distance = cv2.magnitude(a - glass.a, b - glass.b)
    threshold = _threshold(distance[~void], max(p.min_colour, 3 * glass.noise), p.max_colour)
    darker = cv2.absdiff(light, np.full_like(light, glass.light)) > max(12.0, 4 * glass.noise)
    coloured = distance > threshold
    tissue = (coloured | _textured(darker & ~void, texture)) & ~void
    if p.reject_ink:
        tissue &= ~_ink(light, chroma, hue)

    # Strands two cells wide are tissue if stained; a colourless one is a fibre or the coverslip's edge.
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    broad = cv2.morphologyEx(tissue.astype(np.uint8), cv2.MORPH_OPEN, disc)
    return _whole_pieces(broad | (tissue & coloured), p, cell_um2)


def _bright(thumbnail: Pixels, p: TissueParameters, cell_um2: float) -> Mask:
    """Cells that are brighter than the dark of a slide of fluorescence, in any of its channels."""
    light = cv2.medianBlur(thumbnail.max(axis=2), 3)
    otsu, _ = cv2.threshold(light, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # Half of the way: Otsu's value lies between dim tissue and bright.
    dark = float(np.median(light[light <= otsu]))
    bright = light > max((dark + otsu) / 2, dark + _DIMMEST)
    return _whole_pieces(bright.astype(np.uint8), p, cell_um2)


def _whole_pieces(tissue: npt.NDArray[np.uint8], p: TissueParameters, cell_um2: float) -> Mask:
    """Pieces without specks, gaps and small holes."""
    mask = _drop_small(tissue, _SPECK_CELLS)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    mask = _drop_small(mask, p.min_area_um2 / cell_um2)
    return ~_drop_small((mask == 0).astype(np.uint8), p.max_hole_um2 / cell_um2).astype(bool)


def _texture(light: Gray) -> Gray:
    """Standard deviation of brightness in 5 x 5 cells."""
    mean = cv2.blur(light, (5, 5))
    variance = np.maximum(cv2.blur(light * light, (5, 5)) - mean * mean, 0)
    return np.asarray(np.sqrt(variance), np.float32)


def _textured(darker: Mask, texture: Gray) -> Mask:
    """Whole dark pieces, where at least 30 % of the piece is textured as tissue is."""
    _, labels = cv2.connectedComponents(darker.astype(np.uint8), connectivity=4)
    cells = np.bincount(labels.ravel())
    share = np.bincount(labels.ravel(), weights=(texture > 2.5).ravel()) / np.maximum(cells, 1)
    share[0] = 0
    return np.asarray(share[labels] >= 0.3, bool)


class _Glass(NamedTuple):
    """Colour of the glass behind the tissue, in CIE L*a*b*."""

    light: float
    a: float
    b: float
    noise: float
    """Standard deviation of its colour."""


def _glass(light: Gray, a: Gray, b: Gray, even: Mask) -> _Glass:
    """The even, unsaturated part of the slide; white where hardly anything on the slide is both."""
    l_even = light[even]
    if len(l_even) < 0.01 * light.size:
        return _Glass(100.0, 0.0, 0.0, 0.0)
    counts = np.bincount(l_even.astype(np.uint8), minlength=101)
    # The brightest strong peak: even, pale tissue lies below the glass on bright field.
    level = np.flatnonzero(counts >= 0.25 * counts.max())[-1] + 0.5
    near = np.abs(l_even - level) < _NOISE
    a_near, b_near = a[even][near], b[even][near]
    glass_a, glass_b = float(np.median(a_near)), float(np.median(b_near))
    return _Glass(float(np.median(l_even[near])), glass_a, glass_b, float(np.hypot(a_near.std(), b_near.std())))


def _threshold(distance: npt.NDArray[np.float32], low: float, high: float) -> float:
    """Otsu's threshold (IEEE SMC 9(1), 1979) of the colour distance, held inside [low, high]."""
    if not distance.size:
        return low
    levels = np.clip(distance * 4, 0, 255).astype(np.uint8).reshape(-1, 1)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # Half of Otsu's value: it cuts between background and strong stain, and pale stain
    # lies in between.
    return float(np.clip(otsu / 4 / 2, low, max(low, high)))


def _ink(light: Gray, chroma: Gray, hue: Gray) -> Mask:
    """Marker ink: green to blue and vivid, or black."""
    # Haematoxylin lies at 280 to 330 degrees, eosin at 330 to 20, DAB at 40 to 80.
    green_blue = (chroma > 22) & (hue > 100) & (hue < 272)
    vivid_blue = (chroma > 45) & (hue >= 272) & (hue < 305) & (light < 60)
    black = (light < 28) & (chroma < 12)
    core = (green_blue | vivid_blue | black).astype(np.uint8)
    core = cv2.morphologyEx(core, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    # A stroke's edge mixes with the glass and would pass for pale stain.
    return np.asarray(cv2.dilate(core, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))), bool)


def _drop_small(mask: npt.NDArray[np.uint8], min_cells: float) -> npt.NDArray[np.uint8]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_cells
    keep[0] = False
    return np.asarray(keep[labels], np.uint8)
