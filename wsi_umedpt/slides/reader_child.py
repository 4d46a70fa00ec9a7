"""A process that reads tiles: started by `reader_processes`, one of several, with no slide open beside a network.

It is told what to read over a socket, opens each slide itself, and writes pixels into memory that it shares with its
parent. It ends when the socket closes, so with its parent, however that ends; and by SIGALRM where native code is
silent for too long.
"""

import json
import mmap
import os
import signal
import socket
import sys
import time
import warnings
from collections import deque
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsi_umedpt.slides.channels import ChannelChoice
from wsi_umedpt.slides.reader_process import told
from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.slides.readers.direct import compared_before
from wsi_umedpt.slides.ring import Ring
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tile_source import open_source
from wsi_umedpt.slides.tiling import TileGrid, TileSpec

_TELL_S = 1.0
"""Seconds between two messages to the parent on tiles within a batch."""


class _StopError(Exception):
    """Nobody wants the rest of this slide."""


class _Parent:
    """Messages of the parent, sorted by the slide that they are about."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._pipe = Connection(os.dup(fd))
        self._waiting: deque[dict[str, Any]] = deque()
        self._slots: dict[int, dict[int, int]] = {}
        self._stopped: set[int] = set()

    def next_job(self) -> dict[str, Any]:
        """The next slide; blocks until there is one."""
        while True:
            while not self._waiting:
                self._hear()
            job = self._waiting.popleft()
            if job["job"] not in self._stopped:
                return job
            self.forget(job)

    def slot(self, job: int, batch: int) -> int | None:
        """Slot of the ring for a batch, if that is known."""
        while self._pipe.poll():
            self._hear()
        if job in self._stopped:
            raise _StopError
        return self._slots.get(job, {}).get(batch)

    def wait(self) -> None:
        """Block until the parent says something; as long as it likes."""
        signal.alarm(0)
        self._hear()

    def say(self, **message: Any) -> None:
        """Tell the parent."""
        self._pipe.send_bytes(json.dumps(message).encode())

    def forget(self, job: dict[str, Any]) -> None:
        """Drop the messages on a slide that is over."""
        os.close(job["fd"])
        self._slots.pop(job["job"], None)
        self._stopped.discard(job["job"])

    def _hear(self) -> None:
        message = json.loads(self._pipe.recv_bytes())
        if "path" in message:
            message["xy"] = [self._pipe.recv_bytes() for _ in message["grids"]]
            message["tiles"] = self._pipe.recv_bytes()
            _, (message["fd"],), _, _ = socket.recv_fds(self._socket, 1, 1)
            self._waiting.append(message)
            self._slots.setdefault(message["job"], {})
        elif message.get("stop"):
            if message["job"] in self._slots:
                self._stopped.add(message["job"])
        elif message["job"] in self._slots:
            self._slots[message["job"]][message["batch"]] = message["slot"]


class _Memory:
    """Shared memory of the last two slides: what the next one is in is often known."""

    def __init__(self) -> None:
        self._known: dict[int, mmap.mmap] = {}

    def of(self, job: dict[str, Any], size: int) -> mmap.mmap:
        """Memory of a slide."""
        number = job["memory"]
        found = self._known.pop(number, None) or mmap.mmap(job["fd"], size)
        self._known[number] = found
        for old in list(self._known)[:-2]:
            del self._known[old]
        return found


def serve(fd: int) -> None:
    """Read slide after slide until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the socket
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # the parent opened the slide too, and warned
    parent, memory = _Parent(fd), _Memory()
    try:
        while True:
            job = parent.next_job()
            try:
                _read(job, parent, memory)
            except _StopError:
                pass
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - said in the slide's record
                parent.say(job=job["job"], **told(error))
            finally:
                signal.alarm(0)
                parent.forget(job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _read(job: dict[str, Any], parent: _Parent, memory: _Memory) -> None:
    number, batch_size, stall_s = job["job"], job["batch_size"], job["stall_s"]
    grids = [
        _grid(stated["spec"], stated["side"], xy) for stated, xy in zip(job["grids"], job["xy"], strict=True)
    ]  # fmt: skip
    grid, row, batch, at = np.frombuffer(job["tiles"], np.int64).reshape(4, -1).tolist()
    sides = [grid.spec.size_px for grid in grids]
    ring = Ring(memory.of(job, job["slots"] * Ring.slot_bytes(batch_size, sides)), batch_size, sides)
    done = said = slot = 0
    last_batch, told_at = -1, time.monotonic()

    def tell() -> None:
        nonlocal said, told_at
        if done > said:
            said, told_at = done, time.monotonic()
            parent.say(job=number, done=done)

    def place(n: int) -> Pixels:
        nonlocal last_batch, slot
        if batch[n] != last_batch:
            tell()
            last_batch = batch[n]
            while (granted := parent.slot(number, last_batch)) is None:
                parent.wait()
            slot = granted
        signal.alarm(int(stall_s) + 60)  # the parent is quicker; this is for when it is gone
        pixels: Pixels = ring.pixels(slot, grid[n])[at[n]]
        return pixels

    signal.alarm(int(stall_s) + 60)
    parent.say(job=number, done=0)  # from here on it is this slide's fault
    with _open(job) as slide:
        if list(slide.size) != job["size"]:
            raise ValueError(f"the slide changed: it is {slide.size} px now, and was {tuple(job['size'])}")
        for ok in open_source(slide, grids).tiles(grid, row, place):
            ring.ok(slot)[at[done]] = ok
            done += 1
            if time.monotonic() - told_at > _TELL_S:
                tell()
    tell()


def _open(job: dict[str, Any]) -> Slide:
    channels = [ChannelChoice.from_dict(one) for one in job["channels"]]
    # The parent compared what it reads directly with OpenSlide: half of what opening costs.
    with compared_before() if job["reader"] == "tiff" else nullcontext():
        return open_slide(Path(job["path"]), mpp=job["mpp"], channels=channels)


def _grid(spec: dict[str, Any], side: float, xy: bytes) -> TileGrid:
    corners = np.frombuffer(xy, np.int32).reshape(-1, 2)
    return TileGrid(TileSpec.from_dict(spec), side, corners, np.ones(len(corners), np.float32))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
