"""Whole stores, and records, of slides that never were: for tests of what looks at results."""

from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.batch.coordination.records import AttemptRecord, now, write_record
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.contents import SCHEMA, seal
from wsi_umedpt.store.zarr_io import write_array, write_group

SPEC = TileSpec()
ENCODER = "tiny.test"


def draw_store(
    path: Path,
    *,
    tiles: int = 6,
    unreadable: int = 0,
    colour: tuple[int, int, int] = (190, 120, 170),
    tissue: float = 0.5,
    mpp: float = 0.5,
    shift: float = 0.0,
    seed: int = 0,
) -> Path:
    """A store of a slide of 20 x 10 cells of 56 px, whose left part is tissue of one colour."""
    rng = np.random.default_rng([seed, len(path.name)])
    slide = {
        "fingerprint": f"{seed:064x}", "size": [1120, 560], "mpp": mpp, "mpp_source": "vendor", "vendor": "drawn",
        "objective": 20.0, "bounds": None, "reader": "none",
    }  # fmt: skip
    write_group(path, {"schema": SCHEMA, "whole": True, "slide": slide, "software": {"wsi_umedpt": "0.0.test"}})
    mask = np.zeros((10, 20), np.uint8)
    mask[:, : round(20 * tissue)] = 1
    write_array(path / "tissue", mask, {"step": 56, "method": "drawn", "parameters": {}})
    thumbnail = np.where(mask[..., None] == 1, np.array(colour, np.uint8), np.uint8(243))
    write_array(path / "thumbnail", thumbnail.repeat(2, 0).repeat(2, 1), {"step": 28})
    write_group(path / "grids", {})
    grid = path / "grids" / SPEC.grid_id
    write_group(grid, {"spec": SPEC.to_dict(), "side": 224.0})
    xy = np.stack([np.arange(tiles) * 224, np.zeros(tiles)], axis=1).astype(np.int32)
    write_array(grid / "xy", xy)
    write_array(grid / "tissue", np.ones(tiles, np.float32))
    write_array(grid / "status", (np.arange(tiles) < unreadable).astype(np.uint8))
    write_group(grid / "features", {})
    add_features(path, ENCODER, rng.normal(shift, 1, (tiles, 8)), unreadable)
    return path


def add_features(store: Path, encoder: str, rows: np.ndarray, unreadable: int = 0) -> None:
    """Put features of one more encoder into a store."""
    rows = rows.astype(np.float16)
    rows[:unreadable] = np.nan
    made_by = {"card": {"name": encoder, "dim": rows.shape[1]}, "weights_sha256": "ab" * 32, "precision": "fp32"}
    write_array(store / "grids" / SPEC.grid_id / "features" / encoder, rows, made_by)
    seal(store)


def record(out: Path, slide_id: str, status: str = "done", **said: Any) -> AttemptRecord:
    """Write the record of a slide."""
    filled = {"task": "embed", "work": "0" * 16, "attempts": 1, "started": now(), "host": "elsewhere", "pid": 7, **said}
    if status != "running":
        filled = {"ended": now(), "seconds": 2.0, **filled}
    if status == "done":
        filled = {"tiles": 6, "unreadable": 0, **filled}
    made = AttemptRecord(slide_id=slide_id, status=status, **filled)
    write_record(out, made)
    return made
