"""A laboratory for accidents: work in child processes that can be killed, starved, or lied to.

Run as a script, this file is a small server: it imports the package once (torch takes
seconds), then forks a child for every task it is sent, so that a test can afford hundreds
of killed processes. `Lab`, at the end, is the side of the test; the tasks stand in
`TASKS`, each a function of JSON that returns JSON.

Child processes stop themselves by SIGALRM when they hang, inside native code too.
"""

import contextlib
import dataclasses
import errno
import gc
import hashlib
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHUNK = 64
"""Rows of a chunk in these tests, so that a small slide has many."""
TILE = 64
"""Side of a tile, px at 0.5 um/px."""


# ---- what children do ----


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

    def submit(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
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
    threads: int = 1,
    start_after: float = 0.0,
    watcher: Any = None,
) -> list[dict[str, Any]]:
    """Embed slides, given as (path, id), and say what became of each."""
    time.sleep(start_after)
    from wsi_umedpt import encode, store
    from wsi_umedpt.cohort.manifest import SlideJob
    from wsi_umedpt.cohort.run import EmbedPlan, embed_slides
    from wsi_umedpt.tiling import TileSpec

    store.CHUNK_ROWS = encode.CHUNK_ROWS = CHUNK
    made = [FakeEncoder(name, delay) for name in encoders]
    spec = TileSpec(size_px=TILE, mpp=0.5, stride_px=stride)
    plan = EmbedPlan(out=Path(out), encoders=made, specs=[spec] * len(made), batch_size=8, threads=threads)
    jobs = [SlideJob(Path(path), slide_id) for path, slide_id in slides]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = embed_slides(jobs, plan, watcher)
    return [
        {"id": o.job.slide_id, "status": o.status, "tiles": o.tiles, "bad": o.unreadable, "reason": o.reason}
        for o in outcomes
    ]


