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
BEGUN = ".begun"
"""Suffix of the file that lies beside a slide once it misbehaves."""


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

    def submit(self, pixels: np.ndarray, part_done=None) -> Callable[[], np.ndarray]:
        """Embed."""
        cell = TILE // 4
        rows = pixels.reshape(len(pixels), 4, cell, 4, cell, 3).mean(axis=(2, 4)).reshape(-1, 48).astype(np.float32)

        def wait() -> np.ndarray:
            time.sleep(self._delay)
            return rows

        return wait


def task(*encoders: str, delay: float = 0.0, **settings):
    """What is done to every slide; chunks are small, so that small slides have some."""
    from wsi_umedpt.pipeline.embed import EmbedTask
    from wsi_umedpt.settings import RunSettings
    from wsi_umedpt.slides.tiling import TileSpec
    from wsi_umedpt.store import slide_store

    slide_store.CHUNK_ROWS = CHUNK
    made = [Means(name, delay=delay) for name in encoders] or [Means(delay=delay)]
    spec = TileSpec(size_px=TILE, mpp=0.5)
    settings = RunSettings(**{"batch_size": 8, "readers": 1, **settings})
    return EmbedTask(encoders=made, tile_specs=[spec] * len(made), settings=settings)


def plan(out: Path, delay: float = 0.0, **batch):
    """A task, and where its stores go: what `run_slides` takes after the slides."""
    from wsi_umedpt.batch.run import Batch

    return task(delay=delay), Batch(out=out, **batch)


def load(out: Path, delay: float = 0.0, attempts: int = 3, lease_s: float = 180.0, stage=None, publish_to=None,
         stall_s: float = 600.0):  # fmt: skip
    """Load what a child works with."""
    from wsi_umedpt.batch.coordination.attempts import Rules
    from wsi_umedpt.batch.jobs.staging import StageRule
    from wsi_umedpt.batch.run import Batch, SlideRunner
    from wsi_umedpt.pipeline import prepare

    prepare.open_slide = misbehaving(prepare.open_slide)
    rules = Rules(attempts=attempts, lease_s=lease_s)
    batch = Batch(out=out, publish_to=publish_to, stage=stage or StageRule(), rules=rules)
    return SlideRunner(task(delay=delay, stall_s=stall_s), batch)


def misbehaving(opened):
    """A function that opens slides, some of which misbehave."""

    def open_slide(path: Path, **options):
        if path.name.startswith(("crash", "hang", "spin", "swell", "sleep")):
            path.with_suffix(BEGUN).touch()
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
        from wsi_umedpt.batch.coordination.result import Outcome

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
