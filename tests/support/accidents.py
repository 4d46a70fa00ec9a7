"""What children of the laboratory do: embed while they are killed, starved, or lied to; each a function of JSON.

Child processes stop themselves by SIGALRM when they hang, inside native code too.
"""

import dataclasses
import errno
import gc
import hashlib
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.slide_mutants import mutant

CHUNK = 32
"""Rows of a chunk in these tests, so that a small slide has many."""
TILE = 64
"""Side of a tile, px at 0.5 um/px."""


@dataclasses.dataclass(frozen=True)
class Card:
    """As much of an encoder's card as embedding asks for."""

    name: str
    mpp: float = 0.5
    size_px: int = TILE
    dim: int = 48


class FakeEncoder:
    """Means of a 4 x 4 raster: cheap, and a function of the pixels alone."""

    precision = "fp32"

    def __init__(self, name: str, delay: float = 0.0) -> None:
        self.card = Card(name)
        self.name, self.dim = name, self.card.dim
        self.made_by = {"card": dataclasses.asdict(self.card), "weights_sha256": "0" * 64, "engine": "fake"}
        self._delay = delay

    def submit(self, pixels: np.ndarray, part_done=None) -> Callable[[], np.ndarray]:
        """Start embedding; slow where the test wants time to interfere."""
        n, cell = len(pixels), TILE // 4
        rows = pixels.reshape(n, 4, cell, 4, cell, 3).mean(axis=(2, 4)).reshape(n, 48).astype(np.float32)

        def wait() -> np.ndarray:
            time.sleep(self._delay)
            return rows + len(self.name)

        return wait


def embed(
    slides: list[list[str]],
    out: str,
    encoders: tuple[str, ...] = ("one.test",),
    stride: int | None = None,
    delay: float = 0.0,
    readers: int = 1,
    start_after: float = 0.0,
    watcher: Any = None,
    channels: str = "",
) -> list[dict[str, Any]]:
    """Embed slides, given as (path, id), and say what became of each."""
    time.sleep(start_after)
    from wsi_umedpt.batch.run import Batch, run_slides
    from wsi_umedpt.pipeline.embed import EmbedTask
    from wsi_umedpt.settings import RunSettings
    from wsi_umedpt.slides.channels import choices
    from wsi_umedpt.slides.slide_job import SlideJob
    from wsi_umedpt.slides.tiling import TileSpec
    from wsi_umedpt.store import slide_store

    slide_store.CHUNK_ROWS = CHUNK
    made = [FakeEncoder(name, delay) for name in encoders]
    spec = TileSpec(size_px=TILE, mpp=0.5, stride_px=stride)
    settings = RunSettings(batch_size=8, readers=readers)
    task = EmbedTask(encoders=made, tile_specs=[spec] * len(made), settings=settings)
    shown = choices(channels) if channels else ()
    jobs = [SlideJob(Path(path), slide_id, channels=shown) for path, slide_id in slides]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = run_slides(jobs, task, Batch(out=Path(out)), watcher)
    return [
        {"id": o.job.slide_id, "status": o.status, "tiles": o.tiles, "bad": o.unreadable, "reason": o.reason}
        for o in outcomes
    ]


class Hook:
    """Counts the changes of a folder's files, and does something when the count comes to `at`.

    Python audits every open, mkdir, rename, link and remove before it happens; an
    exception raised there stands for the failure of that call. fsync is not audited, and
    is wrapped instead. What changes nothing is not counted: to make a folder that is there, to remove
    what is not, and of several fsyncs in a row all but the first, as nothing happens between them.

    Parameters
    ----------
    folder
        Its files are watched.
    act
        What is done, given the event.
    syncs
        Whether fsync counts; a process that is killed leaves the same files before and after it.
    """

    _EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")

    def __init__(self, folder: str, act: Callable[[str], None], *, syncs: bool = True) -> None:
        self._folder, self._act = os.path.realpath(folder), act
        self.count, self.at, self.sticky = 0, 0, False
        self.last = ""
        sync = os.fsync
        if syncs:

            def fsync(handle: Any) -> None:
                number = handle if isinstance(handle, int) else handle.fileno()
                self._meet("fsync", os.readlink(f"/proc/self/fd/{number}"))
                sync(handle)

            os.fsync = fsync
        self._before = ""
        sys.addaudithook(self._audit)

    def arm(self, at: int, *, sticky: bool = False) -> None:
        """Act at the next `at`-th event, and, if `sticky`, at all that follow; 0 never acts."""
        self.count, self.at, self.sticky = 0, at, sticky
        self._before = ""

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in self._EVENTS and isinstance(args[0], str | bytes | os.PathLike):
            if event != "open" or not isinstance(args[2], int) or args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._meet(event, os.fsdecode(args[0]))

    def _meet(self, event: str, path: str) -> None:
        if not os.path.abspath(path).startswith(self._folder) or path.endswith(".lock"):
            return
        there = os.path.lexists(path)
        if (event == "os.mkdir" and there) or (event in ("os.remove", "os.rmdir") and not there):
            return
        if event == self._before == "fsync":
            if self.sticky and self.at and self.count >= self.at:
                self._act(event)
            return
        self._before = event
        self.count += 1
        if self.at and (self.count == self.at or (self.sticky and self.count > self.at)):
            self.last = f"{event} {os.path.relpath(path, self._folder)}"
            self._act(event)


