"""TRIDENT's features (https://github.com/mahmoodlab/TRIDENT): ``20x_256px_0px_overlap/features_ENCODER/SLIDE.h5``.

``features`` (tile, dim), float16 or float32 as the encoder gave them, with the attribute ``encoder``;
``coords`` int64 (tile, 2), top left corners in level-0 px, with attributes that say how tiles were cut.
The side of a tile is ``patch_size_level0`` (also where it is no whole number), else ``patch_size`` times
``level0_magnification`` over ``target_magnification``. It states magnifications, not um/px: a slide's
objective is rounded to one of a few there, and so the resolution of a tile is taken for not stated.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsi_umedpt.interop.clam import read_features, side_of
from wsi_umedpt.interop.feature_sources import FileSource, NotThisFormatError, check_rows, tiles_and_dim
from wsi_umedpt.interop.hdf5 import add_attrs, array_of, has, number_of, opened, text_of, whole_h5
from wsi_umedpt.interop.provenance import Export, prefixed, stated
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.slide_store import SlideStore

NAME = "TRIDENT"
FOLDER = "features_"
"""Prefix of the names of its folders of features."""

_MARKS = ("patch_size_level0", "target_magnification", "level0_magnification")
_UM_AT_1X = 10.0
"""um/px at a magnification of 1: 20x is 0.5 um/px."""


def open_trident(path: Path) -> FileSource:
    """Say what a feature file of TRIDENT holds.

    Raises
    ------
    NotThisFormatError
        If it has no features and coords, or nothing that only TRIDENT writes.
    InteropError
        If it cannot be used, as a slide's embedding, or the empty file of a slide without tissue.
    """
    with opened(path) as file:
        if not (has(file, "features") and has(file, "coords")):
            raise NotThisFormatError("it has no features with coords")
        features, coords = array_of(file, "features"), array_of(file, "coords")
        if "encoder" not in features.attrs and not any(mark in coords.attrs for mark in _MARKS):
            raise NotThisFormatError(f"its features state no encoder, its coords none of {', '.join(_MARKS)}")
        tiles, dim = tiles_and_dim(features.shape, features.dtype, f"{path}: features")
        check_rows(tiles, coords.shape, f"{path}: coords")
        ours = stated(prefixed(file.attrs), dim=dim, format_name=NAME, where=str(path))
        kind = ours.kind if ours else _kind(path, features, coords, dim)
        side = ours.side if ours else _side(coords)
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=kind,
        tiles=tiles,
        side=side,
        encoder_id=ours.encoder_id if ours else "",
        read=read_features,
    )


def _kind(path: Path, features: h5py.Dataset, coords: h5py.Dataset, dim: int) -> FeatureKind:
    size = number_of(coords, "patch_size")
    named = path.parent.name.removeprefix(FOLDER) if path.parent.name.startswith(FOLDER) else ""
    return FeatureKind(
        encoder=text_of(features, "encoder") or named,
        magnification=number_of(coords, "target_magnification"),
        size_px=None if size is None else round(size),
        dim=dim,
        format=NAME,
    )


def _side(coords: h5py.Dataset) -> float | None:
    if (side := number_of(coords, "patch_size_level0")) is not None:
        return side
    size, source, target = (
        number_of(coords, name) for name in ("patch_size", "level0_magnification", "target_magnification")
    )
    if size and source and target:
        return size * source / target
    return side_of(coords)  # features at coordinates that CLAM laid


def write_trident(
    folder: Path, store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None
) -> Path:
    """Write a store's features as TRIDENT lays them out below its job folder, whole or absent.

    Magnifications are 10 over um/px, of the slide and of the tiles; the slide's objective as its scanner rounds
    it is not used. The side of a tile in level-0 px is the floor of its own, as heatmaps and slide encoders
    there take whole numbers alone. Folders name no path of this machine.

    Parameters
    ----------
    folder
        Folder that TRIDENT calls the job directory.
    encoder_id, grid_id
        May be left out where the store holds only one.

    Returns
    -------
    Path
        The h5 file.
    """
    export = Export.of(store, encoder_id, grid_id)
    name, encoder = export.bag.slide_id, export.bag.encoder_id
    target = _UM_AT_1X / export.mpp
    overlap = max(0, export.size_px - export.stride_px)
    within = folder / f"{target:g}x_{export.size_px}px_{overlap}px_overlap" / f"{FOLDER}{encoder}"
    path = within / f"{name}.h5"
    with whole_h5(path) as file:
        file["features"] = export.bag.features
        file["coords"] = export.bag.xy.astype(np.int64)
        add_attrs(file["features"], {"name": name, "savetodir": within.name, "encoder": encoder})
        add_attrs(
            file["coords"],
            {
                "patch_size": export.size_px,
                "patch_size_level0": export.whole_side,
                "level0_magnification": _whole(target * export.side / export.size_px),
                "target_magnification": _whole(target),
                "overlap": overlap,
                "name": name,
                "savetodir": within.name,
                "level0_width": export.slide_size[0],
                "level0_height": export.slide_size[1],
            },
        )
        add_attrs(file, export.attrs)
    return path


def _whole(number: float) -> Any:
    """A number as an int where it is one, as TRIDENT writes it."""
    return round(number) if float(number).is_integer() else number
