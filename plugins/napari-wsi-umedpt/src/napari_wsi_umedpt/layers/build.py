"""Conversion to napari's layers: slides, tissue, tiles, labels, objects and scores in, layer tuples out.

The one place of the plugin that turns level-0 px (x before y, from the slide's upper left corner)
into napari's world: um, y before x, zero in the middle of the first level-0 px. No Qt, no viewer.

Every layer says in its metadata what it shows: ``layer.metadata["wsi_umedpt"]`` is a `Shown`.

Read top to bottom: `Place` (the conversion), `Shown`, then a function a kind of layer; those of values of
tiles are in `_values`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from napari.utils.colormaps import DirectLabelColormap
from wsi_umedpt.annotations import Corner
from wsi_umedpt.slides import Slide, TileGrid, TissueMask
from wsi_umedpt.store import PALETTE, LabelImage, Objects

from napari_wsi_umedpt.layers.multiscale import CLASS_CACHE_BYTES, Array, ImagePyramid, Report, Window, slide_pyramid
from napari_wsi_umedpt.layers.objects import Field
from napari_wsi_umedpt.layers.thin_lines import READABLE, UNREADABLE, TileLines, TissueOutline

if TYPE_CHECKING:
    from wsi_umedpt.heatmaps import Heatmap

LayerTuple = tuple[Any, dict[str, Any], str]
Kind = Literal[
    "slide", "thumbnail", "tissue", "tiles", "labels", "objects", "heatmap", "features", "annotations", "mark",
    "stain",
]  # fmt: skip
"""Annotations are what people draw; a mark is what the plugin draws to point at something."""
Colour = tuple[int, int, int]

KEY = "wsi_umedpt"
"""Key of `Shown` in a layer's metadata."""
FILLED, COLOURS = "wsi_umedpt_filled", "wsi_umedpt_colours"
"""Keys in a layer's metadata: a flag that its objects are drawn filled, and colours that the user chose."""
UNITS = ("um", "um")
"""Every layer must say them, or napari leaves units out of all."""
TISSUE_COLOUR: Colour = (25, 25, 25)
"""Colour that neither a stain nor a class has."""
TILE_COLOURS: tuple[Colour, Colour] = ((40, 90, 200), (220, 0, 0))
_CHANNEL_COLOURS = ("green", "red", "cyan", "magenta", "yellow", "gray")
"""Colormaps of channels, in their order; that of the nuclei is blue."""
_OF_NUCLEI = ("dapi", "hoechst")
_CHANNELS_SEEN = 6
"""Channels that are seen from the start; the others are hidden."""
LONE_CLASS_COLOUR: Colour = (0, 220, 0)
"""Colour of objects that have one class only: green, which no stain is."""


