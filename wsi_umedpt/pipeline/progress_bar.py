"""A progress bar for one slide, in a terminal or a notebook."""

import sys
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from wsi_umedpt.pipeline.task import Progress


class ProgressBar(Progress):
    """Draws tiles done, tiles in all and the time left; nothing outside of terminals and notebooks with ipywidgets."""

    def __init__(self, doing: str) -> None:
        notebook = "ipykernel" in sys.modules
        console = Console(stderr=not notebook)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, disable=not (_draws_bars() if notebook else console.is_terminal))
        self._task = self._bar.add_task(doing, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def started(self, tiles: int) -> None:
        """See `Progress.started`."""
        self._bar.update(self._task, total=tiles)

    def tiles_done(self, done: int, total: int) -> None:
        """See `Progress.tiles_done`."""
        self._bar.update(self._task, completed=done, total=total)


def _draws_bars() -> bool:
    """Return whether a notebook can draw a bar, instead of a line for each of its states."""
    return find_spec("ipywidgets") is not None
