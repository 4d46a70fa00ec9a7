"""Interruptible writing: features that grow chunk by chunk, and the work folder they grow in.

``NAME.zarr.partial`` holds two folders: ``store``, laid out as the store is, for what is
whole and waits to enter it, and ``growing/<grid_id>/<encoder_id>``, arrays with a count of
the rows that are durable, and a file of those that do not fill a chunk yet. They are apart
so that the one can be renamed into place while the other goes on growing.

Read top to bottom: `FeatureWriter`, then what is asked of the work folder.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsi_umedpt.errors import StoreError
from wsi_umedpt.store.contents import unlisted
from wsi_umedpt.store.zarr_io import array_sha256, discard, read_array, read_node, sync_folder, whole_file, write_json

KEEP_SECONDS = 5.0
"""Seconds after which rows that do not fill a chunk yet are made durable; the first are at once."""
_KEPT = "rows-*.npy"


class FeatureWriter:
    """Appends rows of features chunk by chunk; each chunk is written once and made durable.

    Row `next_row` is where to go on: what does not fill a chunk is kept too, in a file of its
    own. Until `finish`, the array lies in `growing`, then in `final`. Rows that are there are
    kept if `made_by` (how they were computed) and `made_of` (the slide and its tiles)
    are the same. `check` is asked before each change of a file whether this process may still
    make it.
    """

    def __init__(
        self,
        growing: Path,
        final: Path,
        shape: tuple[int, int],
        made_by: dict[str, Any],
        made_of: dict[str, Any],
        chunk_rows: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._growing, self._final, self._shape, self._chunk_rows = growing, final, shape, chunk_rows
        self._check = check
        self._progress = self._growing / "progress.json"
        self._made_by = made_by
        self._origin = json.loads(json.dumps({"made_by": made_by, "made_of": made_of, "shape": shape}))
        self._rows: list[npt.NDArray[np.float32]] = []
        self.unreadable: list[int] = []
        self.rows_done = 0
        """Rows that are durable on disk; always whole chunks."""
        state = self._resumable()
        if state:
            self.rows_done, self.unreadable = state["rows_done"], state["unreadable"]
            for torn in (path for name in ("*.partial", "*.tmp", "*.fresh") for path in self._growing.rglob(name)):
                torn.unlink()  # what zarr, or this package, was writing when the run was killed
            opened = zarr.open_array(self._growing, mode="r+")
            self._array = opened.with_config({"write_empty_chunks": True})  # which opening does not heed
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
                dimension_names=("tile", f"{growing.name}_feature"),
            )
        self._pending = 0
        self._torn = False
        """True while something is being appended, as when Ctrl-C comes: then rows and counts do not fit each other."""
        self._kept_at = -KEEP_SECONDS
        if state and (kept := self._kept_rows()) is not None:
            self._rows, self._pending = [kept], len(kept)

    @property
    def next_row(self) -> int:
        """The row that is appended next: `rows_done`, and what is there of the chunk after it."""
        return self.rows_done + self._pending

    def whole_batches(self, batch_size: int) -> None:
        """Forget rows of an earlier run beyond its last whole batch, so that batches are what they were."""
        if self._pending and self.next_row < self._shape[0]:
            self._pending = max(0, self.next_row // batch_size * batch_size - self.rows_done)
            self._rows = [np.concatenate(self._rows)[: self._pending]]

    def _kept_file(self) -> Path:
        return self._growing / _KEPT.replace("*", str(self.rows_done))

    def _kept_rows(self) -> npt.NDArray[np.float32] | None:
        """Rows of a chunk that is not whole, as an earlier run kept them; None where any could not be read."""
        try:
            rows = np.load(self._kept_file(), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = rows.ndim == 2 and rows.shape[1] == self._shape[1] and rows.dtype == np.float16
        if not fits or not 0 < len(rows) < min(self._chunk_rows, self._shape[0] - self.rows_done):
            return None
        return rows.astype(np.float32) if np.isfinite(rows).all() else None

    def keep(self) -> None:
        """Make durable what does not fill a chunk yet, as before a run is told to stop."""
        if self._torn or not self._pending:
            return
        self._check()
        with np.errstate(over="ignore"):  # raised when the chunk is whole
            rows = np.concatenate(self._rows).astype(np.float16)
        with whole_file(self._kept_file()) as file:
            np.save(file, rows, allow_pickle=False)
        self._write_progress()
        self._kept_at = time.monotonic()

    def _write_progress(self) -> None:
        durable = [i for i in self.unreadable if i < self.rows_done]
        write_json(self._progress, {"rows_done": self.rows_done, "unreadable": durable, **self._origin})

    def _resumable(self) -> dict[str, Any] | None:
        try:
            state = json.loads(self._progress.read_bytes())
        except (OSError, ValueError):
            return None
        same = all(state.get(key) == value for key, value in self._origin.items())
        if not same or not self._has_these_chunks():
            return None
        if state["unreadable"]:  # tried again: the disk, or the copy of the slide, may be mended
            state["rows_done"] = min(state["unreadable"]) // self._chunk_rows * self._chunk_rows
            state["unreadable"] = []
        chunk_bytes = 2 * self._chunk_rows * self._shape[1]
        chunks = (self._growing / "c" / str(n) / "0" for n in range(-(-state["rows_done"] // self._chunk_rows)))
        return state if all(c.exists() and c.stat().st_size == chunk_bytes for c in chunks) else None

    def _has_these_chunks(self) -> bool:
        """Return whether the array is there, in chunks as they are written now."""
        try:
            about = json.loads(read_node(self._growing))
            chunks = about["chunk_grid"]["configuration"]["chunk_shape"]
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return bool(chunks == [self._chunk_rows, self._shape[1]])

    def append(self, rows: npt.NDArray[np.float32], ok: npt.NDArray[np.bool_]) -> None:
        """Add the next rows.

        Parameters
        ----------
        rows : float32 (batch, dim)
        ok : bool (batch,)
            Rows that are not ok become NaN and are counted as unreadable.
        """
        self._torn, first = True, self.next_row
        self.unreadable += [first + int(i) for i in np.flatnonzero(~ok)]
        self._rows.append(np.where(ok[:, None], rows, np.nan))
        self._pending += len(rows)
        while self._pending >= self._chunk_rows or (self._pending and self.rows_done + self._pending == self._shape[0]):
            self._flush()
        self._torn = False
        if time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self.keep()

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
        self._check()
        self._array[start : start + len(half)] = half
        sync_folder(self._growing / "c" / str(start // self._chunk_rows), files=True)
        self.rows_done += len(half)
        self._rows, self._pending = [rest], len(rest)
        self._write_progress()
        for old in self._growing.glob(_KEPT):
            old.unlink()

    def _bad_in(self, count: int) -> int:
        return sum(self.rows_done <= i < self.rows_done + count for i in self.unreadable)

    def finish(self) -> None:
        """Seal the array: check that all rows are there, record their sha256, give it its name."""
        self._check()
        if self.rows_done != self._shape[0]:
            raise StoreError(f"{self._final.name}: {self.rows_done} of {self._shape[0]} rows are written")
        self._array.update_attributes({**self._made_by, "sha256": array_sha256(read_array(self._growing))})
        sync_folder(self._growing, files=True)
        for old in [self._progress, *self._growing.glob(_KEPT)]:
            old.unlink(missing_ok=True)
        os.rename(self._growing, self._final)
        sync_folder(self._final.parent)


def work_folder(store: Path) -> Path:
    """Folder in which a store is being made, or added to."""
    return store.with_name(store.name + ".partial")


def growing_features(partial: Path) -> list[Path]:
    """Find features that a stopped run left, with rows to resume from."""
    return sorted(p.parent for p in partial.glob("growing/*/*/progress.json"))


def awaits_commit(store: Path) -> bool:
    """Return whether a run was stopped before its parts entered a store that is there, or before it cleared up."""
    partial = work_folder(store)
    growing = growing_features(partial) or growing_objects(partial)
    return partial.exists() and (any(whole_parts(partial / "store", store)) or not growing or any(unlisted(store)))


def is_whole_grid(grid: Path) -> bool:
    """Return whether a grid of the work folder has all that a store's grid must have, and some features."""
    return all(any(grid.glob(f"{part}zarr.json")) for part in ("", "status/", "features/*/"))


