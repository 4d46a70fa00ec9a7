"""wsi_umedpt: from whole-slide images to embeddings, overlays and slide classifiers."""

__version__ = "0.1.0"
