"""How slides stand, seen from outside, and `wsi-umedpt status`."""

import os
import re
import socket
import time

import psutil
import pytest

from tests.support.drawn_stores import draw_store, record
from wsi_umedpt.batch.coordination.leases import LEASE_S, RUNS
from wsi_umedpt.batch.coordination.records import now, record_path
from wsi_umedpt.batch.reporting.status import look


def _claim(out, slide_id, age_s=0.0):
    path = out / RUNS / f"{slide_id}.claim"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    os.utime(path, (time.time() - age_s,) * 2)


def _gone():
    """The id of a process that is not there."""
    return next(n for n in range(2**22 - 1, 0, -1) if not psutil.pid_exists(n))


CASES = {
    "store-alone": ([], True, None, "whole"),
    "done": ([("done", {})], True, None, "whole"),
    "done-and-lost": ([("done", {})], False, None, "missing"),
    "running": ([("running", {})], False, 1.0, "running"),
    "running-and-silent": ([("running", {})], False, LEASE_S + 1, "stopped"),
    "running-without-claim": ([("running", {})], False, None, "stopped"),
    "killed-after-the-store": ([("running", {})], True, None, "whole"),
    "killed-here": ([("running", {"host": socket.gethostname(), "pid": 0})], False, 1.0, "stopped"),
    "ours": ([("running", {"host": socket.gethostname(), "pid": os.getpid()})], False, 1.0, "running"),
    "failed": ([("failed", {"error": "why"})], False, None, "failed"),
    "failed-at-more": ([("failed", {"error": "why"})], True, None, "failed"),
    "given-up": ([("quarantined", {"error": "why"})], False, None, "quarantined"),
    "handed-back": ([("stopped", {})], False, None, "stopped"),
}


@pytest.mark.parametrize(("records", "stored", "claim_age_s", "expected"), CASES.values(), ids=CASES)
def test_how_a_slide_stands(tmp_path, records, stored, claim_age_s, expected):
    """Of store, record and claim together follows how a slide stands, and a reason where that is bad."""
    if stored:
        draw_store(tmp_path / "s.zarr")
    for status, said in records:
        if said.get("pid") == 0:
            said = {**said, "pid": _gone()}
        record(tmp_path, "s", status, **said)
    if claim_age_s is not None:
        _claim(tmp_path, "s", claim_age_s)
    seen = look(tmp_path).slides["s"]
    assert (seen.status, seen.stored) == (expected, stored)
    assert bool(seen.reason) == (expected in ("failed", "quarantined", "missing") or "vanished" in seen.note)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}', '{"schema": 9}'])
def test_a_damaged_record_is_none(tmp_path, content):
    """A slide whose record cannot be read has the status that its store gives it."""
    draw_store(tmp_path / "s.zarr")
    record(tmp_path, "s", "failed", error="why")
    record_path(tmp_path, "s").write_text(content)
    assert look(tmp_path).slides["s"].status == "whole"


def test_a_record_of_other_types_is_none(tmp_path):
    """Numbers that are texts are taken for damage, not for numbers."""
    draw_store(tmp_path / "s.zarr")
    record(tmp_path, "s", "done", tiles="many")
    record(tmp_path, "t", "strange")
    assert {seen.slide_id: seen.record for seen in look(tmp_path).slides.values()} == {"s": None, "t": None}


def test_a_second_look_reads_what_was_replaced(tmp_path):
    """Records that did not change are taken from the earlier look; all else is seen anew."""
    for name in "ab":
        record(tmp_path, name, "failed", error="why")
    first = look(tmp_path)
    record(tmp_path, "b", "quarantined", error="again")
    second = look(tmp_path, first)
    assert second.slides["a"].record is first.slides["a"].record
    assert second.counts == {"failed": 1, "quarantined": 1}


def test_speed_is_of_all_that_ended_lately(tmp_path):
    """Slides and tiles per second over the window, or over the run where that is shorter."""
    for name in "abcd":
        draw_store(tmp_path / f"{name}.zarr")
        record(tmp_path, name, tiles=100)
    record(tmp_path, "d", started="2020-01-01T00:00:00+00:00", ended="2020-01-01T00:01:00+00:00", tiles=10**9)
    board = look(tmp_path)
    slides_s, tiles_s = board.speed()
    assert tiles_s == pytest.approx(100 * slides_s)
    assert 3 / 900 < slides_s <= 3


def test_status_prints_once_where_it_is_piped(say, tmp_path):
    """Counts, what runs, why slides failed; exit code 1 as one failed, 0 once it has not."""
    out = tmp_path / "out"
    draw_store(out / "whole.zarr")
    record(out, "whole")
    record(out, "busy", "running")
    _claim(out, "busy")
    record(out, "broken", "failed", error="no reader opens it: [bold]x[/bold]\x1b]0;title\x07\u202e")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "whole.svs").touch()
    (tmp_path / "slides" / "waiting.svs").touch()
    code, text, err = say("status", "out", "slides")
    assert (code, err) == (1, "")
    assert re.search(r"1\s+whole", text)
    assert re.search(r"1\s+running", text)
    assert re.search(r"1\s+not begun", text)
    assert "busy" in text
    assert "no reader opens it: [bold]x[/bold]" in " ".join(text.split())
    assert "tiles/s" in text
    assert "left" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text), "nothing steers the terminal"
    record(out, "broken", "stopped")
    assert say("status", "out", "--once")[0] == 0


def test_status_of_nothing(say, tmp_path):
    """A folder that is not there is an error, an empty one is not."""
    assert say("status", "absent")[0] == 1
    (tmp_path / "empty").mkdir()
    code, text, _ = say("status", "empty")
    assert (code, "no slide" in text) == (0, True)


def test_now_is_what_is_read_back():
    """Times of records are understood, also without a zone; what is none is none."""
    from wsi_umedpt.batch.reporting.status import seconds_since_1970

    assert abs(seconds_since_1970(now()) - time.time()) < 5
    assert seconds_since_1970("2026-01-01T00:00:00") == seconds_since_1970("2026-01-01T00:00:00+00:00")
    assert [seconds_since_1970(text) for text in ("yesterday", "", None)] == [None] * 3
