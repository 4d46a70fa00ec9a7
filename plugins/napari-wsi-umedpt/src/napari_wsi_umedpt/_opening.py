"""Slides and stores, opened as layers: a path in, layer tuples out, lowest first. No Qt; runs in any thread.

Read top to bottom: `open_path` (either), `open_pixels`, `open_results`, `overlays`, `further`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from wsi_umedpt.cohort.manifest import is_store
from wsi_umedpt.errors import StoreError, WsiError
from wsi_umedpt.found import found_names, read_objects
from wsi_umedpt.picture import pca_colours
from wsi_umedpt.scores import read_scores, score_ids
from wsi_umedpt.slide import open_slide
from wsi_umedpt.slideid import default_id
from wsi_umedpt.store import SlideStore

from napari_wsi_umedpt._array import Report
from napari_wsi_umedpt._layers import (
    LayerTuple,
    Place,
    labels_layer,
    objects_layer,
    slide_layer,
    thumbnail_layer,
    tiles_layer,
    tissue_layer,
)
from napari_wsi_umedpt._marks import TileLines
from napari_wsi_umedpt._whereabouts import Known, check_is_slide_of, find_slide

RESULTS = "out"
"""Folder beside slides in which their stores are made and looked for, if no other is named."""
Missing = Callable[[SlideStore], None]
"""Is told of a store whose slide was not found."""


def open_path(
    path: Path, report: Report, *, mpp: float | None = None, slide: Path | None = None, missing: Missing | None = None
) -> list[LayerTuple]:
    """Open a slide or a store.

    Parameters
    ----------
    path
        A slide of any format of `wsi_umedpt.slide.open_slide`, or a store.
    report
        Is told of what cannot be shown while the layers are looked at.
    mpp : um/px
        Of a slide that states none.
    slide
        Where the store's slide is; otherwise it is looked for.
    missing
        Is told if it was not found. The store is then shown over its thumbnail.
    """
    if not is_store(path):
        return [open_pixels(path, report, mpp=mpp)]
    return open_results(path, report, slide=slide, missing=missing)


def open_pixels(path: Path, report: Report, *, mpp: float | None = None, store: SlideStore | None = None) -> LayerTuple:
    """Open a slide, and write down where it is; see `napari_wsi_umedpt._whereabouts.Known`.

    Raises
    ------
    StoreError
        If it is not the slide of the `store`.
    """
    if store is not None:
        check_is_slide_of(store, path)
        of = store.attrs["slide"]
        mpp = float(of["mpp"]) if of["mpp_source"] == "user" else mpp
    slide = open_slide(path, mpp=mpp)
    try:
        own = Place(default_id(path), slide.size, slide.mpp, corner=slide.corner, fingerprint=slide.fingerprint)
        place = place_of(store) if store is not None else own
        layer = slide_layer(slide, place, report)
    except BaseException:
        slide.close()
        raise
    try:
        Known().remember(path, slide.fingerprint)
    except OSError as error:
        report(error)  # the user's data folder cannot be written: a convenience less
    return layer


def open_results(
    path: Path, report: Report, *, slide: Path | None = None, missing: Missing | None = None
) -> list[LayerTuple]:
    """Open a store: its slide if that is to be had, and all overlays."""
    store = SlideStore.open(path)
    found = slide or find_slide(store)
    below: LayerTuple | None = None
    if found is not None:
        try:
            below = open_pixels(found, report, store=store)
        except (WsiError, OSError) as error:
            report(error)  # the results can still be looked at
    elif missing is not None:
        missing(store)
    if below is None:
        below = thumbnail_layer(store.tissue(), place_of(store), store.path)
    return [*([below] if below else []), *overlays(store, report)]


def place_of(store: SlideStore) -> Place:
    """Where a store's slide lies in napari's world."""
    of = store.attrs["slide"]
    width, height = of["size"]
    size, fingerprint = (int(width), int(height)), str(of["fingerprint"])
    return Place(store.slide_id, size, float(of["mpp"]), corner=store.corner, fingerprint=fingerprint)


def overlays(store: SlideStore, report: Report) -> list[LayerTuple]:
    """What a store holds, lowest first; what is damaged is reported, and the rest shown.

    Seen from the start are the tissue, the first kind of objects, and tiles where some could not be read; the
    others are hidden. Of scores there is the first column, of objects no label image: `further` lists the rest.
    """
    place, names = place_of(store), found_names(store)
    layers: list[LayerTuple] = []

    def attempt(make: Callable[..., LayerTuple], *given: Any) -> None:
        try:
            layers.append(make(*given))
        except (WsiError, OSError) as error:
            report(error)

    for grid_id, model in score_ids(store):
        attempt(score_layer, store, model, grid_id)
    for name in label_names(store):
        if name not in names:
            attempt(label_layer, store, name)
    for number, name in enumerate(names):
        attempt(object_layer, store, name, number == 0)
    for grid_id in store.grid_ids:
        attempt(grid_layer, store, grid_id)
    attempt(lambda: tissue_layer(store.tissue(), place, store.path))
    return layers


def further(store: SlideStore) -> dict[str, Callable[[], LayerTuple]]:
    """All that can be shown over a slide beyond what is always there: names, and what makes the layer."""
    found: dict[str, Callable[[], LayerTuple]] = {}
    for grid_id, model in score_ids(store):
        for k, column in enumerate(read_scores(store, model, grid_id)[1]["columns"]):
            found[f"{model}: {column}"] = partial(score_layer, store, model, grid_id, k, True)
    for grid_id in store.grid_ids:
        for encoder_id in store.encoder_ids(grid_id):
            found[f"{encoder_id} as colours"] = partial(feature_layer, store, encoder_id, grid_id)
    for name in label_names(store):
        found[f"{name} (label image)"] = partial(label_layer, store, name)
    return found


def label_names(store: SlideStore) -> list[str]:
    """Names of the label images of a store, sorted."""
    return store.nodes.names("labels/*")


def label_layer(store: SlideStore, name: str) -> LayerTuple:
    """One label image."""
    return labels_layer(store.labels(name), place_of(store), store.path, visible=True)


def grid_layer(store: SlideStore, grid_id: str) -> LayerTuple:
    """The tiles of one grid."""
    grid, status = store.grid(grid_id), store.status(grid_id)
    if len(status) != len(grid):
        raise StoreError(f"{store.path}, grid {grid_id}: {len(status)} states for {len(grid)} tiles: damaged")
    return tiles_layer(grid, status, place_of(store), store.path, grid_id, visible=bool(status.any()))


def object_layer(store: SlideStore, name: str, visible: bool = True) -> LayerTuple:
    """The objects of one head, in the colours that its label image states."""
    objects, about = read_objects(store, name)
    colours = None
    if f"labels/{name}" in store.nodes and len(objects.classes) > 1:
        info = store.labels(name).info
        if info.classes == objects.classes:
            colours = info.colours
    place = place_of(store)
    area = store.tissue().area_mm2(place.mpp)
    return objects_layer(
        objects, place, name, store=store.path, tissue_mm2=area, about=about, colours=colours, visible=visible
    )


def score_layer(store: SlideStore, model: str, grid_id: str, column: int = 0, visible: bool = False) -> LayerTuple:
    """One column of the scores of a model."""
    from napari_wsi_umedpt._values import heatmap_layer

    scores, about = read_scores(store, model, grid_id)
    grid, columns = store.grid(grid_id), about["columns"]
    tiles = TileLines(grid, store.status(grid_id) != 0)
    name = f"{model}: {columns[column]}"
    about = {"model": model, "grid_id": grid_id, "column": columns[column], "columns": list(columns)}
    return heatmap_layer(
        scores[:, column], tiles, place_of(store), name, store=store.path, about=about, visible=visible
    )


def feature_layer(store: SlideStore, encoder_id: str, grid_id: str) -> LayerTuple:
    """Features as colours: their first three principal components. Takes seconds for many tiles."""
    from napari_wsi_umedpt._values import features_layer

    bag = store.bag(encoder_id, grid_id)
    tiles = TileLines(store.grid(grid_id), store.status(grid_id) != 0)
    colours = pca_colours(np.asarray(bag.features))
    name = f"{encoder_id} as colours"
    return features_layer(colours, tiles, bag.index, place_of(store), name, store=store.path)
