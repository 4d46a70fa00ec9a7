"""Pictures of stores: what was found, which tiles were cut, and what the features see.

Colours are the first three principal components of the features of one slide, so that
tiles alike in colour are alike to the encoder. They mean nothing across slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsi_umedpt.errors import PictureError
from wsi_umedpt.messages import counted
from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore

_OUTLINE = (0, 160, 60)
_TILE = (40, 90, 200)
_BAD = (220, 0, 0)
_INK = (20, 20, 20)


@dataclass(frozen=True)
class Panel:
    """A picture with a line of text under it."""

    pixels: Pixels
    text: str
    flagged: bool = False
    """Drawn with a red frame: look at this one."""


def pca_colours(features: npt.NDArray[np.floating]) -> Pixels:
    """Show features as colours: three principal components, each stretched from its 2nd to 98th percentile.

    Parameters
    ----------
    features : (tile, dim)
        Features of one encoder.

    Returns
    -------
    uint8 (tile, 3)
        Grey where there are fewer than three tiles.
    """
    if len(features) < 3:
        return np.full((len(features), 3), 128, np.uint8)
    x = features.astype(np.float64)
    x -= x.mean(axis=0)
    # eigenvectors of the smaller of the two Gram matrices
    values, vectors = np.linalg.eigh(x @ x.T) if len(x) < x.shape[1] else np.linalg.eigh(x.T @ x)
    top = vectors[:, np.argsort(values)[::-1][:3]]
    parts = top if len(x) < x.shape[1] else x @ top
    parts = parts * np.where(np.abs(parts.min(axis=0)) > parts.max(axis=0), -1, 1)  # a sign that is always the same
    low, high = np.percentile(parts, (2, 98), axis=0)
    return np.asarray(np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1) * 255, np.uint8)


def overview(
    store: SlideStore, encoder_id: str | None = None, grid_id: str | None = None, side: int = 900
) -> Image.Image:
    """Three panels: the slide with its tissue outline, the tiles, and the features as colours."""
    holding = [known for known in store.grid_ids if encoder_id in store.encoder_ids(known)]
    if grid_id is None and len(holding) == 1:
        (grid_id,) = holding
    tissue = store.tissue()
    bag = store.features(encoder_id, grid_id)
    grid = store.grid(grid_id)
    base, zoom = enlarged(tissue, side)
    place = _Place(grid.xy, grid.side, zoom / tissue.step)

    tiles, colours = base.copy(), base.copy()
    good = np.isin(np.arange(len(grid)), bag.index)
    place.draw(tiles, [_TILE if ok else _BAD for ok in good], thickness=1)
    colour_of = dict(zip(bag.index.tolist(), pca_colours(bag.features).tolist(), strict=True))
    place.draw(colours, [colour_of.get(i) for i in range(len(grid))])
    slide = store.attrs["slide"]
    width, height = slide["size"]
    panels = [
        Panel(outlined(base, tissue, zoom), f"{store.slide_id}: {width} x {height} px, {slide['mpp']:g} um/px"),
        Panel(tiles, f"{counted(len(grid), 'tile')} of {grid.spec.size_px} px at {grid.spec.mpp:g} um/px"),
        Panel(colours, f"features as colours (PCA of {bag.features.shape[1]} dimensions)"),
    ]
    return sheet(panels, columns=3)


def score_sheet(store: SlideStore, model_id: str, grid_id: str | None = None, side: int = 900) -> Image.Image:
    """The slide with its tissue, and a panel for each column of the scores, 0 dark to 1 bright."""
    scores, about = read_scores(store, model_id, grid_id)
    tissue, grid = store.tissue(), store.grid(about["grid_id"])
    base, zoom = enlarged(tissue, side)
    place = _Place(grid.xy, grid.side, zoom / tissue.step)
    panels = [Panel(outlined(base, tissue, zoom), store.slide_id)]
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    for k, name in enumerate(about["columns"]):
        drawn = base.copy()
        levels = np.clip(np.nan_to_num(scores[:, k]) * 255, 0, 255).astype(int)
        unread = np.isnan(scores[:, k])
        place.draw(drawn, [None if no else ramp[n].tolist() for n, no in zip(levels, unread, strict=True)])
        panels.append(Panel(drawn, f"{model_id}: {name}, 0 dark to 1 bright"))
    return sheet(panels, columns=3)


@dataclass(frozen=True)
class _Place:
    """Position of the tiles of a grid in a picture."""

    xy: npt.NDArray[np.int32]
    side: float
    to_px: float

    def draw(self, picture: Pixels, colours: Sequence[Sequence[int] | None], thickness: int = -1) -> None:
        """Draw each tile in its colour; None leaves it out."""
        for (x, y), colour in zip(self.xy.tolist(), colours, strict=True):
            if colour is not None:
                corner = round(x * self.to_px), round(y * self.to_px)
                end = round((x + self.side) * self.to_px), round((y + self.side) * self.to_px)
                cv2.rectangle(picture, corner, end, colour, thickness)


def outlined(
    base: Pixels, tissue: TissueMask, zoom: float, colour: Sequence[int] = _OUTLINE, thickness: int = 2
) -> Pixels:
    """A thumbnail at `zoom` px per mask cell, with the tissue's outline drawn on it."""
    size = round(tissue.mask.shape[1] * zoom), round(tissue.mask.shape[0] * zoom)
    mask = cv2.resize(tissue.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = base.copy()
    cv2.drawContours(drawn, contours, -1, colour, thickness)
    return drawn


def tissue_panel(tissue: TissueMask, text: str, side: int, *, flagged: bool = False) -> Panel:
    """One slide of a contact sheet."""
    base, zoom = enlarged(tissue, side)
    return Panel(outlined(base, tissue, zoom), text, flagged)


def sheet(panels: Sequence[Panel], columns: int) -> Image.Image:
    """Lay panels out in rows, texts below them."""
    width = max(p.pixels.shape[1] for p in panels)
    height = max(p.pixels.shape[0] for p in panels)
    columns = min(columns, len(panels))
    gap, line = 12, 26
    rows = -(-len(panels) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + line + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=15)
    for n, panel in enumerate(panels):
        x, y = gap + n % columns * (width + gap), gap + n // columns * (height + line + gap)
        canvas.paste(Image.fromarray(panel.pixels), (x, y))
        shape = panel.pixels.shape
        frame = (x - 2, y - 2, x + shape[1] + 1, y + shape[0] + 1)
        draw.rectangle(
            frame, outline=(220, 0, 0) if panel.flagged else (200, 200, 200), width=2 if panel.flagged else 1
        )
        draw.text((x, y + height + 4), _fitted(panel.text, font, width), fill=_INK, font=font)
    return canvas


def check_name(path: Path) -> None:
    """Refuse a picture's name that does not end in .png, before anything is drawn."""
    if path.suffix.lower() != ".png":
        raise PictureError(f"pictures are PNG files; {path} does not end in .png")


def save(image: Image.Image, path: Path) -> None:
    """Save a picture, making its folder; see `check_name`."""
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def enlarged(tissue: TissueMask, side: int) -> tuple[Pixels, float]:
    """The thumbnail at about `side` px, and px per mask cell; grey where there is none."""
    rows, cols = tissue.mask.shape
    zoom = side / max(rows, cols)
    thumbnail = tissue.thumbnail
    if thumbnail is None:
        thumbnail = np.where(tissue.mask[..., None], np.uint8(180), np.uint8(245)).repeat(3, axis=2)
    fine = -(-thumbnail.shape[1] // cols)
    size = max(1, round(thumbnail.shape[1] * zoom / fine)), max(1, round(thumbnail.shape[0] * zoom / fine))
    method = cv2.INTER_AREA if size[0] < thumbnail.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(thumbnail, size, interpolation=method), np.uint8), zoom


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
