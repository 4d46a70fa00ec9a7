"""Time left: known from the first slide on, by tiles, whatever the slides' sizes are."""

from pathlib import Path

import pytest
from rich.console import Console

from wsi_umedpt.batch.coordination.result import Outcome
from wsi_umedpt.batch.reporting.forecast import Forecast
from wsi_umedpt.cli import progress
from wsi_umedpt.cli.progress import Bars
from wsi_umedpt.slides.slide_job import SlideJob


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def job(name: str) -> SlideJob:
    return SlideJob(Path(f"{name}.svs"), name)


def forecast(sizes: dict[str, float]) -> tuple[Forecast, Clock]:
    clock = Clock()
    return Forecast(sizes, clock), clock


def test_the_first_slide_tells_how_long_all_take():
    """Half-way through it, not at its end: slides may take hours."""
    made, clock = forecast(dict.fromkeys("abcd", 0.0))
    assert made.seconds_left is None
    made.slide_started(job("a"), 1000)
    assert made.seconds_left is None
    made.tiles_done(job("a"), 100, 1000)
    for second in range(1, 5):
        clock.now = second
        made.tiles_done(job("a"), 100 + 100 * second, 1000)
    assert made.tiles_per_s == 100
    assert made.seconds_left == pytest.approx((500 + 3 * 1000) / 100)


def test_slides_that_were_not_opened_count_by_their_bytes():
    """One ten times as large has ten times the tiles."""
    made, clock = forecast({"a": 10.0, "large": 100.0, "small": 1.0, "folder": 0.0})
    made.slide_started(job("a"), 100)
    clock.now = 10.0
    made.slide_ended(Outcome(job("a"), "done", 100, 100, seconds=10))
    assert made.tiles_left == pytest.approx(1000 + 10 + 100)
    assert made.seconds_left == pytest.approx(111)


def test_what_an_earlier_run_did_is_no_speed_of_this_one():
    """A slide that is gone on with, and slides that are there already, take no time."""
    made, clock = forecast(dict.fromkeys("abc", 1.0))
    made.slide_ended(Outcome(job("a"), "already", 5000))
    assert made.seconds_left is None
    made.slide_started(job("b"), 1000)
    made.tiles_done(job("b"), 900, 1000)
    clock.now = 10.0
    made.tiles_done(job("b"), 950, 1000)
    assert made.tiles_per_s == 5
    assert made.seconds_left == pytest.approx((50 + 1000) / 5)


def test_slides_that_fail_or_that_workers_did_count_too():
    """A failed one is over; of one whose tiles nobody told its outcome does."""
    made, clock = forecast(dict.fromkeys("abcd", 1.0))
    made.slide_started(job("a"), 100)
    made.slide_ended(Outcome(job("a"), "failed", reason="-"))
    clock.now = 20.0
    made.slide_ended(Outcome(job("b"), "done", 100, 100, seconds=10))
    assert made.slides_left == 2
    assert made.seconds_left == pytest.approx(200 / (100 / 20))


def test_the_time_left_stands_beside_the_bar_of_slides():
    """On a terminal it is drawn; elsewhere it is told once a minute, also while the first slide lasts."""
    clock = Clock()
    made = Forecast(dict.fromkeys("ab", 0.0), clock)
    column = progress._Left(made)
    task = type("Task", (), {"fields": {"unit": "slides"}, "finished": False})()
    assert column.render(task).plain == ""
    made.slide_started(job("a"), 100)
    made.tiles_done(job("a"), 10, 100)
    clock.now = 10.0
    made.tiles_done(job("a"), 20, 100)
    assert column.render(task).plain == "3 min left"


def test_without_a_terminal_the_time_left_is_told(capsys, monkeypatch):
    """Not more often than once a minute."""
    monkeypatch.setattr(progress, "_TOLD_S", 0.0)
    clock = Clock()
    bars = Bars(2, Forecast(dict.fromkeys("ab", 0.0), clock))
    bars._console = Console(stderr=True, force_terminal=False)
    bars.slide_started(job("a"), 100)
    bars.tiles_done(job("a"), 10, 100)
    clock.now = 10.0
    bars.tiles_done(job("a"), 20, 100)
    assert capsys.readouterr().err == "0 of 2 slides, about 3 min left\n"
    monkeypatch.setattr(progress, "_TOLD_S", 60.0)
    bars.tiles_done(job("a"), 30, 100)
    assert capsys.readouterr().err == ""
