"""Is a store what it claims to be: nothing missing, nothing too many, every number the one that was written."""

import itertools
import json
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.errors import StoreError, WsiError, reason_of
from wsi_umedpt.geometry import snap_scale
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.paths import elsewhere
from wsi_umedpt.messages import some
from wsi_umedpt.store.contents import LOST, unlisted
from wsi_umedpt.store.label_pyramid import LabelImage, chunks_sha256, halve, label_names, labels_attrs, read_labels
from wsi_umedpt.store.objects_io import ARRAYS, VECTORS, found_names, read_object_vectors, read_objects
from wsi_umedpt.store.partial import growing_features, growing_objects
from wsi_umedpt.store.readable_store import DTYPES
from wsi_umedpt.store.scores_io import object_score_ids, read_object_scores, score_ids
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import NODE, NOT_AS_WRITTEN, array_sha256, read_array, read_attrs, read_node

_GRID_PARTS = {"xy", "tissue", "status", "features"}
_GROUP_KEYS = {"zarr_format", "node_type", "attributes"}
_ZARR_FORMAT = 3
_PARTS = {"tissue", "thumbnail", "grids", "detections", "labels"}


def problems_of(path: Path) -> list[str]:
    """All that is wrong with a store; empty if nothing is.

    Every number is read. What is found is described, never mended: embed, or segment, the slide again.
    """
    try:
        return _problems_of(path, SlideStore.open(path))
    except (WsiError, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return [reason_of(error)]  # of a root that is none, or of a folder that may not be listed


def _problems_of(path: Path, store: SlideStore) -> list[str]:
    problems = [*_node_problems(path, path, {*store.nodes.listed}), *_listed_problems(store)]

    def attempt(where: str, found: Iterator[str]) -> None:
        try:
            problems.extend(f"{where}: {text}" for text in found)
        except (StoreError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            # What is lost was named already, by the list; so was what several parts rest on.
            if LOST not in str(error) and not any(str(error) in problem for problem in problems):
                problems.append(f"{where}: {error}")

    for grid_id in store.grid_ids:
        attempt(f"grids/{grid_id}", _grid_problems(store, grid_id))
    for name in found_names(store):
        attempt(f"detections/{name}", _object_problems(store, name))
    for folder in sorted(p.parent for p in path.glob("labels/*/zarr.json")):
        attempt(f"labels/{folder.name}", _label_problems(folder))
    if (path / "labels").exists():
        attempt("labels", _labels_problems(path / "labels"))
    attempt("tissue", _tissue_problems(store))
    return problems


def notes_on(path: Path) -> list[str]:
    """Notes on a store that are no damage: what could not be checked, or waits for a run to finish it."""
    try:
        store = SlideStore.open(path)
        if not store.nodes.listed:
            return [
                "was written by a version whose stores do not list what they hold: whole parts that were lost, and "
                "metadata that was edited, cannot be found. Adding to the store lists what is there now"
            ]
        waiting = unlisted(path)
    except (WsiError, OSError):
        return []  # which is a problem
    if not waiting:
        return []
    shown = some(waiting, 3)
    return [
        f"holds {shown} beyond what its root lists: a run adds it, or was stopped there. The same command resumes it"
    ]


def note_on_work(partial: Path) -> str:
    """Note on a work folder: what grows in it, and what to do with it."""
    growing = sorted({folder.name for folder in [*growing_features(partial), *growing_objects(partial)]})
    of = f" with {', '.join(growing)}" if growing else ""
    return (
        f"work of a run{of} that was interrupted, or is under way; no part of a store. The same command "
        "resumes it; deleting it loses what it did so far, and nothing else"
    )


def _node_problems(path: Path, root: Path, listed: Set[str]) -> Iterator[str]:
    """Folders are nodes, and nodes hold what they must and nothing else; what is listed is missed by the list."""
    name = path.relative_to(root).as_posix()
    parts = path.relative_to(root).parts
    is_array = _dtype(parts) is not None
    try:
        meta = json.loads(read_node(path))
        if meta["node_type"] != ("array" if is_array else "group"):
            yield f"{name}: is marked as {meta['node_type']}"
            return
        if not is_array and (meta.keys() != _GROUP_KEYS or meta["zarr_format"] != _ZARR_FORMAT):
            yield f"{name}: zarr.json holds {', '.join(sorted(meta))}, expected {', '.join(sorted(_GROUP_KEYS))}"
        if is_array:
            yield from (f"{name}: {text}" for text in _array_problems(path, meta, _dtype(parts)))
            return
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        yield f"{name}: zarr.json cannot be read: {type(error).__name__}: {error}"
        return
    if len(parts) == 2 and parts[0] == "labels":
        return  # laid out in its own way, see `_label_problems`
    nodes = {NODE, f"{NODE}.tmp"}  # the second is what a run was stopped in writing; the next writes it anew
    below = {p.name: p for p in path.iterdir() if p.name not in nodes and not (is_clutter(p.name) or _is_arriving(p))}
    needed, allowed = _parts(parts, below.keys())
    for missing in sorted(needed - below.keys()):
        if "/".join((*parts, missing)) not in listed:
            yield f"{name}: {missing} is missing"
    for _, part in sorted(below.items()):
        if part.is_dir() and (allowed is None or part.name in allowed):
            yield from _node_problems(part, root, listed)
        else:
            yield f"{name}: holds {part.name}, which no run writes"


def _listed_problems(store: SlideStore) -> Iterator[str]:
    """Nodes that the root lists and that were lost or edited; of what was lost, the topmost alone."""
    lost = ""
    for name in sorted(store.nodes.listed):
        if lost and name.startswith(lost):
            continue
        if not (store.path / name / NODE).is_file():
            lost = f"{name}/"
            yield f"{name}: {LOST}"
            continue
        try:
            store.nodes.attrs(name)
        except StoreError as error:
            yield str(error)


def _is_arriving(path: Path) -> bool:
    """Return whether something elsewhere has chunks and no node: it is being published, and no reader sees it."""
    return elsewhere(path) is not None and path.is_dir() and not (path / "zarr.json").exists()


def _parts(where: tuple[str, ...], found: Set[str]) -> tuple[set[str], set[str] | None]:
    """Names that a group must hold, and all that it may hold (None: any names), by its path."""
    match where:
        case ():
            return {"tissue"} if "detections" in found else {"tissue", "grids"}, _PARTS
        case ("grids", _):
            return _GRID_PARTS, {*_GRID_PARTS, "scores", "slide_features"}
        case ("detections", _):
            return {*ARRAYS}, {*ARRAYS, VECTORS, "scores"}
    return set(), None


def _dtype(parts: tuple[str, ...]) -> Any:
    """Type of an array, by its path; None for a group."""
    match parts:
        case ("tissue",) | ("thumbnail",):
            return np.uint8
        case ("grids", _, name) if name in DTYPES:
            return DTYPES[name]
        case ("grids", _, "features", _):
            return np.float16
        case ("grids", _, "scores" | "slide_features", _):
            return np.float32
        case ("detections", _, name) if name in ARRAYS:
            return ARRAYS[name]
        case ("detections", _, "scores", _):
            return np.float32
        case ("detections", _, name) if name == VECTORS:
            return np.float16
    return None


def _array_problems(path: Path, meta: dict[str, Any], dtype: Any) -> Iterator[str]:
    try:
        values = read_array(path)
        if array_sha256(values) != meta["attributes"].get("sha256"):
            yield NOT_AS_WRITTEN
        if values.dtype != dtype:
            yield f"holds {values.dtype}, expected {np.dtype(dtype)}"
        rows = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
        tail = "/0" * (values.ndim - 1)
        chunks = {f"c/{n}{tail}" for n in range(-(-len(values) // rows) if values.size else 0)}
        yield from _foreign(path, chunks)
        if rest := len(values) % rows if values.size else 0:  # the last chunk is as long as all, and ends in zeros
            stored = (path / f"c/{len(values) // rows}{tail}").read_bytes()
            if stored[rest * values.nbytes // len(values) :].strip(b"\0"):
                yield f"chunk {len(values) // rows} holds more than the last rows"
    except (StoreError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        yield str(error)


def _foreign(path: Path, known: set[str]) -> Iterator[str]:
    there = (p.relative_to(path) for p in path.rglob("*") if p.is_file())
    found = {p.as_posix() for p in there if not any(map(is_clutter, p.parts))}
    for extra in itertools.islice(sorted(found - known - {NODE}), 3):
        yield f"holds {extra}, which no run writes"


def _tissue_problems(store: SlideStore) -> Iterator[str]:
    store.tissue()
    yield from ()


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


def _object_problems(store: SlideStore, name: str) -> Iterator[str]:
    objects, _ = read_objects(store, name)
    for field in ("score", "centroid", "outline"):
        if not np.isfinite(getattr(objects, field)).all():
            yield f"{field} holds what is no number"
    if f"detections/{name}/{VECTORS}" in store.nodes and not np.isfinite(read_object_vectors(store, name)[0]).all():
        yield f"{VECTORS} holds what is no number"
    for model_id in object_score_ids(store, name):
        read_object_scores(store, model_id, name)  # counts the rows


def _labels_problems(labels: Path) -> Iterator[str]:
    """The group of label images lists those that are there, and says nothing else."""
    said = read_attrs(labels)
    there = label_names(labels)
    if said == labels_attrs(there):
        return
    names = said.get("ome", {}).get("labels", [])
    for name in sorted({*names} - {*there}):
        yield f"lists {name}, which is not there"
    if {*names} <= {*there}:
        yield f"lists {', '.join(names) or 'nothing'} as its label images, or says more; there are {', '.join(there)}"


def _label_problems(folder: Path) -> Iterator[str]:
    image = read_labels(folder)  # counts the chunks
    if image.info.name != folder.name:
        yield f"calls itself {image.info.name}"
    known = set()
    for number, level in enumerate(image.levels):
        rows, cols = (-(-n // side) for n, side in zip(level.array.shape, level.array.chunks, strict=True))
        known |= {f"{number}/zarr.json", *(f"{number}/c/{r}/{c}" for r in range(rows) for c in range(cols))}
    yield from _foreign(folder, known)
    for number, digest in enumerate(image.sha256):
        if chunks_sha256(folder / str(number)) != digest:
            yield f"level {number} does not hold the chunks that were written (sha256 differs)"
    for number in range(len(image.levels)):
        yield from _level_problems(image, number)


def _level_problems(image: LabelImage, number: int) -> Iterator[str]:
    """Its pixels can be read and are of the classes; the next level is made of them."""
    array = image.levels[number].array
    coarser = image.levels[number + 1].array if number + 1 < len(image.levels) else None
    high = array.chunks[0]
    for top in range(0, array.shape[0], high):
        try:
            band: Any = array[top : top + high]
            below: Any = coarser[top // 2 : (top + high) // 2] if coarser is not None else None
        except Exception as error:  # noqa: BLE001 - decompressors raise what they like
            yield f"level {number} from row {top} on cannot be read: {type(error).__name__}: {error}"
            continue
        if band.size and band.max() > len(image.info.classes):
            yield f"level {number} holds class {band.max()}, but there are {len(image.info.classes)} classes"
        if below is not None and not np.array_equal(halve(band), below):
            yield f"level {number + 1} from row {top // 2} on is not made of level {number}"
