"""Writer for napari, asked when a layer of shapes is saved as .geojson: QuPath's file of it."""

from pathlib import Path
from typing import Any


def write_shapes(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a layer of shapes that lies over a slide.

    Raises
    ------
    AnnotationError
        If it is not known over which slide it lies.
    """
    import napari
    from wsi_umedpt.errors import AnnotationError

    from napari_wsi_umedpt.layers.build import KEY, Shown
    from napari_wsi_umedpt.logic.annotations import layer_annotations, write_annotations
    from napari_wsi_umedpt.window.viewer import current_place

    shown = (meta.get("metadata") or {}).get(KEY)
    viewer = napari.current_viewer()
    place = shown.place if isinstance(shown, Shown) else current_place(viewer) if viewer is not None else None
    if place is None:
        raise AnnotationError(f"{Path(path).name}: shapes are saved in pixels of a slide, and no slide is open.")
    write_annotations(Path(path), layer_annotations(data, meta, place), place.corner)
    return [path]
