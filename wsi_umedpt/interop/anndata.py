"""AnnData (https://anndata.readthedocs.io) for scanpy and its kin: ``SLIDE.h5ad``, written, and read back.

``X`` float32 (tile, dim) are the features: what stands on AnnData computes with no float16. ``obs`` has the columns
slide_id, x and y (top left corner, level-0 px) and row (of the grid in the store); ``obsm["spatial"]`` the
centres of tiles, level-0 px; ``uns["wsi_umedpt"]`` what made the features. There are no objects in it.

Writing needs the package anndata, an extra of this one. Reading does without, and reads only files that we
wrote: in another's, neither the side of a tile nor what ``spatial`` means is known.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import FileSource, NotThisFormatError, Numbers, check_rows, tiles_and_dim
from wsi_umedpt.interop.hdf5 import array_of, group_of, has, opened, scalar_of, values_of, whole_h5
from wsi_umedpt.interop.provenance import Export, stated
from wsi_umedpt.store.slide_store import SlideStore

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "AnnData"
SUFFIX = ".h5ad"

_OURS = "wsi_umedpt"


def open_anndata(path: Path) -> FileSource:
    """Say what a file of `write_anndata` holds.

    Raises
    ------
    NotThisFormatError
        If another program wrote it.
    InteropError
        If it cannot be used.
    """
    with opened(path) as file:
        uns = group_of(file, "uns") if has(file, "uns") else None
        if uns is None or not has(uns, _OURS):
            raise NotThisFormatError(f"it has no uns/{_OURS}: only AnnData that `export` wrote is read back")
        about = _about(group_of(uns, _OURS))
        features = array_of(file, "X")
        tiles, dim = tiles_and_dim(features.shape, features.dtype, f"{path}: X")
        for name in ("x", "y"):
            check_rows(tiles, (*array_of(group_of(file, "obs"), name).shape, 2), f"{path}: obs/{name}")
        ours = stated(about, dim=dim, format_name=NAME, where=str(path))
    if ours is None:
        raise NotThisFormatError(f"its uns/{_OURS} does not say which version wrote it")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=ours.kind,
        tiles=tiles,
        side=ours.side,
        encoder_id=ours.encoder_id,
        read=_read,
    )


def _about(group: h5py.Group) -> dict[str, Any]:
    return {name: scalar_of(group, name) for name in group}


def _read(path: Path) -> tuple[Numbers, Numbers]:
    with opened(path) as file:
        obs = group_of(file, "obs")
        xy = [values_of(array_of(obs, name)) for name in ("x", "y")]
        return values_of(array_of(file, "X")), np.stack(xy, axis=1)


def write_anndata(
    folder: Path, store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None
) -> Path:
    """Write a store's features as ``SLIDE.h5ad``, whole or absent.

    Parameters
    ----------
    folder
        Folder of the file.
    encoder_id, grid_id
        May be left out where the store holds only one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InteropError
        If anndata is not installed.
    """
    table = to_anndata(store, encoder_id=encoder_id, grid_id=grid_id)
    from anndata.io import write_elem

    path = folder / f"{store.slide_id}{SUFFIX}"
    with whole_h5(path) as file:
        write_elem(file, "/", table)
    return path


def to_anndata(store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None) -> "AnnData":
    """A store's features as AnnData; see `SlideStore.to_anndata`.

    Raises
    ------
    InteropError
        If anndata is not installed.
    """
    try:
        import anndata
        import pandas as pd
    except ImportError as error:
        raise InteropError(
            f"AnnData is written by its own package ({error}): pip install 'wsi-umedpt[anndata]'"
        ) from None
    export = Export.of(store, encoder_id, grid_id)
    bag = export.bag
    x, y = bag.xy.T
    return anndata.AnnData(
        X=bag.features.astype(np.float32),
        obs=pd.DataFrame(
            {"slide_id": pd.Categorical([bag.slide_id] * len(bag)), "x": x, "y": y, "row": bag.index},
            index=[f"{bag.slide_id}:{row}" for row in bag.index.tolist()],
        ),
        obsm={"spatial": bag.xy + export.side / 2},
        uns={_OURS: export.about},
    )
