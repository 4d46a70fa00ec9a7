"""STAMP's features (https://github.com/KatherLab/STAMP): ``EXTRACTOR-HASH/SLIDE.h5``.

``feats`` float16 (tile, dim) and ``coords`` float32 (tile, 2), top left corners in **microns** from the
slide's top left. How many microns there are to a level-0 pixel is not in the file. So positions
of a file that STAMP wrote stay in microns, rounded to whole ones (`FileSource.unit` says ``um``), the side
of a tile in level-0 px is not known, and the one in microns stands in `FileSource.side_um`: tiles lie right beside
each other, but nobody draws them on the slide unless both are divided by its um/px. A file that we wrote says
that number, and is read back in level-0 px.

Three generations are read: attributes ``tile_size_um`` (since 2.1) or ``tile_size`` with ``unit`` um
(2.0), and files before 2.0, which say neither: as STAMP does it, tiles that lie about 224 apart are taken
for 224 px of 256 um.
"""

import hashlib
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from wsi_umedpt import __version__
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import FileSource, NotThisFormatError, Numbers, check_rows, tiles_and_dim
from wsi_umedpt.interop.hdf5 import add_attrs, array_of, has, names_in, number_of, opened, text_of, values_of, whole_h5
from wsi_umedpt.interop.provenance import Export, prefixed, stated
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.slide_store import SlideStore

NAME = "STAMP"
VERSION = "2.1.0"
"""Version that our files state: STAMP refuses those of a version newer than itself, and the attributes are of 2.1."""

_MARKS = ("stamp_version", "extractor", "feat_type", "encoder", "tile_size_um")
_OLD_PX, _OLD_UM = 224, 256.0
"""Side of a tile before version 2, in the units of its coordinates and in microns."""


def open_stamp(path: Path) -> FileSource:
    """Say what a feature file of STAMP holds.

    Raises
    ------
    NotThisFormatError
        If it has no feats.
    InteropError
        If it cannot be used, as the encoding of a slide or a patient.
    """
    with opened(path) as file:
        if not has(file, "feats"):
            raise NotThisFormatError(f"it has no feats, but {names_in(file)}")
        if not has(file, "coords") and not any(mark in file.attrs for mark in _MARKS):
            raise NotThisFormatError(f"it has no coords, and states none of {', '.join(_MARKS)}")
        level = text_of(file, "feat_type") or ("slide" if "encoder" in file.attrs else "tile")
        if level != "tile":
            raise InteropError(f"{path} is the encoding of a {level}, not of tiles; name the folder of the extractor")
        feats, coords = array_of(file, "feats"), array_of(file, "coords")
        tiles, dim = tiles_and_dim(feats.shape, feats.dtype, f"{path}: feats")
        check_rows(tiles, coords.shape, f"{path}: coords")
        ours = stated(prefixed(file.attrs), dim=dim, format_name=NAME, where=str(path))
        if ours:
            return FileSource(
                path=path,
                slide_id=path.stem,
                kind=ours.kind,
                tiles=tiles,
                side=ours.side,
                encoder_id=ours.encoder_id,
                read=partial(_read, scale=1 / ours.slide_mpp),
            )
        side_um, size_px, um_per_unit = _size(file, coords)
        extractor = text_of(file, "extractor")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(
            encoder=extractor, mpp=side_um / size_px if size_px else None, size_px=size_px, dim=dim, format=NAME
        ),
        tiles=tiles,
        side=None,
        side_um=side_um,
        unit="um",
        read=partial(_read, scale=um_per_unit),
    )


def _read(path: Path, *, scale: float) -> tuple[Numbers, Numbers]:
    with opened(path) as file:
        return values_of(array_of(file, "feats")), values_of(array_of(file, "coords")) * np.float64(scale)


def _size(file: h5py.File, coords: h5py.Dataset) -> tuple[float, int | None, float]:
    """Side of a tile in microns and in px, and microns to a unit of the coordinates."""
    side_um = number_of(file, "tile_size_um")
    if side_um is None and text_of(file, "unit") == "um":
        side_um = number_of(file, "tile_size")
    if side_um is not None:
        size = number_of(file, "tile_size_px")
        return side_um, None if size is None else round(size), 1.0
    apart = number_of(file, "tile_size") or _apart(values_of(coords))
    if round(apart) != _OLD_PX:
        raise InteropError(
            f"{file.filename} says neither tile_size_um nor tile_size with unit um, and its tiles lie {apart:g} apart, "
            f"not {_OLD_PX} as before STAMP 2: what its coordinates are in is not known. Extract the features again."
        )
    return _OLD_UM, _OLD_PX, _OLD_UM / _OLD_PX


def _apart(coords: Numbers) -> float:
    """Least distance of two columns or rows of tiles."""
    gaps = np.concatenate([np.diff(np.unique(axis)) for axis in coords.T.astype(np.float64)])
    return float(gaps.min()) if len(gaps) else 0.0


def write_stamp(folder: Path, store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None) -> Path:
    """Write a store's features as ``SLIDE.h5``, whole or absent.

    Parameters
    ----------
    folder
        Folder that STAMP calls the feature directory.
    encoder_id, grid_id
        May be left out where the store holds only one.

    Returns
    -------
    Path
        The h5 file.
    """
    export = Export.of(store, encoder_id, grid_id)
    path = folder / f"{export.bag.slide_id}.h5"
    with whole_h5(path) as file:
        file["coords"] = (export.bag.xy * export.slide_mpp).astype(np.float32)
        file["feats"] = export.bag.features.astype(np.float16)
        add_attrs(
            file,
            {
                "stamp_version": VERSION,
                "extractor": export.bag.encoder_id,
                "unit": "um",
                "tile_size_um": round(export.size_px * export.mpp, 6),
                "tile_size_px": export.size_px,
                "code_hash": hashlib.sha256(f"wsi_umedpt {__version__}".encode()).hexdigest()[:8],
                "feat_type": "tile",
                **export.attrs,
            },
        )
    return path
