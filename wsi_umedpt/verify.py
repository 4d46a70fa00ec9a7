"""Is a store what it claims to be: nothing missing, nothing too many, every number the one that was written."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.arrays import array_sha256, read_array
from wsi_umedpt.errors import StoreError
from wsi_umedpt.geometry import snap_scale
from wsi_umedpt.growing import growing_features
from wsi_umedpt.scores import score_ids
from wsi_umedpt.store import DTYPES, SlideStore

_PARTS = {0: {"tissue", "grids"}, 2: {"xy", "tissue", "status", "features"}}
"""What a group must hold, by its depth below the root."""


def problems_of(path: Path) -> list[str]:
    """All that is wrong with a store; empty if nothing is.

    Every number is read. What is found is described, never mended: embed the slide again.
    """
    try:
        store = SlideStore.open(path)
    except StoreError as error:
        return [str(error)]
    problems = list(_node_problems(path, path))
    for grid_id in store.grid_ids:
        try:
            problems += [f"grids/{grid_id}: {text}" for text in _grid_problems(store, grid_id)]
        except (StoreError, LookupError, TypeError, ValueError, AttributeError) as error:
            if not any(str(error) in problem for problem in problems):
                problems.append(f"grids/{grid_id}: {error}")
    try:
        store.tissue()
    except (StoreError, LookupError, TypeError, ValueError) as error:
        if not any(str(error) in problem for problem in problems):
            problems.append(f"tissue: {error}")
    return problems


def note_on_work(partial: Path) -> str:
    """What a work folder is, what grows in it, and what to do with it."""
    growing = sorted({folder.name for folder in growing_features(partial)})
    of = f" with {', '.join(growing)}" if growing else ""
    return (
        f"work of a run{of} that was interrupted, or is under way; no part of a store. The same embed command goes "
        "on with it; deleting it loses what it embedded so far, and nothing else"
    )


def _node_problems(path: Path, root: Path) -> Iterator[str]:
    """Folders are nodes, and nodes hold what they must and nothing else."""
    name = path.relative_to(root).as_posix()
    depth = len(path.relative_to(root).parts)
    is_array = path.name in DTYPES or path.name == "thumbnail" or path.parent.name in ("features", "scores")
    try:
        meta = json.loads((path / "zarr.json").read_bytes())
        if meta["node_type"] != ("array" if is_array else "group"):
            yield f"{name}: is marked as {meta['node_type']}"
            return
        if is_array:
            yield from (f"{name}: {text}" for text in _array_problems(path, meta, root))
            return
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield f"{name}: zarr.json cannot be read: {type(error).__name__}: {error}"
        return
    below = {p.name: p for p in path.iterdir() if p.name != "zarr.json"}
    for missing in sorted(_PARTS.get(depth, set()) - below.keys()):
        yield f"{name}: {missing} is missing"
    for _, part in sorted(below.items()):
        if part.is_dir() and not part.name.startswith("."):
            yield from _node_problems(part, root)
        else:
            yield f"{name}: holds {part.name}, which no run writes"


def _array_problems(path: Path, meta: dict[str, Any], root: Path) -> Iterator[str]:
    try:
        values = read_array(path)
        if array_sha256(values) != meta["attributes"].get("sha256"):
            yield "its numbers are not those that were written (sha256 differs)"
        expected = _dtype(path, root)
        if values.dtype != expected:
            yield f"holds {values.dtype}, expected {expected}"
        rows = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
        tail = "/0" * (values.ndim - 1)
        chunks = {f"c/{n}{tail}" for n in range(-(-len(values) // rows) if values.size else 0)} | {"zarr.json"}
        found = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        for extra in itertools.islice(sorted(found - chunks), 3):
            yield f"holds {extra}, which no run writes"
    except (StoreError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        yield str(error)


def _dtype(path: Path, root: Path) -> Any:
    if path.parent.name == "features":
        return np.dtype(np.float16)
    if path.parent.name == "scores":
        return np.dtype(np.float32)
    if path.parent == root:  # mask and thumbnail
        return np.dtype(np.uint8)
    return np.dtype(DTYPES[path.name])


def _grid_problems(store: SlideStore, grid_id: str) -> Iterator[str]:
    grid = store.grid(grid_id)
    spec = grid.spec
    if spec.grid_id != grid_id:
        yield f"its spec is that of {spec.grid_id}"
    if grid.side != spec.size_px * snap_scale(spec.mpp / store.attrs["slide"]["mpp"], spec.size_px):
        yield f"its side, {grid.side:g} px, is not that of its spec"
    rows = {name: len(read_array(store.path / "grids" / grid_id / name)) for name in DTYPES}
    for encoder_id in store.encoder_ids(grid_id):
        rows[encoder_id] = len(read_array(store.path / "grids" / grid_id / "features" / encoder_id))
    for of, name in score_ids(store):
        if of == grid_id:
            rows[f"scores/{name}"] = len(read_array(store.path / "grids" / grid_id / "scores" / name))
    for name, count in rows.items():
        if count != len(grid):
            yield f"{name} has {count} rows for {len(grid)} tiles"