class Hook:
    """Counts what is done to a folder's files, and does something when the count comes to `at`.

    Python audits every open, mkdir, rename, link and remove before it happens; an
    exception raised there stands for the failure of that call. fsync is not audited, and
    is wrapped instead.
    """

    _EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")

    def __init__(self, folder: str, act: Callable[[str], None]) -> None:
        self._folder, self._act = os.path.realpath(folder), act
        self.count, self.at, self.sticky = 0, 0, False
        self.last = ""
        sync = os.fsync

        def fsync(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            self._meet("fsync", os.readlink(f"/proc/self/fd/{number}"))
            sync(handle)

        os.fsync = fsync
        sys.addaudithook(self._audit)

    def arm(self, at: int, *, sticky: bool = False) -> None:
        """Act at the next `at`-th event, and, if `sticky`, at all that follow; 0 never acts."""
        self.count, self.at, self.sticky = 0, at, sticky

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in self._EVENTS and isinstance(args[0], str | bytes | os.PathLike):
            if event != "open" or not isinstance(args[2], int) or args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._meet(event, os.fsdecode(args[0]))

    def _meet(self, event: str, path: str) -> None:
        if not os.path.abspath(path).startswith(self._folder) or path.endswith(".lock"):
            return
        self.count += 1
        if self.at and (self.count == self.at or (self.sticky and self.count > self.at)):
            self.last = f"{event} {os.path.relpath(path, self._folder)}"
            self._act(event)


def embed_killed_at(at: int, out: str, **request: Any) -> int:
    """Embed, and die by SIGKILL just before the `at`-th change of a file; the number of changes if it lives."""
    hook = Hook(out, lambda event: os.kill(os.getpid(), signal.SIGKILL))
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

    `before` is a store that is there beforehand. Returns the number of changes, and every
    k after which a store was neither whole nor absent, or embedding again did not give
    the reference.
    """
    import shutil

    from wsi_umedpt.verify import problems_of

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
    total = hook.count
    for k in range(part[0], total + 1, part[1]):
        sticky = k % 2 == 1
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
    from wsi_umedpt.cohort.run import Watcher

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


def use_mutants(original: str, seed: int, numbers: list[int], scratch: str, log: str) -> list[dict[str, Any]]:
    """Use one mutant of a slide after the other, and say how each behaved; `log` holds the last one begun."""
    import logging
    import resource

    limit = 16 << 30  # so that a lie about a size cannot take the machine down
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    results = []
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    assert _use(Path(original)) == "pixels"
    assert _embed_mutant(Path(original), Path(scratch) / "out") == ""  # also starts the threads that zarr keeps
    for number in numbers:
        Path(log).write_text(str(number))
        signal.alarm(20)
        path, what = mutant(Path(original), seed, number, Path(scratch))
        before = len(os.listdir("/proc/self/fd"))
        began = time.perf_counter()
        result = {
            "number": number,
            "what": what,
            "how": _use(path),
            "store": _embed_mutant(path, Path(scratch) / "out"),
        }
        result["seconds"] = time.perf_counter() - began
        if len(os.listdir("/proc/self/fd")) > before:
            gc.collect()
            result["leak"] = len(os.listdir("/proc/self/fd")) - before
        results.append(result)
    signal.alarm(0)
    return results


def use_structures(original: str, numbers: list[int], scratch: str, log: str) -> list[dict[str, Any]]:
    """Use some of the mutants of `structure.mutations_of`, and say how each behaved; `log` holds the last one begun."""
    import logging

    from structure import judge, prepared

    results = []
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    for number in numbers:
        Path(log).write_text(str(number))
        signal.alarm(20)
        path, what = prepared(Path(original), number, Path(scratch))
        results.append({"number": number, "what": what, **judge(path)})
    signal.alarm(0)
    return results


def _use(path: Path) -> str:
    from wsi_umedpt.errors import WsiError
    from wsi_umedpt.loading import read_tiles
    from wsi_umedpt.slide import open_slide
    from wsi_umedpt.tiling import TileSpec, lay_grid
    from wsi_umedpt.tissue import find_tissue

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_slide(path, mpp=0.5 if path.suffix == ".png" else None) as slide:
                mask = find_tissue(slide)
                grids = [
                    lay_grid(slide.size, slide.mpp, TileSpec(size_px=TILE, mpp=mpp), within=mask) for mpp in (0.5, 2.0)
                ]
                bad = 0
                for grid in grids:
                    for batch in read_tiles(slide, grid, threads=0):
                        if batch.pixels.shape[1:] != (TILE, TILE, 3) or not (batch.pixels[~batch.ok] == 255).all():
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


def _embed_mutant(path: Path, out: Path) -> str:
    import shutil

    from wsi_umedpt.verify import problems_of

    if path.suffix == ".png":
        return ""
    shutil.rmtree(out, ignore_errors=True)
    outcome = embed([[str(path), "m"]], str(out))[0]
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


# ---- mutants ----


def mutant(original: Path, seed: int, number: int, scratch: Path) -> tuple[Path, str]:
    """The `number`-th way to damage a slide: a file, or one file inside a folder."""
    import shutil

    rng = random.Random(f"{original.name} {seed} {number}")
    path = scratch / original.name
    if original.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(original, path)
        files = sorted(p for p in path.rglob("*") if p.is_file())
        texts = [p for p in files if p.suffix == ".json" or p.name.startswith(".z")]
        target = rng.choice(texts if number % 2 else files)
        if target in texts and rng.random() < 0.6:
            return path, f"{target.relative_to(path)}: {_mutate_json(target, rng)}"
    else:
        shutil.copyfile(original, path)
        target = path
        if original.suffix != ".png" and number % 3 == 0:
            return path, _mutate_tag(target, rng, number // 3)
    return path, f"{target.relative_to(scratch)}: {_mutate_bytes(target, rng)}"


def _mutate_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = rng.choice(("truncate", "flip-head", "flip-anywhere", "flip-tail", "zero"))
    if kind == "truncate":
        cut = rng.choice((0, 1, 7, rng.randrange(len(data)), rng.randrange(len(data)), len(data) - 1))
        del data[cut:]
        what = f"truncated at {cut}"
    elif kind == "zero":
        at, count = rng.randrange(len(data)), rng.choice((16, 512, 8192))
        data[at : at + count] = bytes(len(data[at : at + count]))
        what = f"{count} zeros at {at}"
    else:
        low, high = {"flip-head": (0, 400), "flip-tail": (-1200, 0), "flip-anywhere": (0, 0)}[kind]
        places = [
            rng.randrange(max(0, len(data) + low) if low else 0, min(high, len(data)) or len(data))
            for _ in range(rng.choice((1, 4, 20)))
        ]
        for at in places:
            data[at] ^= rng.randrange(1, 256)
        what = f"flipped {places[:4]}"
    path.write_bytes(data)
    return what


def _mutate_tag(path: Path, rng: random.Random, number: int) -> str:
    """Make one TIFF tag lie: each of those that sizes come from once with each great lie, then any."""
    import tifffile

    values = (0, 1, 2, 7, 16, 255, 4096, 65535, 1 << 20, 4_000_000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
    with tifffile.TiffFile(path) as tif:
        pages = [p for page in tif.pages for p in [page, *(page.pages or [])]]
        page = rng.choice([p for p in pages if p.is_tiled])
        wanted = [t for t in page.tags if t.name in _LIARS] if rng.random() < 0.7 else list(page.tags)
        tag = rng.choice(wanted)
        if number < len(_SIZES) * len(_GREAT) and _SIZES[number % len(_SIZES)] in page.tags:
            tag, values = page.tags[_SIZES[number % len(_SIZES)]], (_GREAT[number // len(_SIZES)],)
        order, name, code, kind, offset, count = (
            tif.byteorder,
            tag.name,
            tag.code,
            int(tag.dtype),
            tag.valueoffset,
            tag.count,
        )
    form = {3: "H", 4: "I", 16: "Q", 13: "I", 18: "Q"}.get(kind)
    with path.open("r+b") as file:
        if form is None:
            file.seek(offset)
            file.write(rng.randbytes(min(8, count)))
            return f"tag {name} ({code}) of a page scrambled"
        size = struct.calcsize(form)
        value = rng.choice(values) % (1 << 8 * size)
        at = rng.randrange(count)
        file.seek(offset + size * at)
        file.write(struct.pack(order + form, value))
    return f"tag {name}[{at}] says {value}"


_SIZES = ("ImageWidth", "ImageLength", "TileWidth", "TileLength", "TileByteCounts", "TileOffsets", "BitsPerSample")
_GREAT = (4_000_000, (1 << 31) - 1, (1 << 32) - 16)
_LIARS = (
    *("ImageWidth", "ImageLength", "TileWidth", "TileLength", "TileOffsets", "TileByteCounts", "SubIFDs"),
    *("Compression", "PhotometricInterpretation", "SamplesPerPixel", "BitsPerSample", "PlanarConfiguration"),
    *("JPEGTables", "ImageDescription", "NewSubfileType", "SampleFormat"),
)


def _mutate_json(path: Path, rng: random.Random) -> str:
    """Replace, or remove, one value somewhere in a JSON file."""
    tree = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if not places:
        return _mutate_bytes(path, rng)
    node, key = rng.choice(places)
    value = rng.choice(
        (None, 0, -1, 1, 7, 1.5, 1e300, 4_000_000, 1 << 62, "", "../..", "a\0b", "x", [], [[]], {}, True)
    )
    if rng.random() < 0.2:
        del node[key]
        what = f"without {key}"
    else:
        node[key] = value
        what = f"{key} = {value!r}"
    path.write_text(json.dumps(tree))
    return what


# ---- the server, and the test's side of it ----

TASKS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        embed, embed_killed_at, embed_with_errors, embed_and_lose, embed_limited, use_mutants, use_structures,
    )
}  # fmt: skip


def _serve() -> None:
    import wsi_umedpt.cohort.run
    import wsi_umedpt.verify  # noqa: F401 - forked children have it ready

    for line in sys.stdin:
        children = [_fork(request) for request in json.loads(line)]
        _say([pid for pid, _ in children])
        answers = []
        for pid, pipe in children:
            with os.fdopen(pipe, "rb") as file:
                text = file.read()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answers.append([status, json.loads(text) if text else None])
        _say(answers)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _fork(request: dict[str, Any]) -> tuple[int, int]:
    ours, theirs = os.pipe()
    if pid := os.fork():
        os.close(theirs)
        return pid, ours
    code = 1
    try:
        os.close(ours)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        signal.alarm(request.pop("seconds"))
        answer = TASKS[request.pop("task")](**request)
        with os.fdopen(theirs, "wb") as file:
            file.write(json.dumps(answer).encode())
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must not return
        traceback.print_exc()
    finally:
        os._exit(code)


@dataclasses.dataclass
class Answer:
    """How a child ended: its exit code, negative for a signal, and what its task returned."""

    code: int
    value: Any


class Lab:
    """Runs tasks in forked children."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what is unread must show in select
        )
        self._busy = False

    def start(self, *requests: dict[str, Any]) -> list[int]:
        """Start one child per request; returns their process ids."""
        if self._busy:  # a test failed before it waited
            self.wait()
        line = json.dumps([{"seconds": 100, **request} for request in requests])
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(line.encode() + b"\n")
        self._busy = True
        return list(json.loads(self._server.stdout.readline()))

    def ended(self, seconds: float) -> bool:
        """Whether all that was started ends within a time."""
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def wait(self) -> list[Answer]:
        """Wait for all that was started."""
        assert self._server.stdout
        self._busy = False
        return [Answer(*pair) for pair in json.loads(self._server.stdout.readline())]

    def run(self, task: str, **request: Any) -> Answer:
        """Start one child and wait for it."""
        self.start({"task": task, **request})
        return self.wait()[0]

    def do(self, task: str, **request: Any) -> Any:
        """Run a task that must succeed; what it returns."""
        answer = self.run(task, **request)
        assert answer.code == 0, f"{task} ended with {answer.code}"
        return answer.value

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    contents = staticmethod(contents)
    difference = staticmethod(difference)
    leftovers = staticmethod(leftovers)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One server of children."""
    lab = Lab()
    try:
        yield lab
    finally:
        with contextlib.suppress(BrokenPipeError):
            lab.close()


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a thousand fsyncs take a minute on a disk, and mean nothing to SIGKILL."""
    if not Path("/dev/shm").is_dir():  # noqa: S108
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="wsi-umedpt-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Aperio-like slide of 768 x 768 px, about 80 tiles of tissue."""
    from wsi_umedpt.testing import tissue_image, write_pyramid

    return write_pyramid(tmp_path_factory.mktemp("slides") / "a.svs", tissue_image(768, 768)[0], tile=128)


if __name__ == "__main__":
    _serve()
