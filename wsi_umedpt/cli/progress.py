"""Progress bars: slides of the run, tiles of the slide, tiles per second and time left."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from wsi_umedpt.batch.coordination.result import Outcome, Watcher
from wsi_umedpt.batch.reporting.forecast import Forecast
from wsi_umedpt.cli.terminal import is_quiet, shown
from wsi_umedpt.io.printable import printable_line
from wsi_umedpt.messages import counted, duration
from wsi_umedpt.slides.slide_job import SlideJob

_TOLD_S = 60.0
"""Seconds between two messages on the time left, where there is no terminal."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} {task.fields['unit']}/s" if speed and task.fields["unit"] == "tiles" else "")


class _Left(ProgressColumn):
    """Time left: of the run by its tiles, of a slide by its own."""

    def __init__(self, forecast: Forecast) -> None:
        super().__init__()
        self._forecast, self._of_slide = forecast, TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        if task.fields["unit"] == "tiles":
            return self._of_slide.render(task)
        seconds = self._forecast.seconds_left
        return Text("" if seconds is None or task.finished else f"{duration(seconds)} left", "progress.remaining")


class Bars(Watcher):
    """Draws a run; on no terminal it prints a line per slide instead, and every minute the time left.

    `forecast` is told all that this is.
    """

    def __init__(self, slides: int, forecast: Forecast | None = None) -> None:
        self._console = Console(stderr=True, quiet=is_quiet())
        self._slides, self._whole = slides, 0
        self._forecast = forecast or Forecast({})
        self._told = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            _Left(self._forecast),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task("slides", total=slides, unit="slides")
        self._one = self._progress.add_task("", total=None, unit="tiles", visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def slide_started(self, job: SlideJob, tiles: int) -> None:
        """Begin the slide's bar anew."""
        self._forecast.slide_started(job, tiles)
        self._progress.reset(
            self._one, total=tiles, description=escape(printable_line(job.slide_id[:30])), visible=True
        )

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Move the slide's bar."""
        self._forecast.tiles_done(job, done, total)
        self._tell_left()
        self._progress.update(self._one, completed=done, total=total)

    def slide_ended(self, outcome: Outcome) -> None:
        """Move the run's bar, and say what became of the slide."""
        self._forecast.slide_ended(outcome)
        self._whole += outcome.status != "failed"
        self._progress.advance(self._all)
        earlier = f" ({outcome.tiles - outcome.fresh:,} in an earlier run)" if outcome.fresh < outcome.tiles else ""
        found = "".join(f", {count} {name}" for name, count in outcome.objects.items())
        what = {
            "done": f"{counted(outcome.tiles, 'tile')}{earlier} in {outcome.seconds:.1f} s{found}",
            "already": f"already there{found}",
            "failed": "FAILED (why: in the list at the end)",
        }
        line = f"{outcome.job.slide_id}: {what[outcome.status]}"
        self._say(line)
        self._tell_left()

    def slide_again(self, outcome: Outcome) -> None:
        """Say why a slide waits."""
        line = f"{outcome.job.slide_id}: tried again in {outcome.again_s:.0f} s, as {outcome.reason}"
        self._say(line)

    def slide_waits(self, job: SlideJob, holder: str) -> None:
        """Say whom the run waits for."""
        self._say(f"{job.slide_id}: waits for {holder}")

    def _tell_left(self) -> None:
        if not self._console.is_terminal and time.monotonic() - self._told > _TOLD_S:
            self._told = time.monotonic()
            seconds, left = self._forecast.seconds_left, self._forecast.slides_left
            if seconds is not None and left:
                self._say(f"{self._slides - left} of {counted(self._slides, 'slide')}, about {duration(seconds)} left")

    def _say(self, line: str) -> None:
        self._console.print(shown(line), markup=False, highlight=False, soft_wrap=True)

    def stopped(self, out: Path, by: str = "Ctrl-C") -> None:
        """Say what Ctrl-C, or another signal, left, and how to go on."""
        line = (
            f"wsi-umedpt: stopped by {by}. {self._whole} of "
            f"{counted(self._slides, 'slide has a whole store', 'slides have whole stores')}. What was embedded of the "
            f"next is kept in {out} (*.zarr.partial), in blocks of 1024 tiles. Run the same command again to resume."
        )
        self._say(line)
