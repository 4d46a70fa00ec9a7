"""How long the catalog of many slides takes: the first time, when nothing changed, and when one slide did.

Usage: python -m benchmarks.batch.catalog [SLIDES]

Stores are synthetic: one real store is made of a drawn slide, and its few small files are
written again under other names with other numbers (8 x 8 mask cells, 4 tiles, 8 features a
tile), on the disk of the temporary folder. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wsi_umedpt.batch.coordination.records import AttemptRecord, now, write_record
from wsi_umedpt.batch.reporting.catalog import NAME, read_catalog, refresh
from wsi_umedpt.batch.reporting.status import look
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.store.contents import SCHEMA, seal
from wsi_umedpt.store.zarr_io import write_array, write_group

ENCODER = "tiny.test"


def make_store(path: Path) -> None:
    """A whole store of a slide that never was."""
    rng = np.random.default_rng(0)
    spec = TileSpec()
    slide = {
        "fingerprint": "0" * 64, "size": [448, 448], "mpp": 0.5, "mpp_source": "user", "vendor": "synthetic",
        "objective": None, "bounds": None, "reader": "none",
    }  # fmt: skip
    write_group(path, {"schema": SCHEMA, "whole": True, "slide": slide, "software": {"wsi_umedpt": "0"}})
    mask = rng.integers(0, 2, (8, 8)).astype(np.uint8)
    write_array(path / "tissue", mask, {"step": 56, "method": "drawn", "parameters": {}})
    write_array(path / "thumbnail", rng.integers(0, 256, (8, 8, 3)).astype(np.uint8), {"step": 56})
    grid = path / "grids" / spec.grid_id
    write_group(path / "grids", {})
    write_group(grid, {"spec": spec.to_dict(), "side": 224.0})
    write_array(grid / "xy", np.array([[0, 0], [224, 0], [0, 224], [224, 224]], np.int32))
    write_array(grid / "tissue", np.ones(4, np.float32))
    write_array(grid / "status", np.zeros(4, np.uint8))
    write_group(grid / "features", {})
    made_by = {"card": {"name": ENCODER, "dim": 8}, "weights_sha256": "0" * 64, "precision": "fp32"}
    write_array(grid / "features" / ENCODER, rng.normal(size=(4, 8)).astype(np.float16), made_by)
    seal(path)


def make_cohort(out: Path, count: int) -> None:
    """Stores and records of `count` slides; the last is damaged, the one before it failed."""
    first = out / "slide-00000.zarr"
    make_store(first)
    files = [(p.relative_to(first), p.read_bytes()) for p in first.rglob("*") if p.is_file()]
    folders = [p.relative_to(first) for p in sorted(first.rglob("*")) if p.is_dir()]
    for n in range(count):
        slide_id = f"slide-{n:05d}"
        failed = n == count - 2
        record = AttemptRecord(
            slide_id=slide_id, task="embed", work="0" * 16, status="failed" if failed else "done", attempts=1,
            failures=int(failed), started=now(), ended=now(), seconds=1.0, tiles=4, unreadable=0,
            error="synthetic" if failed else None, host="here", pid=1,
        )  # fmt: skip
        write_record(out, record)
        store = out / f"{slide_id}.zarr"
        if n and not failed:
            for folder in folders:
                (store / folder).mkdir(parents=True)
            for name, content in files:
                (store / name).write_bytes(content)
    (store / "zarr.json").write_text("{")


def main(count: int) -> None:
    """Measure, and print what was found."""
    folder = Path(tempfile.mkdtemp(prefix="wsi-umedpt-catalog-"))
    try:
        began = time.perf_counter()
        make_cohort(folder, count)
        print(f"{count} stores written in {time.perf_counter() - began:.1f} s")
        seconds = {}

        def timed(name: str) -> None:
            before = time.perf_counter()
            refresh(folder)
            seconds[name] = round(time.perf_counter() - before, 2)
            print(f"{name}: {seconds[name]} s")

        timed("first")
        timed("unchanged")
        os.utime(folder / "slide-00001.zarr" / "zarr.json")
        timed("one_changed")
        before = time.perf_counter()
        board = look(folder)
        seconds["status_first"] = round(time.perf_counter() - before, 2)
        before = time.perf_counter()
        look(folder, board)
        seconds["status_again"] = round(time.perf_counter() - before, 2)
        rows = read_catalog(folder / NAME)
        kinds = {status: sum(row.status == status for row in rows) for status in ("whole", "failed", "damaged")}
        assert kinds == {"whole": count - 2, "failed": 1, "damaged": 1}, kinds
        assert asdict(rows[0])["features"][0]["encoder"] == ENCODER
        size = (folder / NAME).stat().st_size
        print(json.dumps({"slides": count, "seconds": seconds, "bytes": size, "rows": kinds}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="?", type=int, default=10_000)
    main(parser.parse_args().slides)
