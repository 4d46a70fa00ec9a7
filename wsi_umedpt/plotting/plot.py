"""Figures for notebooks and scripts: what a store holds, as matplotlib figures."""

from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsi_umedpt.heatmaps.raster import Heatmap, Scaling, fitting_scaling
from wsi_umedpt.plotting import sheets as _sheets
from wsi_umedpt.plotting.heatmap import draw_heatmap
from wsi_umedpt.plotting.objects import object_sheet
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.store.objects_io import found_names
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.tables import one_named

_DPI = 100


def overview(store: SlideStore, encoder_id: str | None = None, grid_id: str | None = None) -> Figure:
    """The slide with its tissue outline, its tiles, and its features as colours (three principal components)."""
    return _figure(_sheets.overview(store, encoder_id, grid_id))


def scores(store: SlideStore, name: str, grid_id: str | None = None) -> Figure:
    """The slide with its tissue outline, and a panel for each column of scores, 0 dark to 1 bright."""
    return _figure(_sheets.score_sheet(store, name, grid_id))


def objects(store: SlideStore, kind: str | None = None, slide: Slide | None = None) -> Figure:
    """Objects outlined over the slide; with the open slide, three close-ups too."""
    return _figure(object_sheet(store, one_named(kind, found_names(store)) or kind, slide))


def heatmap(
    heat: Heatmap, store: SlideStore | None = None, *, scaling: Scaling | None = None, title: str = ""
) -> Figure:
    """A heatmap over its slide's thumbnail, with a legend and a scale bar; alone where no store is given.

    By default colours are symmetric about zero for values of either sign, from 0 to 1 for probabilities, else from the
    least to the greatest; the legend says which.
    """
    meaning = scaling or fitting_scaling(heat.values, title)
    if store is None:
        return _figure(draw_heatmap(heat, scaling=meaning, title=title))
    mpp = store.attrs["slide"]["mpp"]
    return _figure(draw_heatmap(heat, scaling=meaning, tissue=store.tissue(), mpp=mpp, title=title))


class _Shown(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def _figure(image: Image.Image) -> Figure:
    width, height = image.size
    figure = _Shown(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.asarray(image))
    axes.set_axis_off()
    return figure