def rests_on_damage(grid: Path) -> bool:
    """Return whether a grid of the work folder has tiles that no run has yet tried to read again.

    Its features hold no numbers of them, so that only reading all anew makes use of a disk,
    or a copy of the slide, that was mended since.
    """
    if (grid / "status" / "zarr.json").exists():
        return bool(read_array(grid / "status").any())
    return any(grid.glob("features/*/zarr.json"))  # killed while the status was replaced


def begun_with(growing: Path) -> dict[str, Any]:
    """Record of how features that a stopped run left were made; empty where there are none, or it cannot be read."""
    try:
        made_by = json.loads((growing / "progress.json").read_bytes())["made_by"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return made_by if isinstance(made_by, dict) else {}


def rows_kept(growing: Path) -> int:
    """Number of rows that a resumed run need not embed again."""
    try:
        rows = int(json.loads((growing / "progress.json").read_bytes())["rows_done"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    try:
        return rows + len(np.load(growing / _KEPT.replace("*", str(rows)), mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return rows


def growing_objects(partial: Path) -> list[Path]:
    """Objects that a run was stopped in, with windows to go on from."""
    return sorted(p.parent for p in partial.glob("objects/*/progress.json"))


def whole_parts(work: Path, store: Path) -> Iterator[Path]:
    """Label images and objects that a store lacks, grids, else the features that it lacks."""
    for group in ("labels", "detections"):  # objects last: where they are, their label image is
        for part in sorted(p.parent for p in work.glob(f"{group}/*/zarr.json")):
            # A label image without its objects is what a kill between the two left: it is replaced.
            if not (store / "detections" / part.name).exists():
                yield part
    for grid in sorted(work.glob("grids/*/")):
        if not (store / grid.relative_to(work)).exists():
            if is_whole_grid(grid):
                yield grid
            continue
        for features in sorted(p.parent for p in grid.glob("features/*/zarr.json")):
            if not (store / features.relative_to(work)).exists():
                yield features


def clear_work(partial: Path) -> None:
    """Remove all of a work folder but features and objects that can be resumed."""
    for name in ("store", "replaced"):
        shutil.rmtree(partial / name, ignore_errors=True)
    kept = [*growing_features(partial), *growing_objects(partial)]
    for folder in [*partial.glob("growing/*/*/"), *partial.glob("objects/*/")]:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in partial.glob("growing/*/"):
        if not any(folder.iterdir()):
            folder.rmdir()
    if not kept:
        shutil.rmtree(partial, ignore_errors=True)
