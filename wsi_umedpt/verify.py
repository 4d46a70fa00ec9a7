"""Is a store what it claims to be: every array whole, every sha256 right, every row count equal."""

import json
from pathlib import Path

from wsi_umedpt.arrays import array_sha256, read_array
from wsi_umedpt.errors import StoreError
from wsi_umedpt.store import SlideStore


def problems_of(path: Path) -> list[str]:
    """All that is wrong with a store; empty if nothing is.

    Every number is read. What is found is described, never mended: embed the slide again.
    """
    try:
        store = SlideStore.open(path)
    except StoreError as error:
        return [str(error)]
    problems = []
    for node in sorted(path.rglob("zarr.json")):
        name = node.parent.relative_to(path).as_posix()
        try:
            meta = json.loads(node.read_bytes())
            if meta["node_type"] == "array":
                values = read_array(node.parent)
                if array_sha256(values) != meta["attributes"].get("sha256"):
                    problems.append(f"{name}: its numbers are not those that were written (sha256 differs)")
        except (StoreError, OSError, ValueError, KeyError) as error:
            problems.append(f"{name}: {error}")
    for grid_id in store.grid_ids:
        try:
            tiles = len(store.grid(grid_id))
            if len(store.status(grid_id)) != tiles:
                problems.append(f"grids/{grid_id}: status is not of {tiles} tiles")
            for encoder_id in store.encoder_ids(grid_id):
                rows = len(read_array(path / "grids" / grid_id / "features" / encoder_id))
                if rows != tiles:
                    problems.append(f"grids/{grid_id}: {encoder_id} has {rows} rows for {tiles} tiles")
        except (StoreError, KeyError, TypeError, ValueError) as error:
            if not any(str(error) in problem for problem in problems):
                problems.append(f"grids/{grid_id}: {error}")
    return problems
