"""Status of each slide of an output folder: whole, running, failed; seen from outside, at any time, of any run.

Nothing is asked of the processes that work: which stores are there, what records say, and
which claims are renewed is all there is to see. No store is opened, so that a look at ten
thousand slides takes a second; `batch.reporting.catalog` finds damaged stores.
"""

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import psutil

from wsi_umedpt.batch.coordination.leases import LEASE_S, RUNS
from wsi_umedpt.batch.coordination.publish import published_to
from wsi_umedpt.batch.coordination.records import AttemptRecord, AttemptStatus, read_record

SlideStatus = Literal["whole", "running", "stopped", "failed", "quarantined", "damaged", "missing"]
SLIDE_STATUSES: Mapping[SlideStatus, str] = {
    "whole": "a store is there",
    "running": "a process is at work on it",
    "stopped": "interrupted; the same command resumes it",
    "failed": "the last attempt failed; it will be tried again",
    "quarantined": "given up after several failures; `retry_failed` tries again",
    "damaged": "it cannot be read as a store",
    "missing": "was done, but the store is no longer there",
}
"""Meaning of each status."""
BAD: frozenset[SlideStatus] = frozenset({"failed", "quarantined", "damaged", "missing"})
"""Somebody must look."""
WINDOW_S = 900.0
"""Seconds over which speed is measured."""
_STORE, _WORK = ".zarr", ".zarr.partial"
_Look = tuple[int, int]
"""Stamp that changes when a file is replaced: its time, and its inode."""


@dataclass(frozen=True)
class Seen:
    """A slide and its status."""

    slide_id: str
    status: SlideStatus
    stored: bool
    """True if something lies where its store would."""
    record: AttemptRecord | None = None
    note: str = ""
    """Reason for the status, where the record gives none."""

    @property
    def reason(self) -> str:
        """Last error, if the slide is not whole."""
        said = self.record.error if self.record and self.record.error else ""
        return (said or self.note) if self.status != "whole" else ""


class Ended(NamedTuple):
    """An attempt that made a slide whole; times in seconds since 1970."""

    started: float
    ended: float
    tiles: int


@dataclass(frozen=True)
class Board:
    """All slides of a folder and their statuses at one time."""

    out: Path
    slides: dict[str, Seen]
    at: float
    """Seconds since 1970."""
    looks: dict[str, tuple[_Look, AttemptRecord | None]] = field(default_factory=dict, repr=False)
    """Records that were read, by slide, with what shows that they were replaced."""

    @cached_property
    def counts(self) -> dict[SlideStatus, int]:
        """Number of slides of each status that any slide has."""
        found = Counter(seen.status for seen in self.slides.values())
        return {status: found[status] for status in SLIDE_STATUSES if found[status]}

    def having(self, *statuses: SlideStatus) -> list[Seen]:
        """Slides of these statuses, those that ended last first."""
        found = [seen for seen in self.slides.values() if seen.status in statuses]
        return sorted(found, key=lambda seen: ((seen.record and seen.record.ended) or "", seen.slide_id), reverse=True)

    def speed(self, window_s: float = WINDOW_S) -> tuple[float, float]:
        """(slides, tiles) per second of all processes together, over what ended in the last `window_s` seconds.

        Slides that end seldom make it jump; it is 0 where none ended.
        """
        recent = [one for one in ended(self.slides.values()) if one.ended > self.at - window_s]
        if not recent:
            return 0.0, 0.0
        # Of a run that began within the window, only the time since counts.
        span = min(window_s, max(self.at - min(one.started for one in recent), 1.0))
        return len(recent) / span, sum(one.tiles for one in recent) / span


