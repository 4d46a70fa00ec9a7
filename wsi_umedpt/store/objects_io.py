"""Paths of objects, their vectors and label images in a store: ``detections/<name>`` and ``labels/<name>``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import StoreError
from wsi_umedpt.messages import counted
from wsi_umedpt.store.objects import MEASURES, Objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.tables import one_named
from wsi_umedpt.store.zarr_io import discard, write_array, write_group, write_rows

ARRAYS = {
    "class_index": np.uint8, "score": np.float32, "centroid": np.float32, "measures": np.float32, "starts": np.int64,
    "outline": np.float32,
}  # fmt: skip
"""The arrays of ``detections/<name>``, fields of `Objects`."""
_DIMS = {
    "class_index": ("object",), "score": ("object",), "centroid": ("object", "axis"), "measures": ("object", "measure"),
    "starts": ("boundary",), "outline": ("corner", "axis"),
}  # fmt: skip


VECTORS = "vectors"
"""Array of ``detections/<name>``, float16 (object, dim); absent where they were left out, or the store is old."""


class NewVectors(NamedTuple):
    """Vectors of objects that are written, not all in memory at once."""

    dim: int
    blocks: Iterable[npt.NDArray[np.float16]]
    """Each (object, dim), in the order of the objects."""
    made_by: dict[str, Any]
    """Origin of the vectors: model, sha256 of its weights, strides of its maps, um/px; JSON."""


def write_objects(folder: Path, objects: Objects, made_by: dict[str, Any], vectors: NewVectors | None = None) -> None:
    """Write objects as a zarr group; its node comes last, so that a folder without it is not whole."""
    discard(folder)
    if vectors:
        write_rows(
            folder / VECTORS,
            (len(objects), vectors.dim),
            np.float16,
            vectors.blocks,
            vectors.made_by,
            dims=("object", "vector_feature"),
        )
    for name in ARRAYS:
        write_array(folder / name, getattr(objects, name), dims=_DIMS[name])
    write_group(folder, {"classes": [*objects.classes], "measures": [*MEASURES], "made_by": made_by})


def read_objects(store: SlideStore, name: str | None = None) -> tuple[Objects, dict[str, Any]]:
    """Read objects of a store, and what made them; the name may be left out where there is one kind only.

    Raises
    ------
    StoreError
        If there are none of this name, or they are damaged.
    """
    node = f"detections/{found_name(store, name)}"
    folder, attrs = store.path / node, store.nodes.attrs(node)
    if attrs.get("measures") != [*MEASURES]:
        raise StoreError(f"{folder} holds the measures {attrs.get('measures')}, expected {[*MEASURES]}")
    arrays = {key: store.nodes.array(f"{node}/{key}") for key in ARRAYS}
    try:
        objects = Objects(tuple(attrs["classes"]), **arrays)
        made_by = dict(attrs["made_by"])
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{folder} is damaged: {type(error).__name__}: {error}") from None
    if reason := _damage(objects):
        raise StoreError(f"{folder} is damaged: {reason}")
    return objects, made_by


def read_object_vectors(store: SlideStore, name: str | None = None) -> tuple[npt.NDArray[np.float16], dict[str, Any]]:
    """Read vectors of objects, float16 (object, dim) in their order, and what made them; see `read_objects`.

    Raises
    ------
    StoreError
        If there are no such objects, they have no vectors, or these are damaged.
    """
    attrs = object_vector_attrs(store, name)
    node = f"detections/{attrs['head']}"
    vectors, (count, _) = store.nodes.array(f"{node}/{VECTORS}"), store.nodes.shape(f"{node}/centroid")
    if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != count:
        raise StoreError(
            f"{store.path / node / VECTORS} is damaged: it is {vectors.dtype} {vectors.shape} for {count} objects"
        )
    return vectors, attrs


def has_vectors(store: SlideStore, name: str | None = None) -> bool:
    """Return whether objects have vectors; errors as of `read_objects`."""
    return f"detections/{found_name(store, name)}/{VECTORS}" in store.nodes


def object_vector_attrs(store: SlideStore, name: str | None = None) -> dict[str, Any]:
    """Origin of objects' vectors, without reading them; errors as of `read_object_vectors`."""
    name = found_name(store, name)
    node = f"detections/{name}/{VECTORS}"
    if node not in store.nodes:
        raise StoreError(
            f"{store.path} holds {name!r} without vectors: they were left out, or an earlier version found the "
            "objects. Segment the slide again into another folder, with vectors; or remove the store first."
        )
    return {**store.nodes.attrs(node), "head": name}


def found_name(store: SlideStore, name: str | None = None) -> str:
    """The one kind of objects that a name means, or its beginning; without one, the only kind.

    Raises
    ------
    StoreError
        If there is none such, or there are several.
    """
    known = found_names(store)
    name = (known[0] if len(known) == 1 else None) if name is None else one_named(name, known) or name
    if name is None or name not in known:
        what = f"no objects {name!r}" if name else counted(len(known), "kind of objects", "kinds of objects")
        raise StoreError(f"{store.path} holds {what}. It holds: {', '.join(known) or 'none'}")
    return name


def _damage(objects: Objects) -> str:
    """Reason why these can be no objects; empty if they can."""
    n, corners, starts = len(objects), len(objects.outline), objects.starts
    shapes = {
        "class_index": (n,), "score": (n,), "centroid": (n, 2), "measures": (n, len(MEASURES)), "starts": (n + 1,),
        "outline": (corners, 2),
    }  # fmt: skip
    for name, dtype in ARRAYS.items():
        values = getattr(objects, name)
        if (values.dtype, values.shape) != (dtype, shapes[name]):
            expected = f"{np.dtype(dtype)} {shapes[name]}, as it has {n} objects"
            return f"{name} is {values.dtype} {values.shape}, expected {expected}"
    if starts[0] != 0 or starts[-1] != corners or (np.diff(starts) < 3).any():
        return f"starts does not part the {corners} corners into outlines of 3 or more"
    if n and (top := int(objects.class_index.max())) >= len(objects.classes):
        return f"an object is of class {top}, but there are {len(objects.classes)} classes"
    return ""


def found_names(store: SlideStore) -> list[str]:
    """List the kinds of objects in a store, sorted."""
    return store.nodes.names("detections/*")
