"""Scores of tiles and of objects in a store: probabilities, attention; one array a model, whole or absent.

``grids/<grid_id>/scores/<model_id>``, float32 (tile, k), and ``detections/<head>/scores/<model_id>``, float32
(object, k). Unlike features, scores may be made anew: the same model under another name is cheap, so a name holds
what was scored last.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.paths import local_path
from wsi_umedpt.store.contents import delist, seal
from wsi_umedpt.store.objects import Objects
from wsi_umedpt.store.objects_io import found_name, read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.write_lock import locked
from wsi_umedpt.store.zarr_io import discard, write_array, write_group

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
        Origin of the scores, with ``columns`` (names of the k columns).
    grid_id
        Grid whose tiles were scored.

    Raises
    ------
    StoreError
        If there is not a row for each tile, or the store lies elsewhere.
    StoreBusyError
        If another process is writing the store.
    """
    _write(store, f"grids/{grid_id}", model_id, scores, made_by, ("tile", len(store.grid(grid_id))))


def write_object_scores(store: SlideStore, model_id: str, scores: Scores, made_by: dict[str, Any], head: str) -> None:
    """Put scores of objects into a store; those of the same name are replaced.

    Parameters
    ----------
    store, model_id, made_by
        As for `write_scores`.
    scores : float32 (object, k)
    head
        The kind of the objects.

    Raises
    ------
    StoreError, StoreBusyError
        As of `write_scores`.
    """
    node = f"detections/{found_name(store, head)}"
    (count,) = store.nodes.shape(f"{node}/score")
    _write(store, node, model_id, scores, made_by, ("object", count))


def read_object_scores(store: SlideStore, model_id: str, head: str | None = None) -> tuple[Scores, dict[str, Any]]:
    """Read scores of objects, float32 (object, k), and what made them, ``columns`` and ``head`` among it.

    Parameters
    ----------
    head
        The kind of the objects, or its beginning; may be left out where there is one.

    Raises
    ------
    StoreError
        If there are none of this name; those that there are, are named.
    """
    attrs = object_score_attrs(store, model_id, head)
    node = f"detections/{attrs['head']}/scores/{model_id}"
    scores, (count,) = store.nodes.array(node), store.nodes.shape(f"detections/{attrs['head']}/score")
    if scores.dtype != np.float32 or scores.shape != (count, len(attrs.get("columns", ()))):
        raise StoreError(f"{store.path / node} is {scores.dtype} {scores.shape} for {count} objects: damaged")
    return scores, attrs


def object_score_attrs(store: SlideStore, model_id: str, head: str | None = None) -> dict[str, Any]:
    """Origin of scores of objects, with ``columns`` and ``head``; errors as of `read_object_scores`."""
    head = found_name(store, head)
    known = object_score_ids(store, head)
    if model_id not in known:
        raise StoreError(
            f"{store.path} holds no scores {model_id!r} of {head}. It holds: {', '.join(known) or 'none'}; "
            "`wsi-umedpt probe predict` makes them"
        )
    return {**store.nodes.attrs(f"detections/{head}/scores/{model_id}"), "head": head}


class Classified(NamedTuple):
    """Objects and what is said of their classes."""

    objects: Objects
    """Objects of the classes that the scores give them, each of the likeliest."""
    probability: npt.NDArray[np.float32] | None
    """(object,) of that class; None where classes are those of the head."""
    made_by: dict[str, Any]
    """Origin of the objects; its ``scores`` are the origin of their classes."""


def read_classified(store: SlideStore, head: str | None = None, model_id: str | None = None) -> Classified:
    """Read objects, with the classes that scores give them where these are named; else with those of the head.

    Raises
    ------
    StoreError
        As of `read_object_scores` and `wsi_umedpt.store.objects_io.read_objects`.
    """
    objects, made_by = read_objects(store, head)
    if model_id is None:
        return Classified(objects, None, made_by)
    chances, about = read_object_scores(store, model_id, head)
    return Classified(
        objects.classified(about["columns"], chances),
        chances.max(axis=1, initial=0),
        {**made_by, "scores": {"name": model_id, "model": about.get("model", {})}},
    )


def object_score_ids(store: SlideStore, head: str) -> list[str]:
    """List the scores of a kind of objects, sorted by name."""
    return store.nodes.names(f"detections/{head}/scores/*")


def _write(
    store: SlideStore, group: str, model_id: str, scores: Scores, made_by: dict[str, Any], rows: tuple[str, int]
) -> None:
    """Write scores below a group; `rows` says of what, and of how many."""
    if not _NAME.fullmatch(model_id):
        raise StoreError(f"scores cannot be called {model_id!r}: letters, digits, '.', '-' and '_', no dot first")
    what, count = rows
    if scores.shape != (count, len(made_by["columns"])):
        raise StoreError(
            f"scores of shape {scores.shape} with columns {made_by['columns']} do not fit {count} {what}s of "
            f"{store.path}"
        )
    folder = store.path / group / "scores"
    with locked(local_path(store.path)):
        if not (folder / "zarr.json").exists():
            write_group(folder, {})
        delist(store.path, [f"{group}/scores/{model_id}"])
        discard(folder / model_id)
        write_array(folder / model_id, scores.astype(np.float32), made_by, dims=(what, f"{model_id}_score"))
        if store.nodes.listed:
            seal(store.path)


def read_scores(store: SlideStore, model_id: str, grid_id: str | None = None) -> tuple[Scores, dict[str, Any]]:
    """Read scores and what made them; see `write_scores`.

    Raises
    ------
    StoreError
        If there are none of this name; those that there are, are named.
    """
    attrs = score_attrs(store, model_id, grid_id)
    return store.nodes.array(f"grids/{attrs['grid_id']}/scores/{model_id}").astype(np.float32, copy=False), attrs


def score_attrs(store: SlideStore, model_id: str, grid_id: str | None = None) -> dict[str, Any]:
    """Origin of scores, with ``columns`` and ``grid_id``, without reading them; errors as of `read_scores`."""
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