@dataclass(frozen=True)
class Place:
    """A slide's size and scale: how its level-0 px lie in napari's world."""

    slide_id: str
    size: tuple[int, int]
    """(width, height), level-0 px."""
    mpp: float
    """um per level-0 px."""
    corner: Corner = (0, 0)
    """(x, y) of the slide's bounds, level-0 px, from which QuPath counts; (0, 0) where it has none."""
    fingerprint: str = ""
    """Fingerprint of the slide's content; see `wsi_umedpt.slides.slide.fingerprint`."""

    def same_slide(self, other: "Place") -> bool:
        """Return whether positions of one mean the same tissue in the other: the same slide at the same scale."""
        if self.size != other.size or not isclose(self.mpp, other.mpp):
            return False
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint  # a store of a region has another name
        return self.slide_id == other.slide_id

    def meta(self, step: float = 1.0, origin: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any]:
        """Scale, translation and units of a raster.

        Parameters
        ----------
        step : level-0 px per px of the raster
        origin : (x, y) of its upper left corner, level-0 px
        """
        x, y = origin
        # napari puts the middle of a pixel on its integer: half a step less half a level-0 px from the corner.
        middle = [(v + (step - 1) / 2) * self.mpp for v in (y, x)]
        return {"scale": (step * self.mpp,) * 2, "translate": middle, "units": UNITS}

    def to_world(self, xy: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(point, 2) level-0 px, x first, to um, y first."""
        return (np.asarray(xy, np.float64)[..., ::-1] - 0.5) * self.mpp

    def to_slide(self, world: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(point, 2) um, y first, to level-0 px, x first."""
        return np.asarray(world, np.float64)[..., ::-1] / self.mpp + 0.5


@dataclass(frozen=True, eq=False)
class Shown:
    """Content of a layer."""

    kind: Kind
    place: Place
    store: Path | None = None
    """Path that it came from."""
    name: str = ""
    """Head, grid or model."""
    classes: tuple[str, ...] = ()
    """Names of the numbers 1, 2, ... in labels, objects and tiles."""
    colours: tuple[Colour, ...] = ()
    """Colours of the classes."""
    objects: Field | None = None
    """Index of objects, to find them by place."""
    tiles: TileLines | None = None
    """Tiles of heatmaps, features and grids."""
    heat: "Heatmap | None" = None
    slide: Slide | None = None
    """Slide of the slide's own layer."""
    tissue_mm2: float = 0.0
    """Area of the tissue, for densities; 0 where it is not known."""
    about: dict[str, Any] = field(default_factory=dict)
    """Origin of the content."""


def shown_by(layer: Any) -> Shown | None:
    """Content of a layer, if it is one of ours."""
    found = layer.metadata.get(KEY)
    return found if isinstance(found, Shown) else None


# ---- pixels ----


def slide_layer(slide: Slide, place: Place, report: Report, *, colours: bool = True) -> LayerTuple:
    """The slide itself, at all zooms; in grey without `colours`."""
    # As people named the file, where the id leaves out what not every system takes.
    named = place.slide_id if slide.path.name.startswith(place.slide_id) else slide.path.stem
    meta = {
        **place.meta(),
        "name": named,
        "rgb": colours,
        "multiscale": True,
        "interpolation2d": "linear",  # nearest shimmers between levels
        "metadata": {KEY: Shown("slide", place, slide=slide, name=place.slide_id)},
    }
    return slide_pyramid(slide, report, colours=colours), meta, "image"


def channel_layers(slides: Sequence[Slide], place: Place, report: Report) -> list[LayerTuple]:
    """The channels of a slide that is not in colour, each in a colour of its own, added to one another.

    Parameters
    ----------
    slides
        The slide, opened once for each channel, of which that one is seen.
    place, report
        As for `slide_layer`.
    """
    made = []
    for number, slide in enumerate(slides):
        data, meta, kind = slide_layer(slide, place, report, colours=False)
        named = slide.channels[0].name
        meta |= {
            "name": f"{meta['name']} {named}",
            "colormap": _channel_colour(named, number),
            "blending": "additive",
            "contrast_limits": (0, 255),
            "visible": number < _CHANNELS_SEEN,
        }
        made.append((data, meta, kind))
    return made


def _channel_colour(name: str, number: int) -> str:
    if name.lower().startswith(_OF_NUCLEI):
        return "blue"
    return _CHANNEL_COLOURS[number % len(_CHANNEL_COLOURS)]


def thumbnail_layer(tissue: TissueMask, place: Place, store: Path) -> LayerTuple | None:
    """The slide as a store holds it, where the slide itself is not to be had."""
    if tissue.thumbnail is None:
        return None
    fine = -(-tissue.thumbnail.shape[1] // tissue.mask.shape[1])
    meta = {
        **place.meta(tissue.step / fine),
        "name": f"{place.slide_id} (thumbnail)",
        "rgb": True,
        "interpolation2d": "linear",
        "metadata": {KEY: Shown("thumbnail", place, store)},
    }
    return tissue.thumbnail, meta, "image"


# ---- classes ----


def class_colormap(colours: tuple[Colour, ...], hidden: frozenset[int] = frozenset()) -> DirectLabelColormap:
    """Colours of the numbers 1, 2, ...; `hidden` are indices of classes that are not drawn."""
    nothing = np.zeros(4, np.float32)
    table: dict[int | None, npt.NDArray[np.float32]] = {None: nothing, 0: nothing}
    for k, colour in enumerate(colours):
        table[k + 1] = nothing if k in hidden else np.array([*colour, 255], np.float32) / np.float32(255)
    return DirectLabelColormap(color_dict=table)


def _class_layer(draw: Any, shown: Shown, **more: Any) -> LayerTuple:
    pyramid = ImagePyramid(shown.place.size, draw, colours=False, cache_bytes=CLASS_CACHE_BYTES)
    return pyramid, {**shown.place.meta(), **_class_meta(shown), **more}, "labels"


def _class_meta(shown: Shown) -> dict[str, Any]:
    return {
        "multiscale": True,
        "colormap": class_colormap(shown.colours),
        "features": _class_table(shown),
        "metadata": {KEY: shown},
    }


def _class_table(shown: Shown) -> dict[str, list[Any]]:
    """Table of classes that napari writes into the status bar under the mouse."""
    names = ["", *shown.classes]
    return {"index": list(range(len(names))), "class": names}


def tissue_layer(tissue: TissueMask, place: Place, store: Path) -> LayerTuple:
    """The tissue's outline."""
    shown = Shown(
        "tissue", place, store, classes=("tissue",), colours=(TISSUE_COLOUR,), tissue_mm2=tissue.area_mm2(place.mpp),
        about={"method": tissue.origin},
    )  # fmt: skip
    return _class_layer(TissueOutline(tissue).draw, shown, name="tissue", opacity=1.0)


def tiles_layer(
    grid: TileGrid, status: npt.NDArray[np.uint8], place: Place, store: Path, grid_id: str, *, visible: bool = False
) -> LayerTuple:
    """The tiles of a grid, and which of them could not be read."""
    lines = TileLines(grid, status != 0)
    classes = {READABLE: "readable tile", UNREADABLE: "unreadable tile"}
    shown = Shown(
        "tiles", place, store, grid_id, tuple(classes.values()), TILE_COLOURS, tiles=lines, about=grid.spec.to_dict()
    )
    name = f"tiles {grid.spec.size_px} px at {grid.spec.mpp:g} um/px"
    return _class_layer(lines.draw, shown, name=name, opacity=0.8, visible=visible)


def objects_layer(objects: Objects, shown: Shown, *, visible: bool = True) -> LayerTuple:
    """Objects, each outlined in the colour of its class; see `objects_pyramid`.

    Parameters
    ----------
    shown
        Place, store and name of the objects; their classes, and their colours where it has none, are filled in.
    """
    field, colours = Field(objects), shown.colours
    if not colours:
        colours = tuple(PALETTE[k % len(PALETTE)] for k in range(len(objects.classes)))
        colours = (LONE_CLASS_COLOUR,) if len(colours) == 1 else colours
    shown = replace(shown, classes=objects.classes, colours=colours, objects=field)
    return field_layer(shown, visible=visible)


def field_layer(shown: Shown, *, visible: bool = True) -> LayerTuple:
    """Objects that are in a `Field` already."""
    if shown.objects is None:
        raise ValueError(f"{shown.name} are no objects")
    meta = {**shown.place.meta(), **_class_meta(shown), "name": shown.name, "opacity": 0.8, "visible": visible}
    return objects_pyramid(shown.objects, shown.place, filled=False), meta, "labels"


def show_field(layer: Any, shown: Shown) -> None:
    """Show other objects, or the same in other classes, in a layer that is there; its followers are notified."""
    if shown.objects is None:
        raise ValueError(f"{shown.name} are no objects")
    layer.metadata[KEY] = shown
    layer.metadata.pop(COLOURS, None)
    layer.colormap = class_colormap(shown.colours)
    layer.data = objects_pyramid(shown.objects, shown.place, filled=bool(layer.metadata.get(FILLED, False)))
    layer.features = _class_table(shown)


def objects_pyramid(field: Field, place: Place, *, filled: bool) -> ImagePyramid:
    """The picture of objects: outlines where there is room for them, or filled."""
    draw = field.draw if filled else field.outline
    return ImagePyramid(place.size, draw, colours=False, cache_bytes=CLASS_CACHE_BYTES)


def labels_layer(image: LabelImage, place: Place, store: Path, *, visible: bool = False) -> LayerTuple:
    """A label pyramid as it lies in the store."""
    info = image.info
    arrays = {round(level.scale / info.scale): level.array for level in image.levels}

    def draw(window: Window) -> Array:
        scale, x, y, width, height = window
        out = np.zeros((height, width), np.uint8)
        found = np.asarray(arrays[scale][y : y + height, x : x + width], np.uint8)
        out[: found.shape[0], : found.shape[1]] = found
        return out

    shown = Shown("labels", place, store, info.name, info.classes, info.colours, about=info.made_by)
    size = info.shape[1], info.shape[0]
    pyramid = ImagePyramid(size, draw, colours=False, cache_bytes=CLASS_CACHE_BYTES, chunk_px=1024)
    meta = {**place.meta(info.scale, info.origin), **_class_meta(shown), "name": f"{info.name} (label image)"}
    return pyramid, {**meta, "opacity": 0.6, "visible": visible}, "labels"