def look(out: Path, before: Board | None = None) -> Board:
    """Read the status of every slide of a folder.

    Parameters
    ----------
    out
        Folder of stores.
    before
        An earlier look: records that have not changed since are not read again.

    Raises
    ------
    OSError
        If there is no such folder.
    """
    now = time.time()
    stored, begun = set[str](), set[str]()
    with os.scandir(out) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.endswith(_STORE):
                stored.add(entry.name.removesuffix(_STORE))
            elif _WORK in entry.name:
                begun.add(entry.name[: entry.name.rindex(_WORK)])
    known = before.looks if before and before.out == out else {}
    looks: dict[str, tuple[_Look, AttemptRecord | None]] = {}
    claimed: dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(out / RUNS) as entries:
        for entry in entries:
            slide_id, dot, kind = entry.name.rpartition(".")
            if dot and kind in ("json", "claim"):
                with contextlib.suppress(FileNotFoundError):  # replaced, or given back, just now
                    state = entry.stat()
                    if kind == "claim":
                        claimed[slide_id] = now - state.st_mtime
                        continue
                    key = (state.st_mtime_ns, state.st_ino)
                    found = known.get(slide_id)
                    looks[slide_id] = found if found and found[0] == key else (key, _record(out, slide_id))
    slides, published = {}, published_to(out) is not None
    for slide_id in sorted({*stored, *begun, *looks}):
        record = looks[slide_id][1] if slide_id in looks else None
        status, note = status_of(
            slide_id in stored, slide_id in begun, record, claimed.get(slide_id), published=published
        )
        slides[slide_id] = Seen(slide_id, status, slide_id in stored, record, note)
    return Board(out, slides, now, looks)


def status_of(
    stored: bool, begun: bool, record: AttemptRecord | None, claim_age_s: float | None, *, published: bool = False
) -> tuple[SlideStatus, str]:
    """Status of a slide, and the reason where its record gives none.

    Parameters
    ----------
    stored, begun
        True if its store is there; if work at it is there that is not whole.
    claim_age_s
        Seconds since its claim was renewed; None if nobody claims it.
    published
        True if stores are elsewhere once they are whole.
    """
    if record is None:
        return ("whole", "") if stored else ("stopped", "work of a run that left no record")
    if record.status == "running":
        if claim_age_s is not None and claim_age_s < LEASE_S and _may_live(record):
            return "running", ""
        if stored and not begun:
            return "whole", ""  # killed between its last two acts
        return "stopped", f"its process vanished (attempt {record.attempts}, {record.host}, process {record.pid})"
    if record.status == "done":
        return ("whole", "") if stored or published else ("missing", "its record says done, but the store is not there")
    return record.status, ""


def seconds_since_1970(when: str | None) -> float | None:
    """A time as records hold it; None if it is none."""
    try:
        parsed = datetime.fromisoformat(when or "")
    except (ValueError, TypeError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def ended(slides: Iterable[Seen]) -> Iterator[Ended]:
    """Attempts that made slides whole."""
    for seen in slides:
        if seen.status == "whole" and seen.record:
            began, over = seconds_since_1970(seen.record.started), seconds_since_1970(seen.record.ended)
            if began is not None and over is not None:
                yield Ended(began, over, seen.record.tiles or 0)


def _record(out: Path, slide_id: str) -> AttemptRecord | None:
    """A record whose fields are what they must be; one that is damaged is none."""
    record = read_record(out, slide_id)
    if record is None or record.slide_id != slide_id:
        return None
    texts, wholes = (record.task, record.started, record.host), (record.attempts, record.failures, record.pid)
    perhaps = [(record.ended, str), (record.error, str), (record.tiles, int), (record.unreadable, int)]
    sound = (
        record.status in get_args(AttemptStatus)
        and all(isinstance(value, str) for value in texts)
        and all(isinstance(value, int) for value in wholes)
        and all(value is None or isinstance(value, kind) for value, kind in [*perhaps, (record.seconds, int | float)])
    )
    return record if sound else None


def _may_live(record: AttemptRecord) -> bool:
    """Return whether the process may be there: of other machines that cannot be seen."""
    if record.host != socket.gethostname():
        return True
    return bool(psutil.pid_exists(record.pid))
