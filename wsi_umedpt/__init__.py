"""Whole-slide images to embeddings, segmentations and slide classifiers, in one pass of one shared encoder.

>>> import wsi_umedpt as wu
>>> with wu.open_slide("CMU-1.svs") as slide:  # doctest: +SKIP
...     store = wu.embed(slide, "CMU-1.zarr")

Everything here is imported when it is first used.
"""

import logging

from wsi_umedpt._lazy import lazily

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is logged is printed where the user asks for it

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "__version__": "_version",
        "Bag": "store.features",
        "Encoder": "models.encoder",
        "Heatmap": "heatmaps.raster",
        "Probe": "mil.linear_probe",
        "Progress": "pipeline.task",
        "RunSettings": "settings",
        "Slide": "slides.slide",
        "SlideModel": "mil.inference.slide_model",
        "SlideStore": "store.slide_store",
        "TileGrid": "slides.tiling",
        "TileOptions": "settings",
        "TileSpec": "slides.tiling",
        "TissueMask": "slides.tissue",
        "TissueParameters": "settings",
        "embed": "pipeline.one_slide",
        "find_tissue": "slides.tissue",
        "fit_probe": "mil.linear_probe",
        "heatmap": "heatmaps.stored",
        "label_objects": "mil.object_probe",
        "label_tiles": "mil.tile_probe",
        "lay_grid": "slides.tiling",
        "load_encoder": "models.encoder",
        "open_slide": "slides.slide",
        "read_tiles": "slides.tile_loader",
        "register_encoder": "models.own",
        "register_mil_network": "mil.networks.factory",
        "register_reader": "slides.readers",
        "sample_slide": "slides.sample_data",
        "score_objects": "mil.object_probe",
        "score_store": "mil.tile_probe",
        "segment": "pipeline.one_slide",
        "plot": "plotting.plot:",
    },
)
