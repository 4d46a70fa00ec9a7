"""Reader processes: slides are read beside the network's process, by as many as there are cores.

All readers of a slide work on the same few lines of its grid, each on its own stretch of them, so that batches come in
order while memory stays small. They write pixels where the parent finds them (`ring`); what goes over sockets is which
batch may go where, and how far a reader is.

A reader that crashes, hangs or swells fails the slide that it read, and is replaced. Nothing of it has a name in the
system: sockets and memory are gone with the processes, also where these are killed.

Read top to bottom: `Readers` (the processes), `Reading` (one slide). Who reads what is said by `read_order`.
"""

import contextlib
import itertools
import json
import mmap
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import psutil

from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.stalls import no_progress
from wsi_umedpt.slides.read_order import Positions, ReadOrder, shares
from wsi_umedpt.slides.reader_process import GRACE_S, ReaderProcess, heard
from wsi_umedpt.slides.ring import Ring, nameless_file
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tile_batch import TileBatch, lease

MEMORY_GB = 4.0
"""Memory of its own above which a reader is taken to swell, 10^9 bytes."""
RING_BYTES = 512 << 20
"""Shared memory of a slide, at most; two slides may be read at a time."""
_FEWEST = 64
"""Tiles for which another reader is worth opening the slide."""
_CHECK_S = 1.0