def embed_killed_at(at: int, out: str, **request: Any) -> int:
    """Embed, and die by SIGKILL just before the `at`-th change of a file; the number of changes if it lives."""
    hook = Hook(out, lambda event: os.kill(os.getpid(), signal.SIGKILL), syncs=False)
    hook.arm(at)
    outcomes = embed(out=out, **request)
    assert [o["status"] for o in outcomes] == ["done"] * len(outcomes), outcomes
    return hook.count


def embed_with_errors(
    slides: list[list[str]],
    scratch: str,
    reference: dict[str, str],
    before: str | None,
    part: list[int],
    **request: Any,
) -> dict[str, Any]:
    """For the k-th change of a file, k = part[0], part[0] + part[1], ...: embed with that one failing, then again.

    Every other time all later ones fail too.

    `before` is a store that is there beforehand. Returns the number of changes, and every
    k after which a store was neither whole nor absent, or embedding again did not give
    the reference.
    """
    import shutil

    from wsi_umedpt.store.verify import problems_of

    def act(event: str) -> None:
        raise OSError(errno.EIO, f"injected at {event}")

    hook = Hook(scratch, act)
    wrong: list[str] = []
    name = f"{slides[0][1]}.zarr"

    def fresh() -> Path:
        shutil.rmtree(scratch, ignore_errors=True)
        Path(scratch).mkdir()
        if before:
            shutil.copytree(before, Path(scratch) / name)
        return Path(scratch) / name

    fresh()
    hook.arm(0)
    embed(slides, scratch, **request)
    total, sticky = hook.count, False
    for k in range(part[0], total + 1, part[1]):
        sticky = not sticky
        hook.arm(0)
        store = fresh()
        hook.arm(k, sticky=sticky)
        try:
            first = embed(slides, scratch, **request)
        except BaseException as error:  # noqa: BLE001 - whatever gets out is what the test looks for
            first = [{"status": f"raised {type(error).__name__}: {error}"}]
        hook.arm(0)
        where = f"k={k}{' and after' if sticky else ''}, {hook.last}, then {first[0]['status']}"
        if first[0]["status"] not in ("done", "failed"):
            wrong.append(f"{where}")
        if store.exists() and (found := problems_of(store)):
            wrong.append(f"{where}: {found}")
        if first[0]["status"] == "done" and not store.exists():
            wrong.append(f"{where}: no store")
        again = embed(slides, scratch, **request)
        if again[0]["status"] not in ("done", "already"):
            wrong.append(f"{where}: again: {again[0]['reason']}")
        elif found := difference(contents(store), reference):
            wrong.append(f"{where}: again: {found}")
        elif again[0]["status"] == "done" and (left := leftovers(Path(scratch))):
            wrong.append(f"{where}: again: leaves {left}")
    return {"changes": total, "wrong": wrong}


def embed_and_lose(slides: list[list[str]], out: str, after: int, **request: Any) -> list[dict[str, Any]]:
    """Embed, and delete the slide's file when `after` tiles are done."""
    from wsi_umedpt.batch.coordination.result import Watcher

    class Loser(Watcher):
        def tiles_done(self, job: Any, done: int, total: int) -> None:
            if done >= after:
                job.path.unlink(missing_ok=True)

    return embed(slides, out, watcher=Loser(), **request)


