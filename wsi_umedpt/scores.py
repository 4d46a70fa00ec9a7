"""Scores of tiles in a store: probabilities, attention; one array a model, whole or absent.

``grids/<grid_id>/scores/<model_id>``, float32 (tile, k). Unlike features, scores may be made
anew: the same model under another name is cheap, so a name holds what was scored last.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.arrays import discard, write_array, write_group
from wsi_umedpt.contents import delist, seal
from wsi_umedpt.errors import StoreError
from wsi_umedpt.locks import locked
from wsi_umedpt.places import local_path
from wsi_umedpt.store import SlideStore

Scores = npt.NDArray[np.float32]
_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)
"""It becomes a folder's name, and may come from a file that somebody sent."""


def write_scores(store: SlideStore, model_id: str, scores: Scores, made_by: dict[str, Any], grid_id: str) -> None:
    """Put scores into a store; those of the same name are replaced.

    Parameters
    ----------
    store
        Committed.
    model_id
        Names the scores.
    scores : float32 (tile, k)
        A row for each tile of the grid; nan where the tile could not be read.
    made_by
        What made them, ``columns`` (names of the k columns) among it.
    grid_id
        Whose tiles were scored.

    Raises
    ------
    StoreError
        If there is not a row for each tile, or the store lies elsewhere.
    StoreBusyError
        If another process is writing the store.
    """
    if not _NAME.fullmatch(model_id):
        raise StoreError(f"scores cannot be called {model_id!r}: letters, digits, '.', '-' and '_', no dot first")
    tiles = len(store.grid(grid_id))
    if scores.ndim != 2 or len(scores) != tiles or len(made_by["columns"]) != scores.shape[1]:
        raise StoreError(
            f"scores of shape {scores.shape} with columns {made_by['columns']} do not fit {tiles} tiles of {store.path}"
        )
    folder = _folder(store, grid_id)
    with locked(local_path(store.path)):
        if not (folder / "zarr.json").exists():
            write_group(folder, {})
        name = f"grids/{grid_id}/scores/{model_id}"
        delist(store.path, [name])
        discard(folder / model_id)
        write_array(folder / model_id, scores.astype(np.float32), made_by)
        if store.nodes.listed:
            seal(store.path)


def read_scores(store: SlideStore, model_id: str, grid_id: str | None = None) -> tuple[Scores, dict[str, Any]]:
    """Scores and what made them; see `write_scores`.

    Raises
    ------
    StoreError
        If there are none of this name; those that there are, are named.
    """
    attrs = score_attrs(store, model_id, grid_id)
    return store.nodes.array(f"grids/{attrs['grid_id']}/scores/{model_id}").astype(np.float32, copy=False), attrs


def score_attrs(store: SlideStore, model_id: str, grid_id: str | None = None) -> dict[str, Any]:
    """What made scores, and their ``columns`` and ``grid_id``, without reading them; errors as of `read_scores`."""
    known = score_ids(store)
    found = [g for g, name in known if name == model_id and grid_id in (None, g)]
    if len(found) != 1:
        names = sorted({f"{name} (grid {g})" for g, name in known})
        what = "no scores" if not found else "scores in several grids (name one)"
        raise StoreError(f"{store.path} holds {what} {model_id!r}. It holds: {', '.join(names) or 'none'}")
    return {**store.nodes.attrs(f"grids/{found[0]}/scores/{model_id}"), "grid_id": found[0]}


def score_ids(store: SlideStore) -> list[tuple[str, str]]:
    """(grid, name) of all scores in a store, sorted."""
    return [(g, name) for g in store.grid_ids for name in store.nodes.names(f"grids/{g}/scores/*")]


def _folder(store: SlideStore, grid_id: str) -> Path:
    return store.path / "grids" / grid_id / "scores"
