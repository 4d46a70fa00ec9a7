"""Results of a run, as layers; and the tiles it has done so far, as a raster. No Qt; in any thread."""

from typing import Any

import numpy as np
import numpy.typing as npt
from wsi_umedpt.slides import TileGrid
from wsi_umedpt.store import SlideStore

from napari_wsi_umedpt.layers.build import KEY, Colour, LayerTuple, Place, Shown, class_colormap, tissue_layer
from napari_wsi_umedpt.logic.analysis import Made, Request
from napari_wsi_umedpt.logic.tile_labels import TileCells
from napari_wsi_umedpt.opening.load import feature_layer, grid_layer, object_layer, place_of

WAITING, DONE = 1, 2
_COLOURS: tuple[Colour, Colour] = ((120, 120, 120), (40, 110, 230))


class Status:
    """The tiles of one stage of a run: `WAITING` or `DONE`."""

    def __init__(self, grid: TileGrid, place: Place) -> None:
        self.grid, self._place = grid, place
        self._cells = TileCells.of(grid, np.arange(len(grid)))

    def picture(self, done: int) -> npt.NDArray[np.uint8]:
        """Picture of the tiles after so many are done, which are worked on in reading order."""
        tile = self._cells.tile
        return np.where(tile < 0, 0, np.where(tile < done, DONE, WAITING)).astype(np.uint8)

    def layer(self, done: int) -> LayerTuple:
        """A layer of it."""
        shown = Shown("mark", self._place, name="being analysed")
        meta = {
            **self._place.meta(self._cells.step, self._cells.origin),
            "name": "being analysed",
            "opacity": 0.35,
            "colormap": class_colormap(_COLOURS),
            "metadata": {KEY: shown},
        }
        return self.picture(done), meta, "labels"


def layers_of(made: Made, request: Request) -> list[LayerTuple]:
    """Layers of what entered a store, lowest first; those of a region say so."""
    layers = _layers_of(made, SlideStore.open(request.store))
    if not request.region:
        return layers
    return [(data, {**meta, "name": f"{meta['name']} (region)"}, kind) for data, meta, kind in layers]


def _layers_of(made: Made, store: SlideStore) -> list[LayerTuple]:
    if made.kind == "objects":
        return [_tissue(store), object_layer(store, made.name)]
    found = [grid for grid in store.grid_ids if made.name in store.encoder_ids(grid)]
    layers: list[LayerTuple] = []
    for grid_id in found:
        data, meta, kind = feature_layer(store, made.name, grid_id)
        layers += [(data, {**meta, "visible": False}, kind), grid_layer(store, grid_id)]
    return [*layers, _tissue(store)]


def _tissue(store: SlideStore) -> LayerTuple:
    return tissue_layer(store.tissue(), place_of(store), store.path)


def shown_of(layer: LayerTuple) -> Any:
    """Content that a layer will show."""
    return layer[1]["metadata"][KEY]
