"""Vectors of whole slides in a store: one array an encoder of slides, whole or absent.

``grids/<grid_id>/slide_features/<name>``, float32 (1, dim), beside the tiles that it was made of. `name` is that of
the slide encoder, a dot, and that of the tiles' features. A vector may be made anew; a name holds the last one.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.paths import local_path
from wsi_umedpt.store.contents import delist, seal
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.write_lock import locked
from wsi_umedpt.store.zarr_io import discard, write_array, write_group

Vector = npt.NDArray[np.float32]
FOLDER = "slide_features"
"""Folder of slide vectors in a grid."""
_NAME = re.compile(r"[\w-][\w.-]{0,199}", re.ASCII)


def write_slide_vector(store: SlideStore, name: str, vector: Vector, made_by: dict[str, Any], grid_id: str) -> None:
    """Put a slide's vector into its store; one of the same name is replaced.

    Parameters
    ----------
    store
        Committed.
    name
        Name of the slide encoder and the tiles' features.
    vector : float32 (dim,)
        Finite.
    made_by
        Origin of the vector, with ``tiles``, the name of the features.
    grid_id
        Grid whose tiles it was made of.

    Raises
    ------
    StoreError
        If the name or the vector is unfit, or the store lies elsewhere.
    StoreBusyError
        If another process is writing the store.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(f"a slide's vector cannot be called {name!r}: letters, digits, '.', '-' and '_', no dot first")
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise StoreError(f"a slide's vector is finite numbers in a row, got shape {vector.shape} ({name})")
    store.grid(grid_id)
    folder = store.path / "grids" / grid_id / FOLDER
    with locked(local_path(store.path)):
        if not (folder / "zarr.json").exists():
            write_group(folder, {})
        delist(store.path, [f"grids/{grid_id}/{FOLDER}/{name}"])
        discard(folder / name)
        write_array(folder / name, vector.astype(np.float32)[None], made_by, dims=("slide", f"{name}_feature"))
        if store.nodes.listed:
            seal(store.path)


def read_slide_vector(store: SlideStore, name: str, grid_id: str | None = None) -> tuple[Vector, dict[str, Any]]:
    """A slide's vector (dim,), and what made it with its ``grid_id``.

    Raises
    ------
    StoreError
        If there is none of this name, or in several grids; those that there are, are named.
    """
    attrs = slide_vector_attrs(store, name, grid_id)
    values = store.nodes.array(f"grids/{attrs['grid_id']}/{FOLDER}/{name}")
    if values.ndim != 2 or len(values) != 1 or values.dtype != np.float32:
        raise StoreError(f"{store.path} has a vector {name} of {values.dtype} and shape {values.shape}: damaged")
    return values[0], attrs


def slide_vector_attrs(store: SlideStore, name: str, grid_id: str | None = None) -> dict[str, Any]:
    """Origin of a slide's vector, ``grid_id`` and ``dim``, without reading it; errors as of `read_slide_vector`."""
    known = slide_vector_ids(store)
    found = [grid for grid, one in known if one == name and grid_id in (None, grid)]
    if len(found) != 1:
        what = "no slide vector" if not found else "in several grids (name one) the slide vector"
        listed = ", ".join(f"{one} (grid {grid})" for grid, one in known) or "none"
        raise StoreError(f"{store.path} holds {what} {name!r}. It holds: {listed}")
    node = f"grids/{found[0]}/{FOLDER}/{name}"
    return {**store.nodes.attrs(node), "grid_id": found[0], "dim": int(store.nodes.shape(node)[1])}


def slide_vector_ids(store: SlideStore) -> list[tuple[str, str]]:
    """(grid, name) of all slide vectors in a store, sorted."""
    return [(g, name) for g in store.grid_ids for name in store.nodes.names(f"grids/{g}/{FOLDER}/*")]
