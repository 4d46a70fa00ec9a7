"""CLAM's features (https://github.com/mahmoodlab/CLAM): ``h5_files/SLIDE.h5`` and ``pt_files/SLIDE.pt``.

An h5 file holds ``features`` float32 (tile, dim) and ``coords`` int32 (tile, 2), top left corners in
level-0 px. CLAM says nothing else there. How large a tile is stands in its ``patches/SLIDE.h5``, as
attributes of ``coords``: ``patch_size`` px of level ``patch_level``, which is ``downsample`` times
coarser than level 0. It is taken from the feature file, where a fork of CLAM copies it, or from a
folder ``patches`` beside ``h5_files`` whose file has as many tiles; else the side is not known. What we write has
the attributes of CLAM's ``patches`` on ``coords``, of level 0.

Other people's files are read as CLAM's are: features of another name (`wsi_umedpt.interop.feature_sources.FEATURES`),
positions of another name or none, and a leading axis of length 1.

The pt files are the features alone, which is what CLAM trains on by default; see
`wsi_umedpt.interop.pt`.
"""

from functools import partial
from pathlib import Path

import h5py
import numpy as np

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import (
    FEATURES,
    POSITIONS,
    FileSource,
    NotThisFormatError,
    Numbers,
    check_rows,
    check_same_positions,
    named,
    tiles_and_dim,
)
from wsi_umedpt.interop.hdf5 import add_attrs, array_of, has, names_in, number_of, opened, text_of, values_of, whole_h5
from wsi_umedpt.interop.provenance import Export, prefixed, stated
from wsi_umedpt.interop.pt import write_pt
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.slide_store import SlideStore

NAME = "CLAM"


def open_clam(path: Path) -> FileSource:
    """Say what a feature file of CLAM, or one that is laid out much as such, holds.

    Raises
    ------
    NotThisFormatError
        If it has no features.
    InteropError
        If it cannot be used.
    """
    with opened(path) as file:
        name = named(file.keys(), FEATURES, "features of tiles", str(path))
        if name is None:
            only = "only coordinates; name the folder of features" if has(file, "coords") else names_in(file)
            raise NotThisFormatError(f"it has no features, but {only}")
        at = named(file.keys(), POSITIONS, "level-0 px of top left corners", str(path))
        features = array_of(file, name)
        tiles, dim = tiles_and_dim(features.shape, features.dtype, f"{path}: {name}")
        side = None
        if at:
            coords = array_of(file, at)
            check_rows(tiles, coords.shape, f"{path}: {at}")
            side = side_of(coords)
        ours = stated(prefixed(file.attrs), dim=dim, format_name=NAME, where=str(path))
        encoder = text_of(features, "encoder")  # as TRIDENT says it
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=ours.kind if ours else FeatureKind(encoder=encoder, dim=dim, format=NAME),
        tiles=tiles,
        side=(ours.side if ours else side) or _side_of_patches(path, tiles),
        unit="px" if at else "",
        encoder_id=ours.encoder_id if ours else "",
        read=partial(read_features, name=name, at=at),
    )


def read_features(path: Path, *, name: str = "features", at: str | None = "coords") -> tuple[Numbers, Numbers | None]:
    """Features of a file, and positions if they have a name."""
    with opened(path) as file:
        xy = values_of(array_of(file, at)) if at else None
        if xy is not None and at == "coords" and has(file, "coords_patching"):
            check_same_positions(xy, values_of(array_of(file, "coords_patching")), str(path))
        return values_of(array_of(file, name)), xy


def side_of(coords: h5py.Dataset) -> float | None:
    """Side of a tile in level-0 px, where the attributes of coordinates say it."""
    size, downsample = number_of(coords, "patch_size"), coords.attrs.get("downsample")
    if size is None or downsample is None:
        return None
    scales = np.asarray(downsample).ravel()
    # CLAM computes one for x and one for y; a scanner's rounding sets them apart a little.
    plain = scales.dtype.kind in "iuf" and len(scales) in (1, 2)
    if not (plain and 0 < scales.min() < np.inf and scales.max() < 1.01 * scales.min()):
        raise InteropError(f"{coords.file.filename}: downsample is {downsample}, not one scale for x and y")
    return size * float(scales[0])


def _side_of_patches(path: Path, tiles: int) -> float | None:
    patches = path.parent.parent / "patches" / path.name
    if path.parent.name != "h5_files" or not patches.is_file():
        return None
    with opened(patches) as file:
        coords = array_of(file, "coords")
        return side_of(coords) if len(coords) == tiles else None


def write_clam(folder: Path, store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None) -> Path:
    """Write a store's features as ``h5_files/SLIDE.h5`` and ``pt_files/SLIDE.pt``, each whole or absent.

    Parameters
    ----------
    folder
        Folder that CLAM calls the feature directory.
    encoder_id, grid_id
        May be left out where the store holds only one.

    Returns
    -------
    Path
        The h5 file.
    """
    export = Export.of(store, encoder_id, grid_id)
    features = export.bag.features.astype(np.float32)
    path = folder / "h5_files" / f"{export.bag.slide_id}.h5"
    with whole_h5(path) as file:
        file["features"] = features
        file["coords"] = export.bag.xy.astype(np.int32)
        add_attrs(
            file["coords"],
            {
                "patch_size": export.whole_side,
                "patch_level": 0,
                "downsample": (1.0, 1.0),
                "downsampled_level_dim": export.slide_size,
                "level_dim": export.slide_size,
                "name": export.bag.slide_id,
                "save_path": path.parent.name,  # and no path of this machine
            },
        )
        add_attrs(file, export.attrs)
    write_pt(folder / "pt_files" / f"{export.bag.slide_id}.pt", features)
    return path
