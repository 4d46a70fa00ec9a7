"""Features that grow chunk by chunk and survive a killed process.

Until `FeatureWriter.finish`, the array lies under a hidden name beside its final one, with
a count of the rows that are durable.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsi_umedpt.arrays import array_sha256, discard, read_array, sync_folder, write_json
from wsi_umedpt.errors import StoreError


class FeatureWriter:
    """Appends rows of features chunk by chunk; each chunk is written once and made durable.

    Row `rows_done` is where to go on. Until `finish`, the array lies under a hidden name.
    """

    def __init__(self, final: Path, shape: tuple[int, int], made_by: dict[str, Any], chunk_rows: int) -> None:
        self._final, self._shape, self._chunk_rows = final, shape, chunk_rows
        self._growing = final.with_name(f".{final.name}.growing")
        self._progress = self._growing / "progress.json"
        self._made_by = made_by
        self._rows: list[npt.NDArray[np.float32]] = []
        self.unreadable: list[int] = []
        self.rows_done = 0
        """Rows that are durable on disk; always whole chunks."""
        state = self._resumable()
        if state:
            self.rows_done, self.unreadable = state["rows_done"], state["unreadable"]
            for torn in [*self._growing.rglob("*.partial"), *self._growing.rglob("*.tmp")]:
                torn.unlink()  # what zarr, or write_json, was writing when the run was killed
            self._array = zarr.open_array(self._growing, mode="r+", config={"write_empty_chunks": True})
        else:
            discard(self._growing)
            self._array = zarr.create_array(
                self._growing,
                shape=shape,
                chunks=(self._chunk_rows, shape[1]),
                dtype="float16",
                compressors=None,
                fill_value=0,
                config={"write_empty_chunks": True},
            )
        self._pending = 0

    def _resumable(self) -> dict[str, Any] | None:
        try:
            state = json.loads(self._progress.read_bytes())
        except (OSError, ValueError):
            return None
        same = state.get("made_by") == json.loads(json.dumps(self._made_by)) and state.get("shape") == [*self._shape]
        if not same or not (self._growing / "zarr.json").exists():
            return None
        if state["unreadable"]:  # tried again: the disk, or the copy of the slide, may be mended
            state["rows_done"] = min(state["unreadable"]) // self._chunk_rows * self._chunk_rows
            state["unreadable"] = []
        chunk_bytes = 2 * self._chunk_rows * self._shape[1]
        chunks = (self._growing / "c" / str(n) / "0" for n in range(-(-state["rows_done"] // self._chunk_rows)))
        return state if all(c.exists() and c.stat().st_size == chunk_bytes for c in chunks) else None

    def append(self, rows: npt.NDArray[np.float32], ok: npt.NDArray[np.bool_]) -> None:
        """Add the next rows.

        Parameters
        ----------
        rows : float32 (batch, dim)
        ok : bool (batch,)
            Rows that are not ok become NaN and are counted as unreadable.
        """
        first = self.rows_done + self._pending
        self.unreadable += [first + int(i) for i in np.flatnonzero(~ok)]
        self._rows.append(np.where(ok[:, None], rows, np.nan))
        self._pending += len(rows)
        while self._pending >= self._chunk_rows or (self._pending and self.rows_done + self._pending == self._shape[0]):
            self._flush()

    def _flush(self) -> None:
        rows = np.concatenate(self._rows)
        block, rest = rows[: self._chunk_rows], rows[self._chunk_rows :]
        if not np.isfinite(block).all(axis=1).sum() == len(block) - self._bad_in(len(block)):
            raise StoreError(f"{self._final.name}: the encoder gave features that are not finite")
        with np.errstate(over="raise"):
            try:
                half = block.astype(np.float16)
            except FloatingPointError:
                raise StoreError(f"{self._final.name}: features exceed the range of float16") from None
        start = self.rows_done
        self._array[start : start + len(half)] = half
        sync_folder(self._growing / "c" / str(start // self._chunk_rows), files=True)
        self.rows_done += len(half)
        self._rows, self._pending = [rest], len(rest)
        durable = [i for i in self.unreadable if i < self.rows_done]
        write_json(
            self._progress,
            {"rows_done": self.rows_done, "unreadable": durable, "made_by": self._made_by, "shape": [*self._shape]},
        )

    def _bad_in(self, count: int) -> int:
        return sum(self.rows_done <= i < self.rows_done + count for i in self.unreadable)

    def finish(self) -> None:
        """Seal the array: check that all rows are there, record their sha256, give it its name."""
        if self.rows_done != self._shape[0]:
            raise StoreError(f"{self._final.name}: {self.rows_done} of {self._shape[0]} rows are written")
        self._array.update_attributes({**self._made_by, "sha256": array_sha256(read_array(self._growing))})
        sync_folder(self._growing, files=True)
        self._progress.unlink(missing_ok=True)
        os.rename(self._growing, self._final)
        sync_folder(self._final.parent)
