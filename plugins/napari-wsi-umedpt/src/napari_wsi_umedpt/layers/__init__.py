"""Layers of the canvas, as data of napari's layers. No Qt."""
