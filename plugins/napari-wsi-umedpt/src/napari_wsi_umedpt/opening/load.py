"""Slides and stores, opened as layers: a path in, layer tuples out, lowest first. No Qt; runs in any thread.

Read top to bottom: `open_path` (either), `open_pixels`, `open_results`, `overlays`, `further`.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from glob import escape as glob_escape
from pathlib import Path
from typing import Any

import numpy as np
from wsi_umedpt.errors import ChannelError, StoreError, WsiError
from wsi_umedpt.plotting import pca_colours
from wsi_umedpt.slides import ChannelChoice, default_id, open_slide, slide_channels
from wsi_umedpt.store import (
    SlideStore,
    found_names,
    is_store,
    object_score_ids,
    read_classified,
    read_objects,
    read_scores,
    score_ids,
)

from napari_wsi_umedpt.layers.build import (
    Colour,
    LayerTuple,
    Place,
    Shown,
    channel_layers,
    labels_layer,
    objects_layer,
    slide_layer,
    thumbnail_layer,
    tiles_layer,
    tissue_layer,
)
from napari_wsi_umedpt.layers.multiscale import Report
from napari_wsi_umedpt.layers.thin_lines import TileLines
from napari_wsi_umedpt.opening.slide_locator import Known, check_is_slide_of, find_slide

RESULTS = "out"
"""Folder beside slides in which their stores are made and looked for, if no other is named."""
Missing = Callable[[SlideStore], None]
"""Called with a store whose slide was not found."""


def open_path(
    path: Path, report: Report, *, mpp: float | None = None, slide: Path | None = None, missing: Missing | None = None
) -> list[LayerTuple]:
    """Open a slide or a store.

    Parameters
    ----------
    path
        A slide of any format of `wsi_umedpt.slides.slide.open_slide`, or a store.
    report
        Is told of what cannot be shown while the layers are looked at.
    mpp : um/px
        Scale of a slide that states none.
    slide
        Path of the store's slide; otherwise it is looked for.
    missing
        Is told if it was not found. The store is then shown over its thumbnail.
    """
    if not is_store(path):
        return open_pixels(path, report, mpp=mpp)
    return open_results(path, report, slide=slide, missing=missing)


def open_with_results(
    path: Path, report: Report, *, mpp: float | None = None, missing: Missing | None = None
) -> list[LayerTuple]:
    """Open a slide with its results, where they lie beside it; or what `open_path` opens.

    Parameters
    ----------
    path, report, mpp, missing
        As `open_path` takes them.
    """
    if mpp is None and not is_store(path):
        for found in results_beside(path):
            try:
                check_is_slide_of(SlideStore.open(found), path)
            except (WsiError, OSError):
                continue  # not whole yet, or of another slide of that name
            return open_results(found, report, slide=path, missing=missing)
    return open_path(path, report, mpp=mpp, missing=missing)


def results_beside(slide: Path) -> list[Path]:
    """Stores that may be a slide's, beside it or in `RESULTS` there: of all of it, then of regions, newest first."""
    name, folders = default_id(slide), (slide.parent / RESULTS, slide.parent)
    whole = [path for folder in folders if (path := folder / f"{name}.zarr").is_dir()]
    named = f"{glob_escape(name)}.region-*.zarr"
    regions = [path for folder in folders for path in folder.glob(named) if path.is_dir()]
    return [*whole, *sorted(regions, key=lambda path: -path.stat().st_mtime)]


def open_pixels(
    path: Path, report: Report, *, mpp: float | None = None, store: SlideStore | None = None
) -> list[LayerTuple]:
    """Open a slide, and write down where it is; see `napari_wsi_umedpt.opening.slide_locator.Known`.

    One that is not in colour is seen in the channels of the `store`, or all of its channels are layers.

    Raises
    ------
    StoreError
        If it is not the slide of the `store`.
    """
    if store is not None:
        check_is_slide_of(store, path)
        mpp = store.stated_mpp or mpp
    with ExitStack() as opened:
        try:
            slides = [opened.enter_context(open_slide(path, mpp=mpp, channels=store.channels if store else ()))]
        except ChannelError:
            chosen = [ChannelChoice(one.name, index=n) for n, one in enumerate(slide_channels(path))]
            slides = [opened.enter_context(open_slide(path, mpp=mpp, channels=[one])) for one in chosen]
        own = Place(
            default_id(path), slides[0].size, slides[0].mpp, corner=slides[0].corner, fingerprint=slides[0].fingerprint
        )
        place = place_of(store) if store is not None else own
        if slides[0].channels and store is None:
            layers = channel_layers(slides, place, report)
        else:
            layers = [slide_layer(slides[0], place, report)]
        opened.pop_all()
    try:
        Known().remember(path, own.fingerprint)
    except OSError as error:
        report(error)  # the user's data folder cannot be written: a convenience less
    return layers


