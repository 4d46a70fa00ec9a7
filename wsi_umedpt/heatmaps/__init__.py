"""Values of tiles as rasters that know where they lie on the slide."""

from wsi_umedpt._lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "Heatmap": "heatmaps.raster",
        "SCALINGS": "heatmaps.raster",
        "Scaling": "heatmaps.raster",
        "fitting_scaling": "heatmaps.raster",
        "heatmap": "heatmaps.stored",
        "scaled": "heatmaps.raster",
    },
)