class Readers:
    """Processes that read tiles, started when they are first needed; for slides one after the other.

    Parameters
    ----------
    count
        Number of processes.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._children: list[ReaderProcess | None] = [None] * count
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._first = itertools.cycle(range(count))
        self._pump: threading.Thread | None = None
        self._wake, self._woken = os.pipe()
        self._closed = False
        self.spare: _Memory | None = None
        """Memory of a slide that is done; pages that are there cost nothing."""

    @property
    def pids(self) -> list[int]:
        """Process ids of the readers that run."""
        return [child.process.pid for child in self._children if child]

    def read(self, slide: Slide, order: ReadOrder, *, ahead: int) -> "Reading":
        """Begin to read tiles."""
        parts = max(1, min(self._count, len(order) // _FEWEST))
        # Readers of one line wait for each other: two lines of batches more keep them all busy.
        more = sum(-(-2 * most // order.batch_size) for most in order.longest_lines) if parts > 1 else 0
        reading = Reading(self, next(self._numbers), slide, order, ahead + 1 + len(order.grids) + more)
        with self._lock:
            begin = next(self._first)
            for n, positions in enumerate(shares(order, parts)):
                place = (begin + n) % self._count
                reading.add(place, positions)
                self._child(place).begin(reading)
            if self._pump is None:
                self._pump = threading.Thread(target=self._listen, name="readers", daemon=True)
                self._pump.start()
            reading.grant()
            os.write(self._woken, b"x")
        return reading

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            children, self._children = self._children, [None] * self._count
            self.spare = None
        os.write(self._woken, b"x")
        if self._pump:
            self._pump.join()
        for child in children:
            if child:
                child.end("they were closed", grace_s=GRACE_S)
        os.close(self._wake)
        os.close(self._woken)

    def memory(self, size: int) -> "_Memory":
        """Memory for a slide."""
        spare, self.spare = self.spare, None
        return spare if spare and len(spare.map) == size else _Memory(next(self._numbers), size)

    def send(self, places: list[int], message: dict[str, Any]) -> None:
        """Tell some readers."""
        with self._lock:
            for place in places:
                if child := self._children[place]:
                    child.send(message)

    def end(self, place: int, reason: str) -> None:
        """Kill a reader; the slide that it reads fails."""
        with self._lock:
            if child := self._children[place]:
                child.reason = child.reason or reason
                child.process.kill()

    def over(self, place: int, reading: "Reading") -> None:
        """Forget a slide that a reader need not read on."""
        with self._lock:
            if (child := self._children[place]) and reading in child.readings:
                child.readings.remove(reading)

    def _child(self, place: int) -> ReaderProcess:
        child = self._children[place]
        if child and (child.reason or child.process.poll() is not None):  # it ended, and nobody has noticed yet
            self._replace(child)
            child = self._children[place]
        if child is None:
            child = self._children[place] = ReaderProcess(place)
        return child

    def _listen(self) -> None:
        checked = time.monotonic()
        while True:
            with self._lock:
                if self._closed:
                    return
                pipes = {child.pipe: child for child in self._children if child}
            try:
                heard = wait([*pipes, self._wake], _CHECK_S)
            except (OSError, ValueError):  # one was closed meanwhile
                continue
            for pipe in heard:
                if isinstance(pipe, int):
                    os.read(pipe, 4096)
                    continue
                child = pipes[pipe]  # type: ignore[index]
                try:
                    message = json.loads(child.pipe.recv_bytes())
                except (EOFError, OSError):
                    self._replace(child)
                else:
                    self._hear(child, message)
            if time.monotonic() - checked > _CHECK_S:
                checked = time.monotonic()
                self._check_memory()

    def _hear(self, child: ReaderProcess, message: dict[str, Any]) -> None:
        with self._lock:
            child.works_on = message["job"]
            reading = next((reading for reading in child.readings if reading.number == child.works_on), None)
        if reading is None:
            return
        if "error" in message:
            reading.fail(heard(message))
            self.over(child.place, reading)
        else:
            reading.advance(child.place, message["done"])

    def _replace(self, child: ReaderProcess) -> None:
        """A reader is gone: what it was reading fails, what it would have read next is given to another."""
        with self._lock:
            if self._children[child.place] is not child:
                return
            self._children[child.place] = None
            child.end("")
            waiting = []
            for reading in child.readings:
                if child.works_on in (None, reading.number):  # None: it could not even begin
                    reading.fail(child.error())
                else:
                    waiting.append(reading)
            if waiting and not self._closed:
                fresh = self._child(child.place)
                for reading in waiting:
                    fresh.begin(reading)
                    for batch, slot in list(reading.granted.items()):
                        fresh.send({"job": reading.number, "batch": batch, "slot": slot})

    def _check_memory(self) -> None:
        with self._lock:
            children = [(n, child) for n, child in enumerate(self._children) if child]
        for n, child in children:
            with contextlib.suppress(psutil.Error):
                memory = psutil.Process(child.process.pid).memory_info()
                used = (memory.rss - getattr(memory, "shared", 0)) / 1e9
                if used > MEMORY_GB:
                    self.end(n, f"it used {used:.1f} GB of memory, more than {MEMORY_GB:g} GB")


class _Memory:
    """Shared memory of a slide; gone when nobody refers to it any more."""

    def __init__(self, number: int, size: int) -> None:
        self.number, self.fd = number, nameless_file(size)
        self.map = mmap.mmap(self.fd, size)

    def __del__(self) -> None:
        os.close(self.fd)


class Reading(Iterator[TileBatch]):
    """One slide that is being read; batches in the order in which they are full.

    Slots are granted to batches in the order in which these begin. As a grid has one batch at a time that has begun
    and is not full, one slot for each grid is enough for the slowest reader to go on.
    """

    def __init__(self, readers: Readers, number: int, slide: Slide, order: ReadOrder, wanted: int) -> None:
        self.readers, self.number, self.order = readers, number, order
        self._stall_s = slide.stall_s
        sides = [grid.spec.size_px for grid in order.grids]
        slot_bytes = Ring.slot_bytes(order.batch_size, sides)
        slots = max(1 + len(sides), min(wanted, len(order.full), RING_BYTES // slot_bytes))
        self.ring_bytes = slots * slot_bytes
        self._memory = readers.memory(self.ring_bytes)
        self._ring = Ring(self._memory.map, order.batch_size, sides)
        self._free = list(range(slots))
        self.granted: dict[int, int] = {}
        self._next_grant = self._next = 0
        self._positions: dict[int, Positions] = {}
        self._batches_of: dict[int, set[int]] = {}
        self._done: dict[int, int] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._advanced = time.monotonic()
        self._closed = False
        path = slide.path if series_at(slide.path) else slide.path.absolute()
        self.header: dict[str, Any] = {
            "job": number, "path": str(path), "size": list(slide.size), "reader": slide.reader,
            "mpp": slide.mpp if slide.mpp_source == "user" else None,
            "channels": [one.to_dict() for one in slide.channels], "batch_size": order.batch_size, "slots": slots,
            "grids": [{"spec": grid.spec.to_dict(), "side": grid.side} for grid in order.grids],
            "stall_s": self._stall_s, "memory": self._memory.number,
        }  # fmt: skip

    @property
    def memory_fd(self) -> int:
        """File descriptor of its memory."""
        return self._memory.fd

    def add(self, place: int, positions: Positions) -> None:
        """Let a reader read some tiles."""
        self._positions[place], self._done[place] = positions, 0
        self._batches_of[place] = set(np.unique(self.order.batch[positions]).tolist())

    def tiles_of(self, place: int) -> bytes:
        """Tiles for a reader: int64 (4, tile): grid, row, batch, place in the batch."""
        order, mine = self.order, self._positions[place]
        return np.stack([order.grid[mine], order.row[mine], order.batch[mine], order.place[mine]]).tobytes()

    def advance(self, place: int, done: int) -> None:
        """A reader has read so many of its tiles."""
        with self._changed:
            self._done[place] = done
            self._advanced = time.monotonic()
            self._changed.notify_all()
        if done == len(self._positions[place]):
            self.readers.over(place, self)

    def fail(self, error: BaseException) -> None:
        """Reading ends here, with this reason."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def __next__(self) -> TileBatch:
        self.grant()
        if self._next == len(self.order.full) or self._closed:
            self.close()
            raise StopIteration
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        return self._take()

    def _wait(self) -> None:
        end = self.order.ends[self.order.full[self._next]]
        need = {place: int(np.searchsorted(mine, end)) for place, mine in self._positions.items()}
        with self._changed:
            self._advanced = time.monotonic()
            while late := [place for place, count in need.items() if self._done[place] < count]:
                if self._error:
                    raise self._error
                left_s = self._advanced + self._stall_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
        if late:
            for place in [place for place, mine in self._positions.items() if self._done[place] < len(mine)]:
                self.readers.end(place, f"no progress for {self._stall_s:g} s (`stall_s`)")
            raise no_progress(self._stall_s)

    def _take(self) -> TileBatch:
        batch, self._next = int(self.order.full[self._next]), self._next + 1
        grid, index = self.order.rows_of(batch)
        slot = self.granted.pop(batch)
        pixels, ok = self._ring.pixels(slot, grid)[: len(index)], self._ring.ok(slot)[: len(index)].copy()
        # The caller keeps batches: the last slots are not his.
        if len(self._free) + len(self.granted) < len(self.order.grids):
            pixels = pixels.copy()
            self._give_back(slot)
        else:
            pixels = lease(pixels, partial(self._give_back, slot))
        return TileBatch(pixels, index, ok, grid)

    def _give_back(self, slot: int) -> None:
        self._free.append(slot)  # by whichever thread lets go of the last view: nothing is waited for here
        self._hand_on()

    def grant(self) -> None:
        """Say where the next batches go, as far as there is room."""
        while self._free and self._next_grant < len(self.order.full):
            slot, batch = self._free.pop(), self._next_grant
            self._next_grant += 1
            self.granted[batch] = slot
            places = [place for place, batches in self._batches_of.items() if batch in batches]
            self.readers.send(places, {"job": self.number, "batch": batch, "slot": slot})

    def close(self) -> None:
        """Stop reading."""
        if self._closed:
            return
        self._closed = True
        self.readers.send(list(self._positions), {"job": self.number, "stop": True})
        for place in self._positions:
            self.readers.over(place, self)
        self._hand_on()

    def _hand_on(self) -> None:
        """Let the next slide have the memory, if nobody reads from it or writes into it any more."""
        if self._closed and len(self._free) == self._ring.slots and not self.granted and self._error is None:
            if all(self._done[place] == len(mine) for place, mine in self._positions.items()):
                self.readers.spare = self._memory
