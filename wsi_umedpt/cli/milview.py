"""Progress of a study: folds done, networks trained, time left."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wsi_umedpt.cli.terminal import is_quiet, shown
from wsi_umedpt.mil.settings import FitSettings, StudySettings


class MilView:
    """A bar of networks; lines where that is no terminal."""

    def __init__(self, options: Sequence[FitSettings], study: StudySettings) -> None:
        self._console = Console(stderr=True, quiet=is_quiet())
        self._a_fold = len(options) * study.inner_folds
        self._last = self._a_fold * len(study.seeds)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("networks", total=None)
        self._networks = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if kind is KeyboardInterrupt:
            self.say("wsi-umedpt: stopped by Ctrl-C. Finished folds are kept; run the same command again to resume.")

    def network(self, words: str) -> None:
        """One more network is trained."""
        self._networks += 1
        self._progress.update(self._task, completed=self._networks, description=words)

    def fold(self, done: int, total: int) -> None:
        """One more fold is predicted, now or in an earlier run."""
        self._networks = min(done, total - 1) * self._a_fold + (self._last if done == total else 0)
        whole = (total - 1) * self._a_fold + self._last
        self._progress.update(self._task, completed=self._networks, total=whole)
        if not self._console.is_terminal:
            self.say(f"fold {done} of {total - 1}" if done < total else "the model to use, from all cases")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(shown(line), markup=False, highlight=False, soft_wrap=True)
