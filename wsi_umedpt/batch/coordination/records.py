"""The record of a slide, ``OUT/.runs/<slide_id>.json``: what became of it, how often it was tried, where it failed.

docs/reference/run-records.md says what each field means. A record is bookkeeping: one that cannot be
written or read stops nothing, and the truth about a store is the store.
"""

import hashlib
import json
import os
import re
import socket
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from wsi_umedpt.batch.coordination.leases import RUNS
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.remote import name_of, plain, without_secrets
from wsi_umedpt.slides.slide_job import SlideJob

SCHEMA = 1
AttemptStatus = Literal["running", "done", "failed", "stopped", "quarantined"]


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """Record of the attempts at one slide."""

    slide_id: str
    task: str
    work: str
    """See `digest`."""
    status: AttemptStatus
    attempts: int = 0
    failures: int = 0
    started: str = ""
    ended: str | None = None
    seconds: float | None = None
    tiles: int | None = None
    unreadable: int | None = None
    error: str | None = None
    traceback: str | None = None
    host: str = ""
    pid: int = 0
    schema: int = SCHEMA


def record_path(out: Path, slide_id: str) -> Path:
    """Path of a slide's record."""
    return out / RUNS / f"{slide_id}.json"


def read_record(out: Path, slide_id: str) -> AttemptRecord | None:
    """A slide's record; None if there is none that this version understands."""
    try:
        found = json.loads(record_path(out, slide_id).read_bytes())
        if found["schema"] != SCHEMA:
            return None
        return AttemptRecord(**{f.name: found[f.name] for f in fields(AttemptRecord)})
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_record(out: Path, record: AttemptRecord) -> None:
    """Replace a slide's record; a disk that is full or gone is no reason to stop."""
    path = record_path(out, record.slide_id)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(asdict(record), indent=1))
        os.replace(fresh, path)
    except OSError:
        _remove(fresh)


def begun(record: AttemptRecord) -> AttemptRecord:
    """The record of an attempt that begins here and now."""
    return AttemptRecord(
        slide_id=record.slide_id, task=record.task, work=record.work, status="running", attempts=record.attempts + 1,
        failures=record.failures, started=now(), host=socket.gethostname(), pid=os.getpid(),
    )  # fmt: skip


def now() -> str:
    """The time, UTC, as records hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def digest(job: SlideJob, asked: dict[str, Any]) -> str:
    """Names some work on some file: attempts at other work, or at a file that was replaced, do not count.

    A slide that lies elsewhere is known by its URL alone.
    """
    files: list[object] = [plain(job.url)] if job.url is not None else []
    files += [str(series)] if (series := series_at(job.path)) else []
    for path in (job.path, job.mask):
        try:
            state = path.stat() if path else None
        except OSError:
            state = None
        files.append([state.st_size, state.st_mtime_ns] if state else None)
    given: list[object] = [job.mpp, *([job.mask_origin] if job.mask_origin else [])]
    given += [one.to_dict() for one in job.channels]
    text = json.dumps([asked, files, *given], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_paths(text: str, job: SlideJob) -> str:
    """A text without what names the slide but its id: its path or URL, its folder, its file name, credentials."""
    text = without_secrets(text, job.url)
    if job.url is not None:
        address = plain(job.url)
        for name in (address, address.rpartition("/")[0], address.partition("://")[2]):
            text = text.replace(name, "<slide>")
        text = text.replace(name_of(job.url), "<slide>") if name_of(job.url) != job.slide_id else text
    for path in (job.path, job.mask):
        for name in sorted(_names(path) - {"", ".", "..", "/", job.slide_id}, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<slide>", text)
    return text


def _names(path: Path | None) -> set[str]:
    """All that names a file, or a slide on a server."""
    if path is None:
        return set()
    if series := series_at(path):
        return {str(series), str(path), series.url, series.server, series.host, series.study, series.uid}
    known = {str(p) for q in (path, path.absolute(), path.resolve()) for p in (q, q.parent)} | {path.name}
    return known | ({path.stem} if len(path.stem) > 3 else set())  # a shorter one may be a word


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
