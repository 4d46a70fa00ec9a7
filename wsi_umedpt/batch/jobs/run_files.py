"""Notes of runs for `status`, ``OUT/.runs/<token>.run``: slides, speed, and names that could not be used.

docs/reference/run-records.md says what each field means. Like records these notes are bookkeeping: one that
cannot be written or read stops nothing. Of slides they hold ids and nothing else, as the
names of files and folders may be a patient's.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from wsi_umedpt.batch.coordination.leases import LEASE_S, RUNS
from wsi_umedpt.batch.coordination.records import now
from wsi_umedpt.batch.jobs.manifest import Failure
from wsi_umedpt.batch.reporting.forecast import Forecast
from wsi_umedpt.io.files import read_regular
from wsi_umedpt.slides.slide_job import SlideJob

SCHEMA = 1
_SUFFIX = ".run"
_EVERY_S = 10.0
"""Seconds between two notes of a run's progress."""
_KEPT = 20
"""Notes of runs that ended, at most; of the same inputs only the last."""


@dataclass(frozen=True)
class RunNote:
    """A run as it said last that it stands."""

    slides: frozenset[str]
    """Ids of the slides that it was given."""
    failures: tuple[tuple[str, str], ...]
    """Id, or nothing, and reason of what it was given and could not use."""
    inputs: str
    """Tells apart what runs were given."""
    live: bool
    """True if it is at work, as far as can be seen."""
    started: str
    tiles_per_s: float
    tiles_a_slide: float | None
    """Mean number of tiles of the slides that it opened."""


@contextlib.contextmanager
def announced(
    out: Path, jobs: Sequence[SlideJob], failures: Sequence[Failure], inputs: Sequence[str], forecast: Forecast
) -> Iterator[None]:
    """Let others see a run for as long as the context lasts, and what it could not use after it, too.

    Parameters
    ----------
    out
        Folder of the stores.
    inputs
        Names that the user gave.
    forecast
        Knows how far the run is.
    """
    path = out / RUNS / f"{uuid.uuid4().hex}{_SUFFIX}"
    note: dict[str, Any] = {
        "schema": SCHEMA, "host": socket.gethostname(), "pid": os.getpid(), "started": now(), "ended": None,
        "inputs": hashlib.sha256("\0".join(inputs).encode(errors="surrogateescape")).hexdigest()[:16],
        "slides": [job.slide_id for job in jobs],
        "failures": [[one.slide_id, one.noted] for one in failures],
        "tiles_per_s": 0.0, "tiles_a_slide": None,
    }  # fmt: skip
    over = threading.Event()

    def tell() -> None:
        _write(path, {**note, "tiles_per_s": round(forecast.tiles_per_s, 3), "tiles_a_slide": forecast.tiles_a_slide})

    def go_on() -> None:
        while not over.wait(_EVERY_S):
            tell()

    _tidy(out, note["inputs"])
    tell()
    thread = threading.Thread(target=go_on, name="run", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_EVERY_S)
        note["ended"] = now()
        tell()


def seconds_left(runs: Sequence[RunNote], slides: float, usual: float | None = None) -> float | None:
    """About how long the runs that are at work will take for so many slides; None as long as that cannot be said.

    Parameters
    ----------
    usual
        Tiles of a slide where no run has opened one yet.
    """
    live = [run for run in runs if run.live]
    speed = sum(run.tiles_per_s for run in live)
    known = [run.tiles_a_slide for run in live if run.tiles_a_slide is not None]
    tiles = sum(known) / len(known) if known else usual
    return slides * tiles / speed if speed and tiles is not None else None


def read_runs(out: Path) -> list[RunNote]:
    """The runs of a folder that are at work, and the last ones that ended."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted((out / RUNS).iterdir()):
            if path.suffix == _SUFFIX and (note := _read(path)):
                found.append(note)
    return sorted(found, key=lambda note: note.started)


def _read(path: Path) -> RunNote | None:
    try:
        found = json.loads(read_regular(path))
        age = time.time() - path.stat().st_mtime
        if found["schema"] != SCHEMA:
            return None
        here = found["host"] == socket.gethostname()
        live = not found["ended"] and age < LEASE_S and (not here or psutil.pid_exists(found["pid"]))
        slides = frozenset(one for one in found["slides"] if isinstance(one, str))
        failures = tuple((str(slide_id), str(reason)) for slide_id, reason in found["failures"])
        tiles = found["tiles_a_slide"]
        return RunNote(
            slides, failures, str(found["inputs"]), live, str(found["started"]), max(0.0, float(found["tiles_per_s"])),
            None if tiles is None else float(tiles),
        )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _tidy(out: Path, inputs: str) -> None:
    """Remove notes of runs that ended: those of the same inputs, and the oldest."""
    ended = []
    with contextlib.suppress(OSError):
        for path in (out / RUNS).iterdir():
            if re.fullmatch(rf"[0-9a-f]{{32}}{re.escape(_SUFFIX)}", path.name):
                note = _read(path)
                if note is None or not note.live:
                    ended.append((note, path))
    ended.sort(key=lambda one: one[0].started if one[0] else "", reverse=True)
    for number, (note, path) in enumerate(ended):
        if note is None or note.inputs == inputs or number >= _KEPT:
            with contextlib.suppress(OSError):
                path.unlink()


def _write(path: Path, note: dict[str, Any]) -> None:
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(note))
        os.replace(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
