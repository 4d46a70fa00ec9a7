"""Layout of stores, for those who look at many stores without opening each."""

import contextlib
import json
from pathlib import Path

from wsi_umedpt.errors import StoreError
from wsi_umedpt.store.zarr_io import NODE, read_attrs


def is_store(path: Path) -> bool:
    """Return whether a zarr folder is a store of ours rather than an OME-Zarr slide."""
    try:
        return {"schema", "slide"} <= read_attrs(path).keys()
    except StoreError:
        return False


def is_store_root(content: bytes | None) -> bool:
    """Return whether the metadata of a zarr group, read from elsewhere, is that of a store's root."""
    try:
        return {"schema", "slide"} <= dict(json.loads(content or b"")["attributes"]).keys()
    except (ValueError, LookupError, TypeError):
        return False


def has_root(store: Path) -> bool:
    """Return whether the store has its root; one without it is not whole."""
    return (store / NODE).is_file()


def state_of(store: Path) -> str:
    """Text that changes whenever something enters a store: parts are renamed into its folders, files replaced."""
    grids = store / "grids"
    watched = [store / NODE, store / "tissue" / NODE, grids, store / "detections"]
    with contextlib.suppress(OSError):
        watched += [part for grid in sorted(grids.iterdir()) for part in (grid, grid / "features")]
    states = []
    for path in watched:
        with contextlib.suppress(OSError):
            state = path.stat()
            states.append(f"{state.st_mtime_ns:x}.{state.st_ino:x}")
    return " ".join(states)
