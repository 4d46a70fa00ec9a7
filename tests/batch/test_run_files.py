"""What a run says of itself in its output folder, and what `status` makes of it: total, time left, failures."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.drawn_stores import draw_store, record
from wsi_umedpt.batch.coordination.result import Outcome
from wsi_umedpt.batch.jobs import run_files
from wsi_umedpt.batch.jobs.manifest import Failure, list_slides
from wsi_umedpt.batch.jobs.run_files import announced, read_runs
from wsi_umedpt.batch.reporting.forecast import Forecast
from wsi_umedpt.slides.slide_job import SlideJob


def jobs(*names: str) -> list[SlideJob]:
    return [SlideJob(Path(f"/DOE_JANE/{name}.svs"), name) for name in names]


def test_status_knows_total_and_time_left_while_a_run_is_on(say, tmp_path):
    """Without being told the slides; while the first slide is worked on, and none has ended."""
    out = tmp_path / "out"
    given = jobs("a", "b", "c", "d")
    clock = [0.0]
    forecast = Forecast(dict.fromkeys("abcd", 0.0), lambda: clock[0])
    forecast.slide_started(given[0], 600)
    forecast.tiles_done(given[0], 0, 600)
    clock[0] = 10.0
    forecast.tiles_done(given[0], 100, 600)
    record(out, "a", "running", host="elsewhere")
    (out / ".runs" / "a.claim").write_text("{}")
    with announced(out, given, [], ["slides/"], forecast):
        code, text, _ = say("status", "out")
        assert code == 0
        assert re.search(r"3\s+not begun\s+of 4 slides", text)
        assert "10 tiles/s, 4 min left" in text  # 3.5 slides of 600 tiles
    (note,) = read_runs(out)
    assert not note.live
    assert re.search(r"3\s+not begun\s+of 4 slides", say("status", "out")[1])


def test_runs_at_work_count_together_and_old_ones_do_not(tmp_path):
    """Speeds are added; of runs that ended the last one stands, of each input."""
    with announced(tmp_path, jobs("old"), [], ["old/"], Forecast({})):
        pass
    with announced(tmp_path, jobs("older"), [], ["old/"], Forecast({})):
        assert [note.live for note in read_runs(tmp_path)] == [True]
        with announced(tmp_path, jobs("more"), [], ["more/"], Forecast({})):
            assert [note.live for note in read_runs(tmp_path)] == [True, True]
    assert sorted(s for note in read_runs(tmp_path) for s in note.slides) == ["more", "older"]
    assert len(list((tmp_path / ".runs").iterdir())) == 2


def test_a_run_that_was_killed_is_not_at_work(tmp_path):
    """Its process is gone, or its note is old; its note goes with the next run."""
    path = tmp_path / ".runs" / f"{'0' * 32}.run"
    with announced(tmp_path, jobs("a"), [], ["x"], Forecast({})):
        (live,) = (tmp_path / ".runs").glob("*.run")
        content = json.loads(live.read_text())
        done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        path.write_text(json.dumps({**content, "pid": int(done.stdout)}))
        assert sorted(note.live for note in read_runs(tmp_path)) == [False, True]
        path.write_text(json.dumps({**content, "host": "elsewhere"}))
        assert [note.live for note in read_runs(tmp_path)] == [True, True]
        os.utime(path, (time.time() - 1000,) * 2)
        assert sorted(note.live for note in read_runs(tmp_path)) == [False, True]
    with announced(tmp_path, jobs("a"), [], ["x"], Forecast({})):
        assert not path.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1}', '{"schema": 9}'])
def test_a_note_that_cannot_be_read_stops_nothing(text, say, tmp_path):
    """It is taken for none."""
    (tmp_path / "out" / ".runs").mkdir(parents=True)
    (tmp_path / "out" / ".runs" / f"{'0' * 32}.run").write_text(text)
    assert read_runs(tmp_path / "out") == []
    assert say("status", "out")[0] == 0


def test_what_a_run_could_not_use_is_among_the_failures(say, tmp_path, monkeypatch):
    """Clashes of names, entries that cannot be seen, rows of a table: by id where there is one, never by a name."""
    folder = tmp_path / "DOE_JANE"
    for name in ("x/a.svs", "y/a.svs", "ok.svs"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"-")
    (folder / "doe.svs").symlink_to("doe.svs")
    (folder / "t.csv").write_text("slide,slide_id\nok.svs,a/b\n")
    real = Path.iterdir
    (folder / "shut").mkdir()

    def iterdir(self: Path):
        if self.name == "shut":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found, failures = list_slides([str(folder), str(folder / "t.csv"), str(folder / "nothing*.svs")])
    assert len(failures) == 6
    out = tmp_path / "out"
    draw_store(out / "ok.zarr")
    with announced(out, found, failures, [str(folder)], Forecast({})):
        pass
    (note,) = (out / ".runs").glob("*.run")
    assert not re.search("doe|jane|t\\.csv", note.read_text(), re.IGNORECASE)
    code, text, _ = say("status", "out", "--failures", "20")
    assert code == 1
    flat = " ".join(text.split())
    assert "2 slides share this id" in flat
    assert "the folder cannot be searched: Permission denied" in flat
    assert "it is a link that leads back to itself" in flat
    assert "an input that was named holds no slide" in flat
    assert "an entry that was named cannot be used; the output of the run names the reason" in flat
    with announced(out, found, [], [str(folder)], Forecast({})):
        pass
    assert say("status", "out")[0] == 0


def test_a_run_tells_how_far_it_is(tmp_path, monkeypatch):
    """As it goes, without being asked."""
    monkeypatch.setattr(run_files, "_EVERY_S", 0.05)
    forecast = Forecast({"a": 0.0})
    with announced(tmp_path, jobs("a"), [Failure("x", "y")], ["x"], forecast):
        forecast.slide_ended(Outcome(jobs("a")[0], "done", 100, 100, seconds=1.0))
        until = time.monotonic() + 100
        while not read_runs(tmp_path)[0].tiles_per_s:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert read_runs(tmp_path)[0].tiles_a_slide == 100