def embed_limited(limit: int, **request: Any) -> list[dict[str, Any]]:
    """Embed where no file may grow beyond `limit` bytes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return embed(**request)


def use_mutants(
    original: str, seed: int, numbers: list[int], scratch: str, log: str, channels: str = ""
) -> list[dict[str, Any]]:
    """Use one mutant of a slide after the other, and say how each behaved; `log` holds the last one begun."""
    import logging
    import resource

    limit = 16 << 30  # so that a lie about a size cannot take the machine down
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    results = []
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    assert _use(Path(original), channels) == "pixels"
    assert (
        _embed_mutant(Path(original), Path(scratch) / "out", channels) == ""
    )  # also starts the threads that zarr keeps
    for number in numbers:
        Path(log).write_text(str(number))
        _limit_time()
        path, what = mutant(Path(original), seed, number, Path(scratch))
        before = len(os.listdir("/proc/self/fd"))
        began = time.process_time()  # what hangs without it is ended by the alarm
        result = {
            "number": number,
            "what": what,
            "how": _use(path, channels),
            "store": _embed_mutant(path, Path(scratch) / "out", channels),
        }
        result["seconds"] = time.process_time() - began
        if len(os.listdir("/proc/self/fd")) > before:
            gc.collect()
            result["leak"] = len(os.listdir("/proc/self/fd")) - before
        results.append(result)
    _limit_time(0, 0)
    return results


def _limit_time(cpu_s: int = 20, wall_s: int = 100) -> None:
    """End this process by SIGPROF or SIGALRM: what spins soon, what hangs later, as others may use the machine."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.alarm(wall_s)


def use_structures(
    original: str, numbers: list[int], scratch: str, log: str, channels: str = ""
) -> list[dict[str, Any]]:
    """Use some of the mutants of `mutations_of`, and say how each behaved; `log` holds the last one begun."""
    import logging

    from tests.support.slide_structures import judge, prepared

    results = []
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    for number in numbers:
        Path(log).write_text(str(number))
        _limit_time()
        path, what = prepared(Path(original), number, Path(scratch))
        results.append({"number": number, "what": what, **judge(path, channels)})
    _limit_time(0, 0)
    return results


def _use(path: Path, channels: str) -> str:
    from wsi_umedpt.errors import WsiError
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.slides.tile_loader import read_tiles
    from wsi_umedpt.slides.tiling import TileSpec, lay_grid
    from wsi_umedpt.slides.tissue import find_tissue

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_slide(path, mpp=0.5 if path.suffix == ".png" else None, channels=channels or ()) as slide:
                mask = find_tissue(slide)
                grids = [
                    lay_grid(slide.size, slide.mpp, TileSpec(size_px=TILE, mpp=mpp), within=mask) for mpp in (0.5, 2.0)
                ]
                bad = 0
                for grid in grids:
                    for batch in read_tiles(slide, grid, readers=0):
                        if (
                            batch.pixels.shape[1:] != (TILE, TILE, 3)
                            or not (batch.pixels[~batch.ok] == slide.blank).all()
                        ):
                            return "wrong pixels"
                        bad += int((~batch.ok).sum())
        return f"pixels, {bad} tiles not ok" if bad else "pixels"
    except WsiError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - what the test looks for
        frame = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frame if "wsi_umedpt" in f.filename][-1:] or frame[-1:]
        at = f"{Path(ours[0].filename).name}:{ours[0].lineno} {ours[0].name}"
        return f"ESCAPED {type(error).__name__}: {error} ({at})"


def _embed_mutant(path: Path, out: Path, channels: str) -> str:
    import shutil

    from wsi_umedpt.store.verify import problems_of

    if path.suffix == ".png":
        return ""
    shutil.rmtree(out, ignore_errors=True)
    outcome = embed([[str(path), "m"]], str(out), channels=channels)[0]
    stores = list(out.glob("*.zarr"))
    if outcome["status"] == "failed":
        return f"PARTIAL {stores}" if stores else ""
    found = problems_of(out / "m.zarr")
    return f"PARTIAL {found}" if found else ""


def contents(store: Path) -> dict[str, str]:
    """sha256 of every file of a store."""
    return {
        p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(store.rglob("*"))
        if p.is_file()
    }


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """How two stores differ; empty if they do not."""
    lines = [f"lacks {n}" for n in expected.keys() - found.keys()]
    lines += [f"has also {n}" for n in found.keys() - expected.keys()]
    lines += [f"differs in {n}" for n in found.keys() & expected.keys() if found[n] != expected[n]]
    return ", ".join(sorted(lines))


def leftovers(out: Path) -> str:
    """What lies beside the stores that should not once all is done."""
    beside = [p.name for p in out.iterdir() if p.suffix not in (".zarr", ".lock") and p.name != ".runs"]
    return ", ".join(sorted([*beside, *(p.name for p in out.glob(".runs/*.claim"))]))


TASKS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        embed, embed_killed_at, embed_with_errors, embed_and_lose, embed_limited, use_mutants, use_structures,
    )
}  # fmt: skip
