"""Where objects and label images lie in a store: ``detections/<name>`` and ``labels/<name>``."""

from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.arrays import discard, write_array, write_group
from wsi_umedpt.errors import StoreError
from wsi_umedpt.objects import MEASURES, Objects
from wsi_umedpt.store import SlideStore

ARRAYS = {
    "class_index": np.uint8, "score": np.float32, "centroid": np.float32, "measures": np.float32, "starts": np.int64,
    "outline": np.float32,
}  # fmt: skip
"""The arrays of ``detections/<name>``, fields of `Objects`."""


def write_objects(folder: Path, objects: Objects, made_by: dict[str, Any]) -> None:
    """Write objects as a zarr group; its node comes last, so that a folder without it is not whole."""
    discard(folder)
    for name in ARRAYS:
        write_array(folder / name, getattr(objects, name))
    write_group(folder, {"classes": [*objects.classes], "measures": [*MEASURES], "made_by": made_by})


def read_objects(store: SlideStore, name: str | None = None) -> tuple[Objects, dict[str, Any]]:
    """Objects in a store, and what made them; the name may be left out where there is one kind only.

    Raises
    ------
    StoreError
        If there are none of this name, or they are damaged.
    """
    known = found_names(store)
    if name is None and len(known) == 1:
        name = known[0]
    if name not in known:
        what = f"no objects {name!r}" if name else f"{len(known)} kinds of objects"
        raise StoreError(f"{store.path} holds {what}. It holds: {', '.join(known) or 'none'}")
    node = f"detections/{name}"
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


def _damage(objects: Objects) -> str:
    """Why these can be no objects, or nothing."""
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
    """Names of all objects in a store, sorted."""
    return store.nodes.names("detections/*")