def open_results(
    path: Path, report: Report, *, slide: Path | None = None, missing: Missing | None = None
) -> list[LayerTuple]:
    """Open a store: its slide if that is to be had, and all overlays."""
    store = SlideStore.open(path)
    found = slide or find_slide(store)
    below: list[LayerTuple] = []
    if found is not None:
        try:
            below = open_pixels(found, report, store=store)
        except (WsiError, OSError) as error:
            report(error)  # the results can still be looked at
    elif missing is not None:
        missing(store)
    if not below and (thumbnail := thumbnail_layer(store.tissue(), place_of(store), store.path)):
        below = [thumbnail]
    return [*below, *overlays(store, report)]


def place_of(store: SlideStore) -> Place:
    """Place of a store's slide in napari's world."""
    of = store.attrs["slide"]
    width, height = of["size"]
    size, fingerprint = (int(width), int(height)), str(of["fingerprint"])
    return Place(store.slide_id, size, float(of["mpp"]), corner=store.corner, fingerprint=fingerprint)


def overlays(store: SlideStore, report: Report) -> list[LayerTuple]:
    """Layers of a store, lowest first; what is damaged is reported, and the rest shown.

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
    for name in found_names(store):
        for scores in object_score_ids(store, name):
            found[f"{name} by {scores}"] = partial(classified_layer, store, name, scores)
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
    colours: tuple[Colour, ...] = ()
    if f"labels/{name}" in store.nodes and len(objects.classes) > 1:
        info = store.labels(name).info
        if info.classes == objects.classes:
            colours = info.colours
    place = place_of(store)
    area = store.tissue().area_mm2(place.mpp)
    shown = Shown("objects", place, store.path, name, colours=colours, tissue_mm2=area, about=about)
    return objects_layer(objects, shown, visible=visible)


def classified_layer(store: SlideStore, name: str, scores: str) -> LayerTuple:
    """The objects of one head, in the classes that scores give them."""
    found, place = read_classified(store, name, scores), place_of(store)
    area = store.tissue().area_mm2(place.mpp)
    shown = Shown("objects", place, store.path, f"{name} by {scores}", tissue_mm2=area, about=found.made_by)
    return objects_layer(found.objects, shown)


def score_layer(store: SlideStore, model: str, grid_id: str, column: int = 0, visible: bool = False) -> LayerTuple:
    """One column of the scores of a model."""
    from napari_wsi_umedpt.layers.values import heatmap_layer

    scores, about = read_scores(store, model, grid_id)
    grid, columns = store.grid(grid_id), about["columns"]
    tiles = TileLines(grid, store.status(grid_id) != 0)
    name = f"{model}: {columns[column]}"
    about = {"model": model, "grid_id": grid_id, "column": columns[column], "columns": list(columns)}
    shown = Shown("heatmap", place_of(store), store.path, name, about=about)
    return heatmap_layer(scores[:, column], tiles, shown, visible=visible)


def feature_layer(store: SlideStore, encoder_id: str, grid_id: str) -> LayerTuple:
    """Features as colours: their first three principal components. Takes seconds for many tiles."""
    from napari_wsi_umedpt.layers.values import features_layer

    bag = store.features(encoder_id, grid_id)
    tiles = TileLines(store.grid(grid_id), store.status(grid_id) != 0)
    colours = pca_colours(np.asarray(bag.features))
    shown = Shown("features", place_of(store), store.path, f"{encoder_id} as colours")
    return features_layer(colours, tiles, bag.index, shown)
