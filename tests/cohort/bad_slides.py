"""Work for child processes: cheap encoders, and slides that misbehave in ways that no exception tells.

A child imports this module by its name. What a slide does is in its file's name: those
that begin with ``crash``, ``hang``, ``spin`` or ``swell`` do so when they are opened; those
that begin with ``sleep`` never come back from native code that lets Python go on, at the
place that the name says.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TILE, CHUNK = 64, 16


@dataclasses.dataclass(frozen=True)
class Card:
    """As much of an encoder's card as embedding asks for."""

    name: str
    mpp: float = 0.5
    size_px: int = TILE
    dim: int = 48


class Means:
    """Means of a 4 x 4 raster, after a while."""

    precision = "fp32"

    def __init__(self, name: str = "one.test", delay: float = 0.0) -> None:
        self.card = Card(name)
        self.name, self.dim, self._delay = name, 48, delay
        self.made_by = {"card": dataclasses.asdict(self.card), "weights_sha256": "0" * 64, "engine": "fake"}

    def submit(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        """Embed."""
        cell = TILE // 4
        rows = pixels.reshape(len(pixels), 4, cell, 4, cell, 3).mean(axis=(2, 4)).reshape(-1, 48).astype(np.float32)

        def wait() -> np.ndarray:
            time.sleep(self._delay)
            return rows

        return wait


def plan(out: Path, delay: float = 0.0):
    """What is done to every slide; chunks are small, so that small slides have some."""
    from wsi_umedpt import encode, store
    from wsi_umedpt.cohort.run import EmbedPlan
    from wsi_umedpt.tiling import TileSpec

    store.CHUNK_ROWS = encode.CHUNK_ROWS = CHUNK
    encoder, spec = Means(delay=delay), TileSpec(size_px=TILE, mpp=0.5)
    return EmbedPlan(out=out, encoders=[encoder], specs=[spec], batch_size=8, threads=1)


def staging_plan(out: Path, stage, delay: float = 0.0):
    """What is done to slides that are copied first."""
    return dataclasses.replace(plan(out, delay), stage=stage)


def load(out: Path, delay: float = 0.0, attempts: int = 3, lease_s: float = 180.0, stage=None, shelf=None,
         stall_s: float = 600.0):  # fmt: skip
    """Load what a child works with."""
    from wsi_umedpt.cohort import run
    from wsi_umedpt.cohort.turns import Rules

    run.open_slide = misbehaving(run.open_slide)
    made = plan(out, delay) if stage is None else staging_plan(out, stage, delay)
    made = dataclasses.replace(made, shelf=shelf, stall_s=stall_s)
    return run.Embedding(made, Rules(attempts=attempts, lease_s=lease_s))


def misbehaving(opened):
    """A function that opens slides, some of which misbehave."""

    def open_slide(path: Path, **options):
        misbehave(path.name)
        slide = opened(path, **options)
        if path.name.startswith("sleep-in-tissue"):
            slide._reader.read_level = sleep
        if path.name.startswith("sleep-in-tiles"):
            slide.native_tiles(0).decode = sleep
        return slide

    return open_slide


LET_GO = threading.Event()
"""Lets all that sleeps come back, so that a process of tests can end."""


def sleep(*_: object, **__: object) -> None:
    """Never come back."""
    LET_GO.wait(600)


class Noting:
    """Notes what it is told, in a file."""

    def __init__(self, out: Path) -> None:
        self._log = out / "told"

    def _note(self, word: str, job) -> None:
        with self._log.open("a") as file:
            file.write(f"{word} {job.slide_id}\n")

    def ahead(self, job) -> None:
        """Note."""
        self._note("ahead", job)

    def attempt(self, job, watcher):
        """Note, and take a while."""
        from wsi_umedpt.cohort.outcome import Outcome

        self._note("attempt", job)
        time.sleep(0.3)
        return Outcome(job, "done")

    def close(self) -> None:
        """Nothing."""


def load_and_die(out: Path):
    """A child that never gets as far."""
    os.kill(os.getpid(), signal.SIGKILL)


def load_and_refuse(out: Path):
    """No encoder is to be had."""
    from wsi_umedpt.errors import EncoderError

    raise EncoderError("there is no such encoder")


def misbehave(name: str) -> None:
    """Do what native code of a damaged slide may do."""
    if name.startswith("crash"):
        ctypes.string_at(0)
    while name.startswith("hang"):  # holds the interpreter for as long as no signal comes
        ctypes.PyDLL(None).sleep(600)
    while name.startswith("spin"):
        pass
    if name.startswith("sleep-in-open"):
        sleep()
    grown = []
    while name.startswith("swell"):
        grown.append(np.ones(20_000_000, np.uint8))
        time.sleep(0.01)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
